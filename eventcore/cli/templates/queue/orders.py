"""Prices orders: a Lambda handler, as it would run behind SQS.

It reports which messages of its batch have failed, so that only those come back.
"""

import json
from typing import Any


def price(event: dict[str, Any], context: object) -> dict[str, Any]:  # noqa: ARG001 - Lambda's signature
    """Price a batch of orders."""
    failures = []
    for record in event["Records"]:
        order = json.loads(record["body"])
        if order["quantity"] < 1:
            print(f"order {order['id']}: a quantity of {order['quantity']}")
            failures.append({"itemIdentifier": record["messageId"]})
            continue
        print(f"order {order['id']} of {order['customer']}: {order['quantity'] * 2.5:.2f} EUR")
    return {"batchItemFailures": failures}

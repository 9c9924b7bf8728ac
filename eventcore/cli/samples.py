"""Events as sources give them to a function, of one record: for `eventcore invoke --sample`."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import msgspec

from eventcore.clock import SystemClock
from eventcore.embedded.shapes import KinesisShape, SqsShape, queue_arn, stream_arn
from eventcore.embedded.sharding import shard_name
from eventcore.ids import SystemIds
from eventcore.model import Record

ORDER = '{"id": "1", "customer": "ada", "quantity": 2}'
_REGION = "us-east-1"
_ACCOUNT_ID = "000000000000"


def sample_event(source: str, body: str | None) -> bytes:
    """Return an event of one record as JSON.

    Args:
        source: "sqs", "kinesis" or "kafka".
        body: the record's; None for an order.
    """
    data = (ORDER if body is None else body).encode()
    return msgspec.json.encode(_EVENTS[source](data, SystemClock().now_ms()))


def _sqs(body: bytes, now_ms: int) -> Any:
    ids = SystemIds()
    record = Record(
        position=1,
        body=body,
        arrived_ms=now_ms,
        id=ids.new_id(),
        receipt=ids.new_id(),
        attributes={
            "ApproximateReceiveCount": "1",
            "SentTimestamp": str(now_ms),
            "SenderId": _ACCOUNT_ID,
            "ApproximateFirstReceiveTimestamp": str(now_ms),
        },
    )
    return SqsShape(queue_arn("orders", region=_REGION, account_id=_ACCOUNT_ID)).event([record], "")


def _kinesis(body: bytes, now_ms: int) -> Any:
    record = Record(position=0, body=body, key=b"ada", arrived_ms=now_ms)
    return KinesisShape(stream_arn("orders", region=_REGION, account_id=_ACCOUNT_ID)).event([record], shard_name(0))


def _kafka(body: bytes, now_ms: int) -> Any:
    # Written out: Kafka's own shape belongs to its connector, which the core does not know (Lambda semantics §5.1).
    return {
        "eventSource": "SelfManagedKafka",
        "bootstrapServers": "127.0.0.1:9092",
        "records": {
            "orders-0": [
                {
                    "topic": "orders",
                    "partition": 0,
                    "offset": 0,
                    "timestamp": now_ms,
                    "timestampType": "CREATE_TIME",
                    "key": base64.b64encode(b"ada").decode(),
                    "value": base64.b64encode(body).decode(),
                    "headers": [],
                }
            ]
        },
    }


_EVENTS: dict[str, Callable[[bytes, int], Any]] = {"sqs": _sqs, "kinesis": _kinesis, "kafka": _kafka}

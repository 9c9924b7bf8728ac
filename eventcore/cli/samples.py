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
from eventcore.model import Batch, Record

ORDER = '{"id": "1", "customer": "ada", "quantity": 2}'
_REGION = "us-east-1"
_ACCOUNT_ID = "000000000000"

#: An event, and the reference of its source and the shard that a batch would have.
_Sample = tuple[Any, str, str]


def make_sample(source: str, body: str | None) -> tuple[bytes, Batch]:
    """Return an event of one record as JSON, and the same as a batch, for handlers that take records.

    Args:
        source: "sqs", "kinesis" or "kafka".
        body: the record's; None for an order.
    """
    ids = SystemIds()
    record = Record(
        position=0,
        body=(ORDER if body is None else body).encode(),
        key=b"ada",
        arrived_ms=SystemClock().now_ms(),
        id=ids.new_id() if source == "sqs" else "",
        receipt=ids.new_id() if source == "sqs" else "",
    )
    event, reference, shard = _SOURCES[source](record)
    return msgspec.json.encode(event), Batch(source=reference, shard=shard, records=(record,))


def _sqs(record: Record) -> _Sample:
    attributes = {
        "ApproximateReceiveCount": "1",
        "SentTimestamp": str(record.arrived_ms),
        "SenderId": _ACCOUNT_ID,
        "ApproximateFirstReceiveTimestamp": str(record.arrived_ms),
    }
    shape = SqsShape(queue_arn("orders", region=_REGION, account_id=_ACCOUNT_ID))
    return shape.event([msgspec.structs.replace(record, attributes=attributes)], ""), "queue:orders", ""


def _kinesis(record: Record) -> _Sample:
    shape = KinesisShape(stream_arn("orders", region=_REGION, account_id=_ACCOUNT_ID))
    return shape.event([record], shard_name(0)), "stream:orders", shard_name(0)


def _kafka(record: Record) -> _Sample:
    # Written out: Kafka's own shape belongs to its connector, which the core does not know (Lambda semantics §5.1).
    event = {
        "eventSource": "SelfManagedKafka",
        "bootstrapServers": "127.0.0.1:9092",
        "records": {
            "orders-0": [
                {
                    "topic": "orders",
                    "partition": 0,
                    "offset": record.position,
                    "timestamp": record.arrived_ms,
                    "timestampType": "CREATE_TIME",
                    "key": base64.b64encode(record.key or b"").decode(),
                    "value": base64.b64encode(record.body or b"").decode(),
                    "headers": [],
                }
            ]
        },
    }
    return event, "kafka:local/orders", "orders-0"


_SOURCES: dict[str, Callable[[Record], _Sample]] = {"sqs": _sqs, "kinesis": _kinesis, "kafka": _kafka}

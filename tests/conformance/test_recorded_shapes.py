"""Events of embedded sources have the keys and values of recordings on AWS and of the samples of its libraries.

The recorded cases are read where they are. Source: Lambda semantics §3.1, §4.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eventcore.embedded.shapes import KinesisShape, SqsShape, queue_arn, stream_arn
from eventcore.model import Record

SHARD = "shardId-000000000003"
SQS = SqsShape(queue_arn("orders", region="eu-west-1", account_id="123456789012"))
KINESIS = KinesisShape(stream_arn("orders", region="eu-west-1", account_id="123456789012"))
ATTRIBUTES = {
    "ApproximateReceiveCount": "1",
    "SentTimestamp": "1767225600000",
    "SenderId": "123456789012",
    "ApproximateFirstReceiveTimestamp": "1767225600001",
}
CONFORMANCE = Path(os.environ.get("EVENTCORE_CONFORMANCE", Path(__file__).parents[3] / "shared" / "conformance"))


if not CONFORMANCE.is_dir():
    pytest.skip(f"no recorded cases at {CONFORMANCE}: set EVENTCORE_CONFORMANCE", allow_module_level=True)


def _sqs_entry(body: bytes = b"hello", headers: tuple[tuple[str, bytes], ...] = ()) -> dict[str, Any]:
    record = Record(position=1, body=body, id="m", receipt="r", attributes=ATTRIBUTES, headers=headers)
    (entry,) = SQS.event([record], "")["Records"]
    return entry


def _recorded(source: str) -> Iterator[dict[str, Any]]:
    """Yield every record that a handler was given in the recordings on AWS."""
    for line in (CONFORMANCE / f"esm_{source}.jsonl").read_text().splitlines():
        for delivered in json.loads(line)["delivered_batches"]:
            for batch in delivered["batches"]:
                yield from batch if isinstance(batch, list) else batch.get("Records", [])


def _samples(source: str) -> Iterator[dict[str, Any]]:
    """Yield every record of the sample events that AWS's libraries carry."""
    for path in sorted((CONFORMANCE / "lambda_events" / source).glob("*.json")):
        event = json.loads(path.read_text("utf-8-sig"))
        for entry in event.get("Records", []) if isinstance(event, dict) else []:
            if entry.get("eventSource") == f"aws:{source}":
                yield entry


#: Keys that AWS adds in cases that embedded queues do not have: X-Ray, FIFO, dead-letter queues; and md5OfMessage-
#: Attributes as null, which one recording has for messages without attributes (Lambda semantics §3.1).
SQS_OTHERS = {"md5OfMessageAttributes", "AWSTraceHeader", "SequenceNumber", "MessageDeduplicationId", "MessageGroupId"}
SQS_OTHERS |= {"DeadLetterQueueSourceArn"}


@pytest.mark.parametrize("read", [_recorded, _samples])
def test_sqs_records_have_the_keys_that_aws_gives(read: Any) -> None:
    ours = _sqs_entry()
    count = 0
    for entry in read("sqs"):
        count += 1
        assert set(entry) - SQS_OTHERS == set(ours), entry
        assert set(entry["attributes"]) - SQS_OTHERS == set(ours["attributes"]), entry
        assert {type(value) for value in entry["attributes"].values()} == {str}
    assert count > 10


@pytest.mark.parametrize("read", [_recorded, _samples])
def test_kinesis_records_have_the_keys_that_aws_gives(read: Any) -> None:
    (ours,) = KINESIS.event([Record(position=1, body=b"x")], SHARD)["Records"]
    count = 0
    for entry in read("kinesis"):
        count += 1
        assert set(entry) == set(ours), entry
        # Streams that are encrypted with a key of their own say so: embedded streams are not.
        assert set(entry["kinesis"]) - {"encryptionType"} == set(ours["kinesis"]), entry
        assert entry["eventID"].startswith("shardId-")
        assert entry["eventVersion"] == ours["eventVersion"]
        assert entry["eventName"] == ours["eventName"]
    assert count > 10


def test_recorded_messages_have_the_same_body_and_digest() -> None:
    """Where a recording shows a message's attributes, ours has the same, digest included."""
    count = 0
    for entry in _recorded("sqs"):
        if not entry["messageAttributes"]:
            continue
        count += 1
        headers = tuple(
            (f"{name}:{attribute['dataType']}", attribute["stringValue"].encode())
            for name, attribute in entry["messageAttributes"].items()
        )
        ours = _sqs_entry(entry["body"].encode(), headers)
        for key in ("body", "messageAttributes", "md5OfMessageAttributes"):
            assert ours[key] == entry[key]
    assert count


def test_the_batch_of_a_discard_has_the_keys_that_aws_gives() -> None:
    ours = KINESIS.batch_info([Record(position=1, body=b"x")], SHARD)["KinesisBatchInfo"]
    lines = [json.loads(line) for line in (CONFORMANCE / "destination_records.jsonl").read_text().splitlines()]
    recorded = [line["record"]["KinesisBatchInfo"] for line in lines if "KinesisBatchInfo" in line["record"]]
    assert recorded
    for info in recorded:
        assert set(info) == set(ours)
        assert type(info["batchSize"]) is int

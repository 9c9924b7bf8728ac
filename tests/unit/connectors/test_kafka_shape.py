"""The event of a Kafka mapping is Lambda's, key by key. Source: Lambda semantics §5.1."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from eventcore.delivery.partial import read_report
from eventcore.model import Record, TimestampKind
from eventcore_connectors.kafka.shape import KafkaShape

SHAPE = KafkaShape("orders", "b-1:9092, b-2:9092")
SHARD = "orders-3"
RECORD = Record(
    position=512, body=b'{"id":1}', key=b"\xffk", arrived_ms=1_545_084_650_987, headers=(("trace", b"ab\xc3\xab"),)
)
SAMPLES = Path(os.environ.get("EVENTCORE_CONFORMANCE", Path(__file__).parents[4] / "shared" / "conformance"))


def test_an_event_is_what_lambda_sends() -> None:
    """Each key, its type, and the order of records."""
    second = Record(position=514, body=b"", arrived_ms=5, timestamp_kind=TimestampKind.LOG_APPEND_TIME)
    assert SHAPE.event([RECORD, second], SHARD) == {
        "eventSource": "SelfManagedKafka",
        "bootstrapServers": "b-1:9092,b-2:9092",
        "records": {
            "orders-3": [
                {
                    "topic": "orders",
                    "partition": 3,
                    "offset": 512,
                    "timestamp": 1_545_084_650_987,
                    "timestampType": "CREATE_TIME",
                    "key": base64.b64encode(b"\xffk").decode(),
                    "value": base64.b64encode(b'{"id":1}').decode(),
                    "headers": [{"trace": [97, 98, -61, -85]}],
                },
                {
                    "topic": "orders",
                    "partition": 3,
                    "offset": 514,
                    "timestamp": 5,
                    "timestampType": "LOG_APPEND_TIME",
                    "key": None,
                    "value": "",
                    "headers": [],
                },
            ]
        },
    }


def test_a_tombstone_has_null_for_its_value() -> None:
    """A record without a value is told apart from one with an empty value."""
    (entry,) = SHAPE.event([Record(position=1, body=None, key=b"k")], SHARD)["records"][SHARD]
    assert entry["value"] is None
    assert entry["key"] == "aw=="


def test_repeated_headers_keep_their_order() -> None:
    """Kafka's headers may repeat a name; the event has one object each."""
    record = Record(position=1, body=b"", headers=(("n", b"\x01"), ("n", b"\x80"), ("empty", b"")))
    (entry,) = SHAPE.event([record], SHARD)["records"][SHARD]
    assert entry["headers"] == [{"n": [1]}, {"n": [-128]}, {"empty": []}]


def test_a_topic_with_dashes_has_its_partition_at_the_end() -> None:
    """`my-topic-10-2` is partition 2 of `my-topic-10`."""
    event = KafkaShape("my-topic-10", "b:1").event([RECORD], "my-topic-10-2")
    (entry,) = event["records"]["my-topic-10-2"]
    assert (entry["topic"], entry["partition"]) == ("my-topic-10", 2)


def test_events_of_two_records_share_nothing() -> None:
    """A handler may change one record's lists without changing another's."""
    first, second = SHAPE.event([Record(position=1, body=b""), Record(position=2, body=b"")], SHARD)["records"][SHARD]
    first["headers"].append({"x": [1]})
    assert second["headers"] == []


@pytest.mark.skipif(not (SAMPLES / "lambda_events" / "kafka").is_dir(), reason="no recorded events on this machine")
def test_recorded_events_have_the_same_keys_and_types() -> None:
    """Every recorded Kafka event's records have our keys, and values of our types."""
    (ours,) = SHAPE.event([RECORD], SHARD)["records"][SHARD]
    samples = sorted((SAMPLES / "lambda_events" / "kafka").glob("*.json"))
    assert samples
    for sample in samples:
        for records in json.loads(sample.read_text())["records"].values():
            for theirs in records:
                # Schemas come with a registry; a missing key is the same as null.
                keys = set(theirs) - {"keySchemaMetadata", "valueSchemaMetadata"}
                assert keys | {"key"} == set(ours), sample.name
                for key in keys:
                    assert theirs[key] is None or type(theirs[key]) is type(ours[key]), (sample.name, key)


def test_a_report_names_records_by_partition_and_offset() -> None:
    """`itemIdentifier` is an object; a handler takes it from the event."""
    known = {SHAPE.identifier(RECORD, SHARD): 0}
    response = b'{"batchItemFailures":[{"itemIdentifier":{"partition":"orders-3","offset":512}}]}'
    assert read_report(response, known, SHAPE.read_identifier).failed == (0,)


@pytest.mark.parametrize(
    "identifier",
    [
        {"partition": "orders-4", "offset": 512},
        {"partition": "orders-3", "offset": 513},
        {"partition": "orders-3", "offset": "512"},
        {"partition": "orders-3", "offset": True},
        {"partition": 3, "offset": 512},
        {"partition": "orders-3"},
        "orders-3",
        512,
        None,
        [],
    ],
)
def test_what_names_no_record_fails_the_batch(identifier: Any) -> None:
    """Unknown partitions and offsets, and anything that is no identifier."""
    known = {SHAPE.identifier(RECORD, SHARD): 0}
    response = json.dumps({"batchItemFailures": [{"itemIdentifier": identifier}]}).encode()
    assert read_report(response, known, SHAPE.read_identifier).is_unusable


def test_batch_info_names_the_range_and_its_size() -> None:
    """`KafkaBatchInfo` of an on-failure record."""
    last = Record(position=600, body=b"x", arrived_ms=1_545_084_651_005)
    assert SHAPE.batch_info([RECORD, last], SHARD) == {
        "KafkaBatchInfo": {
            "batchSize": 2,
            "bootstrapServers": "b-1:9092,b-2:9092",
            "payloadSize": len(json.dumps(SHAPE.event([RECORD, last], SHARD), separators=(",", ":"))),
            "recordsInfo": {
                "orders-3": {
                    "firstRecordOffset": "512",
                    "lastRecordOffset": "600",
                    "firstRecordTimestamp": "2018-12-17T22:10:50.987Z",
                    "lastRecordTimestamp": "2018-12-17T22:10:51.005Z",
                }
            },
        }
    }


def test_an_event_never_outgrows_what_its_records_count() -> None:
    """The batcher's bound holds where it is tightest: the largest numbers, bytes of any length, headers."""
    worst = [
        Record(
            position=2**63 - 1 - length,
            body=b"\xff" * length,
            key=b"\xff" * length,
            arrived_ms=2**62,
            headers=(("n", b"\x80" * length),),
            size_bytes=2 * length + 1 + 8 + 4 * length,
            timestamp_kind=TimestampKind.LOG_APPEND_TIME,
        )
        for length in range(20)
    ]
    for record in worst:
        entry = SHAPE.event([record], "orders-2147483647")["records"]["orders-2147483647"][0]
        bound = SHAPE.record_overhead_bytes + (record.size_bytes + 2) // 3 * 4 + 8
        assert len(msgspec.json.encode(entry)) + 1 <= bound

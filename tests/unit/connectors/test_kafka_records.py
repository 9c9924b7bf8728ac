"""From aiokafka's records to ours."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from aiokafka import ConsumerRecord, TopicPartition

from eventcore.model import Record, TimestampKind
from eventcore_connectors.kafka.records import read_record
from eventcore_connectors.kafka.shape import KafkaShape


def make_raw(**changes: Any) -> ConsumerRecord[bytes, bytes]:
    """Return a record as aiokafka gives it."""
    value, key = changes.pop("value", b"body"), changes.pop("key", b"key")
    fields: dict[str, Any] = {
        "topic": "orders",
        "partition": 0,
        "offset": 7,
        "timestamp": 1_700_000_000_000,
        "timestamp_type": 0,
        "key": key,
        "value": value,
        "checksum": None,
        "serialized_key_size": -1 if key is None else len(key),
        "serialized_value_size": -1 if value is None else len(value),
        "headers": (),
    }
    return ConsumerRecord(**{**fields, **changes})


def read_records(received: list[ConsumerRecord[bytes, bytes]]) -> list[Record]:
    """Read records as a fetcher does, one after another."""
    return [read_record(TopicPartition("orders", 0), raw) for raw in received]


def test_a_record_keeps_what_kafka_has() -> None:
    """Position, bytes, time and who set it, headers."""
    raw = make_raw(headers=(("a", b"1"), ("a", b"2")), timestamp_type=1)
    (record,) = read_records([raw])
    assert record == Record(
        position=7,
        body=b"body",
        key=b"key",
        arrived_ms=1_700_000_000_000,
        headers=(("a", b"1"), ("a", b"2")),
        size_bytes=4 + 3 + 2 * (1 + 8 + 4),
        timestamp_kind=TimestampKind.LOG_APPEND_TIME,
    )


@pytest.mark.parametrize(
    ("changes", "size_bytes"),
    [({}, 7), ({"key": None}, 4), ({"value": None}, 3), ({"value": None, "key": None}, 0), ({"value": b""}, 3)],
)
def test_size_counts_what_is_there(changes: dict[str, Any], size_bytes: int) -> None:
    """A missing key or value counts nothing, and stays missing."""
    (record,) = read_records([make_raw(**changes)])
    assert record.size_bytes == size_bytes
    assert record.body == changes.get("value", b"body")
    assert record.key == changes.get("key", b"key")


def test_oldest_formats_have_no_time() -> None:
    """A record without a timestamp is read all the same."""
    (record,) = read_records([make_raw(timestamp=None, timestamp_type=None)])
    assert (record.arrived_ms, record.timestamp_kind) == (0, TimestampKind.CREATE_TIME)


def test_a_header_without_a_value_is_empty() -> None:
    """Kafka allows null there; a record's headers are bytes."""
    (record,) = read_records([make_raw(headers=(("n", None),))])
    assert record.headers == (("n", b""),)


def test_headers_count_for_what_they_become() -> None:
    """Numbers in JSON take up to five bytes for one; the record's size leaves room for them."""
    shape = KafkaShape("orders", "b:1")
    raw = [make_raw(value=None, key=None, headers=(("name", b"\x80" * length),)) for length in range(100)]
    for record in read_records(raw):
        (entry,) = shape.event([record], "orders-0")["records"]["orders-0"]
        written = len(str(entry["headers"]).replace(" ", ""))
        assert written <= (record.size_bytes + 2) // 3 * 4 + 8


def test_records_cost_the_collector_nothing() -> None:
    """None of them is tracked: a loop that keeps tracked records halves its rate."""
    assert not any(gc.is_tracked(record) for record in read_records([make_raw(), make_raw(headers=(("a", b"1"),))]))

"""From Kafka's records to ours, in one step.

This runs for every record. aiokafka makes an object of its own for each, which we would only read and drop: so its
fetcher is made to build ours instead (`read_directly`), which takes 1.6 µs of processor time a record, all told, where
both together took 2.0.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Protocol

from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import FetchResult

from eventcore.model import Record, TimestampKind
from eventcore_connectors.kafka.record_headers import NO_ATTRIBUTES, header_bytes, read_headers

#: The method by which aiokafka makes its object of a parsed record.
_MAKER = "_consumer_record"

_CREATE_TIME = TimestampKind.CREATE_TIME
_KINDS = {0: _CREATE_TIME, 1: TimestampKind.LOG_APPEND_TIME}


class RawRecord(Protocol):
    """What aiokafka's parser, and its `ConsumerRecord` too, say of a record."""

    offset: int
    timestamp: int | None  #: records of the oldest format have none
    timestamp_type: int | None
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


def read_record(_partition: TopicPartition, raw: RawRecord) -> Record:
    """Return a record as the engine knows it."""
    # Each is read once: they are properties of the parser's.
    key, body, headers, timestamp_type = raw.key, raw.value, raw.headers, raw.timestamp_type
    size_bytes = (len(body) if body else 0) + (len(key) if key else 0)
    if headers:
        size_bytes += header_bytes(headers)
    return Record(
        position=raw.offset,
        body=body,
        key=key,
        arrived_ms=raw.timestamp or 0,
        headers=read_headers(headers) if headers else (),
        size_bytes=size_bytes,
        timestamp_kind=_KINDS[timestamp_type] if timestamp_type else _CREATE_TIME,
        attributes=NO_ATTRIBUTES,
    )


class _Fetched(OrderedDict[TopicPartition, Any]):
    """What a fetcher has fetched and nobody has taken, by partition: answers of brokers and errors."""

    def __setitem__(self, partition: TopicPartition, fetched: Any) -> None:
        if isinstance(fetched, FetchResult):
            # Unpacked when somebody takes it, by this method of its own.
            setattr(fetched._partition_records, _MAKER, read_record)  # noqa: SLF001
        super().__setitem__(partition, fetched)


def read_directly(kafka: Any) -> None:
    """Let the `getmany` of aiokafka's object return our records; called between its start and its first fetch."""
    kafka._fetcher._records = _Fetched()  # noqa: SLF001

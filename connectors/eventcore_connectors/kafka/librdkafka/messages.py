"""From librdkafka's messages to our records, in one step. This runs for every record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from confluent_kafka import TIMESTAMP_CREATE_TIME, TIMESTAMP_LOG_APPEND_TIME, KafkaError

from eventcore.model import Record, TimestampKind
from eventcore_connectors.kafka.record_headers import NO_ATTRIBUTES, header_bytes, read_headers
from eventcore_connectors.kafka.shape import Partition

_CREATE_TIME, _LOG_APPEND_TIME = TimestampKind.CREATE_TIME, TimestampKind.LOG_APPEND_TIME


class Message(Protocol):
    """What librdkafka's messages say; its own types allow for messages that were never fetched."""

    def error(self) -> KafkaError | None:
        """Return what it says instead of a record: an event or an error."""
        ...

    def topic(self) -> str | None:
        """Return its topic's name."""
        ...

    def partition(self) -> int:
        """Return its partition's number."""
        ...

    def offset(self) -> int:
        """Return its offset."""
        ...

    def key(self) -> bytes | None:
        """Return its key."""
        ...

    def value(self) -> bytes | None:
        """Return its value; None for a tombstone."""
        ...

    def headers(self) -> Sequence[tuple[str, bytes | None]] | None:
        """Return its headers; None without any."""
        ...

    def timestamp(self) -> tuple[int, int]:
        """Return the timestamp's kind and milliseconds."""
        ...


def read_topics(messages: Sequence[Message]) -> tuple[dict[Partition, list[Record]], list[Message]]:
    """Return records by partition, each partition's in order, and the messages that are events or errors."""
    topics = {message.topic() for message in messages}
    if len(topics) == 1:
        return read_messages(topics.pop() or "", messages)
    found: dict[Partition, list[Record]] = {}
    events: list[Message] = []
    for topic in topics:
        read, others = read_messages(topic or "", [message for message in messages if message.topic() == topic])
        found |= read
        events += others
    return found, events


def read_messages(topic: str, messages: Sequence[Message]) -> tuple[dict[Partition, list[Record]], list[Message]]:
    """Return a topic's records by partition, each partition's in order, and the messages that are events or errors."""
    found: dict[Partition, list[Record]] = {}
    events: list[Message] = []
    last, records = -1, []
    # One loop, which calls no function of Python's: that would cost as much as half of it.
    for message in messages:
        kind, at_ms = message.timestamp()
        if kind == TIMESTAMP_CREATE_TIME:
            timestamp_kind = _CREATE_TIME
        elif message.error() is not None:
            events.append(message)
            continue
        elif kind == TIMESTAMP_LOG_APPEND_TIME:
            timestamp_kind = _LOG_APPEND_TIME
        else:
            # Records of the oldest format have no timestamp.
            timestamp_kind = _CREATE_TIME
        partition = message.partition()
        if partition != last:
            # Messages come in runs of one partition.
            records = found.setdefault(Partition(topic, partition), [])
            last = partition
        # Each is read once: they are methods that make an object a call.
        key, body, headers = message.key(), message.value(), message.headers()
        size_bytes = (len(body) if body else 0) + (len(key) if key else 0)
        if headers:
            size_bytes += header_bytes(headers)
        records.append(
            Record(
                position=message.offset(),
                body=body,
                key=key,
                arrived_ms=at_ms if at_ms > 0 else 0,  # noqa: FURB136 - a call
                headers=read_headers(headers) if headers else (),
                size_bytes=size_bytes,
                timestamp_kind=timestamp_kind,
                attributes=NO_ATTRIBUTES,
            )
        )
    return found, events

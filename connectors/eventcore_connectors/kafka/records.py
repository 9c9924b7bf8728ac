"""From aiokafka's records to ours, a whole batch at a time.

This runs for every record: what it costs comes on top of what aiokafka's own objects cost. One list comprehension with
one struct a record takes 0.18 µs; a function call for each would double that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from eventcore.model import Record, TimestampKind

if TYPE_CHECKING:
    from aiokafka import ConsumerRecord

#: Shared by all records: a struct's own default would make a dictionary for each.
_NO_ATTRIBUTES: Mapping[str, str] = {}
#: A header's value is written as a list of numbers, `-128,` at most: 5 bytes for one, where base64 takes 4 for three.
_HEADER_VALUE_FACTOR = 4
#: Braces, quotes and brackets of one header.
_HEADER_OVERHEAD_BYTES = 8

_KINDS = {0: TimestampKind.CREATE_TIME, 1: TimestampKind.LOG_APPEND_TIME}


def read_records(received: Sequence[ConsumerRecord[bytes, bytes]]) -> list[Record]:
    """Return the records of one partition, in order."""
    create_time = TimestampKind.CREATE_TIME
    return [
        Record(
            position=raw.offset,
            body=raw.value,
            key=raw.key,
            # Records of the oldest format have no timestamp.
            arrived_ms=raw.timestamp or 0,
            headers=_read_headers(raw.headers) if raw.headers else (),
            size_bytes=(raw.serialized_value_size if raw.value else 0)
            + (raw.serialized_key_size if raw.key else 0)
            + (_header_bytes(raw.headers) if raw.headers else 0),
            timestamp_kind=_KINDS[raw.timestamp_type] if raw.timestamp_type else create_time,
            attributes=_NO_ATTRIBUTES,
        )
        for raw in received
    ]


def _read_headers(headers: Sequence[tuple[str, bytes | None]]) -> tuple[tuple[str, bytes], ...]:
    # Kafka allows a header without a value; ours are bytes.
    return tuple((name, value or b"") for name, value in headers)


def _header_bytes(headers: Sequence[tuple[str, bytes | None]]) -> int:
    """Return what headers count toward a batch's limit, so that base64's four thirds of it cover their numbers."""
    return sum(
        len(name.encode()) + _HEADER_OVERHEAD_BYTES + _HEADER_VALUE_FACTOR * len(value or b"")
        for name, value in headers
    )

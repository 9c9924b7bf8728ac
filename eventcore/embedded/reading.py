"""What one read of an embedded stream gives: how much at once, and a stored record as the engine knows it."""

from __future__ import annotations

from eventcore.model import Record, TimestampKind
from eventcore.ports.store import StoredRecord

#: Records of one read: it shares the reading connection with the command line.
READ_RECORDS_MAX = 1000
#: Bytes of one read, bodies: a few of the largest records.
READ_BYTES_MAX = 4 * 1024 * 1024


def read_stored(stored: StoredRecord) -> Record:
    """Return a record as the engine knows it."""
    size_bytes = len(stored.body) + len(stored.key or b"")
    if stored.headers:
        size_bytes += sum([len(name) + len(value) for name, value in stored.headers])
    return Record(
        position=stored.position,
        body=stored.body,
        key=stored.key,
        arrived_ms=stored.arrived_ms,
        headers=stored.headers,
        size_bytes=size_bytes,
        timestamp_kind=TimestampKind.LOG_APPEND_TIME,
    )

"""Streams in SQL."""

from __future__ import annotations

import sqlite3
from bisect import bisect_left
from collections.abc import Mapping, Sequence

from eventcore.ports import store as port
from eventcore.ports.store import ShardExtent, StoredRecord, StreamSettings
from eventcore.store.rules import SEQUENCE_MASK, first_key, record_size_bytes, trim_plan
from eventcore.store.sqlite.codec import decode_headers, decode_stream_settings, encode_headers
from eventcore.store.sqlite.ledger import ShardRow, StreamRow
from eventcore.store.sqlite.transaction import Transaction


def define(tx: Transaction, operation: port.DefineStream) -> None:
    """Carry out `DefineStream`."""
    stream = tx.ledger.streams.get(operation.stream)
    if stream is None:
        stream = StreamRow(len(tx.ledger.streams) + 1, operation.stream, operation.settings)
        tx.ledger.streams[operation.stream] = stream
        tx.ledger.change(stream)
        for index in range(operation.settings.shards):
            tx.ledger.shard_count += 1
            number = tx.ledger.shard_count
            shard = ShardRow(number, stream.number, index, first_key(number), first_key(number))
            stream.shards.append(shard)
            tx.ledger.change(shard)
    stream.settings = operation.settings
    tx.ledger.change(stream)


def append(tx: Transaction, operation: port.AppendRecords) -> list[int]:
    """Carry out `AppendRecords`. Rows are left in the buffers."""
    stream, now_ms = tx.ledger.streams[operation.stream], operation.now_ms
    records = tx.buffers.records.values
    positions = []
    for new in operation.records:
        if new.idempotency_token and not tx.take_token(stream.topic, new.idempotency_token, now_ms=now_ms):
            positions.append(-1)
            continue
        shard = stream.shards[new.shard]
        headers = encode_headers(new.headers) if new.headers else None
        records += (shard.end, now_ms, new.key, headers, new.body)
        positions.append(shard.end & SEQUENCE_MASK)
        shard.end += 1
        stream.size_bytes += len(new.body)
        tx.ledger.change(shard)
    tx.ledger.change(stream)
    tx.wake(stream.topic)
    return positions


def trim(tx: Transaction, operation: port.TrimStream) -> int:
    """Carry out `TrimStream`."""
    stream = tx.ledger.streams[operation.stream]
    limit = stream.settings.retention_bytes
    plan = trim_plan(
        {
            shard.shard: tx.execute(
                "SELECT arrived_ms, length(body) FROM record WHERE key >= ? AND key < ? ORDER BY key LIMIT ?",
                *(shard.first, shard.end, operation.count_max),
            )
            for shard in stream.shards
            if shard.first < shard.end
        },
        before_ms=operation.before_ms,
        excess_bytes=stream.size_bytes - limit if limit else 0,
        count_max=operation.count_max,
    )
    for index, (count, size_bytes) in plan.items():
        shard = stream.shards[index]
        tx.execute("DELETE FROM record WHERE key >= ? AND key < ?", shard.first, shard.first + count)
        shard.first += count
        stream.size_bytes -= size_bytes
        tx.ledger.change(shard)
        tx.ledger.change(stream)
    return sum(count for count, _ in plan.values())


# -- reads, on the reading connection ----------------------------------------------------------------------------------


def all_settings(connection: sqlite3.Connection) -> Mapping[str, StreamSettings]:
    """Return all streams by name."""
    rows = connection.execute("SELECT name, settings FROM stream ORDER BY name")
    return {name: decode_stream_settings(settings) for name, settings in rows}


def extents(connection: sqlite3.Connection, name: str) -> Sequence[ShardExtent]:
    """Return where each shard begins and ends."""
    rows = connection.execute(
        "SELECT shard.shard, first_key, end_key FROM shard JOIN stream ON stream.number = shard.stream"
        " WHERE name = ? ORDER BY shard.shard",
        (name,),
    )
    found = [
        ShardExtent(shard=shard, first=first & SEQUENCE_MASK, end=end & SEQUENCE_MASK) for shard, first, end in rows
    ]
    if not found:
        raise KeyError(f"there is no stream {name}")
    return found


def read(
    connection: sqlite3.Connection, name: str, index: int, position: int, *, count_max: int, size_bytes_max: int
) -> Sequence[StoredRecord]:
    """Return records of a shard from a position on; see `Store.read`."""
    first, end = _bounds(connection, name, index)
    begin = max(first, (first & ~SEQUENCE_MASK) + position)
    rows = connection.execute(
        "SELECT key, body, record_key, headers, arrived_ms FROM record WHERE key >= ? AND key < ? ORDER BY key LIMIT ?",
        (begin, end, count_max),
    )
    records: list[StoredRecord] = []
    size_bytes = 0
    for key, body, record_key, headers, arrived_ms in rows:
        record = StoredRecord(key & SEQUENCE_MASK, body, record_key, decode_headers(headers), arrived_ms)
        size_bytes += record_size_bytes(record)
        if records and size_bytes > size_bytes_max:
            break
        records.append(record)
    rows.close()
    return records


def find_position(connection: sqlite3.Connection, name: str, index: int, at_ms: int) -> int:
    """Return the position of the first record that arrived at or after a time."""
    first, end = _bounds(connection, name, index)

    def arrived_ms(key: int) -> int:
        ((found_ms,),) = connection.execute("SELECT arrived_ms FROM record WHERE key = ?", (key,))
        return int(found_ms)

    return (bisect_left(range(first, end), at_ms, key=arrived_ms) + first) & SEQUENCE_MASK


def _bounds(connection: sqlite3.Connection, name: str, index: int) -> tuple[int, int]:
    """Return the first and the end key of a shard."""
    found = connection.execute(
        "SELECT first_key, end_key FROM shard JOIN stream ON stream.number = shard.stream"
        " WHERE name = ? AND shard.shard = ?",
        (name, index),
    ).fetchone()
    if found is None:
        last = len(extents(connection, name)) - 1
        raise ValueError(f"stream {name} has no shard {index}, only 0-{last}")
    return found[0], found[1]

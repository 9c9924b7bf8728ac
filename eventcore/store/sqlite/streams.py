"""Streams in SQL."""

from __future__ import annotations

import sqlite3
from bisect import bisect_left
from collections.abc import Mapping, Sequence

import msgspec

from eventcore.ports import store as port
from eventcore.ports.store import ShardExtent, StoredRecord, StreamSettings
from eventcore.store.resharding import Changes, follow, merge_shards, split_shard
from eventcore.store.rules import SEQUENCE_MASK, first_key, trim_plan
from eventcore.store.sqlite.codec import decode_headers, decode_lineage, decode_stream_settings, encode_headers
from eventcore.store.sqlite.ledger import ShardRow, StreamRow
from eventcore.store.sqlite.transaction import Transaction

#: The most that one read returns, bytes: SQLite limits one value to 1 GB, and it is held twice.
FETCHED_BYTES = 64 * 1024 * 1024
_ages = msgspec.json.Decoder(list[tuple[int, int]])


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
    is_resharded = stream.settings.is_resharded
    stream.settings = msgspec.structs.replace(operation.settings, is_resharded=is_resharded)
    tx.ledger.change(stream)


def split(tx: Transaction, operation: port.SplitShard) -> tuple[int, ...]:
    """Carry out `SplitShard`."""
    return _reshard(tx, operation.stream, split_shard(tx.ledger.shards(operation.stream), operation))


def merge(tx: Transaction, operation: port.MergeShards) -> int:
    """Carry out `MergeShards`."""
    (child,) = _reshard(tx, operation.stream, merge_shards(tx.ledger.shards(operation.stream), operation))
    return child


def _reshard(tx: Transaction, name: str, changes: Changes) -> tuple[int, ...]:
    """Take over what shards are from now on, and make those that are not there; return the numbers of these."""
    stream = tx.ledger.streams[name]
    made: list[int] = []
    for index, lineage in sorted(changes.items()):
        if index == len(stream.shards):
            tx.ledger.shard_count += 1
            number = tx.ledger.shard_count
            stream.shards.append(ShardRow(number, stream.number, index, first_key(number), first_key(number)))
            made.append(index)
        stream.shards[index].change_lineage(lineage)
        tx.ledger.change(stream.shards[index])
    stream.settings = msgspec.structs.replace(stream.settings, is_resharded=True)
    tx.ledger.change(stream)
    tx.wake(stream.topic)
    return tuple(made)


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
        if shard.lineage is not None:
            shard = stream.shards[follow(new.shard, new.key, stream.find_lineage)]
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
    excess_bytes = stream.size_bytes - limit if limit else 0
    plan = trim_plan(
        {
            shard.shard: _oldest(tx, shard, operation.count_max)
            for shard in stream.shards
            if shard.first < shard.end and (excess_bytes > 0 or _arrived_ms(tx, shard.first) < operation.before_ms)
        },
        before_ms=operation.before_ms,
        excess_bytes=excess_bytes,
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


def _oldest(tx: Transaction, shard: ShardRow, count_max: int) -> list[tuple[int, int]]:
    """Return arrival time and size of a shard's oldest records."""
    return _ages.decode(
        tx.scalar(
            "SELECT json_group_array(json_array(arrived_ms, length(body)))"
            " FROM (SELECT arrived_ms, body FROM record WHERE key >= ? AND key < ? ORDER BY key LIMIT ?)",
            *(shard.first, shard.end, count_max),
        )
    )


def _arrived_ms(tx: Transaction, key: int) -> int:
    arrived_ms: int = tx.scalar("SELECT arrived_ms FROM record WHERE key = ?", key)
    return arrived_ms


# -- reads, on the reading connection ----------------------------------------------------------------------------------


def all_settings(connection: sqlite3.Connection) -> Mapping[str, StreamSettings]:
    """Return all streams by name."""
    rows = connection.execute("SELECT name, settings FROM stream ORDER BY name")
    return {name: decode_stream_settings(settings) for name, settings in rows}


def extents(connection: sqlite3.Connection, name: str) -> Sequence[ShardExtent]:
    """Return where each shard begins and ends."""
    rows = connection.execute(
        "SELECT shard.shard, first_key, end_key, lineage FROM shard JOIN stream ON stream.number = shard.stream"
        " WHERE name = ? ORDER BY shard.shard",
        (name,),
    )
    found = [
        ShardExtent(shard=shard, first=first & SEQUENCE_MASK, end=end & SEQUENCE_MASK, lineage=decode_lineage(lineage))
        for shard, first, end, lineage in rows
    ]
    if not found:
        raise KeyError(f"there is no stream {name}")
    return found


def read(
    connection: sqlite3.Connection, name: str, index: int, position: int, *, count_max: int, size_bytes_max: int
) -> Sequence[StoredRecord]:
    """Return records of a shard from a position on, at most `FETCHED_BYTES` of them and one more; see `Store.read`."""
    first, end = _bounds(connection, name, index)
    begin = max(first, (first & ~SEQUENCE_MASK) + position)
    heads = _cut(connection, begin, min(end, begin + count_max), min(size_bytes_max, FETCHED_BYTES))
    if not heads:
        return []
    # The values come one after another, in the order of their keys; one row for all, as in `visible`.
    ((values,),) = connection.execute(
        "SELECT CAST(group_concat(coalesce(record_key, x'') || coalesce(headers, x'') || body, '') AS BLOB)"
        " FROM (SELECT record_key, headers, body FROM record WHERE key >= ? AND key <= ? ORDER BY key LIMIT ?)",
        (begin, heads[-1][0], len(heads)),
    )
    records = []
    at = 0
    for key, arrived_ms, key_bytes, headers_bytes, body_bytes in heads:
        key_end = at + (key_bytes or 0)
        headers_end = key_end + (headers_bytes or 0)
        body_end = headers_end + body_bytes
        record_key = None if key_bytes is None else values[at:key_end]
        headers = decode_headers(values[key_end:headers_end])
        records.append(StoredRecord(key & SEQUENCE_MASK, values[headers_end:body_end], record_key, headers, arrived_ms))
        at = body_end
    return records


#: A record without its values: key, arrival time, lengths of key (None without one), headers (None) and body.
_Head = tuple[int, int, int | None, int | None, int]
_heads = msgspec.json.Decoder(list[_Head])


def _cut(connection: sqlite3.Connection, begin: int, end: int, size_bytes_max: int) -> list[_Head]:
    """Return the records from a key on that fit into so many bytes, and at least one; values are not read for it."""
    ((found,),) = connection.execute(
        "SELECT json_group_array(json_array(key, arrived_ms, length(record_key), length(headers), length(body)))"
        " FROM (SELECT * FROM record WHERE key >= ? AND key < ? ORDER BY key LIMIT ?)",
        (begin, end, end - begin),
    )
    heads = _heads.decode(found)
    size_bytes = 0
    for count, (_, _, key_bytes, headers_bytes, body_bytes) in enumerate(heads):
        size_bytes += body_bytes + (key_bytes or 0) + (headers_bytes or 0)
        if count and size_bytes > size_bytes_max:
            return heads[:count]
    return heads


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

"""What happened to messages, by ranges of keys: `ready`, `hidden`, `aside`. Source: `migrations/0002_segments.sql`."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import msgspec

from eventcore.store.key_ranges import KeyRange, cut
from eventcore.store.sqlite.codec import RANGE_HIGH, RANGE_LOW, encode_list, encode_ranges
from eventcore.store.sqlite.ledger import QueueRow
from eventcore.store.sqlite.transaction import Transaction

#: A row of `ready`, `hidden` or `aside`: first key, end, receive count, first receive, end of visibility.
Mark = tuple[int, int, int, int, int]

_decode = msgspec.json.Decoder(list[Mark]).decode


def _overlapping(table: str) -> str:
    # The last row that begins at or before a range may reach into it.
    return (
        "SELECT json_group_array(json_array(m.first_key, m.end_key, receive_count, first_receive_ms, visible_ms))"  # noqa: S608
        f" FROM json_each(?) AS list CROSS JOIN {table} AS m"
        f" ON m.first_key >= coalesce((SELECT max(first_key) FROM {table} WHERE first_key <= {RANGE_LOW}), {RANGE_LOW})"
        f" AND m.first_key < {RANGE_HIGH} WHERE m.end_key > {RANGE_LOW}"
    )


_HIDDEN, _READY, _ASIDE = [_overlapping(table) for table in ("hidden", "ready", "aside")]


def hidden_within(connection: sqlite3.Connection, ranges: Sequence[KeyRange]) -> list[Mark]:
    """Return the rows of `hidden` that have keys of ranges, in order."""
    return _within(connection, _HIDDEN, ranges)


def ready_within(connection: sqlite3.Connection, ranges: Sequence[KeyRange]) -> list[Mark]:
    """Return the rows of `ready` that have keys of ranges, in order."""
    return _within(connection, _READY, ranges)


def aside_within(connection: sqlite3.Connection, ranges: Sequence[KeyRange]) -> list[Mark]:
    """Return the rows of `aside` that have keys of ranges, in order."""
    return _within(connection, _ASIDE, ranges)


def _within(connection: sqlite3.Connection, sql: str, ranges: Sequence[KeyRange]) -> list[Mark]:
    ((rows,),) = connection.execute(sql, (encode_ranges(ranges),))
    # A row that reaches into two ranges comes twice.
    return sorted(set(_decode(rows)))


class Taken(msgspec.Struct, frozen=True):
    """Parts of rows that were taken out."""

    marks: list[Mark]
    count: int  #: messages
    unreceived: int  #: of them, those with a receive count of 0


def take_hidden(tx: Transaction, queue: QueueRow, rows: Sequence[Mark], ranges: Sequence[KeyRange]) -> Taken:
    """Take ranges out of rows of `hidden`."""
    taken, left = _cut(rows, ranges)
    # All of it is one statement a receive; nearly always there is one.
    by_time: dict[int, list[int]] = {}
    for row in rows:
        by_time.setdefault(row[4], []).append(row[0])
    for visible_ms, keys in by_time.items():
        tx.execute(
            "DELETE FROM hidden WHERE queue = ? AND visible_ms = ? AND first_key IN (SELECT value FROM json_each(?))",
            *(queue.number, visible_ms, encode_list(keys)),
        )
    for mark in left:
        hide(tx, queue, mark)
    tx.buffers.hidden.flush(tx.connection)
    found = _count(taken)
    queue.delayed -= found.unreceived
    queue.hidden -= found.count - found.unreceived
    tx.ledger.change(queue)
    return found


def take_ready(tx: Transaction, queue: QueueRow, rows: Sequence[Mark], ranges: Sequence[KeyRange]) -> Taken:
    """Take ranges out of rows of `ready`."""
    taken, left = _cut(rows, ranges)
    keys = encode_list([row[0] for row in rows])
    tx.execute("DELETE FROM ready WHERE first_key IN (SELECT value FROM json_each(?))", keys)
    for mark in left:
        show(tx, mark)
    tx.buffers.ready.flush(tx.connection)
    found = _count(taken)
    queue.visible -= found.count
    queue.ready -= found.count
    tx.ledger.change(queue)
    return found


def hide(tx: Transaction, queue: QueueRow, mark: Mark) -> None:
    """Put a row into `hidden`; it is left in the buffers."""
    first, end, receive_count, first_receive_ms, visible_ms = mark
    tx.buffers.hidden.values += (queue.number, visible_ms, first, end, receive_count, first_receive_ms)


def show(tx: Transaction, mark: Mark) -> None:
    """Put a row into `ready`; it is left in the buffers."""
    tx.buffers.ready.values += mark


def _cut(rows: Sequence[Mark], ranges: Sequence[KeyRange]) -> tuple[list[Mark], list[Mark]]:
    taken: list[Mark] = []
    left: list[Mark] = []
    for first, end, count, first_ms, visible_ms in rows:
        inside, outside = cut((first, end), ranges)
        taken += [(*part, count, first_ms, visible_ms) for part in inside]
        left += [(*part, count, first_ms, visible_ms) for part in outside]
    return taken, left


def _count(marks: list[Mark]) -> Taken:
    return Taken(
        marks,
        count=sum([end - first for first, end, *_ in marks]),
        unreceived=sum([end - first for first, end, receive_count, *_ in marks if not receive_count]),
    )

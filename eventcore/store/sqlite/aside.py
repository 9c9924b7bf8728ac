"""Messages of noisy tenants that receives have passed over: visible, in a line for each group. See `store/tenants.py`.

Each is moved there once, by the receive that passes it over, and not looked at again before its turn comes: so a
receive costs the same however many of them wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from eventcore.store.key_ranges import KeyRange
from eventcore.store.sqlite.codec import encode_list
from eventcore.store.sqlite.ledger import QueueRow
from eventcore.store.sqlite.marks import aside_within
from eventcore.store.sqlite.transaction import Transaction
from eventcore.store.sqlite.visible import Visible, key_of, read_marked


def set_aside(tx: Transaction, queue: QueueRow, rows: Sequence[Visible]) -> None:
    """Put messages that were taken out of what is visible into their groups' lines."""
    values = tx.buffers.aside.values
    # Those of a run with the same past stand in one row.
    for (_offset, *past, group), run in groupby(enumerate(sorted(rows, key=key_of)), _run_of):
        keys = [key_of(row) for _, row in run]
        values += (keys[0], keys[-1] + 1, *past, queue.number, group)
        queue.tenants.set_aside(group, len(keys))
    tx.buffers.aside.flush(tx.connection)
    queue.visible += len(rows)
    queue.ready += len(rows)
    tx.ledger.change(queue)


def _run_of(numbered: tuple[int, Visible]) -> tuple[int, int, int, int, str]:
    at, row = numbered
    return key_of(row) - at, row.receive_count, row.first_receive_ms, row.visible_ms, row.message[3]


def read_aside(tx: Transaction, queue: QueueRow, group: str, count: int) -> list[Visible]:
    """Return the oldest messages of a group's line."""
    marks = tx.scalar(
        "SELECT json_group_array(json_array(first_key, end_key, receive_count, first_receive_ms, visible_ms)) FROM"
        " (SELECT * FROM aside WHERE queue = ? AND message_group = ? ORDER BY first_key LIMIT ?)",
        *(queue.number, group, count),
    )
    return read_marked(tx, marks, count)


def take_aside(tx: Transaction, queue: QueueRow, group: str, rows: Sequence[Visible]) -> None:
    """Take the oldest messages out of a group's line, at least one; where they go is the caller's."""
    line, end_key = (queue.number, group), key_of(rows[-1]) + 1
    tx.execute("DELETE FROM aside WHERE queue = ? AND message_group = ? AND end_key <= ?", *line, end_key)
    tx.execute(
        "UPDATE aside SET first_key = ? WHERE queue = ? AND message_group = ? AND first_key < ?",
        *(end_key, *line, end_key),
    )
    queue.visible -= len(rows)
    queue.ready -= len(rows)
    queue.tenants.set_aside(group, -len(rows))
    tx.ledger.change(queue)


def put_back(tx: Transaction, queue: QueueRow, ranges: Sequence[KeyRange]) -> None:
    """Put what was set aside of ranges, and what stands in one row with it, back to what is ready."""
    if not queue.tenants.aside or not (rows := aside_within(tx.connection, ranges)):
        return
    keys = encode_list([row[0] for row in rows])
    for group, count in tx.execute(
        "SELECT message_group, end_key - first_key FROM aside WHERE first_key IN (SELECT value FROM json_each(?))", keys
    ).fetchall():
        queue.tenants.set_aside(group, -count)
    tx.execute(
        "INSERT INTO ready SELECT first_key, end_key, receive_count, first_receive_ms, visible_ms FROM aside"
        " WHERE first_key IN (SELECT value FROM json_each(?))",
        keys,
    )
    tx.execute("DELETE FROM aside WHERE first_key IN (SELECT value FROM json_each(?))", keys)

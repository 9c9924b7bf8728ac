"""Which messages of a queue are visible, and how they become so and cease to be.

What stands where is told in `migrations/0001_first.sql`.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from eventcore.store.rules import DUE_STEP_MAX
from eventcore.store.sqlite.codec import Headers, decode_headers, encode_list
from eventcore.store.sqlite.ledger import QueueRow
from eventcore.store.sqlite.transaction import Transaction

#: Messages that are fetched at a time: their bodies come as one value, which SQLite limits to 1 GB.
FETCHED_MAX = 500
#: A visible message: key, id, time sent, group, headers, body, receive count, time of the first receive.
VisibleMessage = tuple[int, str, int, str, Headers, bytes, int, int]

# One row for all, their bodies one after another: each row would cost a change of the interpreter's lock, and with a
# busy event loop in the other thread up to its switch interval (measured: 3 s for a thousand rows, 10 ms for one).
_GATHER = (
    "SELECT json_group_array(json_array(key, id, sent_ms, message_group, length(headers), length(body), receive_count,"
    " first_receive_ms)), CAST(group_concat(coalesce(headers, x'') || body, '') AS BLOB) FROM "
)
# CROSS JOIN keeps SQLite from walking all messages to look for each in `ready`.
_READY = (
    f"{_GATHER} (SELECT message.key AS key, id, sent_ms, message_group, headers, body, receive_count, first_receive_ms"  # noqa: S608
    " FROM ready CROSS JOIN message ON message.key = ready.key"
    " WHERE ready.key >= ? AND ready.key < ? ORDER BY ready.key LIMIT ?)"
)
_FRESH = (
    f"{_GATHER} (SELECT key, id, sent_ms, message_group, headers, body, 0 AS receive_count, 0 AS first_receive_ms"  # noqa: S608
    " FROM message WHERE key >= ? AND key < ? AND NOT is_delayed ORDER BY key LIMIT ?)"
)
_heads = msgspec.json.Decoder(list[tuple[int, str, int, str, int | None, int, int, int]])


def _fetch(tx: Transaction, sql: str, low: int, high: int, limit: int) -> list[VisibleMessage]:
    heads, values = tx.execute(sql, low, high, limit).fetchone()
    messages = []
    begin = 0
    for key, message_id, sent_ms, group, headers_bytes, body_bytes, count, first_ms in _heads.decode(heads):
        middle = begin + (headers_bytes or 0)
        end = middle + body_bytes
        headers = decode_headers(values[begin:middle])
        messages.append((key, message_id, sent_ms, group, headers, values[middle:end], count, first_ms))
        begin = end
    return messages


def _next_visible_ms(tx: Transaction, queue: QueueRow) -> int:
    """Return when the next hidden message shows; 0 when none is hidden."""
    if not queue.hidden + queue.delayed:
        return 0
    earliest_ms: int = tx.scalar(
        "SELECT visible_ms FROM hidden WHERE queue = ? ORDER BY visible_ms LIMIT 1", queue.number
    )
    return earliest_ms


def show_due(tx: Transaction, queue: QueueRow, now_ms: int) -> int:
    """Make messages visible whose time has come, a step of them; return when the next one shows."""
    earliest_ms = _next_visible_ms(tx, queue)
    if not earliest_ms or earliest_ms > now_ms:
        return earliest_ms
    last = tx.execute(
        "SELECT visible_ms, key FROM hidden WHERE queue = ? AND visible_ms <= ? ORDER BY visible_ms, key"
        " LIMIT 1 OFFSET ?",
        *(queue.number, now_ms, DUE_STEP_MAX - 1),
    ).fetchone()
    due = (queue.number, *(last or (now_ms, queue.high)))
    count, delayed = tx.execute(
        "SELECT count(*), sum(receive_count = 0) FROM hidden WHERE queue = ? AND (visible_ms, key) <= (?, ?)", *due
    ).fetchone()
    tx.execute(
        "INSERT INTO ready SELECT key, receive_count, first_receive_ms, visible_ms FROM hidden"
        " WHERE queue = ? AND (visible_ms, key) <= (?, ?)",
        *due,
    )
    tx.execute("DELETE FROM hidden WHERE queue = ? AND (visible_ms, key) <= (?, ?)", *due)
    queue.visible += count
    queue.ready += count
    queue.hidden -= count - delayed
    queue.delayed -= delayed
    tx.ledger.change(queue)
    return _next_visible_ms(tx, queue)


def oldest_visible(tx: Transaction, queue: QueueRow, limit: int) -> list[VisibleMessage]:
    """Return the oldest visible messages, at most `FETCHED_MAX`: fewer than ``limit`` when there are no more."""
    assert limit <= FETCHED_MAX
    rows = _fetch(tx, _READY, queue.low, queue.high, limit) if queue.ready else []
    if queue.visible > queue.ready:
        # Two queries, not one with UNION ALL: merging in SQL takes 30 µs longer. Only messages whose delay has ended
        # can stand in `ready` behind a fresh one.
        older = sum([row[0] < queue.fresh_key for row in rows])
        if older < limit:
            fresh = _fetch(tx, _FRESH, queue.fresh_key, queue.high, limit - older)
            rows = sorted(rows + fresh)[:limit] if len(rows) > older else rows + fresh
    return rows


def take_out(tx: Transaction, queue: QueueRow, rows: Sequence[VisibleMessage], *, is_all: bool) -> None:
    """Take the oldest visible messages out of what is visible; where they go is the caller's.

    Args:
        tx: the transaction.
        queue: theirs.
        rows: as `oldest_visible` has returned them, from the first on; at least one.
        is_all: nothing else is visible.
    """
    last_key = rows[-1][0]
    if queue.ready:
        queue.ready -= tx.execute("DELETE FROM ready WHERE key >= ? AND key <= ?", queue.low, last_key).rowcount
    queue.fresh_key = queue.next_key if is_all else max(queue.fresh_key, last_key + 1)
    queue.visible -= len(rows)
    tx.ledger.change(queue)


def transfer(tx: Transaction, target: QueueRow, keys: Sequence[int], *, sent_ms: int | None = None) -> None:
    """Give messages that were taken out of their queue to another, as new ones with their id, and wake that.

    ``sent_ms`` None keeps the time they were sent.
    """
    tx.execute(
        "INSERT INTO message"
        " SELECT ? + list.key, message.id, coalesce(?, sent_ms), 0, message_group, headers, body"
        " FROM json_each(?) AS list CROSS JOIN message ON message.key = list.value",
        *(target.next_key, sent_ms, encode_list(keys)),
    )
    target.next_key += len(keys)
    target.visible += len(keys)
    tx.ledger.change(target)
    tx.wake(target.topic)
    erase(tx, keys)


def erase(tx: Transaction, keys: Sequence[int]) -> None:
    """Delete messages that stand in neither `ready` nor `hidden` any more."""
    tx.execute("DELETE FROM message WHERE key IN (SELECT value FROM json_each(?))", encode_list(keys))

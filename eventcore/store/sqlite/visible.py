"""What of a queue is visible, and what becomes of its messages: hidden, given to another queue, deleted.

A message that was never received stands in its segment alone; see `migrations/0002_segments.sql`.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from eventcore.errors import StoreCorrupt
from eventcore.store.key_ranges import KeyRange, gather
from eventcore.store.rules import DUE_STEP_MAX, as_dead_letter, without_source
from eventcore.store.sqlite.codec import RANGE_HIGH, RANGE_LOW, encode_ranges
from eventcore.store.sqlite.ledger import QueueRow
from eventcore.store.sqlite.segments import HOLDING, Message, read_from, read_within
from eventcore.store.sqlite.transaction import Transaction

#: Messages that are fetched at a time: their bodies come as one value, which SQLite limits to 1 GB.
FETCHED_MAX = 500


class Visible(msgspec.Struct, frozen=True, gc=False):
    """A visible message."""

    message: Message
    receive_count: int
    first_receive_ms: int
    is_ready: bool  #: it stands in `ready`: was received, or delayed
    visible_ms: int = 0  #: of the last receive


_decode_marks = msgspec.json.Decoder(list[tuple[int, int, int, int, int]]).decode


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
        "SELECT visible_ms, first_key FROM hidden WHERE queue = ? AND visible_ms <= ? ORDER BY visible_ms, first_key"
        " LIMIT 1 OFFSET ?",
        *(queue.number, now_ms, DUE_STEP_MAX - 1),
    ).fetchone()
    due = (queue.number, *(last or (now_ms, queue.high)))
    count, delayed = tx.execute(
        "SELECT sum(end_key - first_key), sum((end_key - first_key) * (receive_count = 0)) FROM hidden"
        " WHERE queue = ? AND (visible_ms, first_key) <= (?, ?)",
        *due,
    ).fetchone()
    ended: list[KeyRange] = []
    if queue.tenants.in_flight:
        ended = tx.execute(
            "SELECT first_key, end_key FROM hidden WHERE queue = ? AND (visible_ms, first_key) <= (?, ?)", *due
        ).fetchall()
    tx.execute(
        "INSERT INTO ready SELECT first_key, end_key, receive_count, first_receive_ms, visible_ms FROM hidden"
        " WHERE queue = ? AND (visible_ms, first_key) <= (?, ?)",
        *due,
    )
    tx.execute("DELETE FROM hidden WHERE queue = ? AND (visible_ms, first_key) <= (?, ?)", *due)
    for first, end in ended:
        queue.tenants.release(range(first, end))
    queue.show(count, delayed=delayed)
    queue.ready += count
    tx.ledger.change(queue)
    return _next_visible_ms(tx, queue)


def oldest_visible(tx: Transaction, queue: QueueRow, limit: int) -> list[Visible]:
    """Return the oldest visible messages, at most `FETCHED_MAX`: fewer than ``limit`` when there are no more."""
    assert limit <= FETCHED_MAX
    rows = _ready(tx, queue, limit) if queue.ready else []
    if queue.visible > queue.ready:
        # Only messages whose delay has ended can stand in `ready` behind a fresh one.
        older = sum([row.message[0] < queue.fresh_key for row in rows])
        if older < limit:
            fresh = _fresh(tx, queue, limit - older)
            rows = sorted(rows + fresh, key=key_of)[:limit] if len(rows) > older else rows + fresh
    return rows


def key_of(row: Visible) -> int:
    """Return a message's key: by it, the oldest comes first."""
    return row.message[0]


def _ready(tx: Transaction, queue: QueueRow, limit: int) -> list[Visible]:
    marks = tx.scalar(
        "SELECT json_group_array(json_array(first_key, end_key, receive_count, first_receive_ms, visible_ms)) FROM"
        " (SELECT * FROM ready WHERE first_key >= ? AND first_key < ? ORDER BY first_key LIMIT ?)",
        *(queue.low, queue.high, limit),
    )
    return read_marked(tx, marks, limit)


def read_marked(tx: Transaction, marks: str, limit: int) -> list[Visible]:
    """Return the messages of rows of `ready` or `aside`, which come in order as JSON; at most ``limit``."""
    ranges: list[KeyRange] = []
    received: list[tuple[int, int, bool, int]] = []
    for first, end, receive_count, first_receive_ms, visible_ms in _decode_marks(marks):
        count = min(end - first, limit - len(received))
        if not count:
            break
        ranges.append((first, first + count))
        received += [(receive_count, first_receive_ms, True, visible_ms)] * count
    messages = read_within(tx.connection, ranges) if ranges else []
    return [Visible(message, *each) for message, each in zip(messages, received, strict=True)]


def _fresh(tx: Transaction, queue: QueueRow, limit: int) -> list[Visible]:
    found: list[Message] = []
    left, key = min(limit, queue.visible - queue.ready), queue.fresh_key
    # A receive of less than a segment has left it open for the next.
    opened = queue.opened
    segments = [opened] if opened is not None and opened.first_key <= key < opened.end_key else []
    while left:
        segments = segments or read_from(tx.connection, key, queue.high, count=left)
        before = left
        for segment in segments:
            begin = max(0, key - segment.first_key)
            if part := segment.messages[begin : begin + left]:
                found += part
                left -= len(part)
                key = part[-1][0] + 1
                queue.opened = segment
        if left == before:
            raise StoreCorrupt(
                f"the state file lacks {left} messages that its queue {queue.name!r} counts:"
                " restore it from a backup, or remove it"
            )
        segments = []
    return [Visible(message, 0, 0, False) for message in found]


def take_out(tx: Transaction, queue: QueueRow, rows: Sequence[Visible], *, is_all: bool) -> None:
    """Take the oldest visible messages out of what is visible; where they go is the caller's.

    Args:
        tx: the transaction.
        queue: theirs.
        rows: as `oldest_visible` has returned them, from the first on; at least one.
        is_all: nothing else is visible.
    """
    end_key = rows[-1].message[0] + 1
    if queue.ready:
        # A range may reach beyond what was taken.
        tx.execute(
            "UPDATE ready SET first_key = ? WHERE end_key > ? AND first_key ="
            " (SELECT max(first_key) FROM ready WHERE first_key >= ? AND first_key < ?)",
            *(end_key, end_key, queue.low, end_key),
        )
        tx.execute("DELETE FROM ready WHERE first_key >= ? AND first_key < ?", queue.low, end_key)
        queue.ready -= sum([row.is_ready for row in rows])
    queue.fresh_key = queue.next_key if is_all else max(queue.fresh_key, end_key)
    queue.visible -= len(rows)
    tx.ledger.change(queue)


def transfer(tx: Transaction, target: QueueRow, rows: Sequence[Visible], *, ids: Sequence[str], sent_ms: int) -> None:
    """Give messages that were taken out of their queue to another, as new ones, and wake that.

    They are left in the buffers, and their old places for `erase`. Without ``ids`` they keep theirs.
    """
    run = tx.buffers.messages.run(target.number, target.next_key)
    for row, message_id in zip(rows, ids or [row.message[1] for row in rows], strict=False):
        _key, _id, _sent_ms, group, headers, body = row.message
        run.append((message_id, sent_ms, group, without_source(headers), body))
    target.next_key += len(rows)
    target.visible += len(rows)
    tx.ledger.change(target)
    tx.wake(target.topic)


def redrive(tx: Transaction, source: QueueRow, target: QueueRow, rows: Sequence[Visible]) -> None:
    """Give messages that were taken out of their queue to its dead-letter queue, as they are, and wake that.

    They are left in the buffers, and their old places for `erase`. The time they were sent stays, and retention counts
    from it (Lambda semantics §3.2); so do receive count and first receive: they stand in `ready`.
    """
    key = target.next_key
    run = tx.buffers.messages.run(target.number, key, is_delayed=True)
    for at, row in enumerate(rows, key):
        _key, message_id, sent_ms, group, headers, body = row.message
        run.append((message_id, sent_ms, group, as_dead_letter(headers, source.name, row.receive_count), body))
        tx.buffers.ready.values += (at, at + 1, row.receive_count, row.first_receive_ms, 0)
    target.next_key += len(rows)
    if target.fresh_key == key:
        # Nothing before them waits: so they need not be skipped later.
        target.fresh_key = target.next_key
    target.visible += len(rows)
    target.ready += len(rows)
    tx.ledger.change(target)
    tx.wake(target.topic)


# A segment may go when nothing of it is fresh, ready or hidden.
_ERASE = (
    "DELETE FROM segment WHERE first_key IN (SELECT s.first_key FROM json_each(:ranges) AS list"  # noqa: S608
    f" CROSS JOIN segment AS s ON s.first_key >= max({HOLDING.format(key=RANGE_LOW)}, :low)"
    f" AND s.first_key < {RANGE_HIGH}"
    " WHERE (s.end_key <= :fresh OR s.is_delayed)"
    " AND coalesce((SELECT max(end_key) FROM (SELECT end_key FROM ready WHERE first_key < s.end_key"
    "  ORDER BY first_key DESC LIMIT 1)), 0) <= s.first_key"
    " AND coalesce((SELECT max(end_key) FROM (SELECT end_key FROM hidden WHERE first_key < s.end_key"
    "  ORDER BY first_key DESC LIMIT 1)), 0) <= s.first_key)"
)
# Nor set aside, which next to no queue has messages that are.
_ERASE_BESIDE = (
    f"{_ERASE[:-1]} AND coalesce((SELECT max(end_key) FROM (SELECT end_key FROM aside WHERE first_key < s.end_key"  # noqa: S608
    "  ORDER BY first_key DESC LIMIT 1)), 0) <= s.first_key)"
)


def erase(tx: Transaction, queue: QueueRow, ranges: Sequence[KeyRange]) -> None:
    """Delete messages that are neither fresh nor in another table any more: with the last of their segment."""
    statement = _ERASE_BESIDE if queue.tenants.aside else _ERASE
    tx.execute_named(statement, {"ranges": encode_ranges(ranges), "low": queue.low, "fresh": queue.fresh_key})


def keys_of(rows: Sequence[Visible]) -> list[KeyRange]:
    """Return the ranges of messages' keys."""
    return gather([key_of(row) for row in rows])

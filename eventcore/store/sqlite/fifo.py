"""FIFO queues as a whole: sending, and what is done to them by hand. Source: Lambda semantics §3.2 "FIFO"."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from itertools import islice

import msgspec

from eventcore.ports import store as port
from eventcore.ports.store import MovedCount, StoredMessage
from eventcore.store.fifo_rules import (
    DEDUPLICATION_MS,
    DEDUPLICATIONS_SWEPT_MAX,
    deduplication_id,
    deduplication_scope,
)
from eventcore.store.rules import (
    SEQUENCE_MASK,
    as_dead_letter,
    expired_ms,
    first_key,
    is_expired,
    without_source,
)
from eventcore.store.sqlite.codec import decode_headers, encode_headers, encode_list
from eventcore.store.sqlite.fifo_groups import (
    DELAYED,
    IN_FLIGHT,
    WAITING,
    GroupChanges,
    Waiting,
    erase,
    show_due,
    waiting,
)
from eventcore.store.sqlite.ledger import QueueRow
from eventcore.store.sqlite.transaction import Transaction


class _Arrival(msgspec.Struct, frozen=True, gc=False):
    """A message on its way into a queue: a row of `fifo_message`, but for its key."""

    id: str
    sent_ms: int
    group: str
    deduplication_id: str
    headers: bytes | None
    body: bytes


def send(tx: Transaction, queue: QueueRow, operations: Iterable[port.SendMessages]) -> list[list[str]]:
    """Carry out sends to one queue; return the result of each."""
    results: list[list[str]] = []
    delay_s = queue.settings.delay
    for operation in operations:
        now_ms, ids = operation.now_ms, []
        arrivals: list[_Arrival] = []
        for new in operation.messages:
            name = deduplication_id(new)
            before = _find_sent(tx, queue, new.group, name, new.id, now_ms)
            if not before:
                arrivals.append(_Arrival(new.id, now_ms, new.group, name, encode_headers(new.headers), new.body))
            ids.append(before or new.id)
        _add(tx, queue, arrivals, now_ms, visible_ms=now_ms + delay_s * 1000 if delay_s else 0)
        tx.execute(
            "DELETE FROM fifo_deduplication WHERE (queue, scope, deduplication_id) IN (SELECT queue, scope,"
            " deduplication_id FROM fifo_deduplication WHERE forget_ms <= ? ORDER BY forget_ms LIMIT ?)",
            *(now_ms, DEDUPLICATIONS_SWEPT_MAX),
        )
        results.append(ids)
    tx.wake(queue.topic)
    return results


def _find_sent(tx: Transaction, queue: QueueRow, group: str, name: str, message_id: str, now_ms: int) -> str:
    """Return the id of the message that this one repeats; empty when it repeats none, and is known from now on."""
    token = (queue.number, deduplication_scope(group, queue.settings), name)
    taken = tx.execute(
        "INSERT INTO fifo_deduplication VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET id = excluded.id,"
        " forget_ms = excluded.forget_ms WHERE forget_ms <= ?",
        *(*token, message_id, now_ms + DEDUPLICATION_MS, now_ms),
    )
    if taken.rowcount == 1:
        return ""
    found: str = tx.scalar(
        "SELECT id FROM fifo_deduplication WHERE queue = ? AND scope = ? AND deduplication_id = ?", *token
    )
    return found


def _add(
    tx: Transaction,
    queue: QueueRow,
    arrivals: Sequence[_Arrival],
    now_ms: int,
    *,
    visible_ms: int = 0,
    receives: Sequence[tuple[int, int]] = (),
) -> None:
    """Add messages that wait, or are delayed until ``visible_ms``.

    ``receives``: of each, how often it was received before, and when first; empty: never.
    """
    if not arrivals:
        return
    receives = receives or [(0, 0)] * len(arrivals)
    groups = _number_groups(tx, queue, [arrival.group for arrival in arrivals])
    keyed = list(enumerate(arrivals, queue.next_key))
    tx.connection.executemany(
        "INSERT INTO fifo_message VALUES (?, ?, ?, ?, ?, ?, ?)",
        [(key, *msgspec.structs.astuple(arrival)) for key, arrival in keyed],
    )
    place = DELAYED if visible_ms else WAITING
    tx.connection.executemany(
        "INSERT INTO fifo_place VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (key, queue.number, groups[arrival.group], place, now_ms, visible_ms, *received)
            for (key, arrival), received in zip(keyed, receives, strict=True)
        ],
    )
    changes = GroupChanges(tx, queue)
    for arrival in arrivals:
        changes.note(groups[arrival.group], depth=1)
    changes.write()
    queue.next_key += len(arrivals)
    if visible_ms:
        queue.delayed += len(arrivals)
    else:
        queue.visible += len(arrivals)


def _number_groups(tx: Transaction, queue: QueueRow, names: Sequence[str]) -> dict[str, int]:
    """Return the numbers of groups by name; those that are new are made."""
    wanted = encode_list(list(dict.fromkeys(names)))
    tx.execute(
        "INSERT INTO fifo_group (queue, name, depth, in_flight) SELECT ?, value, 0, 0 FROM json_each(?) WHERE true"
        " ON CONFLICT DO NOTHING",
        *(queue.number, wanted),
    )
    found = tx.execute(
        "SELECT name, number FROM fifo_group WHERE queue = ? AND name IN (SELECT value FROM json_each(?))",
        *(queue.number, wanted),
    )
    return dict(found.fetchall())


def _take_over(tx: Transaction, target: QueueRow, rows: Sequence[Waiting], *, ids: Sequence[str], now_ms: int) -> int:
    """Add messages of another queue, as new ones; return how many were not sent before."""
    arrivals = []
    for row, message_id in zip(rows, ids or [row.id for row in rows], strict=False):
        if not _find_sent(tx, target, row.group, row.deduplication_id, message_id, now_ms):
            headers = encode_headers(without_source(decode_headers(row.headers)))
            arrivals.append(_Arrival(message_id, now_ms, row.group, row.deduplication_id, headers, row.body))
    _add(tx, target, arrivals, now_ms)
    if arrivals:
        tx.wake(target.topic)
    return len(arrivals)


def redrive(tx: Transaction, source: QueueRow, target: QueueRow, rows: Sequence[Waiting], now_ms: int) -> None:
    """Give messages that were taken out of their queue to its dead-letter queue, as they are, and wake that.

    Retention counts anew there, unlike a standard queue's (Lambda semantics §3.2 "DLQ").
    """
    arrivals = []
    for row in rows:
        headers = encode_headers(as_dead_letter(decode_headers(row.headers), source.name, row.receive_count))
        arrivals.append(_Arrival(row.id, row.sent_ms, row.group, row.id, headers, row.body))
    _add(tx, target, arrivals, now_ms, receives=[(row.receive_count, row.first_receive_ms) for row in rows])
    tx.wake(target.topic)


def take_out(tx: Transaction, queue: QueueRow, rows: Sequence[Waiting]) -> None:
    """Take messages that wait out of a queue."""
    if not rows:
        return
    erase(tx, [row.key for row in rows])
    changes = GroupChanges(tx, queue)
    for row in rows:
        changes.note(row.group_number, depth=-1)
    changes.write()
    queue.visible -= len(rows)


def purge(tx: Transaction, queue: QueueRow) -> int:
    """Carry out `PurgeQueue`. What was sent lately stays known."""
    count = queue.visible + queue.hidden + queue.delayed
    tx.execute("DELETE FROM fifo_message WHERE key >= ? AND key < ?", queue.low, queue.high)
    tx.execute("DELETE FROM fifo_place WHERE key >= ? AND key < ?", queue.low, queue.high)
    tx.execute("DELETE FROM fifo_group WHERE queue = ?", queue.number)
    queue.visible = queue.hidden = queue.delayed = 0
    tx.ledger.change(queue)
    return count


def move(tx: Transaction, operation: port.MoveMessages) -> MovedCount:
    """Carry out `MoveMessages`."""
    queue, target = tx.ledger.queues[operation.source], tx.ledger.queues[operation.target]
    show_due(tx, queue, operation.now_ms)
    end_key = queue.low + (operation.through_number or SEQUENCE_MASK)
    found = waiting(tx.connection, queue, max(1, operation.count_max))
    rows = list(islice((row for row in found if row.key <= end_key), operation.count_max))
    take_out(tx, queue, rows)
    kept = [row for row in rows if not is_expired(row.arrived_ms, queue.settings, operation.now_ms)]
    moved = _take_over(tx, target, kept, ids=operation.ids, now_ms=operation.now_ms)
    return MovedCount(len(rows), moved)


def drop(tx: Transaction, queue: QueueRow, operation: port.DropMessages) -> int:
    """Carry out `DropMessages`. Reads the whole queue: an index of ids would cost every message a random page."""
    found = tx.execute(
        "SELECT m.key, group_number, place FROM fifo_message AS m CROSS JOIN fifo_place AS p ON p.key = m.key"
        " WHERE m.key >= ? AND m.key < ? AND id IN (SELECT value FROM json_each(?))",
        *(queue.low, queue.high, encode_list(operation.ids)),
    ).fetchall()
    erase(tx, [key for key, _, _ in found])
    changes = GroupChanges(tx, queue)
    for _key, group, place in found:
        changes.note(group, depth=-1, in_flight=-(place == IN_FLIGHT))
        queue.visible -= place == WAITING
        queue.hidden -= place == IN_FLIGHT
        queue.delayed -= place == DELAYED
    if changes.write():
        tx.wake(queue.topic)
    return len(found)


def peek(
    connection: sqlite3.Connection, queue: int, *, settings: port.QueueSettings, count_max: int, after: int, now_ms: int
) -> Sequence[StoredMessage]:
    """Return messages of a queue in the order they were sent; see `Store.peek`."""
    rows = connection.execute(
        "SELECT m.key, id, sent_ms, message_group, deduplication_id, headers, body, place, visible_ms, receive_count,"
        " first_receive_ms FROM fifo_message AS m CROSS JOIN fifo_place AS p ON p.key = m.key"
        " WHERE m.key > ? AND m.key < ? AND arrived_ms > ? ORDER BY m.key LIMIT ?",
        (first_key(queue) + after, first_key(queue + 1), expired_ms(settings, now_ms), count_max),
    )
    return [
        StoredMessage(
            number=key & SEQUENCE_MASK,
            id=message_id,
            body=body,
            headers=decode_headers(headers),
            group=group,
            sent_ms=sent_ms,
            receive_count=receive_count,
            first_receive_ms=first_receive_ms,
            visible_ms=visible_ms if place != WAITING and visible_ms > now_ms else 0,
            deduplication_id=name,
        )
        for (
            key,
            message_id,
            sent_ms,
            group,
            name,
            headers,
            body,
            place,
            visible_ms,
            receive_count,
            first_receive_ms,
        ) in rows
    ]

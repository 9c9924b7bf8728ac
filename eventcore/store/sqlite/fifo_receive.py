"""Receiving from a FIFO queue, and what receipts allow there. Source: Lambda semantics §3.2 "FIFO"."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from eventcore.ports import store as port
from eventcore.ports.store import MovedMessage, ReceiveResult, StoredMessage
from eventcore.store.rules import (
    EXAMINED_MAX,
    SEQUENCE_MASK,
    is_exhausted,
    is_expired,
    read_receipts,
    shown_again_ms,
    write_receipt,
)
from eventcore.store.sqlite.codec import decode_headers, encode_list
from eventcore.store.sqlite.fifo import redrive, take_out
from eventcore.store.sqlite.fifo_groups import GroupChanges, Waiting, erase, show_due, waiting
from eventcore.store.sqlite.ledger import QueueRow
from eventcore.store.sqlite.received import received
from eventcore.store.sqlite.transaction import Transaction

#: Messages read ahead where nobody has said how many are wanted.
_SWEEP_STEP = 100


def receive(tx: Transaction, queue: QueueRow, operation: port.ReceiveMessages) -> ReceiveResult:
    """Carry out `ReceiveMessages`."""
    return _Receive(tx, queue, operation).run()


class _Receive:
    """One receive: looks at messages that wait, group by group, until it has enough."""

    def __init__(self, tx: Transaction, queue: QueueRow, operation: port.ReceiveMessages) -> None:
        self._tx = tx
        self._queue = queue
        self._operation = operation
        self._taken: list[Waiting] = []
        self._exhausted: list[Waiting] = []
        self._expired: list[Waiting] = []

    def run(self) -> ReceiveResult:
        queue = self._queue
        earliest_ms = show_due(self._tx, queue, self._operation.now_ms)
        is_cut = self._examine()
        messages = self._hide()
        take_out(self._tx, queue, self._expired + self._exhausted)
        moved = self._redrive() if self._exhausted else []
        expired = [row.id for row in self._expired]
        return received(
            self._tx, queue, self._operation, messages, moved, expired, earliest_ms=earliest_ms, is_cut=is_cut
        )

    def _examine(self) -> bool:
        """Sort messages into those to take, move and drop; return whether it stopped before it had enough."""
        settings, now_ms, count_max = self._queue.settings, self._operation.now_ms, self._operation.count_max
        found = waiting(self._tx.connection, self._queue, count_max or _SWEEP_STEP)
        for looked_at, row in enumerate(found):
            if 0 < count_max == len(self._taken):
                return False
            if looked_at == count_max + EXAMINED_MAX:
                return True
            if is_expired(row.arrived_ms, settings, now_ms):
                self._expired.append(row)
            elif not count_max:
                return False
            elif is_exhausted(row.receive_count, decode_headers(row.headers), settings):
                self._exhausted.append(row)
            else:
                self._taken.append(row)
        return False

    def _redrive(self) -> list[MovedMessage]:
        target = self._tx.ledger.queues[self._queue.settings.dead_letter_queue]
        redrive(self._tx, self._queue, target, self._exhausted, self._operation.now_ms)
        return [MovedMessage(row.id, row.receive_count, target.name) for row in self._exhausted]

    def _hide(self) -> list[StoredMessage]:
        if not self._taken:
            return []
        queue, now_ms = self._queue, self._operation.now_ms
        until_ms = shown_again_ms(self._operation, queue.settings)
        self._tx.execute(
            "UPDATE fifo_place SET place = 1, receive_count = receive_count + 1, visible_ms = ?,"
            " first_receive_ms = iif(first_receive_ms, first_receive_ms, ?)"
            " WHERE key IN (SELECT value FROM json_each(?))",
            *(until_ms, now_ms, encode_list([row.key for row in self._taken])),
        )
        changes = GroupChanges(self._tx, queue)
        for row in self._taken:
            changes.note(row.group_number, in_flight=1)
        changes.write()
        queue.visible -= len(self._taken)
        queue.hidden += len(self._taken)
        return [_lease(row, until_ms, now_ms) for row in self._taken]


def _lease(row: Waiting, until_ms: int, now_ms: int) -> StoredMessage:
    return StoredMessage(
        number=row.key & SEQUENCE_MASK,
        id=row.id,
        body=row.body,
        headers=decode_headers(row.headers),
        group=row.group,
        sent_ms=row.sent_ms,
        receive_count=row.receive_count + 1,
        first_receive_ms=row.first_receive_ms or now_ms,
        visible_ms=until_ms,
        receipt=write_receipt(row.key, row.receive_count + 1, until_ms),
        deduplication_id=row.deduplication_id,
    )


def owned(
    connection: sqlite3.Connection, queue: QueueRow, receipts: Sequence[str], now_ms: int
) -> list[tuple[int, int, str]]:
    """Return the messages that receipts own, still in flight: key, group's number and receipt."""
    found: list[tuple[int, int, str]] = []
    for (receive_count, visible_ms), by_key in read_receipts(receipts, queue.number).items():
        if visible_ms <= now_ms:
            continue
        rows = connection.execute(
            "SELECT key, group_number FROM fifo_place WHERE key IN (SELECT value FROM json_each(?))"
            " AND place = 1 AND receive_count = ? AND visible_ms = ?",
            (encode_list(list(by_key)), receive_count, visible_ms),
        )
        found += [(key, group, by_key[key]) for key, group in rows]
    return found


def delete(tx: Transaction, queue: QueueRow, operation: port.DeleteMessages) -> list[str]:
    """Carry out `DeleteMessages`."""
    stale = dict.fromkeys(operation.receipts)
    found = owned(tx.connection, queue, operation.receipts, operation.now_ms)
    if not found:
        return list(stale)
    erase(tx, [key for key, _, _ in found])
    changes = GroupChanges(tx, queue)
    for _key, group, receipt in found:
        changes.note(group, depth=-1, in_flight=-1)
        del stale[receipt]
    queue.hidden -= len(found)
    if changes.write():
        # What stood behind them may be received.
        tx.wake(queue.topic)
    return list(stale)


def change_visibility(tx: Transaction, queue: QueueRow, operation: port.ChangeVisibility) -> dict[str, str]:
    """Carry out `ChangeVisibility`."""
    until_ms = operation.now_ms + operation.timeout_s * 1000
    found = owned(tx.connection, queue, operation.receipts, operation.now_ms)
    if not found:
        return {}
    tx.execute(
        "UPDATE fifo_place SET place = ?, visible_ms = ?, receive_count = receive_count - ?"
        " WHERE key IN (SELECT value FROM json_each(?))",
        *(int(operation.timeout_s > 0), until_ms, int(operation.is_uncounted)),
        encode_list([key for key, _, _ in found]),
    )
    if not operation.timeout_s:
        changes = GroupChanges(tx, queue)
        for _key, group, _receipt in found:
            changes.note(group, in_flight=-1)
        changes.write()
        queue.visible += len(found)
        queue.hidden -= len(found)
    renewed = {}
    for key, _group, receipt in found:
        _, receive_count, before_ms = map(int, receipt.split("-"))
        if until_ms < before_ms or not operation.timeout_s:
            tx.wake(queue.topic)
        renewed[receipt] = write_receipt(key, receive_count - operation.is_uncounted, until_ms)
    return renewed

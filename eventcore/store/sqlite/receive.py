"""Receiving: the oldest visible messages are hidden and handed out, moved or dropped. Source: Lambda semantics §3.2."""

from __future__ import annotations

from collections.abc import Sequence

from eventcore.ports import store as port
from eventcore.ports.store import MovedMessage, ReceiveResult, StoredMessage
from eventcore.store.rules import EXAMINED_MAX, SEQUENCE_MASK, expired_ms, is_exhausted, shown_again_ms, write_receipt
from eventcore.store.sqlite import fifo_receive
from eventcore.store.sqlite.ledger import QueueRow
from eventcore.store.sqlite.marks import Mark, hide
from eventcore.store.sqlite.received import received
from eventcore.store.sqlite.transaction import Transaction
from eventcore.store.sqlite.visible import (
    FETCHED_MAX,
    Visible,
    erase,
    key_of,
    keys_of,
    oldest_visible,
    redrive,
    show_due,
    take_out,
)


def receive(tx: Transaction, operation: port.ReceiveMessages) -> ReceiveResult:
    """Carry out `ReceiveMessages`."""
    queue = tx.ledger.queues[operation.queue]
    return (fifo_receive.receive if queue.settings.fifo_queue else _receive)(tx, queue, operation)


def _receive(tx: Transaction, queue: QueueRow, operation: port.ReceiveMessages) -> ReceiveResult:
    return _Receive(tx, queue, operation).run()


class _Receive:
    """One receive: looks at visible messages, oldest first, until it has enough."""

    def __init__(self, tx: Transaction, queue: QueueRow, operation: port.ReceiveMessages) -> None:
        self._tx = tx
        self._queue = queue
        self._operation = operation
        self._taken: list[Visible] = []
        self._exhausted: list[Visible] = []
        self._expired: list[Visible] = []

    def run(self) -> ReceiveResult:
        queue = self._queue
        earliest_ms = show_due(self._tx, queue, self._operation.now_ms)
        is_cut = self._examine()
        messages = self._hide()
        moved = self._redrive() if self._exhausted else []
        if self._expired or moved:
            # What was taken must stand in `hidden` first: it may lie in the same segments.
            self._tx.buffers.hidden.flush(self._tx.connection)
            erase(self._tx, queue, keys_of(sorted(self._expired + self._exhausted, key=key_of)))
        expired = [row.message[1] for row in self._expired]
        return received(
            self._tx, queue, self._operation, messages, moved, expired, earliest_ms=earliest_ms, is_cut=is_cut
        )

    def _examine(self) -> bool:
        """Sort visible messages into those to take, move and drop; return whether it stopped before it had enough."""
        count_max = self._operation.count_max
        left = count_max + EXAMINED_MAX
        while left and not 0 < count_max == len(self._taken):
            limit = min(count_max - len(self._taken) if count_max else left, left, FETCHED_MAX)
            rows = oldest_visible(self._tx, self._queue, limit)
            examined = rows[: self._sort(rows)]
            if examined:
                take_out(self._tx, self._queue, examined, is_all=len(examined) < limit and len(examined) == len(rows))
            if len(examined) < limit:
                return False
            left -= limit
        return not left

    def _sort(self, rows: Sequence[Visible]) -> int:
        """Sort messages; return how many: a receive of none stops at the first that is not expired."""
        settings, is_receiving = self._queue.settings, self._operation.count_max > 0
        expired_since_ms, has_policy = expired_ms(settings, self._operation.now_ms), bool(settings.dead_letter_queue)
        for index, row in enumerate(rows):
            if row.message[2] <= expired_since_ms:
                self._expired.append(row)
            elif not is_receiving:
                return index
            elif has_policy and is_exhausted(row.receive_count, settings):
                self._exhausted.append(row)
            else:
                self._taken.append(row)
        return len(rows)

    def _redrive(self) -> list[MovedMessage]:
        target = self._tx.ledger.queues[self._queue.settings.dead_letter_queue]
        redrive(self._tx, self._queue, target, self._exhausted)
        return [MovedMessage(row.message[1], row.receive_count, target.name) for row in self._exhausted]

    def _hide(self) -> list[StoredMessage]:
        queue, now_ms = self._queue, self._operation.now_ms
        until_ms = shown_again_ms(self._operation, queue.settings)
        messages = []
        mark: Mark | None = None
        for row in self._taken:
            key, message_id, sent_ms, group, headers, body = row.message
            count, first_ms = row.receive_count + 1, row.first_receive_ms or now_ms
            if mark is not None and mark[1:4] == (key, count, first_ms):
                mark = (mark[0], key + 1, count, first_ms, until_ms)
            else:
                if mark is not None:
                    hide(self._tx, queue, mark)
                mark = (key, key + 1, count, first_ms, until_ms)
            messages.append(
                StoredMessage(
                    number=key & SEQUENCE_MASK,
                    id=message_id,
                    body=body,
                    headers=headers,
                    group=group,
                    sent_ms=sent_ms,
                    receive_count=count,
                    first_receive_ms=first_ms,
                    visible_ms=until_ms,
                    receipt=write_receipt(key, count, until_ms),
                )
            )
        if mark is not None:
            hide(self._tx, queue, mark)
        queue.hidden += len(messages)
        return messages

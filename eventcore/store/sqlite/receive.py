"""Receiving: the oldest visible messages are hidden and handed out, moved or dropped. Source: Lambda semantics §3.2."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from eventcore.ports import store as port
from eventcore.ports.store import MovedMessage, ReceiveResult, StoredMessage
from eventcore.store.rules import EXAMINED_MAX, SEQUENCE_MASK, expired_ms, is_exhausted, shown_again_ms, write_receipt
from eventcore.store.sqlite import fifo_receive
from eventcore.store.sqlite.aside import read_aside, set_aside, take_aside
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
from eventcore.store.tenants import SWEPT_MAX


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
        #: Some tenant has messages in flight, or set aside: nobody else's wait for a noisy one's.
        self._is_shared = queue.tenants.is_shared
        self._passed: list[Visible] = []

    def run(self) -> ReceiveResult:
        queue = self._queue
        earliest_ms = show_due(self._tx, queue, self._operation.now_ms)
        if self._is_shared:
            self._take_aside(is_quiet_only=True)
        is_cut = self._examine()
        if self._is_shared:
            is_cut |= self._take_aside(is_quiet_only=False)
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
        least = 0
        while left and not 0 < count_max == len(self._taken):
            limit = min(max(count_max - len(self._taken), least) if count_max else left, left, FETCHED_MAX)
            rows = oldest_visible(self._tx, self._queue, limit)
            examined = rows[: self._sort(rows)]
            if examined:
                take_out(self._tx, self._queue, examined, is_all=len(examined) < limit and len(examined) == len(rows))
            if self._passed:
                set_aside(self._tx, self._queue, self._passed)
                self._passed = []
                # More of them come, likely: each fetch costs some statements.
                least = 2 * limit
            if len(examined) < limit:
                return False
            left -= limit
        return not left

    def _take_aside(self, *, is_quiet_only: bool) -> bool:
        """Take messages that were passed over, of who has the fewest in flight; return as `_examine` does."""
        tenants, count_max, left = self._queue.tenants, self._operation.count_max, EXAMINED_MAX
        if not count_max:
            return not is_quiet_only and self._sweep_aside()
        while tenants.aside and left > 0 and (room := min(count_max - len(self._taken), left)):
            allotted = tenants.allot(room, self._in_flight, is_quiet_only=is_quiet_only)
            for group, count in allotted.items():
                rows = read_aside(self._tx, self._queue, group, count)
                take_aside(self._tx, self._queue, group, rows)
                self._sort_own(rows)
            left -= room
            if not allotted:
                return False
        return not left and bool(tenants.aside)

    def _sweep_aside(self) -> bool:
        """Take out what was set aside and is past the queue's retention, a step of each tenant's; return as above."""
        is_cut = False
        expired_since_ms = expired_ms(self._queue.settings, self._operation.now_ms)
        for group in list(self._queue.tenants.aside):
            rows = read_aside(self._tx, self._queue, group, SWEPT_MAX)
            if expired := list(takewhile(lambda row: row.message[2] <= expired_since_ms, rows)):
                take_aside(self._tx, self._queue, group, expired)
                self._expired += expired
                is_cut |= len(expired) == SWEPT_MAX
        return is_cut

    @property
    def _in_flight(self) -> int:
        return self._queue.hidden + len(self._taken)

    def _sort(self, rows: Sequence[Visible]) -> int:
        """Sort messages; return how many: a receive of none stops at the first that is not expired."""
        settings, is_receiving = self._queue.settings, self._operation.count_max > 0
        expired_since_ms, has_policy = expired_ms(settings, self._operation.now_ms), bool(settings.dead_letter_queue)
        is_shared = self._is_shared
        for index, row in enumerate(rows):
            if row.message[2] <= expired_since_ms:
                self._expired.append(row)
            elif not is_receiving:
                return index
            elif has_policy and is_exhausted(row.receive_count, row.message[4], settings):
                self._exhausted.append(row)
            elif is_shared:
                if len(self._taken) == self._operation.count_max:
                    return index
                self._take_or_pass(row)
            else:
                self._taken.append(row)
        return len(rows)

    def _take_or_pass(self, row: Visible) -> None:
        """Take a message unless its tenant is noisy."""
        tenants, group = self._queue.tenants, row.message[3]
        if group and tenants.is_noisy(group, self._in_flight):
            self._passed.append(row)
            return
        self._taken.append(row)
        if group:
            tenants.take(key_of(row), group)

    def _sort_own(self, rows: Sequence[Visible]) -> None:
        """Sort messages that were set aside: their turn has come, noisy or not."""
        settings = self._queue.settings
        expired_since_ms = expired_ms(settings, self._operation.now_ms)
        for row in rows:
            if row.message[2] <= expired_since_ms:
                self._expired.append(row)
            elif is_exhausted(row.receive_count, row.message[4], settings):
                self._exhausted.append(row)
            else:
                self._taken.append(row)
                self._queue.tenants.take(key_of(row), row.message[3])

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
            if group and not self._is_shared:
                queue.tenants.take(key, group)
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

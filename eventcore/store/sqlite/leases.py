"""What receipts allow: deleting messages, changing how long they stay hidden. Source: Lambda semantics §3.2."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence

from eventcore.ports import store as port
from eventcore.store.key_ranges import KeyRange, cut, gather
from eventcore.store.rules import read_receipts, write_receipt
from eventcore.store.sqlite import fifo_receive
from eventcore.store.sqlite.aside import put_back
from eventcore.store.sqlite.ledger import QueueRow
from eventcore.store.sqlite.marks import (
    Mark,
    aside_within,
    hidden_within,
    hide,
    ready_within,
    show,
    take_hidden,
    take_ready,
)
from eventcore.store.sqlite.transaction import Transaction
from eventcore.store.sqlite.visible import erase


class _Owned:
    """Messages that receipts of one receive still own: nobody has received them since. They are taken out."""

    def __init__(self, tx: Transaction, queue: QueueRow, receive: tuple[int, int], receipts: dict[int, str]) -> None:
        self.receive_count, self.visible_ms = receive
        self._receive = receive
        self._receipts = receipts  #: by key
        keys = gather(sorted(receipts))
        self.marks: list[Mark] = []
        if rows := self._of_this(hidden_within(tx.connection, keys)):
            self.marks += take_hidden(tx, queue, rows, keys).marks
        if self.count == len(receipts):
            return
        # Visible again, but nobody has received them: the receipt is still good (Lambda semantics §3.2).
        put_back(tx, queue, keys)
        if rows := self._of_this(ready_within(tx.connection, keys)):
            self.marks += take_ready(tx, queue, rows, keys).marks

    def _of_this(self, rows: Sequence[Mark]) -> list[Mark]:
        return [row for row in rows if (row[2], row[4]) == self._receive]

    @property
    def count(self) -> int:
        """How many they are."""
        return sum([end - first for first, end, *_ in self.marks])

    @property
    def ranges(self) -> list[KeyRange]:
        """Where they stand."""
        return sorted([(first, end) for first, end, *_ in self.marks])

    def receipts(self) -> Iterator[tuple[int, str]]:
        """Return their keys and receipts."""
        for first, end in self.ranges:
            for key in range(first, end):
                yield key, self._receipts[key]


def _owned(tx: Transaction, queue: QueueRow, receipts: Sequence[str]) -> Iterator[_Owned]:
    """Find what receipts own, receive by receive: nearly always all of them come from one."""
    for receive, by_key in read_receipts(receipts, queue.number).items():
        yield _Owned(tx, queue, receive, by_key)


def _release(queue: QueueRow, owned: _Owned) -> None:
    """Note that messages are not in flight any more, where a fair queue counts them."""
    if queue.tenants.in_flight:
        for first, end in owned.ranges:
            queue.tenants.release(range(first, end))


def owns(connection: sqlite3.Connection, queue: QueueRow, operation: port.DeleteMessages) -> bool:
    """Tell whether every receipt of a deletion owns its message; the buffers are written."""
    if queue.settings.fifo_queue:
        count = len(fifo_receive.owned(connection, queue, operation.receipts, operation.now_ms))
    else:
        count = 0
        for receive, by_key in read_receipts(operation.receipts, queue.number).items():
            keys, found = gather(sorted(by_key)), 0
            for within in (hidden_within, ready_within, aside_within):
                for first, end, receive_count, _first_receive_ms, visible_ms in within(connection, keys):
                    if (receive_count, visible_ms) == receive:
                        found += sum([stop - start for start, stop in cut((first, end), keys)[0]])
                if found == len(by_key):
                    # Hidden, nearly always: no other table is asked.
                    break
            count += found
    return count == len(set(operation.receipts))


def delete(tx: Transaction, operation: port.DeleteMessages) -> list[str]:
    """Carry out `DeleteMessages`."""
    queue = tx.ledger.queues[operation.queue]
    if queue.settings.fifo_queue:
        return fifo_receive.delete(tx, queue, operation)
    stale = dict.fromkeys(operation.receipts)
    found = list(_owned(tx, queue, operation.receipts))
    for owned in found:
        if owned.marks:
            erase(tx, queue, owned.ranges)
            _release(queue, owned)
    if sum([owned.count for owned in found]) == len(stale):
        return []
    for owned in found:
        for _key, receipt in owned.receipts():
            del stale[receipt]
    return list(stale)


def change_visibility(tx: Transaction, operation: port.ChangeVisibility) -> dict[str, str]:
    """Carry out `ChangeVisibility`."""
    queue = tx.ledger.queues[operation.queue]
    if queue.settings.fifo_queue:
        return fifo_receive.change_visibility(tx, queue, operation)
    until_ms = operation.now_ms + operation.timeout_s * 1000
    renewed = {}
    for owned in _owned(tx, queue, operation.receipts):
        for first, end, receive_count, first_receive_ms, _visible_ms in owned.marks:
            count = receive_count - operation.is_uncounted
            mark = (first, end, count, first_receive_ms, until_ms)
            if operation.timeout_s:
                hide(tx, queue, mark)
                # One that was never received counts as delayed, as it will when it shows.
                queue.hidden += end - first if count else 0
                queue.delayed += 0 if count else end - first
            else:
                show(tx, mark)
                queue.visible += end - first
                queue.ready += end - first
        if not operation.timeout_s or operation.is_uncounted:
            _release(queue, owned)
        tx.buffers.flush(tx.connection)
        tx.ledger.change(queue)
        if owned.marks and (until_ms < owned.visible_ms or not operation.timeout_s):
            tx.wake(queue.topic)
        for key, receipt in owned.receipts():
            renewed[receipt] = write_receipt(key, owned.receive_count - operation.is_uncounted, until_ms)
    return renewed

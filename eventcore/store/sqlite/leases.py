"""What receipts allow: deleting messages, changing how long they stay hidden. Source: Lambda semantics §3.2."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from eventcore.ports import store as port
from eventcore.store.rules import read_receipt, write_receipt
from eventcore.store.sqlite.codec import decode_keys, encode_list
from eventcore.store.sqlite.ledger import QueueRow
from eventcore.store.sqlite.transaction import Transaction
from eventcore.store.sqlite.visible import erase


class _Owned:
    """Messages that receipts of one receive still own: nobody has received them since."""

    def __init__(self, tx: Transaction, queue: QueueRow, receive: tuple[int, int], receipts: dict[int, str]) -> None:
        self.receive_count, self.visible_ms = receive
        self.receipts = receipts  #: by key
        self.hidden = decode_keys(
            tx.scalar(
                "SELECT json_group_array(key) FROM hidden WHERE queue = ? AND visible_ms = ? AND receive_count = ?"
                " AND key IN (SELECT value FROM json_each(?))",
                *(queue.number, self.visible_ms, self.receive_count, encode_list([*receipts])),
            )
        )
        self.ready: list[int] = []
        if len(self.hidden) < len(receipts):
            # Visible again, but nobody has received them: the receipt is still good (Lambda semantics §3.2).
            self.ready = decode_keys(
                tx.scalar(
                    "SELECT json_group_array(key) FROM ready WHERE visible_ms = ? AND receive_count = ?"
                    " AND key IN (SELECT value FROM json_each(?))",
                    *(self.visible_ms, self.receive_count, encode_list([*receipts])),
                )
            )

    def leave_hidden(self, tx: Transaction, queue: QueueRow) -> None:
        """Take the hidden ones out of `hidden`."""
        tx.execute(
            "DELETE FROM hidden WHERE queue = ? AND visible_ms = ? AND key IN (SELECT value FROM json_each(?))",
            *(queue.number, self.visible_ms, encode_list(self.hidden)),
        )
        queue.hidden -= len(self.hidden)
        tx.ledger.change(queue)

    def leave_ready(self, tx: Transaction, queue: QueueRow) -> None:
        """Take the visible ones out of `ready`."""
        tx.execute("DELETE FROM ready WHERE key IN (SELECT value FROM json_each(?))", encode_list(self.ready))
        queue.visible -= len(self.ready)
        queue.ready -= len(self.ready)
        tx.ledger.change(queue)


def _owned(tx: Transaction, queue: QueueRow, receipts: Sequence[str]) -> Iterator[_Owned]:
    """Find what receipts own, receive by receive: nearly always all of them come from one."""
    by_receive: dict[tuple[int, int], dict[int, str]] = {}
    for receipt in receipts:
        lease = read_receipt(receipt, queue.number)
        if lease is not None:
            key, receive_count, visible_ms = lease
            by_receive.setdefault((receive_count, visible_ms), {})[key] = receipt
    for receive, by_key in by_receive.items():
        yield _Owned(tx, queue, receive, by_key)


def delete(tx: Transaction, operation: port.DeleteMessages) -> list[str]:
    """Carry out `DeleteMessages`."""
    queue = tx.ledger.queues[operation.queue]
    stale = dict.fromkeys(operation.receipts)
    for owned in _owned(tx, queue, operation.receipts):
        if owned.hidden:
            owned.leave_hidden(tx, queue)
        if owned.ready:
            owned.leave_ready(tx, queue)
        keys = owned.hidden + owned.ready
        if keys:
            erase(tx, keys)
        for key in keys:
            del stale[owned.receipts[key]]
    return list(stale)


def change_visibility(tx: Transaction, operation: port.ChangeVisibility) -> dict[str, str]:
    """Carry out `ChangeVisibility`."""
    queue = tx.ledger.queues[operation.queue]
    until_ms = operation.now_ms + operation.timeout_s * 1000
    renewed = {}
    for owned in _owned(tx, queue, operation.receipts):
        if operation.timeout_s:
            _hide_again(tx, queue, owned, until_ms)
        else:
            _release(tx, queue, owned, until_ms)
        if until_ms < owned.visible_ms or not operation.timeout_s:
            tx.wake(queue.topic)
        for key in owned.hidden + owned.ready:
            renewed[owned.receipts[key]] = write_receipt(key, owned.receive_count, until_ms)
    return renewed


def _hide_again(tx: Transaction, queue: QueueRow, owned: _Owned, until_ms: int) -> None:
    if owned.hidden:
        tx.execute(
            "UPDATE hidden SET visible_ms = ? WHERE queue = ? AND visible_ms = ?"
            " AND key IN (SELECT value FROM json_each(?))",
            *(until_ms, queue.number, owned.visible_ms, encode_list(owned.hidden)),
        )
    if owned.ready:
        tx.execute(
            "INSERT INTO hidden SELECT ?, ?, key, receive_count, first_receive_ms FROM ready"
            " WHERE key IN (SELECT value FROM json_each(?))",
            *(queue.number, until_ms, encode_list(owned.ready)),
        )
        owned.leave_ready(tx, queue)
        queue.hidden += len(owned.ready)


def _release(tx: Transaction, queue: QueueRow, owned: _Owned, now_ms: int) -> None:
    if owned.ready:
        tx.execute(
            "UPDATE ready SET visible_ms = ? WHERE key IN (SELECT value FROM json_each(?))",
            *(now_ms, encode_list(owned.ready)),
        )
    if owned.hidden:
        tx.execute(
            "INSERT INTO ready SELECT key, receive_count, first_receive_ms, ? FROM hidden"
            " WHERE queue = ? AND visible_ms = ? AND key IN (SELECT value FROM json_each(?))",
            *(now_ms, queue.number, owned.visible_ms, encode_list(owned.hidden)),
        )
        owned.leave_hidden(tx, queue)
        queue.visible += len(owned.hidden)
        queue.ready += len(owned.hidden)

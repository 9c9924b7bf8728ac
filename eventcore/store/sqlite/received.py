"""What a receive has come to, whatever the type of its queue."""

from __future__ import annotations

from collections.abc import Sequence

from eventcore.ports.store import MovedMessage, ReceiveMessages, ReceiveResult, StoredMessage
from eventcore.store.rules import is_sooner
from eventcore.store.sqlite.ledger import QueueRow
from eventcore.store.sqlite.transaction import Transaction


def received(
    tx: Transaction,
    queue: QueueRow,
    operation: ReceiveMessages,
    messages: Sequence[StoredMessage],
    moved: Sequence[MovedMessage],
    expired: Sequence[str],
    *,
    earliest_ms: int,
    is_cut: bool,
) -> ReceiveResult:
    """Return what a receive has come to, and wake who would wait until after its messages show again.

    Args:
        tx: the transaction.
        queue: that was asked.
        operation: what was asked.
        messages: taken.
        moved: to the dead-letter queue.
        expired: ids of those that were dropped.
        earliest_ms: when the next message had shown before; 0 when none was hidden.
        is_cut: it stopped before it had enough: what stands behind those looked at is visible already.
    """
    if messages and is_sooner(messages[0].visible_ms, earliest_ms):
        earliest_ms = messages[0].visible_ms
        tx.wake(queue.topic)
    return ReceiveResult(messages, moved, expired, operation.now_ms if is_cut else earliest_ms)

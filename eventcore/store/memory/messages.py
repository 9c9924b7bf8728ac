"""A message of a queue in memory, and its last receive."""

from __future__ import annotations

from collections.abc import Iterable

from eventcore.ports.store import NewMessage, QueueSettings, StoredMessage
from eventcore.store.memory.lazy_heap import LazyHeap
from eventcore.store.rules import SEQUENCE_MASK, is_expired, write_receipt


class Message:
    """A message and its last receive."""

    __slots__ = ("arrived_ms", "first_receive_ms", "key", "new", "receive_count", "sent_ms", "visible_ms")

    def __init__(self, key: int, new: NewMessage, sent_ms: int) -> None:
        self.key = key
        self.new = new
        self.sent_ms = sent_ms
        #: What retention counts from: a FIFO queue's dead letters begin anew, a standard queue's are as old as before.
        self.arrived_ms = sent_ms
        self.receive_count = 0
        self.first_receive_ms = 0
        self.visible_ms = 0  #: when its last receive or its delay ends; kept after that

    def inherit(self, other: Message) -> None:
        """Go on with what another has come to: it is the same message in its dead-letter queue."""
        self.sent_ms = other.sent_ms
        self.receive_count = other.receive_count
        self.first_receive_ms = other.first_receive_ms

    def count_receive(self, now_ms: int) -> None:
        """Count a receive."""
        self.receive_count += 1
        self.first_receive_ms = self.first_receive_ms or now_ms

    def leased(self) -> StoredMessage:
        """Return it with the receipt of its last receive."""
        return self.stored(
            visible_ms=self.visible_ms, receipt=write_receipt(self.key, self.receive_count, self.visible_ms)
        )

    def stored(self, *, visible_ms: int, receipt: str = "") -> StoredMessage:
        """Return it as readers see it."""
        return StoredMessage(
            number=self.key & SEQUENCE_MASK,
            id=self.new.id,
            body=self.new.body,
            headers=self.new.headers,
            group=self.new.group,
            sent_ms=self.sent_ms,
            receive_count=self.receive_count,
            first_receive_ms=self.first_receive_ms,
            visible_ms=visible_ms,
            receipt=receipt,
            deduplication_id=self.new.deduplication_id,
        )


def peek(
    messages: Iterable[Message],
    hidden: LazyHeap[tuple[int, int]],
    settings: QueueSettings,
    *,
    count_max: int,
    after_number: int,
    now_ms: int,
) -> list[StoredMessage]:
    """Return a queue's messages in the order they were sent; see `Store.peek`.

    Args:
        messages: of the queue, in that order.
        hidden: end of visibility and key of those that are hidden.
        settings: of the queue.
        count_max: at most so many.
        after_number: only those behind this one.
        now_ms: the time.
    """
    peeked: list[StoredMessage] = []
    for message in messages:
        if len(peeked) >= count_max:
            break
        if message.key & SEQUENCE_MASK <= after_number or is_expired(message.arrived_ms, settings, now_ms):
            continue
        is_hidden = message.visible_ms > now_ms and (message.visible_ms, message.key) in hidden
        peeked.append(message.stored(visible_ms=message.visible_ms if is_hidden else 0))
    return peeked

"""A message of a queue in memory, and its last receive."""

from __future__ import annotations

from eventcore.ports.store import NewMessage, StoredMessage
from eventcore.store.rules import SEQUENCE_MASK, write_receipt


class Message:
    """A message and its last receive."""

    __slots__ = ("arrived_ms", "first_receive_ms", "key", "new", "receive_count", "sent_ms", "visible_ms")

    def __init__(self, key: int, new: NewMessage, sent_ms: int) -> None:
        self.key = key
        self.new = new
        self.sent_ms = sent_ms
        self.arrived_ms = sent_ms  #: in this queue: a FIFO queue counts retention from there
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

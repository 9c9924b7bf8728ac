"""A standard queue in memory. Source: Lambda semantics §3.2."""

from __future__ import annotations

from eventcore.ports.store import NewMessage, QueueDepth, QueueSettings
from eventcore.store.memory.lazy_heap import LazyHeap
from eventcore.store.memory.messages import Message
from eventcore.store.rules import DUE_STEP_MAX, SEQUENCE_MASK, first_key, read_receipt
from eventcore.store.tenants import Tenants
from eventcore.store.watches import queue_topic


class StandardQueue:
    """One queue. Each message stands in exactly one of `ready`, `hidden` and the lines of `aside`."""

    def __init__(self, number: int, name: str, settings: QueueSettings) -> None:
        self.number = number
        self.name = name
        self.topic = queue_topic(name)
        self.settings = settings
        self.next_key = first_key(number) + 1
        self.messages: dict[int, Message] = {}  #: by key, in the order they were sent
        self.ready: LazyHeap[int] = LazyHeap()
        self.hidden: LazyHeap[tuple[int, int]] = LazyHeap()
        self.delayed = 0  #: of the hidden ones
        self.tenants = Tenants()
        self.aside: dict[str, LazyHeap[int]] = {}  #: visible messages of noisy tenants that were passed over, by group

    def add(self, new: NewMessage, sent_ms: int) -> Message:
        """Add a visible message."""
        message = Message(self.next_key, new, sent_ms)
        self.next_key += 1
        self.messages[message.key] = message
        self.ready.push(message.key)
        return message

    def hide(self, message: Message, visible_ms: int) -> None:
        """Hide a message that is visible."""
        self._leave_line(message)
        message.visible_ms = visible_ms
        self.hidden.push((visible_ms, message.key))
        self.delayed += not message.receive_count

    def show(self, message: Message) -> None:
        """Make a message visible that is hidden."""
        self.hidden.discard((message.visible_ms, message.key))
        self.ready.push(message.key)
        self.delayed -= not message.receive_count
        self.tenants.release((message.key,))

    def pass_over(self, message: Message) -> None:
        """Set a message aside that is ready: its tenant is noisy."""
        group = message.new.group
        self.ready.discard(message.key)
        self.aside.setdefault(group, LazyHeap()).push(message.key)
        self.tenants.set_aside(group, 1)

    def put_back(self) -> None:
        """Make everything ready that was set aside."""
        for line in list(self.aside.values()):
            for key in list(line.ascending()):
                self._leave_line(self.messages[key])
                self.ready.push(key)

    def _leave_line(self, message: Message) -> None:
        """Take a visible message out of where it waits."""
        group = message.new.group
        line = self.aside.get(group)
        if line is None or message.key not in line:
            self.ready.discard(message.key)
            return
        line.discard(message.key)
        self.tenants.set_aside(group, -1)
        if not line:
            del self.aside[group]

    def is_hidden(self, message: Message) -> bool:
        """Whether a message was received or delayed, and is not visible yet."""
        return (message.visible_ms, message.key) in self.hidden

    def remove(self, message: Message) -> None:
        """Delete a message, wherever it stands."""
        if self.is_hidden(message):
            self.show(message)
        self._leave_line(message)
        del self.messages[message.key]

    def show_due(self, now_ms: int) -> None:
        """Make messages visible whose time has come."""
        for _ in range(DUE_STEP_MAX):
            first = self.hidden.first()
            if first is None or first[0] > now_ms:
                return
            self.show(self.messages[first[1]])

    def depth(self) -> QueueDepth:
        """Return how many messages it holds."""
        return QueueDepth(
            queue=self.name,
            visible=len(self.ready) + sum(self.tenants.aside.values()),
            hidden=len(self.hidden) - self.delayed,
            delayed=self.delayed,
            oldest_ms=next((message.sent_ms for message in self.messages.values()), 0),
            last_number=(self.next_key - 1) & SEQUENCE_MASK,
            settings=self.settings,
        )

    def clear(self) -> None:
        """Delete every message."""
        self.messages.clear()
        self.ready.clear()
        self.hidden.clear()
        self.aside.clear()
        self.tenants.clear()
        self.delayed = 0

    @property
    def next_visible_ms(self) -> int:
        """When the next hidden message shows; 0 when none is hidden."""
        first = self.hidden.first()
        return first[0] if first else 0

    def owned(self, receipt: str, now_ms: int) -> Message | None:
        """Return the message that a receipt still owns: nobody has received it since, whatever the time."""
        del now_ms
        lease = read_receipt(receipt, self.number)
        message = self.messages.get(lease[0]) if lease else None
        if message is None or lease != (message.key, message.receive_count, message.visible_ms):
            return None
        return message

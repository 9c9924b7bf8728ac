"""A FIFO queue in memory. Source: Lambda semantics §3.2 "FIFO".

A group is *open* while none of its messages is in flight and the first of those that wait is not delayed.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import msgspec

from eventcore.ports import store as port
from eventcore.ports.store import MovedMessage, NewMessage, QueueDepth, QueueSettings, ReceiveResult, StoredMessage
from eventcore.store.fifo_rules import (
    DEDUPLICATION_MS,
    DEDUPLICATIONS_SWEPT_MAX,
    deduplication_id,
    deduplication_scope,
)
from eventcore.store.memory.lazy_heap import LazyHeap
from eventcore.store.memory.messages import Message, peek
from eventcore.store.rules import (
    DUE_STEP_MAX,
    EXAMINED_MAX,
    SEQUENCE_MASK,
    as_dead_letter,
    first_key,
    is_exhausted,
    is_expired,
    is_sooner,
    read_receipt,
    shown_again_ms,
    without_source,
    write_receipt,
)
from eventcore.store.watches import queue_topic


class _Group:
    """The messages of one group."""

    __slots__ = ("head", "in_flight", "line")

    def __init__(self) -> None:
        self.line: LazyHeap[int] = LazyHeap()  #: keys of those that wait, or are delayed
        self.in_flight = 0
        self.head: int | None = None  #: of the line, as it stands among the open ones


class FifoQueue:
    """One FIFO queue. Each message stands in the line of its group, or is in flight."""

    def __init__(self, number: int, name: str, settings: QueueSettings, wake: Callable[[str], None]) -> None:
        self.number = number
        self.name = name
        self.topic = queue_topic(name)
        self.settings = settings
        self._wake = wake
        self._next_key = first_key(number) + 1
        self._messages: dict[int, Message] = {}  #: by key, in the order they were sent
        self._groups: dict[str, _Group] = {}
        self._open: LazyHeap[int] = LazyHeap()  #: keys of the heads of open groups
        self._hidden: LazyHeap[tuple[int, int]] = LazyHeap()  #: in flight, or delayed
        self._delayed = 0
        self._sent: dict[tuple[str, str], tuple[str, int]] = {}  #: by deduplication: id, and until when
        self._sent_oldest: list[tuple[int, tuple[str, str]]] = []

    # -- sending -------------------------------------------------------------------------------------------------------

    def send(self, operation: port.SendMessages) -> list[str]:
        """Carry out `SendMessages`."""
        now_ms, delay_s = operation.now_ms, self.settings.delay
        ids = []
        for new in operation.messages:
            before = self._find_sent(new, now_ms)
            if not before:
                named = msgspec.structs.replace(new, deduplication_id=deduplication_id(new))
                self.add(named, now_ms, visible_ms=now_ms + delay_s * 1000 if delay_s else 0)
            ids.append(before or new.id)
        self._forget_sent(now_ms)
        self._wake(self.topic)
        return ids

    def _find_sent(self, new: NewMessage, now_ms: int) -> str:
        """Return the id of the message that this one repeats; empty when it repeats none, and is known from now on."""
        token = (deduplication_scope(new.group, self.settings), deduplication_id(new))
        found, forget_ms = self._sent.get(token, ("", 0))
        if forget_ms > now_ms:
            return found
        self._sent[token] = (new.id, now_ms + DEDUPLICATION_MS)
        heapq.heappush(self._sent_oldest, (now_ms + DEDUPLICATION_MS, token))
        return ""

    def _forget_sent(self, now_ms: int) -> None:
        for _ in range(DEDUPLICATIONS_SWEPT_MAX):
            if not self._sent_oldest or self._sent_oldest[0][0] > now_ms:
                return
            forget_ms, token = heapq.heappop(self._sent_oldest)
            if self._sent.get(token, ("", 0))[1] == forget_ms:
                del self._sent[token]

    def add(self, new: NewMessage, sent_ms: int, *, visible_ms: int = 0, before: Message | None = None) -> None:
        """Add a message that waits, or is delayed until ``visible_ms``.

        ``before``: what it was in the queue whose dead-letter queue this is.
        """
        message = Message(self._next_key, new, sent_ms)
        self._next_key += 1
        self._messages[message.key] = message
        if before is not None:
            message.inherit(before)
        if visible_ms:
            message.visible_ms = visible_ms
            self._hidden.push((visible_ms, message.key))
            self._delayed += 1
        group = self._groups.setdefault(new.group, _Group())
        group.line.push(message.key)
        self._refresh(group)

    # -- groups --------------------------------------------------------------------------------------------------------

    def _group(self, message: Message) -> _Group:
        return self._groups[message.new.group]

    def _refresh(self, group: _Group) -> bool:
        """Find out whether a group is open; return that."""
        head = None if group.in_flight else group.line.first()
        if head is not None and self._is_hidden(self._messages[head]):
            head = None
        if head != group.head:
            if group.head is not None:
                self._open.discard(group.head)
            if head is not None:
                self._open.push(head)
            group.head = head
        return head is not None

    def _is_hidden(self, message: Message) -> bool:
        return (message.visible_ms, message.key) in self._hidden

    def _show(self, message: Message) -> None:
        """Make a message wait that is in flight or delayed."""
        self._hidden.discard((message.visible_ms, message.key))
        group = self._group(message)
        if message.key in group.line:
            self._delayed -= 1
        else:
            group.in_flight -= 1
            group.line.push(message.key)
        self._refresh(group)

    def _show_due(self, now_ms: int) -> None:
        for _ in range(DUE_STEP_MAX):
            first = self._hidden.first()
            if first is None or first[0] > now_ms:
                return
            self._show(self._messages[first[1]])

    def _remove(self, message: Message) -> bool:
        """Remove a message from wherever it stands; return whether its group is open then."""
        if self._is_hidden(message):
            self._show(message)
        group = self._group(message)
        group.line.discard(message.key)
        is_open = self._refresh(group)
        del self._messages[message.key]
        if not group.in_flight and not group.line:
            del self._groups[message.new.group]
        return is_open

    def _waiting(self) -> Iterator[Message]:
        """Yield what may be handed out: group by group, by their heads, each in order.

        None of them may be moved before all are looked at.
        """
        for head in self._open.ascending():
            for key in self._group(self._messages[head]).line.ascending():
                message = self._messages[key]
                if self._is_hidden(message):
                    break
                yield message

    # -- receiving -----------------------------------------------------------------------------------------------------

    def receive(self, operation: port.ReceiveMessages, target: FifoQueue | None) -> ReceiveResult:
        """Carry out `ReceiveMessages`; ``target`` is the dead-letter queue."""
        now_ms, count_max = operation.now_ms, operation.count_max
        self._show_due(now_ms)
        earliest_ms = self._next_visible_ms
        taken: list[Message] = []
        exhausted: list[Message] = []
        expired: list[Message] = []
        is_cut = False
        for looked_at, message in enumerate(self._waiting()):
            if 0 < count_max == len(taken):
                break
            if looked_at == count_max + EXAMINED_MAX:
                is_cut = True
                break
            if is_expired(message.arrived_ms, self.settings, now_ms):
                expired.append(message)
            elif not count_max:
                break
            elif is_exhausted(message.receive_count, message.new.headers, self.settings):
                exhausted.append(message)
            else:
                taken.append(message)
        for message in (*expired, *exhausted):
            self._remove(message)
        moved = [self._redrive(message, target, now_ms) for message in exhausted] if target else []
        until_ms = shown_again_ms(operation, self.settings)
        messages = [self._lease(message, until_ms, now_ms) for message in taken]
        next_visible_ms = self._next_visible_ms
        if is_sooner(next_visible_ms, earliest_ms):
            self._wake(self.topic)
        ids = [message.new.id for message in expired]
        return ReceiveResult(messages, moved, ids, now_ms if is_cut else next_visible_ms)

    @property
    def _next_visible_ms(self) -> int:
        first = self._hidden.first()
        return first[0] if first else 0

    def _lease(self, message: Message, until_ms: int, now_ms: int) -> StoredMessage:
        group = self._group(message)
        group.line.discard(message.key)
        group.in_flight += 1
        message.count_receive(now_ms)
        message.visible_ms = until_ms
        self._hidden.push((until_ms, message.key))
        self._refresh(group)
        return message.leased()

    def _redrive(self, message: Message, target: FifoQueue, now_ms: int) -> MovedMessage:
        new = msgspec.structs.replace(
            message.new,
            headers=as_dead_letter(message.new.headers, self.name, message.receive_count),
            deduplication_id=message.new.id,
        )
        # Retention counts anew, unlike a standard queue's (Lambda semantics §3.2 "DLQ").
        target.add(new, now_ms, before=message)
        self._wake(target.topic)
        return MovedMessage(message.new.id, message.receive_count, target.name)

    def take_over(self, messages: Sequence[NewMessage], ids: Sequence[str], now_ms: int) -> int:
        """Add messages of another queue, as new ones; return how many were not sent before."""
        count = 0
        for new, message_id in zip(messages, ids or [new.id for new in messages], strict=False):
            named = msgspec.structs.replace(new, id=message_id, headers=without_source(new.headers))
            if not self._find_sent(named, now_ms):
                self.add(named, now_ms)
                count += 1
        if count:
            self._wake(self.topic)
        return count

    # -- what receipts allow -------------------------------------------------------------------------------------------

    def owned(self, receipt: str, now_ms: int) -> Message | None:
        """Return the message that a receipt still owns: it is in flight, and its visibility timeout has not ended."""
        lease = read_receipt(receipt, self.number)
        message = self._messages.get(lease[0]) if lease else None
        if message is None or lease != (message.key, message.receive_count, message.visible_ms):
            return None
        is_in_flight = self._is_hidden(message) and message.key not in self._group(message).line
        return message if is_in_flight and message.visible_ms > now_ms else None

    def delete(self, operation: port.DeleteMessages) -> list[str]:
        """Carry out `DeleteMessages`."""
        stale = []
        is_open = False
        for receipt in dict.fromkeys(operation.receipts):
            message = self.owned(receipt, operation.now_ms)
            if message is None:
                stale.append(receipt)
            else:
                is_open |= self._remove(message)
        if is_open:
            # What stood behind it may be received.
            self._wake(self.topic)
        return stale

    def change_visibility(self, operation: port.ChangeVisibility) -> dict[str, str]:
        """Carry out `ChangeVisibility`."""
        until_ms = operation.now_ms + operation.timeout_s * 1000
        renewed = {}
        for receipt in dict.fromkeys(operation.receipts):
            message = self.owned(receipt, operation.now_ms)
            if message is None:
                continue
            if until_ms < message.visible_ms or not operation.timeout_s:
                self._wake(self.topic)
            if operation.timeout_s:
                self._hidden.discard((message.visible_ms, message.key))
                self._hidden.push((until_ms, message.key))
            else:
                self._show(message)
            message.receive_count -= operation.is_uncounted
            message.visible_ms = until_ms
            renewed[receipt] = write_receipt(message.key, message.receive_count, until_ms)
        return renewed

    # -- by hand -------------------------------------------------------------------------------------------------------

    def purge(self) -> int:
        """Carry out `PurgeQueue`. What was sent lately stays known."""
        count = len(self._messages)
        self._messages.clear()
        self._groups.clear()
        self._open.clear()
        self._hidden.clear()
        self._delayed = 0
        return count

    def take_out(self, operation: port.MoveMessages) -> list[tuple[NewMessage, bool]]:
        """Take out the messages that `MoveMessages` moves; return each, and whether it is within its retention."""
        now_ms, end_key = operation.now_ms, first_key(self.number) + (operation.through_number or SEQUENCE_MASK)
        self._show_due(now_ms)
        wanted = (message for message in self._waiting() if message.key <= end_key)
        taken = list(islice(wanted, operation.count_max))
        for message in taken:
            self._remove(message)
        return [(message.new, not is_expired(message.arrived_ms, self.settings, now_ms)) for message in taken]

    def drop(self, operation: port.DropMessages) -> int:
        """Carry out `DropMessages`."""
        ids = frozenset(operation.ids)
        dropped = [message for message in self._messages.values() if message.new.id in ids]
        is_open = [self._remove(message) for message in dropped]
        if any(is_open):
            self._wake(self.topic)
        return len(dropped)

    # -- reads ---------------------------------------------------------------------------------------------------------

    def depth(self) -> QueueDepth:
        """Return how many messages it holds."""
        hidden = len(self._hidden)
        return QueueDepth(
            queue=self.name,
            visible=len(self._messages) - hidden,
            hidden=hidden - self._delayed,
            delayed=self._delayed,
            oldest_ms=next((message.sent_ms for message in self._messages.values()), 0),
            last_number=(self._next_key - 1) & SEQUENCE_MASK,
            settings=self.settings,
        )

    def peek(self, *, count_max: int, after_number: int, now_ms: int) -> Sequence[StoredMessage]:
        """Return messages in the order they were sent; see `Store.peek`."""
        return peek(
            self._messages.values(),
            self._hidden,
            self.settings,
            count_max=count_max,
            after_number=after_number,
            now_ms=now_ms,
        )

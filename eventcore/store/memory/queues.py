"""Queues in memory. Source: Lambda semantics §3.2."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice, takewhile

import msgspec

from eventcore.ports import store as port
from eventcore.ports.store import (
    MovedCount,
    MovedMessage,
    NewMessage,
    QueueDepth,
    QueueSettings,
    ReceiveResult,
    StoredMessage,
)
from eventcore.store.memory.fifo import FifoQueue
from eventcore.store.memory.messages import Message, peek
from eventcore.store.memory.receive import Taking
from eventcore.store.memory.standard import StandardQueue
from eventcore.store.memory.tokens import Tokens
from eventcore.store.rules import (
    SEQUENCE_MASK,
    TOKEN_KEPT_MS,
    as_dead_letter,
    first_key,
    is_expired,
    is_sooner,
    without_source,
    write_receipt,
)


class MemoryQueues:
    """Every queue of a store."""

    def __init__(self, tokens: Tokens, wake: Callable[[str], None]) -> None:
        self._queues: dict[str, StandardQueue | FifoQueue] = {}
        self._tokens = tokens
        self._wake = wake

    def settings(self, name: str) -> QueueSettings | None:
        """Return a queue's settings; None when it is not defined."""
        queue = self._queues.get(name)
        return queue.settings if queue else None

    # -- writes --------------------------------------------------------------------------------------------------------

    def define(self, operation: port.DefineQueue) -> None:
        """Carry out `DefineQueue`."""
        queue = self._queues.get(operation.queue)
        if queue is not None:
            queue.settings = operation.settings
            return
        number, name, settings = len(self._queues) + 1, operation.queue, operation.settings
        if settings.fifo_queue:
            self._queues[name] = FifoQueue(number, name, settings, self._wake)
        else:
            self._queues[name] = StandardQueue(number, name, settings)

    def send(self, operation: port.SendMessages) -> list[str]:
        """Carry out `SendMessages`."""
        queue = self._queues[operation.queue]
        if isinstance(queue, FifoQueue):
            return queue.send(operation)
        now_ms = operation.now_ms
        ids = []
        for new in operation.messages:
            if new.idempotency_token and not self._tokens.take(
                queue.topic, new.idempotency_token, now_ms=now_ms, forget_ms=now_ms + TOKEN_KEPT_MS
            ):
                continue
            delay_s = queue.settings.delay if new.delay_s is None else new.delay_s
            message = queue.add(new, now_ms)
            if delay_s > 0:
                queue.hide(message, now_ms + delay_s * 1000)
            ids.append(new.id)
        self._wake(queue.topic)
        return ids

    def receive(self, operation: port.ReceiveMessages) -> ReceiveResult:
        """Carry out `ReceiveMessages`."""
        queue, now_ms = self._queues[operation.queue], operation.now_ms
        settings = queue.settings
        if isinstance(queue, FifoQueue):
            target = self._queues.get(settings.dead_letter_queue)
            assert target is None or isinstance(target, FifoQueue), "admission has looked at their types"
            return queue.receive(operation, target)
        queue.show_due(now_ms)
        earliest_ms = queue.next_visible_ms
        taking = Taking(queue, operation, self._redrive)
        is_cut = taking.run()
        result = (taking.messages, taking.moved, taking.expired)
        if is_cut:
            # What stands behind those looked at is visible already.
            return ReceiveResult(*result, now_ms)
        next_visible_ms = queue.next_visible_ms
        if is_sooner(next_visible_ms, earliest_ms):
            self._wake(queue.topic)
        return ReceiveResult(*result, next_visible_ms)

    def _redrive(self, queue: StandardQueue, message: Message) -> MovedMessage:
        target = self._queues[queue.settings.dead_letter_queue]
        assert isinstance(target, StandardQueue), "admission has looked at their types"
        queue.remove(message)
        # The time it was sent stays: the dead-letter queue's retention counts from it (Lambda semantics §3.2).
        headers = as_dead_letter(message.new.headers, queue.name, message.receive_count)
        new = msgspec.structs.replace(message.new, headers=headers)
        target.add(new, message.sent_ms).inherit(message)
        self._wake(target.topic)
        return MovedMessage(message.new.id, message.receive_count, target.name)

    def delete(self, operation: port.DeleteMessages) -> list[str]:
        """Carry out `DeleteMessages`."""
        queue = self._queues[operation.queue]
        if isinstance(queue, FifoQueue):
            return queue.delete(operation)
        stale = []
        for receipt in dict.fromkeys(operation.receipts):
            message = queue.owned(receipt, operation.now_ms)
            if message is None:
                stale.append(receipt)
            else:
                queue.remove(message)
        return stale

    def owns(self, operation: port.DeleteMessages) -> bool:
        """Tell whether every receipt of a deletion owns its message."""
        queue = self._queues[operation.queue]
        return all(queue.owned(receipt, operation.now_ms) is not None for receipt in operation.receipts)

    def change_visibility(self, operation: port.ChangeVisibility) -> dict[str, str]:
        """Carry out `ChangeVisibility`."""
        queue = self._queues[operation.queue]
        if isinstance(queue, FifoQueue):
            return queue.change_visibility(operation)
        until_ms = operation.now_ms + operation.timeout_s * 1000
        renewed = {}
        for receipt in operation.receipts:
            message = queue.owned(receipt, operation.now_ms)
            if message is None:
                continue
            is_sooner = until_ms < message.visible_ms or not operation.timeout_s
            is_hidden = queue.is_hidden(message)
            if is_hidden:
                queue.show(message)
            # Before it is hidden again: one that was never received counts as delayed.
            message.receive_count -= operation.is_uncounted
            if operation.timeout_s:
                queue.hide(message, until_ms)
                if is_hidden and message.new.group and not operation.is_uncounted:
                    queue.tenants.take(message.key, message.new.group)
            else:
                message.visible_ms = until_ms
            if is_sooner:
                self._wake(queue.topic)
            renewed[receipt] = write_receipt(message.key, message.receive_count, until_ms)
        return renewed

    def purge(self, operation: port.PurgeQueue) -> int:
        """Carry out `PurgeQueue`."""
        queue = self._queues[operation.queue]
        if isinstance(queue, FifoQueue):
            return queue.purge()
        count = len(queue.messages)
        queue.clear()
        return count

    def move(self, operation: port.MoveMessages) -> MovedCount:
        """Carry out `MoveMessages`."""
        source, target = self._queues[operation.source], self._queues[operation.target]
        if isinstance(source, FifoQueue) or isinstance(target, FifoQueue):
            assert isinstance(source, FifoQueue), "admission has looked at their types"
            assert isinstance(target, FifoQueue), "admission has looked at their types"
            taken = source.take_out(operation)
            kept = [new for new, is_kept in taken if is_kept]
            return MovedCount(len(taken), target.take_over(kept, operation.ids, operation.now_ms))
        source.show_due(operation.now_ms)
        source.put_back()
        moved: list[NewMessage] = []
        count = 0
        # Taken out before any is added: source and target may be the same.
        end_key = first_key(source.number) + (operation.through_number or SEQUENCE_MASK)
        visible = takewhile(lambda key: key <= end_key, source.ready.ascending())
        for key in list(islice(visible, operation.count_max)):
            source.ready.discard(key)
            message = source.messages.pop(key)
            count += 1
            if not is_expired(message.arrived_ms, source.settings, operation.now_ms):
                moved.append(message.new)
        for new, message_id in zip(moved, operation.ids or [new.id for new in moved], strict=False):
            target.add(
                msgspec.structs.replace(new, id=message_id, headers=without_source(new.headers)), operation.now_ms
            )
        if moved:
            self._wake(target.topic)
        return MovedCount(count, len(moved))

    def drop(self, operation: port.DropMessages) -> int:
        """Carry out `DropMessages`."""
        queue = self._queues[operation.queue]
        if isinstance(queue, FifoQueue):
            return queue.drop(operation)
        ids = frozenset(operation.ids)
        dropped = [message for message in queue.messages.values() if message.new.id in ids]
        for message in dropped:
            queue.remove(message)
        return len(dropped)

    # -- reads ---------------------------------------------------------------------------------------------------------

    def depths(self) -> Sequence[QueueDepth]:
        """Return all queues by name."""
        return [queue.depth() for _, queue in sorted(self._queues.items())]

    def peek(self, name: str, *, count_max: int, after_number: int, now_ms: int) -> Sequence[StoredMessage]:
        """Return messages in the order they were sent; see `Store.peek`."""
        queue = self._queues.get(name)
        if queue is None:
            raise KeyError(f"there is no queue {name}")
        if isinstance(queue, FifoQueue):
            return queue.peek(count_max=count_max, after_number=after_number, now_ms=now_ms)
        return peek(
            queue.messages.values(),
            queue.hidden,
            queue.settings,
            count_max=count_max,
            after_number=after_number,
            now_ms=now_ms,
        )

"""Receiving from a standard queue in memory: the oldest, but those of noisy tenants last (`store/tenants.py`)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice, takewhile

from eventcore.ports.store import MovedMessage, ReceiveMessages, StoredMessage
from eventcore.store.memory.messages import Message
from eventcore.store.memory.standard import StandardQueue
from eventcore.store.rules import EXAMINED_MAX, is_exhausted, is_expired, shown_again_ms
from eventcore.store.tenants import SWEPT_MAX


class Taking:
    """One receive: looks at visible messages, oldest first, until it has enough."""

    def __init__(
        self,
        queue: StandardQueue,
        operation: ReceiveMessages,
        redrive: Callable[[StandardQueue, Message], MovedMessage],
    ) -> None:
        self._queue = queue
        self._operation = operation
        self._redrive = redrive
        self._until_ms = shown_again_ms(operation, queue.settings)
        self.messages: list[StoredMessage] = []
        self.moved: list[MovedMessage] = []
        self.expired: list[str] = []

    def run(self) -> bool:
        """Take them; return whether it stopped before it had enough."""
        is_shared = self._queue.tenants.is_shared
        if is_shared:
            self._take_aside(is_quiet_only=True)
        is_cut = self._examine(is_shared=is_shared)
        if is_shared:
            is_cut |= self._take_aside(is_quiet_only=False)
        return is_cut

    def _examine(self, *, is_shared: bool) -> bool:
        queue, count_max = self._queue, self._operation.count_max
        for _ in range(count_max + EXAMINED_MAX):
            key = queue.ready.first()
            if key is None or 0 < count_max == len(self.messages):
                return False
            message = queue.messages[key]
            group = message.new.group
            if is_expired(message.arrived_ms, queue.settings, self._operation.now_ms):
                self._drop(message)
            elif not count_max:
                return False
            elif is_exhausted(message.receive_count, message.new.headers, queue.settings):
                self.moved.append(self._redrive(queue, message))
            elif is_shared and group and queue.tenants.is_noisy(group, self._in_flight):
                queue.pass_over(message)
            else:
                self._take(message)
        return True

    @property
    def _in_flight(self) -> int:
        return len(self._queue.hidden) - self._queue.delayed

    def _take_aside(self, *, is_quiet_only: bool) -> bool:
        """Take messages that were passed over, of who has the fewest in flight; return as `_examine` does."""
        queue, count_max, left = self._queue, self._operation.count_max, EXAMINED_MAX
        if not count_max:
            return not is_quiet_only and self._sweep_aside()
        while queue.aside and left > 0 and (room := min(count_max - len(self.messages), left)):
            allotted = queue.tenants.allot(room, self._in_flight, is_quiet_only=is_quiet_only)
            for group, count in allotted.items():
                for key in list(islice(queue.aside[group].ascending(), count)):
                    self._take_own(queue.messages[key])
            left -= room
            if not allotted:
                return False
        return not left and bool(queue.aside)

    def _take_own(self, message: Message) -> None:
        """Take a message that was set aside: its turn has come, noisy or not."""
        queue = self._queue
        if is_expired(message.arrived_ms, queue.settings, self._operation.now_ms):
            self._drop(message)
        elif is_exhausted(message.receive_count, message.new.headers, queue.settings):
            self.moved.append(self._redrive(queue, message))
        else:
            self._take(message)

    def _sweep_aside(self) -> bool:
        is_cut, settings, now_ms = False, self._queue.settings, self._operation.now_ms
        for line in list(self._queue.aside.values()):
            oldest = [self._queue.messages[key] for key in islice(line.ascending(), SWEPT_MAX)]
            expired = list(takewhile(lambda each: is_expired(each.arrived_ms, settings, now_ms), oldest))
            for message in expired:
                self._drop(message)
            is_cut |= len(expired) == SWEPT_MAX
        return is_cut

    def _drop(self, message: Message) -> None:
        self._queue.remove(message)
        self.expired.append(message.new.id)

    def _take(self, message: Message) -> None:
        """Hide a visible message, and note it with its receipt."""
        message.count_receive(self._operation.now_ms)
        self._queue.hide(message, self._until_ms)
        if message.new.group:
            self._queue.tenants.take(message.key, message.new.group)
        self.messages.append(message.leased())

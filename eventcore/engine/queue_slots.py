"""The slots of a queue mapping: one a batch that runs, as many as its scaling allows just now."""

from __future__ import annotations

import math
from collections.abc import Callable

import anyio

from eventcore.delivery.scaling import QueueScaling
from eventcore.loop import loop_time, open_scope
from eventcore.model import OutcomeKind


class QueueSlots:
    """Slots, given to one waiting task. The limit may fall below what is taken: then nobody is given one."""

    def __init__(self, scaling: QueueScaling, has_waiting: Callable[[], bool]) -> None:
        """Give nothing yet; ``has_waiting`` tells whether messages wait for a slot."""
        self._scaling = scaling
        self._has_waiting = has_waiting
        self._taken = 0
        self._is_awaited = False
        self._changed = anyio.Event()

    @property
    def free(self) -> int:
        """How many may be taken: none that somebody waits for."""
        return 0 if self._is_awaited else max(0, self._scaling.limit - self._taken)

    @property
    def is_over(self) -> bool:
        """Whether more are taken than may be: whoever has one gives it back when its batch is over."""
        return self._taken > self._scaling.limit

    async def acquire(self) -> None:
        """Wait for a slot and take it."""
        scaling = self._scaling
        while self._taken >= scaling.limit:
            scaling.want_more(loop_time())
            if self._taken < scaling.limit:
                break
            await self._wait(scaling.next_rise_s)
            self._note_waiting()
        self._note_waiting()
        self._taken += 1

    def _note_waiting(self) -> None:
        """Let no time count toward more slots in which nothing waits for one."""
        if not self._has_waiting():
            self._scaling.want_no_more()

    async def _wait(self, until_s: float | None) -> None:
        """Wait until a slot is given back, or until a time of the loop."""
        self._changed = anyio.Event()
        self._is_awaited = True
        try:
            with open_scope(math.inf if until_s is None else until_s):
                await self._changed.wait()
        finally:
            self._is_awaited = False

    def release(self) -> None:
        """Give a slot back."""
        self._taken -= 1
        self._changed.set()

    def note(self, kind: OutcomeKind) -> None:
        """Note how an invocation ended."""
        if kind is OutcomeKind.SUCCESS:
            self._scaling.note_success()
        elif kind is OutcomeKind.FAILURE:
            self._scaling.note_error()

    def rest(self) -> None:
        """Note that no message came for long: with no batch that runs, the mapping is idle."""
        if self._taken <= 1:  # one is held by whoever waits for a batch
            self._scaling.rest()

"""How a lane has a batch invoked: hop 4, with what it waits for before, and the mark by which a death is known."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import anyio

from eventcore.delivery.ordering import Part, ShardState
from eventcore.delivery.partial import Report
from eventcore.engine.checkpoint import ShardCheckpoint
from eventcore.engine.dispatcher import RELEASED, Answer
from eventcore.engine.shard_context import ShardContext
from eventcore.engine.unless import unless
from eventcore.loop import open_scope
from eventcore.model import Batch, Outcome

#: Shards with more lanes than these are not marked because a suspect runs beside them: each mark writes what is kept of
#: all lanes, and some twenty have room in a checkpoint.
MARKED_LANES_MAX = 10


class LaneInvoker:
    """Invokes the function with the batches of one lane, one at a time."""

    def __init__(
        self,
        context: ShardContext,
        shard: str,
        *,
        checkpoint: ShardCheckpoint,
        stopping: anyio.Event,
        is_first: bool,
    ) -> None:
        """Make the invoker of a lane.

        Args:
            context: of the shard.
            shard: its name.
            checkpoint: where marks are written.
            stopping: set when the lane is to end.
            is_first: nothing was invoked yet since the shard was taken.
        """
        self._context = context
        self._shard = shard
        self._checkpoint = checkpoint
        self._stopping = stopping
        self._is_first = is_first
        self._invocation: anyio.CancelScope | None = None
        self._runs_alone = False  #: this lane holds `ShardContext.suspects`

    @property
    def is_invoking(self) -> bool:
        """Whether the function is running."""
        return self._invocation is not None

    def abort(self) -> None:
        """Kill the running invocation's environment; its batch is released."""
        if self._invocation is not None:
            self._invocation.cancel()

    async def invoke(
        self, batch: Batch, part: Part, state: ShardState, read: Callable[[Batch, Outcome], Report]
    ) -> Outcome:
        """Invoke a batch, marked where it must be; one that an engine may have died of runs as the only such one.

        It does until `let_others_run`. Else the record that kills engines would have its neighbours of other shards
        marked each time, and they would be given up with it. What begins beside it is marked, too: one that kills then
        is known, and waits for it in the next engine.

        Args:
            batch: what to invoke the function with.
            part: what has happened to it so far.
            state: of the shard, or lane, while it runs.
            read: says which records of a batch its outcome names failed. Kept for the call alone: it is its lane's, and
                lanes of a key come and go too fast for a cycle of references to each other.
        """
        rate, suspects = self._context.rate, self._context.suspects
        # Before it takes what others could use meanwhile: the suspects' turn, or a slot.
        if rate is not None and not await unless(self._stopping, partial(rate.wait, len(batch))):
            return RELEASED
        if part.is_suspect:
            if not await unless(self._stopping, suspects.acquire, suspects.release):
                return RELEASED
            self._runs_alone = True
        return await self._run(batch, part, state, read)

    def let_others_run(self) -> None:
        """Let the next suspect run, if this lane's last batch was one: its mark is gone, or will be at last."""
        if self._runs_alone:
            self._runs_alone = False
            self._context.suspects.release()

    async def _run(
        self, batch: Batch, part: Part, state: ShardState, read: Callable[[Batch, Outcome], Report]
    ) -> Outcome:
        """Wait for a slot and run the function; RELEASED when the shard is stopped before it began, or aborted.

        Args:
            batch: what to invoke it with; empty for a window's final call.
            part: see `invoke`.
            state: marked before the invocation begins, where that is needed.
            read: see `invoke`.
        """
        context = self._context
        function = context.dispatcher.function
        try:
            function.slots.acquire_nowait()
        except anyio.WouldBlock:
            if not await unless(self._stopping, function.slots.acquire, function.slots.release):
                return RELEASED
        answer = Answer(RELEASED, None, batch)
        try:
            if self._stopping.is_set() or context.gate.find(self._shard) is not None:
                # Stopped or paused while it waited in line.
                return RELEASED
            if context.breaker is not None:
                # Before the mark: where one batch is let in, the others write none.
                context.breaker.begin(batch)
            if self._is_first or part.attempt or part.is_suspect or self._is_beside_suspect:
                position = batch.first.position if len(batch) else self._checkpoint.position
                await self._checkpoint.mark(position, state)
                if self._stopping.is_set() or self._is_held(batch):
                    # Stopped or paused while it was marked.
                    return RELEASED
            self._is_first = False
            with open_scope() as self._invocation:
                answer = await context.dispatcher.invoke(batch, now_ms=context.clock.now_ms())
        finally:
            self._invocation = None
            function.slots.release()
            # Cancelled, too: a probe of which nobody hears would be waited for without end.
            outcome = answer.outcome if context.breaker is None else context.breaker.end(batch, answer, read)
        return outcome

    @property
    def _is_beside_suspect(self) -> bool:
        """Whether a suspect runs now; with more lanes than may be marked by that, no."""
        return self._context.suspects.locked() and self._context.lanes <= MARKED_LANES_MAX

    def _is_held(self, batch: Batch) -> bool:
        """Tell whether a batch that was let in may not run all the same; what holds the others for a probe is it."""
        gate, breaker = self._context.gate, self._context.breaker
        if breaker is not None and breaker.is_probe(batch):
            return gate.find_by_hand(self._shard) is not None
        return gate.find(self._shard) is not None

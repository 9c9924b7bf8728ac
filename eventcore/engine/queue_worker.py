"""Hops 4 and 5 for a queue: one batch after another is invoked, and left to be settled."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import anyio.abc
import anyio.lowlevel

from eventcore.engine.dispatcher import RELEASED, Answer
from eventcore.engine.gate import ALL
from eventcore.engine.lease_keeper import Lease, LeaseKeeper
from eventcore.engine.queue_context import QueueContext
from eventcore.engine.queue_intake import QueueIntake
from eventcore.engine.queue_settling import Invoked, QueueSettling, attempt_of
from eventcore.engine.queue_slots import QueueSlots
from eventcore.loop import loop_clock
from eventcore.model import Batch, Record

#: Handlers that never wait run one after another for so long before the loop's other tasks have their turn, seconds.
TURN_S = 0.001


class QueueWorker:
    """Invokes one batch at a time, as long as one is ready. Not reusable."""

    def __init__(
        self,
        context: QueueContext,
        intake: QueueIntake,
        keeper: LeaseKeeper,
        settling: QueueSettling,
        slots: QueueSlots,
    ) -> None:
        self._context = context
        self._intake = intake
        self._keeper = keeper
        self._settling = settling
        self._slots = slots
        self._function = context.dispatcher.function
        # A handler elsewhere is waited for, and that gives everybody a turn.
        self._shares_loop = not self._function.runtime.capabilities.is_isolated
        self._now = loop_clock()
        #: One for all invocations: a scope for each took 6 µs of a batch.
        self._scope = anyio.CancelScope()
        self._is_aborted = False
        self._batch: Batch | None = None  #: its invocation has begun, and nobody else knows of it
        self._lease: Lease | None = None  #: of that batch
        self._answer: Answer | None = None  #: of its invocation, once that is over

    def abort(self) -> None:
        """End the invocation that runs; its messages are released."""
        self._is_aborted = True
        self._scope.cancel()

    async def run(self, records: Sequence[Record], tasks: anyio.abc.TaskGroup) -> Invoked | None:
        """Invoke a batch and each that is ready after it, and have them deleted by a task of ``tasks``.

        Returns the first batch that needs more than that, to be settled; None when no batch is ready.
        """
        invoked: Invoked | None = None
        try:
            with self._scope:
                invoked = await self._invoke_ready(records, tasks)
            if self._scope.cancelled_caught and self._batch is not None:
                invoked = await self._end_invocation()
            return invoked
        finally:
            if self._lease is not None:
                # Cancelled or failed on the way: they come back after their visibility timeout.
                self._context.reporter.returned("", len(self._lease.records), "the mapping failed")

    async def _invoke_ready(self, records: Sequence[Record], tasks: anyio.abc.TaskGroup) -> Invoked | None:
        began = self._now()
        while records:
            invoked = await self._invoke(records)
            if invoked is not None:
                if not invoked.needs_deletion_alone:
                    return invoked
                self._settling.delete(invoked, tasks)
            if self._shares_loop and self._now() - began >= TURN_S:
                await anyio.lowlevel.checkpoint()
                began = self._now()
            if self._slots.is_over:
                return None
            records = self._intake.take_ready()
        return None

    async def _invoke(self, records: Sequence[Record]) -> Invoked | None:
        """Invoke a batch when the function has a slot; None when it may not be begun any more."""
        if self._context.rate is not None:
            await self._context.rate.wait(len(records))
        slots = self._function.slots
        if slots.value:
            slots.acquire_nowait()
        else:
            await slots.acquire()
        try:
            batch = self._begin(records)
            if batch is None:
                return None
            self._answer = await self._context.dispatcher.invoke(batch)
        finally:
            slots.release()
        return await self._end_invocation()

    def _begin(self, records: Sequence[Record]) -> Batch | None:
        context = self._context
        if context.gate.find(ALL) is not None:
            self._intake.give_back(records)
            return None
        # Aborted, it is not begun: its messages are shown to others at once.
        lease = None if self._is_aborted else self._intake.lease(records)
        if lease is None:
            return None
        batch = Batch(
            mapping=context.mapping,
            source=context.source_reference,
            shard="",
            records=lease.records,
            attempt=attempt_of(lease.records),
            request_id=context.ids.new_id(),
        )
        self._batch, self._lease, self._answer = batch, lease, None
        if context.breaker is not None:
            context.breaker.begin(batch)
        self._keeper.hold(lease, batch.request_id)
        return batch

    async def _end_invocation(self) -> Invoked:
        batch, lease = self._batch, self._lease
        assert batch is not None
        assert lease is not None
        await self._keeper.drop(lease)
        answer = self._answer or Answer(RELEASED, None, batch)
        outcome = answer.outcome
        if answer.own is not None:
            self._slots.note(answer.own.kind)
        if self._context.breaker is not None:
            outcome = self._context.breaker.end(batch, answer, self._context.dispatcher.read)
        self._batch = self._lease = None
        return self._settling.decide(batch, lease, outcome)

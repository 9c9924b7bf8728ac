"""A mapping that reads a queue: one poller, and a bounded number of batches at the same time.

What fails stays hidden until its visibility timeout ends; the queue's own redrive policy decides when a message is
given up (Lambda semantics §3.1 "Outcome rules", trap 9, trap 16).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial

import anyio
import anyio.abc
import msgspec

from eventcore import signals
from eventcore.engine.breaker import MappingBreaker, guarded
from eventcore.engine.gate import ALL
from eventcore.engine.lease_keeper import LeaseKeeper
from eventcore.engine.queue_context import QueueContext
from eventcore.engine.queue_intake import QueueIntake
from eventcore.engine.queue_settling import QueueSettling
from eventcore.engine.queue_slots import QueueSlots
from eventcore.engine.queue_worker import QueueWorker
from eventcore.engine.settler import SETTLE_GRACE_S, Discarded
from eventcore.engine.status import ParkedRedriven, ShardStatus
from eventcore.errors import CommandError
from eventcore.model import DiscardReason, Record
from eventcore.ports.sources import Received

#: One receive waits this long for a first message, seconds: SQS's longest poll (Lambda semantics §3.2).
RECEIVE_WAIT_S = 20.0


class QueueMapping:
    """Runs one queue mapping. Not reusable."""

    waits_for = ""  #: a queue is there, or the mapping has a problem

    def __init__(self, context: QueueContext) -> None:
        self._context = context
        self._intake = QueueIntake(context)
        self._settling = QueueSettling(context, self._intake.done)
        function = context.dispatcher.function
        self._keeper = LeaseKeeper(
            context.source,
            function.runtime,
            context.clock,
            timeout_s=function.spec.timeout_s,
            visibility_timeout_s=context.visibility_timeout_s,
        )
        self._slots = QueueSlots(context.scaling, self._intake.has_waiting)
        self._polling = anyio.CancelScope()
        self._receiving = anyio.CancelScope()
        self._keeping = anyio.CancelScope()
        self._workers: dict[QueueWorker, None] = {}  #: ordered: who is ended first must not differ from run to run
        self._going_on = anyio.Event()  #: set when the mapping is resumed, or drained
        self._is_draining = False

    @property
    def running(self) -> int:
        """How many batches are being worked on."""
        return len(self._workers)

    async def redrive(
        self, shard: str, *, count_max: int, besides: Sequence[str] = (), gives_up_missing: bool = False
    ) -> ParkedRedriven:
        """Refuse: a queue parks nothing."""
        del shard, count_max, besides, gives_up_missing
        raise CommandError(
            f"nothing is parked of a queue, as `{self._context.mapping}` reads one",
            hint="its failing messages come back by themselves, or stand in its dead-letter queue: eventcore queue ls",
        )

    async def skip(self, shard: str, count: int) -> Sequence[Discarded]:
        """Refuse: nothing holds up a queue."""
        del shard, count
        raise CommandError(
            f"nothing holds up a queue, as `{self._context.mapping}` reads one: its failing messages come back by "
            "themselves",
            hint="give them up by a redrive policy, or move them: eventcore queue redrive",
        )

    async def seek(self, shard: str, position: int) -> int:
        """Refuse: a queue has no positions."""
        del shard, position
        raise CommandError(f"a queue has no positions, and `{self._context.mapping}` reads one")

    async def shards(self) -> Sequence[ShardStatus]:
        """Return none: a queue has no shards."""
        return ()

    # -- life ----------------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Read until `drain`, or until something fails.

        Raises:
            SourceUnavailable, SourceClosed: the queue failed.
            StoreUnavailable: what had to be written could not be.
        """
        try:
            async with anyio.create_task_group() as keeping:
                keeping.start_soon(self._keep_leases)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._hand_out, tasks)
                    task_status.started()
                    with self._polling, self._context.gate.listening(self._on_gate):
                        await guarded(self._context.breaker, partial(self._poll, tasks))
                self._keeping.cancel()
        finally:
            with anyio.move_on_after(SETTLE_GRACE_S, shield=True):
                try:
                    await self._give_back()
                finally:
                    await self._context.source.aclose()

    def drain(self) -> None:
        """Take nothing new; let the batches that run be settled."""
        self._polling.cancel()
        self._intake.close()
        self._is_draining = True
        self._going_on.set()

    def abort(self) -> None:
        """Kill what runs; its messages come back after their visibility timeout."""
        self.drain()
        for worker in self._workers:
            worker.abort()

    async def _keep_leases(self) -> None:
        with self._keeping:
            await self._keeper.run()

    async def _give_back(self) -> None:
        """Show messages that were received and never invoked to others at once."""
        await self._show_again(self._intake.give_up(), "the mapping stops")

    async def _show_again(self, receipts: Sequence[str], why: str) -> None:
        """Show messages that were not invoked to others at once, as not received."""
        if receipts:
            self._context.reporter.returned("", len(receipts), why)
            await self._context.source.hand_back(receipts)

    # -- hop 2: the poller ---------------------------------------------------------------------------------------------

    async def _poll(self, tasks: anyio.abc.TaskGroup) -> None:
        gate = self._context.gate
        while True:
            if self._context.breaker is not None:
                await self._wait_let_in(self._context.breaker)
            await gate.wait_open(ALL)
            await self._show_again(self._intake.take_rest(), "the batch was full")
            room = self._intake.room(self._slots.free)
            if self._context.breaker is not None and self._context.breaker.is_half_open:
                # One batch finds out; what else was received would only come closer to its dead-letter queue.
                room = 0 if self._intake.has_unsettled() else min(room, self._context.batching.batch_size)
            if room <= 0:
                await self._intake.wait_change()
                continue
            context = self._context
            with context.tracing.receive(context.mapping, context.source_reference) as span:
                received = Received()
                with anyio.CancelScope() as self._receiving:
                    received = await context.source.receive(room, wait_s=RECEIVE_WAIT_S)
                span.count(len(received.records))
            if not received.records:
                self._slots.rest()
            await self._note(received, tasks)
            await signals.reach("poller.received")

    async def _wait_let_in(self, breaker: MappingBreaker) -> None:
        """Wait while the breaker holds the mapping, and give back what was received and not begun."""
        while breaker.is_holding:
            receipts = self._intake.take_all()
            if receipts:
                await self._show_again(receipts, "the circuit breaker is open")
            else:
                await self._intake.wait_change()

    def _on_gate(self) -> None:
        """End a receive that waits when the mapping is paused: it has hidden nothing, or that comes back."""
        if self._context.gate.find(ALL) is not None:
            self._receiving.cancel()
        else:
            self._going_on.set()
        self._intake.note_change()

    async def _note(self, received: Received, tasks: anyio.abc.TaskGroup) -> None:
        """Take in what a receive brought, and tell what it took out of the queue."""
        context = self._context
        if received.records:
            self._take_in(received, tasks)
        await self._seal([moved.id for moved in received.redriven], DiscardReason.RECEIVES_EXHAUSTED)
        await self._seal(received.expired, DiscardReason.RECORD_EXPIRED)
        for moved in received.redriven:
            context.reporter.redriven("", moved.id, moved.target)
        context.reporter.expired(len(received.expired))

    def _take_in(self, received: Received, tasks: anyio.abc.TaskGroup) -> None:
        """Let messages wait for their invocation, but for those that a filter or the end of a loop keeps from it."""
        context = self._context
        context.reporter.received("", len(received.records))
        if context.filter is not None:
            matching, others = context.filter.sort(received.records, "")
            received = msgspec.structs.replace(received, records=matching)
            self._intake.pass_by(len(others))
            self._settling.pass_by(others, tasks)
        if loops := context.dispatcher.find_loops(received.records):
            received = self._end_loops(received, set(loops), tasks)
        if received.records:
            self._intake.put(received)

    def _end_loops(self, received: Received, loops: Collection[int], tasks: anyio.abc.TaskGroup) -> Received:
        """Have the messages that go round given up; return the others."""
        ended = [record for index, record in enumerate(received.records) if index in loops]
        self._intake.pass_by(len(ended))
        tasks.start_soon(self._settling.give_up, ended, DiscardReason.RECURSION)
        left = [record for index, record in enumerate(received.records) if index not in loops]
        return msgspec.structs.replace(received, records=left)

    async def _seal(self, messages: Sequence[str], reason: DiscardReason) -> None:
        """Make the failures of messages that left the queue final; most messages have none."""
        if messages:
            recorder, context = self._context.recorder, self._context
            ids = [recorder.message_failure_id(context.mapping, context.source_reference, each) for each in messages]
            await context.settler.commit(recorder.seal(ids, reason.value))

    # -- hops 3 to 7 ---------------------------------------------------------------------------------------------------

    async def _hand_out(self, tasks: anyio.abc.TaskGroup) -> None:
        """Begin a worker with each batch for which there is a free slot; it goes on with those that are ready then."""
        while True:
            await self._slots.acquire()
            records = await self._intake.take()
            if not records:
                self._slots.release()
                return
            if self._context.gate.find(ALL) is not None:
                self._intake.give_back(records)
                self._slots.release()
                await self._wait_resumed()
                continue
            worker = QueueWorker(self._context, self._intake, self._keeper, self._settling, self._slots)
            self._workers[worker] = None
            tasks.start_soon(self._work, worker, records, tasks)

    async def _wait_resumed(self) -> None:
        """Wait while the mapping is paused; what was received ahead comes back when its visibility timeout ends."""
        while self._context.gate.find(ALL) is not None and not self._is_draining:
            self._going_on = anyio.Event()
            await self._going_on.wait()

    async def _work(self, worker: QueueWorker, records: Sequence[Record], tasks: anyio.abc.TaskGroup) -> None:
        """Invoke batches, and settle the one that ends it; the next may begin when its invocation is over."""
        try:
            left = await worker.run(records, tasks)
        finally:
            del self._workers[worker]
            self._slots.release()
        if left is not None:
            await self._settling.finish(left)

"""A mapping that reads a queue: one poller, and a bounded number of batches at the same time.

What fails stays hidden until its visibility timeout ends; the queue's own redrive policy decides when a message is
given up (Lambda semantics §3.1 "Outcome rules", trap 9, trap 16).
"""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import anyio.abc
import msgspec

from eventcore import signals
from eventcore.clock import Clock
from eventcore.delivery.batching import BatchPolicy
from eventcore.delivery.decide import Decision, decide_queue
from eventcore.engine.batcher import BUFFER_BYTES_MAX, RecordBuffer
from eventcore.engine.dispatcher import RELEASED, Dispatcher
from eventcore.engine.gate import ALL, Gate
from eventcore.engine.lease_keeper import Lease, LeaseKeeper
from eventcore.engine.reporter import Reporter
from eventcore.engine.settler import SETTLE_GRACE_S, Discarded, Settler
from eventcore.engine.status import ParkedRedriven, ShardStatus
from eventcore.errors import CommandError
from eventcore.ids import IdFactory
from eventcore.model import Batch, DiscardReason, Outcome, OutcomeKind, Record, VerdictKind
from eventcore.ports.recorder import FailedBatch, Recorder
from eventcore.ports.sources import EventShape, QueueSource, Received
from eventcore.ports.store import BODY_BYTES_MAX, Operation
from eventcore.telemetry.tracing import Tracing

#: One receive waits this long for a first message, seconds: SQS's longest poll (Lambda semantics §3.2).
RECEIVE_WAIT_S = 20.0
#: Messages hidden by one receive: large leases are handed out in batches.
RECEIVE_MAX = 1000
#: Messages are received ahead for so long, at the rate at which they were last handed out, seconds: long enough that
#: nobody waits for the store, and short beside any visibility timeout but 0.
AHEAD_S = 0.25
#: Messages whose invocation is over and whose deletion is not durable yet, at most: ten full receives.
SETTLING_MAX = 10_000


class QueueContext(msgspec.Struct, frozen=True, kw_only=True):
    """What the batches of one mapping share."""

    mapping: str
    source_reference: str
    source: QueueSource
    shape: EventShape
    dispatcher: Dispatcher
    settler: Settler
    recorder: Recorder
    batching: BatchPolicy
    maximum_concurrency: int
    visibility_timeout_s: int
    gate: Gate
    clock: Clock
    ids: IdFactory
    reporter: Reporter
    tracing: Tracing


class QueueMapping:
    """Runs one queue mapping. Not reusable."""

    waits_for = ""  #: a queue is there, or the mapping has a problem

    def __init__(self, context: QueueContext) -> None:
        self._context = context
        self._buffer = RecordBuffer(context.batching)
        self._leases: dict[str, tuple[int, int]] = {}  #: receipt: received, hidden until; both wall ms
        function = context.dispatcher.function
        self._keeper = LeaseKeeper(
            context.source,
            function.runtime,
            context.clock,
            timeout_s=function.spec.timeout_s,
            visibility_timeout_s=context.visibility_timeout_s,
        )
        self._slots = anyio.Semaphore(context.maximum_concurrency, fast_acquire=True)
        self._taken = anyio.Event()
        self._running = 0
        self._settling = 0  #: messages
        self._pace = _Pace(context.batching.batch_size)
        #: How large the next message is taken to be: the largest there may be, until some have come.
        self._message_bytes = BODY_BYTES_MAX
        self._polling = anyio.CancelScope()
        self._receiving = anyio.CancelScope()
        self._keeping = anyio.CancelScope()
        self._invocations: set[anyio.CancelScope] = set()
        self._going_on = anyio.Event()  #: set when the mapping is resumed, or drained
        self._is_draining = False
        self._is_aborted = False

    @property
    def running(self) -> int:
        """How many batches are being worked on."""
        return self._running

    async def redrive(self, shard: str, *, count_max: int, besides: Sequence[str] = ()) -> ParkedRedriven:
        """Refuse: a queue parks nothing."""
        del shard, count_max, besides
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
                        await self._poll()
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
        self._buffer.close()
        self._is_draining = True
        self._going_on.set()

    def abort(self) -> None:
        """Kill what runs; its messages come back after their visibility timeout."""
        self.drain()
        self._is_aborted = True
        for scope in list(self._invocations):
            scope.cancel()

    async def _keep_leases(self) -> None:
        with self._keeping:
            await self._keeper.run()

    async def _give_back(self) -> None:
        """Show messages that were received and never invoked to others at once."""
        receipts = list(self._leases)
        self._leases.clear()
        if receipts:
            self._context.reporter.returned("", len(receipts), "the mapping stops")
            await self._context.source.change_visibility(receipts, 0)

    # -- hop 2: the poller ---------------------------------------------------------------------------------------------

    async def _poll(self) -> None:
        gate = self._context.gate
        while True:
            await gate.wait_open(ALL)
            room = self._room()
            if room <= 0:
                self._taken = anyio.Event()
                await self._taken.wait()
                continue
            context = self._context
            with context.tracing.receive(context.mapping, context.source_reference) as span:
                received = Received()
                with anyio.CancelScope() as self._receiving:
                    received = await context.source.receive(room, wait_s=RECEIVE_WAIT_S)
                span.count(len(received.records))
            await self._note(received)
            await signals.reach("poller.received")

    def _on_gate(self) -> None:
        """End a receive that waits when the mapping is paused: it has hidden nothing, or that comes back."""
        if self._context.gate.find(ALL) is not None:
            self._receiving.cancel()
        else:
            self._going_on.set()

    def _room(self) -> int:
        """Return how many messages fit: a batch for every free slot, and some ahead, within the bounds.

        None while more than half of those ahead wait: a receive costs the same for one message as for many.
        """
        free = self._slots.value * self._context.batching.batch_size
        ahead = self._pace.ahead()
        count = free + ahead - len(self._buffer)
        if count < ahead // 2:
            return 0
        bytes_left = BUFFER_BYTES_MAX - self._buffer.size_bytes
        return min(count, bytes_left // self._message_bytes, SETTLING_MAX - self._settling, RECEIVE_MAX)

    async def _note(self, received: Received) -> None:
        context = self._context
        await self._seal([moved.id for moved in received.redriven], DiscardReason.RECEIVES_EXHAUSTED)
        await self._seal(received.expired, DiscardReason.RECORD_EXPIRED)
        for moved in received.redriven:
            context.reporter.redriven("", moved.id, moved.target)
        context.reporter.expired(len(received.expired))
        if received.records:
            context.reporter.received("", len(received.records))
            sizes = [record.size_bytes for record in received.records]
            # Half of what was assumed, half of what came: one large message makes the next receives small for a while.
            self._message_bytes = max(1, (self._message_bytes + max(sizes)) // 2)
            lease = (context.clock.now_ms(), received.hidden_until_ms)
            for record in received.records:
                self._leases[record.receipt] = lease
            self._buffer.put(received.records)

    async def _seal(self, messages: Sequence[str], reason: DiscardReason) -> None:
        """Make the failures of messages that left the queue final; most messages have none."""
        if messages:
            recorder, context = self._context.recorder, self._context
            ids = [recorder.message_failure_id(context.mapping, context.source_reference, each) for each in messages]
            await context.settler.commit(recorder.seal(ids, reason.value))

    # -- hops 3 to 7, a batch at a time --------------------------------------------------------------------------------

    async def _hand_out(self, tasks: anyio.abc.TaskGroup) -> None:
        while True:
            await self._slots.acquire()
            records = await self._buffer.take()
            if not records:
                self._slots.release()
                return
            if self._context.gate.find(ALL) is not None:
                self._buffer.give_back(records)
                self._slots.release()
                await self._wait_resumed()
                continue
            self._pace.count(len(records))
            self._running += 1
            self._taken.set()
            tasks.start_soon(self._work, records)

    async def _wait_resumed(self) -> None:
        """Wait while the mapping is paused; what was received ahead comes back when its visibility timeout ends."""
        while self._context.gate.find(ALL) is not None and not self._is_draining:
            self._going_on = anyio.Event()
            await self._going_on.wait()

    async def _work(self, records: Sequence[Record]) -> None:
        """Invoke a batch and settle it; the next one begins when the invocation is over, not when this returns."""
        held: Sequence[Record] = ()
        self._settling += len(records)
        try:
            lease = None
            try:
                async with self._context.dispatcher.function.slots:
                    if self._context.gate.find(ALL) is None:
                        lease = self._lease(records)
                    else:
                        self._buffer.give_back(records)
                    if lease is not None:
                        held = lease.records
                        batch, outcome = await self._invoke(lease)
            finally:
                self._running -= 1
                self._slots.release()
            if lease is not None:
                await self._finish(lease, batch, outcome)
                held = ()
        finally:
            # Cancelled or failed on the way: they come back after their visibility timeout.
            self._context.reporter.returned("", len(held), "the mapping failed")
            self._settling -= len(records)
            self._taken.set()

    def _lease(self, records: Sequence[Record]) -> Lease | None:
        """Return the right to those records whose visibility timeout has not ended while they waited."""
        if self._is_aborted:
            # Not begun: they are shown to others at once.
            return None
        now_ms = self._context.clock.now_ms()
        held = [record for record in records if self._leases[record.receipt][1] > now_ms]
        times = [self._leases.pop(record.receipt) for record in records]
        if len(held) < len(records):
            self._context.reporter.returned(
                "", len(records) - len(held), "the visibility timeout ended before the invocation"
            )
        if not held:
            return None
        return Lease(
            held, received_ms=min(times)[0], hidden_until_ms=min(until for _, until in times if until > now_ms)
        )

    async def _invoke(self, lease: Lease) -> tuple[Batch, Outcome]:
        context = self._context
        batch = Batch(
            mapping=context.mapping,
            source=context.source_reference,
            shard="",
            records=lease.records,
            attempt=max([_receive_count(record) for record in lease.records]),
            request_id=context.ids.new_id(),
        )
        context.reporter.invoked(batch)
        self._keeper.hold(lease, batch.request_id)
        outcome = RELEASED
        scope = anyio.CancelScope()
        self._invocations.add(scope)
        try:
            with scope:
                outcome = await context.dispatcher.invoke(batch)
        finally:
            self._invocations.discard(scope)
        await self._keeper.drop(lease)
        context.reporter.finished(batch, outcome)
        return batch, outcome

    async def _finish(self, lease: Lease, batch: Batch, outcome: Outcome) -> None:
        """Bring a batch to a decision and make it durable."""
        context = self._context
        report = context.dispatcher.read(batch, outcome)
        decision = decide_queue(len(batch), outcome, report)
        with context.tracing.settle(batch, decision) as span:
            await self._settle(batch, lease, decision, outcome, span.traceparent)
        if outcome.kind in {OutcomeKind.RELEASED, OutcomeKind.THROTTLED}:
            context.reporter.returned("", len(batch), "the invocation was ended by a stop")
        context.reporter.decided(batch, decision, outcome, is_returned=True)

    async def _settle(self, batch: Batch, lease: Lease, decision: Decision, outcome: Outcome, traceparent: str) -> None:
        context = self._context
        entries = await context.settler.discard(
            batch, decision, outcome, invocations=1, first_failure_ms=0, traceparent=traceparent
        )
        context.reporter.discarded(batch, entries)
        await context.settler.commit(self._failures(batch, decision, outcome))
        await signals.reach("settler.before_ack")
        with anyio.move_on_after(SETTLE_GRACE_S, shield=True):
            done = _receipts(batch, lease, decision, {VerdictKind.SETTLE, VerdictKind.DISCARD})
            if done:
                await context.source.delete(done)
            if lease.is_extended:
                await self._return_on_time(batch, lease, decision)
        await signals.reach("settler.after_ack")

    def _failures(self, batch: Batch, decision: Decision, outcome: Outcome) -> list[Operation]:
        """Keep each message that failed, until it succeeds or goes to the dead-letter queue (design, §12)."""
        if batch.attempt == 1 and all(run.verdict.kind is VerdictKind.SETTLE for run in decision.runs):
            # No message has failed, now or before.
            return []
        context = self._context
        operations: list[Operation] = []
        succeeded: list[str] = []
        for run in decision.runs:
            for index in range(run.start, run.stop):
                record = batch.records[index]
                count = _receive_count(record)
                if run.verdict.kind is VerdictKind.RETRY:
                    operations.extend(context.recorder.keep(self._failing(batch, record, count, outcome.of(index))))
                elif run.verdict.kind is VerdictKind.SETTLE and count > 1:
                    succeeded.append(
                        context.recorder.message_failure_id(context.mapping, context.source_reference, record.id)
                    )
        operations.extend(context.recorder.finish(succeeded))
        return operations

    def _failing(self, batch: Batch, record: Record, count: int, outcome: Outcome) -> FailedBatch:
        return FailedBatch(
            batch=msgspec.structs.replace(batch, records=[record]),
            function=self._context.dispatcher.function.spec.name,
            shape=self._context.shape,
            reason="Failing",
            attempts=count,
            outcome=outcome,
            first_failure_ms=int(record.attributes.get("ApproximateFirstReceiveTimestamp", "0")),
            now_ms=self._context.clock.now_ms(),
            is_final=False,
        )

    async def _return_on_time(self, batch: Batch, lease: Lease, decision: Decision) -> None:
        """Let failed messages whose lease was extended come back at their own visibility timeout."""
        kept = _receipts(batch, lease, decision, {VerdictKind.RETRY, VerdictKind.RELEASE})
        if kept:
            remaining_ms = max(0, lease.returns_ms - self._context.clock.now_ms())
            await self._context.source.change_visibility(kept, -(-remaining_ms // 1000))


class _Pace:
    """How many messages to receive ahead: what is handed out within `AHEAD_S`, at least a batch."""

    def __init__(self, batch_size: int) -> None:
        self._least = self._ahead = batch_size
        self._counted = 0
        self._since = anyio.current_time()

    def count(self, messages: int) -> None:
        """Note that messages were handed out."""
        self._counted += messages

    def ahead(self) -> int:
        """Return the number, from what was handed out since it was last asked for."""
        now = anyio.current_time()
        elapsed_s = now - self._since
        if self._counted and elapsed_s > 0:
            self._ahead = max(self._least, min(int(self._counted / elapsed_s * AHEAD_S), RECEIVE_MAX))
            self._counted, self._since = 0, now
        return self._ahead


def _receive_count(record: Record) -> int:
    return int(record.attributes.get("ApproximateReceiveCount", "1"))


def _receipts(batch: Batch, lease: Lease, decision: Decision, kinds: set[VerdictKind]) -> Sequence[str]:
    """Return the receipts, still ours, of the records whose verdict is one of ``kinds``."""
    receipts = [
        lease.receipt(record)
        for run in decision.runs
        if run.verdict.kind in kinds
        for record in batch.records[run.start : run.stop]
    ]
    return [receipt for receipt in receipts if receipt]

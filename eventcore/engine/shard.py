"""One shard of a stream: batches in order, one at a time, each retried until it is settled or given up.

A failing batch blocks its own shard and no other. What the shard keeps of it (`delivery.ordering`) is written when it
changes, so that whoever takes the shard next goes on with the same attempts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import anyio
import msgspec

from eventcore import signals
from eventcore.clock import Clock
from eventcore.delivery.batching import BatchPolicy
from eventcore.delivery.decide import (
    RELEASE,
    SETTLE,
    Decision,
    Run,
    decide_before_stream,
    decide_stream,
    find_mark,
)
from eventcore.delivery.ordering import Part, ShardState
from eventcore.delivery.partial import SUCCESS
from eventcore.delivery.retry import StreamRetry
from eventcore.engine.batcher import RecordBuffer
from eventcore.engine.dispatcher import RELEASED, Dispatcher
from eventcore.engine.reporter import Reporter
from eventcore.engine.settler import Range, Settler
from eventcore.engine.status import Blocked
from eventcore.errors import ShardLost, SourceError, SourceUnavailable, StoreError
from eventcore.ids import IdFactory
from eventcore.model import Batch, Fault, Outcome, Record, Verdict, VerdictKind
from eventcore.ports.sources import LostRange, StreamSource, TakenShard
from eventcore.telemetry.tracing import Tracing

#: A part of a batch that was tried before is looked for this long after its last record came, seconds: records that
#: compaction or retention took meanwhile never come.
PART_PATIENCE_S = 5.0
#: The pause before a checkpoint is written again to a source that was away, seconds.
SETTLE_RETRY_S = 1.0
#: A source outside may be away for so long while a checkpoint waits, seconds: a broker restarts in less. Past it the
#: mapping shows the problem, and starts anew.
SETTLE_PATIENCE_S = 30.0
#: Taking back the mark of a batch whose settling failed may take so long, seconds.
UNMARK_GRACE_S = 5.0


class ShardContext(msgspec.Struct, frozen=True, kw_only=True):
    """What the shards of one mapping share."""

    mapping: str
    source_reference: str
    source: StreamSource
    dispatcher: Dispatcher
    settler: Settler
    retry: StreamRetry
    batching: BatchPolicy
    record_bytes_max: int  #: data that one record may have; 0: no limit
    suspects: anyio.Lock  #: held by the one batch of the engine that runs although an engine has died in it before
    clock: Clock
    ids: IdFactory
    reporter: Reporter
    tracing: Tracing


class ShardWorker:
    """Works through one owned shard. `run` ends after `stop`, `abort` or a lost shard; not reusable."""

    def __init__(self, context: ShardContext, taken: TakenShard, *, buffer_bytes_max: int) -> None:
        self._context = context
        self._taken = taken
        self.shard = taken.shard
        self.checkpoint = taken.checkpoint
        self.buffer = RecordBuffer(context.batching, size_bytes_max=buffer_bytes_max)
        self.finished = anyio.Event()
        self.blocked: Blocked | None = None
        self.is_paused = False
        self._kept = taken.state  #: what the source keeps of this shard's failing work
        self._lost: deque[LostRange] = deque()
        self._is_first = True  #: nothing was invoked yet since the shard was taken
        self._open_count = 0  #: records that were taken and are not settled
        self._covered: list[Range] = []
        self._stopping = anyio.Event()
        self._scope = anyio.CancelScope()
        self._invocation: anyio.CancelScope | None = None

    @property
    def is_invoking(self) -> bool:
        """Whether the function is running for this shard."""
        return self._invocation is not None

    # -- called by the mapping -----------------------------------------------------------------------------------------

    def offer(self, records: Sequence[Record], lost: LostRange | None) -> int:
        """Take records that the source returned; those that are settled already are dropped. Returns how many stay."""
        if lost is not None:
            self._lost.append(lost)
            self.buffer.interrupt()
        if records and records[0].position < self.checkpoint:
            records = [record for record in records if record.position >= self.checkpoint]
        self.buffer.put(records)
        if self.buffer.is_full and not self.is_paused:
            self.is_paused = True
            self._context.source.pause(self.shard)
        self._open_count += len(records)
        return len(records)

    def stop(self) -> None:
        """End after the batch that is being invoked; pending retries stay for the next owner."""
        self._stopping.set()
        self.buffer.close()

    def abort(self) -> None:
        """End now: the running invocation's environment is killed, its batch released."""
        self.stop()
        if self._invocation is not None:
            self._invocation.cancel()

    def abandon(self) -> None:
        """End now, and write nothing: another owner has the shard."""
        self.stop()
        self._scope.cancel()

    async def run(self) -> None:
        """Work until stopped.

        Raises:
            StoreUnavailable: what had to be written could not be; the mapping starts anew.
        """
        try:
            with self._scope:
                try:
                    await self._work()
                except ShardLost:
                    # The source tells the mapping too; nothing of this shard may be written any more.
                    return
                except StoreError:
                    # The engine is alive: a later owner must not take the mark for its death.
                    await self._unmark()
                    raise
        finally:
            self._context.reporter.returned(self.shard, self._open_count, "the shard was given up")
            self.finished.set()

    # -- the loop ------------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        state = find_mark(self._kept)
        self._covered = await self._context.settler.covered(self.shard, self.checkpoint)
        while not self._stopping.is_set():
            records = await self._next(state)
            if self._lost:
                self.buffer.give_back(records)
                await self._discard_lost()
                # What was lost may have been part of what failed: it is cut anew.
                state = ShardState()
                continue
            if not records:
                continue
            self._resume_source()
            if not state.parts:
                part = Part(last=records[-1].position, request_id=self._context.ids.new_id())
                state = ShardState(parts=(part,))
            state, pause_ms = await self._handle(records, state)
            if pause_ms:
                await self._pause(pause_ms)

    async def _next(self, state: ShardState) -> Sequence[Record]:
        if state.parts:
            return await self.buffer.take_through(state.parts[0].last, patience_s=PART_PATIENCE_S)
        return await self.buffer.take()

    async def _handle(self, records: Sequence[Record], state: ShardState) -> tuple[ShardState, int]:
        """Bring one batch to a decision and make it durable; return what is tried next, and the pause before it."""
        context = self._context
        part = state.parts[0]
        if not part.request_id:
            part = msgspec.structs.replace(part, request_id=context.ids.new_id())
            state = ShardState(parts=(part, *state.parts[1:]))
        outcome: Outcome | None = None
        decision = self._decide_before(records, state)
        batch = Batch(
            mapping=context.mapping,
            source=context.source_reference,
            shard=self.shard,
            records=records,
            attempt=part.attempt + 1,
            request_id=part.request_id,
        )
        if decision is None:
            outcome = await self._try(batch, state)
            report = context.dispatcher.read(batch, outcome) if outcome is not RELEASED else SUCCESS
            decision = decide_stream(
                records,
                state.parts,
                outcome,
                report,
                context.retry,
                now_ms=context.clock.now_ms(),
                jitter=context.ids.jitter(),
            )
        with context.tracing.settle(batch, decision) as span:
            is_settled = await self._settle(batch, part, decision, outcome, span.traceparent)
        if is_settled:
            self._tell(batch, decision, outcome)
        return decision.state, decision.delay_ms

    async def _try(self, batch: Batch, state: ShardState) -> Outcome:
        """Invoke a batch, marked where it must be; one in which an engine has died before runs as the only such one.

        Else the record that kills engines would have its neighbours of other shards marked each time, and they would
        be given up with it.
        """
        part = state.parts[0]
        is_marked = self._is_first or part.attempt > 0 or part.marks > 0
        if not part.marks:
            return await self._invoke(batch, state if is_marked else None)
        if not await self._unless_stopped(self._context.suspects.acquire):
            return RELEASED
        try:
            return await self._invoke(batch, state)
        finally:
            self._context.suspects.release()

    def _decide_before(self, records: Sequence[Record], state: ShardState) -> Decision | None:
        covered = self._count_covered(records)
        if covered:
            runs = [Run(0, covered, SETTLE)]
            if covered == len(records):
                return Decision(tuple(runs), ShardState(parts=state.parts[1:]))
            runs.append(Run(covered, len(records), Verdict(VerdictKind.RETRY)))
            return Decision(tuple(runs), ShardState(parts=(Part(last=records[-1].position), *state.parts[1:])))
        return decide_before_stream(
            records,
            state.parts,
            self._context.retry,
            now_ms=self._context.clock.now_ms(),
            event_bytes_max=self._context.record_bytes_max,
        )

    def _count_covered(self, records: Sequence[Record]) -> int:
        """Return how many leading records were given up before a crash that lost their ack (design §3)."""
        count = 0
        while self._covered and count < len(records):
            first, last = self._covered[0]
            position = records[count].position
            if position > last:
                self._covered.pop(0)
            elif position >= first:
                count += 1
            else:
                break
        return count

    async def _mark(self, records: Sequence[Record], state: ShardState) -> None:
        """Note that this batch is being invoked: found by the next owner, it means that the engine died in it."""
        marked = msgspec.structs.replace(state, marked=True)
        await self._write(records[0].position, marked, is_urgent=True)

    async def _invoke(self, batch: Batch, state: ShardState | None) -> Outcome:
        """Wait for a slot and run the function; RELEASED when the shard is stopped before it began, or aborted.

        Args:
            batch: what to invoke it with.
            state: marked before the invocation begins; None when no mark is needed.
        """
        context = self._context
        function = context.dispatcher.function
        try:
            function.slots.acquire_nowait()
        except anyio.WouldBlock:
            if not await self._unless_stopped(function.slots.acquire):
                return RELEASED
        outcome = RELEASED
        try:
            if state is not None:
                await self._mark(batch.records, state)
            self._is_first = False
            context.reporter.invoked(batch)
            with anyio.CancelScope() as self._invocation:
                outcome = await context.dispatcher.invoke(batch)
        finally:
            self._invocation = None
            function.slots.release()
        context.reporter.finished(batch, outcome)
        return outcome

    async def _unless_stopped(self, wait: Callable[[], Awaitable[object]]) -> bool:
        """Await something, or until the shard is stopped; tell whether it came to its end."""
        is_done = False
        async with anyio.create_task_group() as tasks:

            async def give_up() -> None:
                await self._stopping.wait()
                tasks.cancel_scope.cancel()

            tasks.start_soon(give_up)
            await wait()
            is_done = True
            tasks.cancel_scope.cancel()
        return is_done

    # -- settling ------------------------------------------------------------------------------------------------------

    async def _settle(
        self, batch: Batch, part: Part, decision: Decision, outcome: Outcome | None, traceparent: str
    ) -> bool:
        """Make a decision durable; False when the shard was stopped first, and all of it will come again."""
        settler = self._context.settler
        done = decision.settled_count
        gives_up = any(run.verdict.kind is VerdictKind.DISCARD for run in decision.runs)
        if gives_up and settler.is_blocked:
            self._context.reporter.outbox_blocked(settler.destination)
            if not await self._unless_stopped(settler.wait_room):
                return False
        if gives_up:
            discarded = await settler.discard(
                batch,
                decision,
                outcome,
                invocations=part.attempt + (outcome is not None),
                first_failure_ms=part.first_failure_ms,
                traceparent=traceparent,
                covered=self._covered,
            )
            self._context.reporter.discarded(batch, discarded, outcome)
            # A checkpoint outside the store passes a discard only once the destination has it (design §3).
            is_outside = not self._context.source.capabilities.is_settle_durable
            if is_outside and not await self._unless_stopped(lambda: settler.wait_taken(self.shard)):
                return False
        self.buffer.give_back(batch.records[done:])
        checkpoint = batch.records[done - 1].position + 1 if done else batch.records[0].position
        is_released = any(run.verdict == RELEASE for run in decision.runs)
        state = decision.state
        if is_released and state.parts and not state.parts[0].attempt and not state.parts[0].marks:
            # Never tried: nothing is worth keeping, and the next owner may cut its own batches.
            state = ShardState() if len(state.parts) == 1 else state
        if done or state != self._kept:
            # A mark that outlived its batch would blame it for the death that the next one brings.
            is_urgent = gives_up or bool(state.parts) or self._kept.marked
            await self._write(checkpoint, state, is_urgent=is_urgent)
        if self._covered and self._covered[-1][1] < checkpoint:
            # Acknowledged: the note has done its work, and must not hide these records from a later rewind.
            self._covered.clear()
            await settler.uncover(self.shard)
        return True

    async def _write(self, checkpoint: int, state: ShardState, *, is_urgent: bool) -> None:
        """Tell the source; one outside that is away is asked again for `SETTLE_PATIENCE_S`."""
        source = self._context.source
        give_up_s = anyio.current_time() + (0 if source.capabilities.is_settle_durable else SETTLE_PATIENCE_S)
        await signals.reach("settler.before_ack")
        while True:
            try:
                await source.settle(self.shard, self._taken.epoch, checkpoint, state, is_urgent=is_urgent)
                break
            except SourceUnavailable as error:
                if self._stopping.is_set() or anyio.current_time() >= give_up_s:
                    raise
                await self._pause(int((error.retry_after_s or SETTLE_RETRY_S) * 1000))
        await signals.reach("settler.after_ack")
        self.checkpoint = checkpoint
        self._kept = state

    async def _unmark(self) -> None:
        if not self._kept.marked:
            return
        state = msgspec.structs.replace(self._kept, marked=False)
        with anyio.move_on_after(UNMARK_GRACE_S, shield=True), suppress(SourceError):
            await self._context.source.settle(self.shard, self._taken.epoch, self.checkpoint, state, is_urgent=True)

    async def _discard_lost(self) -> None:
        while self._lost:
            lost = self._lost.popleft()
            entry = await self._context.settler.discard_lost(lost)
            self._context.reporter.lost(self.shard, entry)
            await self._write(lost.last + 1, ShardState(), is_urgent=True)

    # -- waiting and telling -------------------------------------------------------------------------------------------

    async def _pause(self, pause_ms: int) -> None:
        """Wait, or until the shard is stopped."""
        with anyio.move_on_after(pause_ms / 1000):
            await self._stopping.wait()

    def _resume_source(self) -> None:
        if self.is_paused and self.buffer.has_room:
            self.is_paused = False
            self._context.source.resume(self.shard)

    def _tell(self, batch: Batch, decision: Decision, outcome: Outcome | None) -> None:
        """Tell people what was decided; a shard that will try again is shown as blocked."""
        self._open_count -= decision.settled_count
        self._context.reporter.decided(batch, decision, outcome)
        self.blocked = _blocked(batch, decision, outcome, self._context.clock.now_ms())


def _blocked(batch: Batch, decision: Decision, outcome: Outcome | None, now_ms: int) -> Blocked | None:
    """Return what keeps the shard, or None when it goes on."""
    head = decision.state.parts[0] if decision.state.parts else None
    if head is None or not head.attempt or outcome is None:
        return None
    fault: Fault | None = outcome.fault
    return Blocked(
        position=batch.records[decision.settled_count].position,
        since_ms=head.first_failure_ms,
        attempt=head.attempt,
        error_type=fault.error_type if fault else "",
        error_message=fault.message if fault else "the response reports failed records",
        location=fault.location if fault else "",
        next_try_ms=now_ms + decision.delay_ms,
    )

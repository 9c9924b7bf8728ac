"""One shard of a stream: batches in order, one at a time, each retried until it is settled or given up.

A failing batch blocks its own shard and no other. What the shard keeps of it (`delivery.ordering`) is written when it
changes, so that whoever takes the shard next goes on with the same attempts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import anyio
import msgspec

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
from eventcore.delivery.retry import StreamRetry
from eventcore.engine.checkpoint import ShardCheckpoint
from eventcore.engine.dispatcher import RELEASED, Dispatcher
from eventcore.engine.intake import ShardIntake
from eventcore.engine.reporter import Reporter
from eventcore.engine.settler import Range, Settler
from eventcore.engine.status import Blocked
from eventcore.errors import ShardLost
from eventcore.ids import IdFactory
from eventcore.model import Batch, Fault, Outcome, Record, Verdict, VerdictKind
from eventcore.ports.sources import LostRange, StreamSource, TakenShard
from eventcore.telemetry.tracing import Tracing


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
        self.shard = taken.shard
        self.finished = anyio.Event()
        self.blocked: Blocked | None = None
        self._stopping = anyio.Event()
        self.intake = ShardIntake(context.source, taken.shard, context.batching, size_bytes_max=buffer_bytes_max)
        self.checkpoint = ShardCheckpoint(context.source, taken, self._stopping)
        self._is_first = True  #: nothing was invoked yet since the shard was taken
        self._is_abandoned = False
        self._open_count = 0  #: records that were taken and are neither settled nor discarded
        self._covered: list[Range] = []
        self._scope = anyio.CancelScope()
        self._invocation: anyio.CancelScope | None = None

    @property
    def is_invoking(self) -> bool:
        """Whether the function is running for this shard."""
        return self._invocation is not None

    # -- called by the mapping -----------------------------------------------------------------------------------------

    def offer(self, records: Sequence[Record], lost: LostRange | None) -> int:
        """Take records that the source returned; those that are settled already are dropped. Returns how many stay."""
        if records and records[0].position < self.checkpoint.position:
            records = [record for record in records if record.position >= self.checkpoint.position]
        self.intake.offer(records, lost)
        self._open_count += len(records)
        return len(records)

    def stop(self) -> None:
        """End after the batch that is being invoked; pending retries stay for the next owner."""
        self._stopping.set()
        self.intake.close()

    def abort(self) -> None:
        """End now: the running invocation's environment is killed, its batch released."""
        self.stop()
        if self._invocation is not None:
            self._invocation.cancel()

    def abandon(self) -> None:
        """End now, and write nothing: another owner has the shard."""
        self._is_abandoned = True
        self.stop()
        self._close_books()
        self._scope.cancel()

    async def run(self, *, after: anyio.Event | None = None) -> None:
        """Work until stopped.

        Args:
            after: set when the worker that had this shard before has ended; None without one.

        Raises:
            StoreUnavailable, SourceUnavailable: what had to be written could not be; the mapping starts anew.
        """
        try:
            with self._scope:
                if after is not None:
                    await after.wait()
                await self._work()
        except ShardLost:
            # The source tells the mapping too; nothing of this shard may be written any more.
            self._is_abandoned = True
        finally:
            if not self._is_abandoned:
                await self.checkpoint.unmark()
            self._close_books()
            self.finished.set()

    def _close_books(self) -> None:
        """Tell what goes back to the source, once."""
        count, self._open_count = self._open_count, 0
        self._context.reporter.returned(self.shard, count, "the shard was given up")

    # -- the loop ------------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        state = find_mark(self.checkpoint.kept)
        self._covered = await self._context.settler.covered(self.shard, self.checkpoint.position)
        while not self._stopping.is_set():
            if (lost := self.intake.barrier) is not None:
                state = await self._discard_lost(lost, state)
                continue
            records = await self.intake.take(state)
            if records is None:
                # Compaction or retention took all of this part: nothing is left to try.
                state = ShardState(parts=state.parts[1:])
                continue
            if not records:
                continue
            if not state.parts:
                part = Part(last=records[-1].position, request_id=self._context.ids.new_id())
                state = ShardState(parts=(part,))
            state, pause_ms = await self._handle(records, state)
            if pause_ms:
                with anyio.move_on_after(pause_ms / 1000):
                    await self._stopping.wait()

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
            report = context.dispatcher.read(batch, outcome)
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
                await self.checkpoint.mark(batch.first.position, state)
            self._is_first = False
            if self._stopping.is_set():
                return RELEASED
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
            self._open_count -= sum(entry.count for entry in discarded)
            self._context.reporter.discarded(batch, discarded)
        checkpoint = batch.records[done - 1].position + 1 if done else batch.records[0].position
        # A checkpoint outside the store passes a discard only once the destination has it, also one of an engine
        # before, which this batch is covered by (design §3).
        is_outside = not self._context.source.capabilities.is_settle_durable
        passes_discard = gives_up or (done and self._covered and self._covered[0][0] < checkpoint)
        if is_outside and passes_discard and not await self._unless_stopped(lambda: settler.wait_taken(self.shard)):
            return False
        self.intake.give_back(batch.records[done:])
        is_released = any(run.verdict == RELEASE for run in decision.runs)
        state = decision.state
        if is_released and state.parts and not state.parts[0].attempt and not state.parts[0].marks:
            # Never tried: nothing is worth keeping, and the next owner may cut its own batches.
            state = ShardState() if len(state.parts) == 1 else state
        if done or state != self.checkpoint.kept:
            # A mark that outlived its batch would blame it for the death that the next one brings.
            is_urgent = gives_up or bool(state.parts) or self.checkpoint.kept.marked
            await self.checkpoint.write(checkpoint, state, is_urgent=is_urgent)
        if self._covered and self._covered[-1][1] < checkpoint:
            # Acknowledged: the note has done its work, and must not hide these records from a later rewind.
            self._covered.clear()
            await settler.uncover(self.shard)
        return True

    async def _discard_lost(self, lost: LostRange, state: ShardState) -> ShardState:
        """Tell a range that the source dropped unread, and go on behind it; return what is left to try."""
        entry = await self._context.settler.discard_lost(lost)
        self._context.reporter.lost(self.shard, entry)
        left = ShardState(parts=tuple(part for part in state.parts if part.last > lost.last))
        await self.checkpoint.write(lost.last + 1, left, is_urgent=True)
        self.intake.pass_barrier()
        return left

    # -- telling -------------------------------------------------------------------------------------------------------

    def _tell(self, batch: Batch, decision: Decision, outcome: Outcome | None) -> None:
        """Tell people what was decided; a shard that will try again is shown as blocked."""
        self._open_count -= sum(run.stop - run.start for run in decision.runs if run.verdict is SETTLE)
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

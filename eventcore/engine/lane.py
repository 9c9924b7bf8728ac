"""One lane: batches in order, one at a time, each retried until it is settled or given up; hops 3 to 7.

A shard is one lane, or many (`engine/laned_shard.py`): a failing batch blocks its own lane and no other. What a lane
keeps of it (`delivery.ordering`) is written when it changes, so that whoever takes the shard next goes on with the
same attempts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import anyio
import msgspec

from eventcore.delivery.decide import (
    RELEASE,
    SETTLE,
    Decision,
    Run,
    decide_before_stream,
    decide_recursive,
    decide_skip,
    decide_stream,
)
from eventcore.delivery.ordering import Part, ShardState, Window
from eventcore.delivery.partial import Report
from eventcore.engine.books import Books
from eventcore.engine.checkpoint import ShardCheckpoint
from eventcore.engine.covered import GivenUp
from eventcore.engine.gate import Gate
from eventcore.engine.intake import Intake
from eventcore.engine.lane_invoker import LaneInvoker
from eventcore.engine.settler import Discarded
from eventcore.engine.shard_context import ShardContext
from eventcore.engine.status import Blocked
from eventcore.engine.unless import unless
from eventcore.errors import CommandError
from eventcore.model import Batch, Fault, Outcome, OutcomeKind, Record, Verdict, VerdictKind
from eventcore.ports.sources import LostRange
from eventcore.telemetry.tracing import Span

#: Turns of the loop that it takes a source, once its records were taken, to ask for more: so many takes aiokafka, whose
#: fetcher is woken in one and begins a task in the next. A source that takes more asks behind the settling.
SOURCE_TURNS = 2


class _Skip:
    """A person's wish to give up what holds up a lane."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.done = anyio.Event()
        self.discarded: Sequence[Discarded] = ()


class Lane:
    """Works through the batches of its intake. `run` ends after `stop`, `abort` or a lost shard; not reusable."""

    def __init__(
        self,
        context: ShardContext,
        shard: str,
        *,
        intake: Intake,
        checkpoint: ShardCheckpoint,
        covered: GivenUp,
        books: Books,
        stopping: anyio.Event,
        is_first: bool,
    ) -> None:
        """Make a lane of a shard.

        Args:
            context: of the shard.
            shard: its name.
            intake: where batches come from.
            checkpoint: where progress and failing work are written.
            covered: what was given up before.
            books: of the shard.
            stopping: set when the lane is to end.
            is_first: nothing was invoked yet since the shard was taken.
        """
        self._context = context
        self._shard = shard
        self._intake = intake
        self._checkpoint = checkpoint
        self._covered = covered
        self._books = books
        self._stopping = stopping
        self._invoker = LaneInvoker(context, shard, checkpoint=checkpoint, stopping=stopping, is_first=is_first)
        self._woken = anyio.Event()  #: ends the pause before a retry
        self._skip: _Skip | None = None
        self._has_ended = False
        self.blocked: Blocked | None = None
        #: The batch that failed last and what came back, while it is tried again.
        self.failed: tuple[Batch, Outcome] | None = None

    @property
    def is_invoking(self) -> bool:
        """Whether the function is running for this lane."""
        return self._invoker.is_invoking

    def stop(self) -> None:
        """End after the batch that is being invoked; pending retries stay for the next owner."""
        self._stopping.set()
        self._woken.set()
        self._intake.close()

    def abort(self) -> None:
        """End now: the running invocation's environment is killed, its batch released."""
        self.stop()
        self._invoker.abort()

    async def skip(self, count: int) -> Sequence[Discarded]:
        """Give up the first records of the batch that holds up the lane; return what was given up.

        Nothing, when it has succeeded meanwhile, or the lane was stopped first.

        Args:
            count: records; 0 for the whole batch.

        Raises:
            CommandError: nothing holds it up, or it is being skipped already.
        """
        if self.blocked is None or self._skip is not None:
            raise CommandError(f"nothing is to be skipped of {self._shard}: no batch of it keeps failing")
        if self._has_ended:
            return ()
        skip = self._skip = _Skip(count)
        self._woken.set()
        await skip.done.wait()
        return skip.discarded

    def _end_skip(self, discarded: Sequence[Discarded] = ()) -> None:
        """Tell whoever waits for a skip what came of it."""
        skip, self._skip = self._skip, None
        if skip is not None:
            skip.discarded = discarded
            skip.done.set()

    async def run(self) -> None:
        """Work until stopped.

        Raises:
            ShardLost: another owner has the shard.
            StoreUnavailable, SourceUnavailable: what had to be written could not be.
        """
        try:
            await self._work()
        finally:
            self._has_ended = True
            self._end_skip()

    async def _work(self) -> None:
        state = self._checkpoint.kept
        gate = self._context.gate
        while not self._stopping.is_set():
            if gate.find(self._shard) is not None and self._skip is None:
                await unless(self._stopping, partial(self._wait_open, gate))
                continue
            if (barrier := self._intake.barrier) is not None:
                state = await self._pass_barrier(barrier, state)
                continue
            if not state.parts and not len(self._intake):
                await self._pass_filtered()
            records = await self._intake.take(state)
            if records is None:
                # Compaction or retention took all of this part: nothing is left to try.
                state = ShardState(parts=state.parts[1:])
                continue
            if not records:
                continue
            if gate.find(self._shard) is not None and self._skip is None:
                # Paused while it waited for them.
                self._intake.give_back(records)
                continue
            if not state.parts:
                part = Part(last=records[-1].position, request_id=self._context.ids.new_id())
                state = ShardState(parts=(part,))
            try:
                state, pause_ms = await self._handle(records, state)
            finally:
                self._invoker.let_others_run()
            if pause_ms:
                await self._pause(pause_ms)

    async def _wait_open(self, gate: Gate) -> None:
        """Wait until the shard is resumed, or something of it is to be skipped."""
        self._woken = anyio.Event()
        await unless(self._woken, partial(gate.wait_open, self._shard))

    async def _pause(self, pause_ms: int) -> None:
        """Wait before a retry, unless something of it is to be skipped, or the lane was stopped."""
        if self._skip is None and not self._stopping.is_set():
            self._woken = anyio.Event()
            with anyio.move_on_after(pause_ms / 1000):
                await self._woken.wait()

    async def _handle(self, records: Sequence[Record], state: ShardState) -> tuple[ShardState, int]:
        """Bring one batch to a decision and make it durable; return what is tried next, and the pause before it."""
        context = self._context
        part = state.parts[0]
        if not part.request_id:
            part = msgspec.structs.replace(part, request_id=context.ids.new_id())
            state = ShardState(parts=(part, *state.parts[1:]))
        outcome: Outcome | None = None
        decision = self._decide_before(records, state)
        if self._skip is not None and decision is None:
            decision = decide_skip(
                records, state.parts, self._skip.count or len(records), now_ms=context.clock.now_ms()
            )
            outcome = self.failed[1] if self.failed is not None else None
        batch = self._make_batch(records, part)
        invocations = part.attempt
        if decision is None:
            invocations += 1
            outcome = await self._invoker.invoke(batch, part, state, self._read)
            # A marked batch at once: a death that another shard brings meanwhile would be blamed on it.
            if self._intake.is_source_next and not self._checkpoint.kept.marked:
                await self._let_source_ask()
            report = self._read(batch, outcome)
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
            discarded = await self._settle(batch, part, decision, outcome, invocations, span)
        if discarded is not None:
            self._tell(batch, decision, outcome)
            if discarded or self.blocked is None:
                self._end_skip(discarded)
        return decision.state, decision.delay_ms

    async def _let_source_ask(self) -> None:
        """Let the source ask for more before a batch is settled: that takes time, and would make later records late.

        A turn may take as long as the other shards' handlers do. Cancelled here, the batch comes again, as when an
        engine dies before it has settled it.
        """
        for _ in range(SOURCE_TURNS):
            await anyio.lowlevel.checkpoint()

    def _make_batch(self, records: Sequence[Record], part: Part) -> Batch:
        return Batch(
            mapping=self._context.mapping,
            source=self._context.source_reference,
            shard=self._shard,
            records=records,
            attempt=part.attempt + 1,
            request_id=part.request_id,
        )

    def _read(self, batch: Batch, outcome: Outcome) -> Report:
        """Return which records of a batch its outcome names failed."""
        return self._context.dispatcher.read(batch, outcome)

    def _decide_before(self, records: Sequence[Record], state: ShardState) -> Decision | None:
        covered = self._covered.count_leading(records)
        if covered:
            runs = [Run(0, covered, SETTLE)]
            if covered == len(records):
                return Decision(tuple(runs), ShardState(parts=state.parts[1:]))
            runs.append(Run(covered, len(records), Verdict(VerdictKind.RETRY)))
            left = Part(last=records[-1].position, is_cut=state.parts[0].is_suspect)
            return Decision(tuple(runs), ShardState(parts=(left, *state.parts[1:])))
        if loops := self._context.dispatcher.find_loops(records):
            return decide_recursive(records, state.parts, loops, now_ms=self._context.clock.now_ms())
        return decide_before_stream(
            records,
            state.parts,
            self._context.retry,
            now_ms=self._context.clock.now_ms(),
            event_bytes_max=self._context.record_bytes_max,
        )

    # -- settling ------------------------------------------------------------------------------------------------------

    async def _settle(
        self,
        batch: Batch,
        part: Part,
        decision: Decision,
        outcome: Outcome | None,
        invocations: int,
        span: Span,
    ) -> Sequence[Discarded] | None:
        """Make a decision durable; return what it gives up.

        None when the shard was stopped first, and all of it will come again.
        """
        settler = self._context.settler
        done = decision.settled_count
        gives_up = any(run.verdict.kind is VerdictKind.DISCARD for run in decision.runs)
        discarded: Sequence[Discarded] = ()
        results = self._context.results
        if gives_up and settler.is_blocked:
            self._context.reporter.outbox_blocked(settler.destination)
            if not await self._wait_beside_others(settler.wait_room):
                return None
        if gives_up:
            discarded = await settler.discard(
                batch,
                decision,
                outcome,
                invocations=invocations,
                first_failure_ms=part.first_failure_ms,
                span=span,
                # In a transaction the discard is undone with all else: its records must be invoked again.
                covered=None if results is not None and results.is_exactly_once else self._covered,
            )
            self._books.done(sum(entry.count for entry in discarded))
            self._context.reporter.discarded(batch, discarded)
        checkpoint = batch.records[done - 1].position + 1 if done else batch.records[0].position
        # A checkpoint outside the store passes a discard only once the destination has it, also one of an engine
        # before, which this batch is covered by (design §3).
        is_outside = not self._context.source.capabilities.is_settle_durable
        passes_discard = gives_up or (done and self._covered.reaches_below(checkpoint))
        wait_taken = partial(settler.wait_taken, self._shard)
        if is_outside and passes_discard and not await self._wait_beside_others(wait_taken):
            return None
        self._intake.give_back(batch.records[done:])
        checkpoint = self._intake.reach(checkpoint)
        is_released = any(run.verdict == RELEASE for run in decision.runs)
        state = decision.state
        if is_released and state.parts and not state.parts[0].attempt and not state.parts[0].is_suspect:
            # Never tried: nothing is worth keeping, and the next owner may cut its own batches.
            state = ShardState() if len(state.parts) == 1 else state
        if done or state != self._checkpoint.kept:
            # A mark that outlived its batch would blame it for the death that the next one brings.
            is_urgent = bool(passes_discard) or bool(state.parts) or self._checkpoint.kept.marked
            if results is not None:
                await results.write(self._shard, self._checkpoint.epoch, outcome, batch.records[:done], discarded)
            await self._checkpoint.write(checkpoint, state, is_urgent=is_urgent)
        await self._covered.settle(checkpoint)
        return discarded

    async def _wait_beside_others(self, wait: Callable[[], Awaitable[object]]) -> bool:
        """Wait for a destination, which may take for ever; tell whether it came to that before the lane was stopped."""
        self._invoker.let_others_run()
        return await unless(self._stopping, wait)

    async def _pass_filtered(self) -> None:
        """Move the checkpoint over records that no filter has let in: with none behind them, no batch does."""
        checkpoint = self._intake.reach(self._checkpoint.position)
        if checkpoint != self._checkpoint.position:
            await self._checkpoint.write(checkpoint, ShardState(), is_urgent=False)
            await self._covered.settle(checkpoint)

    async def _pass_barrier(self, barrier: LostRange | Window, state: ShardState) -> ShardState:
        """Do what stands before the next records, and go on behind it; return what is left to try."""
        assert isinstance(barrier, LostRange), "only a lane with windows is given one"
        return await self._discard_lost(barrier, state)

    async def _discard_lost(self, lost: LostRange, state: ShardState) -> ShardState:
        """Tell a range that the source dropped unread, and go on behind it; return what is left to try."""
        entry = await self._context.settler.discard_lost(lost)
        if self._context.results is not None:
            await self._context.results.write(self._shard, self._checkpoint.epoch, None, (), [entry])
        self._context.reporter.lost(self._shard, entry)
        left = ShardState(parts=tuple(part for part in state.parts if part.last > lost.last))
        await self._checkpoint.write(lost.last + 1, left, is_urgent=True)
        self._intake.pass_barrier()
        return left

    # -- telling -------------------------------------------------------------------------------------------------------

    def _tell(self, batch: Batch, decision: Decision, outcome: Outcome | None) -> None:
        """Tell people what was decided; a shard that will try again is shown as blocked."""
        self._books.done(sum(run.stop - run.start for run in decision.runs if run.verdict is SETTLE))
        self._context.reporter.decided(batch, decision, outcome)
        is_released = outcome is not None and outcome.kind is OutcomeKind.RELEASED
        if is_released or (outcome is not None and outcome.deferred and not decision.settled_count):
            # It was not tried: what it failed with before still holds it up.
            return
        self.blocked = _blocked(batch, decision, outcome, self._context.clock.now_ms())
        self.failed = (batch, outcome) if self.blocked is not None and outcome is not None else None


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

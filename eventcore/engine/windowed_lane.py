"""The lane of a shard with tumbling windows: a batch has its window's state, and each window ends with a final call.

The open window goes with the shard's checkpoint (`ShardState.window`), in one commit: a state never stands for other
records than those before the checkpoint, whenever the engine dies.
"""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import msgspec

from eventcore.delivery.decide import Decision, Run
from eventcore.delivery.ordering import Part, ShardState, Window
from eventcore.delivery.partial import Report
from eventcore.delivery.windows import (
    BadState,
    FinalDecision,
    decide_before_final,
    decide_final,
    hand_on,
    read_state,
    view,
)
from eventcore.engine.books import Books
from eventcore.engine.checkpoint import ShardCheckpoint
from eventcore.engine.covered import GivenUp
from eventcore.engine.lane import Lane
from eventcore.engine.settler import Discarded
from eventcore.engine.shard_context import ShardContext
from eventcore.engine.status import Blocked
from eventcore.engine.windows import ShardWindows, WindowIntake
from eventcore.model import Batch, DiscardReason, Outcome, OutcomeKind, Record, VerdictKind
from eventcore.ports.sources import LostRange
from eventcore.telemetry.tracing import Span


class WindowedLane(Lane):
    """Works through a shard's batches, one window after the other. Not reusable."""

    def __init__(
        self,
        context: ShardContext,
        shard: str,
        *,
        intake: WindowIntake,
        checkpoint: ShardCheckpoint,
        covered: GivenUp,
        books: Books,
        stopping: anyio.Event,
        windows: ShardWindows,
    ) -> None:
        """Make the lane of a shard that was just taken; see `Lane`."""
        super().__init__(
            context,
            shard,
            intake=intake,
            checkpoint=checkpoint,
            covered=covered,
            books=books,
            stopping=stopping,
            is_first=True,
        )
        self._windows = windows

    # -- batches -------------------------------------------------------------------------------------------------------

    def _make_batch(self, records: Sequence[Record], part: Part) -> Batch:
        assert self._windows.current is not None, "records that are handed out open a window"
        batch = super()._make_batch(records, part)
        return msgspec.structs.replace(batch, window=view(self._windows.current))

    def _read(self, batch: Batch, outcome: Outcome) -> Report:
        """Return which records failed: all of them where the response has no state."""
        report = super()._read(batch, outcome)
        if outcome.kind is OutcomeKind.SUCCESS and not report.is_unusable:
            try:
                read_state(outcome.response)
            except BadState as error:
                return Report(is_unusable=True, problem=str(error))
        return report

    async def _settle(
        self,
        batch: Batch,
        part: Part,
        decision: Decision,
        outcome: Outcome | None,
        invocations: int,
        span: Span,
    ) -> Sequence[Discarded] | None:
        """Make a decision durable, with the state that the function returned for the records it has processed."""
        if outcome is not None and outcome.kind is OutcomeKind.SUCCESS and _settles(decision.runs):
            assert self._windows.current is not None, "the batch has one"
            self._windows.replace(hand_on(self._windows.current, read_state(outcome.response)))
        return await super()._settle(batch, part, decision, outcome, invocations, span)

    # -- the end of a window -------------------------------------------------------------------------------------------

    async def _pass_barrier(self, barrier: LostRange | Window, state: ShardState) -> ShardState:
        if isinstance(barrier, LostRange):
            return await super()._pass_barrier(barrier, state)
        try:
            pause_ms = await self._close(barrier, state)
        finally:
            self._invoker.let_others_run()
        if pause_ms:
            await self._pause(pause_ms)
        return state

    async def _close(self, window: Window, state: ShardState) -> int:
        """Make a window's final call and what comes of it durable; return the pause before the next try.

        Args:
            window: the open one.
            state: what is left to try of records behind it, kept as it is.
        """
        context = self._context
        if not window.final.request_id:
            call = msgspec.structs.replace(window.final, request_id=context.ids.new_id())
            window = msgspec.structs.replace(window, final=call)
        decision = decide_before_final(window, context.retry, now_ms=context.clock.now_ms())
        outcome: Outcome | None = None
        if self._skip is not None and decision is None:
            decision = FinalDecision(None, reason=DiscardReason.SKIPPED)
        call = window.final
        batch = msgspec.structs.replace(
            super()._make_batch((), call), window=view(window, is_final=True), request_id=call.request_id
        )
        if decision is None:
            # Its request id goes with a mark, which is the final call's by that (`find_mark`).
            self._windows.replace(window)
            outcome = await self._invoker.invoke(batch, call, state, self._read)
            decision = decide_final(
                window, outcome, context.retry, now_ms=context.clock.now_ms(), jitter=context.ids.jitter()
            )
        discarded: Sequence[Discarded] = ()
        if decision.reason is not None:
            settler = context.settler
            if settler.is_blocked:
                context.reporter.outbox_blocked(settler.destination)
                if not await self._wait_beside_others(settler.wait_room):
                    return 0
            discarded = [
                await settler.discard_final(
                    batch,
                    decision.reason,
                    outcome,
                    position=self._checkpoint.position,
                    invocations=call.attempt + (outcome is not None),
                    first_failure_ms=call.first_failure_ms,
                )
            ]
            context.reporter.discarded(batch, discarded)
        self._windows.replace(decision.window)
        await self._checkpoint.write(self._checkpoint.position, state, is_urgent=True)
        self._tell_window(batch, decision, outcome, discarded)
        return decision.delay_ms

    def _tell_window(
        self, batch: Batch, decision: FinalDecision, outcome: Outcome | None, discarded: Sequence[Discarded]
    ) -> None:
        """Tell people what became of a window; one that is called again holds its shard up."""
        if outcome is not None and outcome.kind is OutcomeKind.RELEASED:
            return
        self.blocked = None
        if decision.window is None:
            self._context.reporter.window_closed(batch)
            self._end_skip(discarded)
            return
        fault = outcome.fault if outcome is not None else None
        call = decision.window.final
        self.blocked = Blocked(
            position=self._checkpoint.position,
            since_ms=call.first_failure_ms,
            attempt=call.attempt,
            error_type=fault.error_type if fault else "",
            error_message=fault.message if fault else "",
            location=fault.location if fault else "",
            next_try_ms=self._context.clock.now_ms() + decision.delay_ms,
        )
        self._context.reporter.window_retried(batch, call.attempt, decision.delay_ms, fault)


def _settles(runs: Sequence[Run]) -> bool:
    return any(run.verdict.kind is VerdictKind.SETTLE for run in runs)

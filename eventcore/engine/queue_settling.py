"""Hops 6 and 7 for batches of a queue: what becomes of each message, made durable, and the source told.

Most batches need nothing but the deletion of all their messages. Those wait for nobody: one call of the source deletes
what several batches have done meanwhile. What else there is to write, a batch writes by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import anyio
import anyio.abc
import msgspec

from eventcore import signals
from eventcore.delivery.decide import Decision, Run, decide_queue, schedule_queue
from eventcore.delivery.retry import RetryPlan
from eventcore.delivery.visibility import VISIBILITY_MAX_S
from eventcore.engine.breaker import UNCOUNTED
from eventcore.engine.lease_keeper import Lease
from eventcore.engine.queue_context import QueueContext
from eventcore.engine.settler import SETTLE_GRACE_S
from eventcore.model import Batch, DiscardReason, Outcome, OutcomeKind, Record, Verdict, VerdictKind
from eventcore.ports.recorder import FailedBatch
from eventcore.ports.store import Operation
from eventcore.telemetry.tracing import NULL_SPAN, NULL_TRACING, Span

_KEPT = frozenset({VerdictKind.RETRY, VerdictKind.RELEASE})
_DONE = frozenset({VerdictKind.SETTLE, VerdictKind.DISCARD})
_FAILED = frozenset({VerdictKind.RETRY})
#: A message whose key is in progress comes back to look again after so long at most, seconds: most invocations are
#: shorter than their claim, and such a receive does not count.
DEFERRED_MAX_S = 5
#: The attribute that says how often a message was received.
_RECEIVE_COUNT = "ApproximateReceiveCount"


class Invoked(msgspec.Struct, frozen=True):
    """A batch whose invocation is over."""

    batch: Batch
    lease: Lease
    outcome: Outcome
    decision: Decision

    @property
    def needs_deletion_alone(self) -> bool:
        """Whether every message succeeded, and none had failed before."""
        runs = self.decision.runs
        return self.batch.attempt == 1 and len(runs) == 1 and runs[0].verdict.kind is VerdictKind.SETTLE


class QueueSettling:
    """Settles the batches of one mapping."""

    def __init__(self, context: QueueContext, on_done: Callable[[int], None]) -> None:
        """Settle nothing yet; ``on_done`` hears of how many messages nothing is left to do."""
        self._context = context
        self._on_done = on_done
        self._waiting: list[Invoked] = []
        self._is_deleting = False
        self._passed: list[Record] = []  #: match no filter; not deleted yet

    def decide(self, batch: Batch, lease: Lease, outcome: Outcome) -> Invoked:
        """Return what is to happen to a batch."""
        context = self._context
        report = context.dispatcher.read(batch, outcome)
        decision = decide_queue(len(batch), outcome, report)
        if context.retry is not None:
            decision = self._schedule(batch, outcome, decision, context.retry)
        return Invoked(batch, lease, outcome, decision)

    def _schedule(self, batch: Batch, outcome: Outcome, decision: Decision, plan: RetryPlan) -> Decision:
        """Return the decision with the mapping's own retries."""
        attempts = [_receive_count(record) for record in batch.records]
        context = self._context
        return schedule_queue(
            decision, attempts, outcome, plan, now_ms=context.clock.now_ms(), jitter=context.ids.jitter()
        )

    # -- batches that succeeded ----------------------------------------------------------------------------------------

    def delete(self, invoked: Invoked, tasks: anyio.abc.TaskGroup) -> None:
        """Delete a batch that needs nothing else, soon, in a task of the group."""
        self._waiting.append(invoked)
        self._begin(tasks)

    def pass_by(self, records: Sequence[Record], tasks: anyio.abc.TaskGroup) -> None:
        """Delete messages that match no filter, soon, in a task of the group (Lambda semantics §3.1 "Filtering")."""
        if records:
            self._passed += records
            self._begin(tasks)

    def _begin(self, tasks: anyio.abc.TaskGroup) -> None:
        if not self._is_deleting:
            self._is_deleting = True
            tasks.start_soon(self._delete_waiting)

    async def _delete_waiting(self) -> None:
        """Delete until no batch waits: each call carries those that became ready during the one before.

        Raises:
            SourceUnavailable, SourceClosed: the queue failed.
        """
        under_way: Sequence[Invoked] = ()
        passing: Sequence[Record] = ()
        try:
            while self._waiting or self._passed:
                under_way, self._waiting = self._waiting, []
                passing, self._passed = self._passed, []
                await self._forget_failures(passing)
                await _reach("settler.before_ack", under_way)
                await self._delete(under_way, passing)
                await _reach("settler.after_ack", under_way)
                done, under_way, passed, passing = under_way, (), passing, ()
                for each in done:
                    self._context.reporter.decided(each.batch, each.decision, each.outcome, is_returned=True)
                self._context.reporter.filtered("", len(passed))
                self._on_done(_count(done) + len(passed))
        finally:
            self._is_deleting = False
            # Cancelled or failed on the way: they come back after their visibility timeout.
            left, self._waiting = [*under_way, *self._waiting], []
            left_over, self._passed = [*passing, *self._passed], []
            self._context.reporter.returned("", _count(left) + len(left_over), "the mapping failed")

    async def _forget_failures(self, records: Sequence[Record]) -> None:
        """Forget that messages have failed which a filter now keeps from the function: they leave their queue."""
        context = self._context
        failed = [
            context.recorder.message_failure_id(context.mapping, context.source_reference, record.id)
            for record in records
            if _receive_count(record) > 1
        ]
        if failed:
            await context.settler.commit(context.recorder.finish(failed))

    async def _delete(self, batches: Sequence[Invoked], passing: Sequence[Record]) -> None:
        context = self._context
        receipts = [record.receipt for record in passing]
        for each in batches:
            receipts.extend(each.lease.receipts())
        with ExitStack() as spans:
            if context.tracing is not NULL_TRACING:
                for each in batches:
                    spans.enter_context(context.tracing.settle(each.batch, each.decision))
            with anyio.move_on_after(SETTLE_GRACE_S, shield=True):
                if receipts:
                    await context.source.delete(receipts)

    async def give_up(self, records: Sequence[Record], reason: DiscardReason) -> None:
        """Give messages up without an invocation, each by itself.

        Raises:
            StoreUnavailable: what it writes could not be written.
            SourceUnavailable, SourceClosed: the queue failed.
        """
        context = self._context
        verdict = Verdict(VerdictKind.DISCARD, reason=reason)
        batch = Batch(
            mapping=context.mapping,
            source=context.source_reference,
            shard="",
            records=records,
            request_id=context.ids.new_id(),
        )
        decision = Decision(tuple([Run(index, index + 1, verdict) for index in range(len(records))]))
        is_told = False
        try:
            entries = await context.settler.discard(
                batch, decision, None, invocations=0, first_failure_ms=0, span=NULL_SPAN
            )
            context.reporter.discarded(batch, entries)
            is_told = True
            await signals.reach("settler.before_ack")
            with anyio.move_on_after(SETTLE_GRACE_S, shield=True):
                await context.source.delete([record.receipt for record in records])
            await signals.reach("settler.after_ack")
        finally:
            if not is_told:
                # They come back after their visibility timeout.
                context.reporter.returned("", len(records), "the mapping failed")
            self._on_done(len(records))

    # -- all others ----------------------------------------------------------------------------------------------------

    async def finish(self, invoked: Invoked) -> None:
        """Make the decision on a batch durable.

        Raises:
            StoreUnavailable: what it writes could not be written.
            SourceUnavailable, SourceClosed: the queue failed.
        """
        context, count = self._context, len(invoked.batch)
        why_returned = "the mapping failed"
        try:
            with context.tracing.settle(invoked.batch, invoked.decision) as span:
                await self._settle(invoked, span)
            is_over = invoked.outcome.kind not in {OutcomeKind.RELEASED, OutcomeKind.THROTTLED}
            why_returned = "" if is_over else "the invocation was ended by a stop"
            if invoked.outcome is UNCOUNTED:
                why_returned = "the circuit breaker is open"
        finally:
            if why_returned:
                # They come back after their visibility timeout.
                context.reporter.returned("", count, why_returned)
        context.reporter.decided(invoked.batch, invoked.decision, invoked.outcome, is_returned=True)
        context.reporter.returned("", len(invoked.outcome.deferred), "another invocation works on its key")
        self._on_done(count)

    async def _settle(self, invoked: Invoked, span: Span) -> None:
        context = self._context
        batch, decision, outcome = invoked.batch, invoked.decision, invoked.outcome
        entries = await context.settler.discard(
            batch, decision, outcome, invocations=batch.attempt, first_failure_ms=0, span=span
        )
        context.reporter.discarded(batch, entries)
        await context.settler.commit(self._failures(batch, decision, outcome))
        await signals.reach("settler.before_ack")
        with anyio.move_on_after(SETTLE_GRACE_S, shield=True):
            done = _receipts(invoked, _DONE)
            if done:
                await context.source.delete(done)
            if outcome.deferred:
                await self._return_when_free(invoked)
            if invoked.lease.is_extended and outcome is not UNCOUNTED:
                await self._return_on_time(invoked)
            if outcome is UNCOUNTED:
                await self._hand_back(invoked)
            elif context.retry is not None:
                await self._return_on_schedule(invoked)
        await signals.reach("settler.after_ack")

    def _failures(self, batch: Batch, decision: Decision, outcome: Outcome) -> list[Operation]:
        """Keep each message that failed, until it succeeds or goes to the dead-letter queue (design, §12)."""
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

    async def _hand_back(self, invoked: Invoked) -> None:
        """Give back what a breaker does not count, hidden until after the next probe: another message is to be that."""
        context = self._context
        assert context.breaker is not None, "it has said so"
        hidden_s = math.ceil(context.breaker.pause_left_s) + context.visibility_timeout_s
        await context.source.hand_back(_receipts(invoked, _KEPT), hidden_s=min(hidden_s, VISIBILITY_MAX_S))

    async def _return_when_free(self, invoked: Invoked) -> None:
        """Let messages look again whether their key is free, as not received: that they wait is no try of theirs."""
        batch, outcome = invoked.batch, invoked.outcome
        receipts = [invoked.lease.receipt(batch.records[index]) for index in outcome.deferred]
        wait_s = min(DEFERRED_MAX_S, -(-outcome.deferred_ms // 1000))
        await self._context.source.hand_back([receipt for receipt in receipts if receipt], hidden_s=wait_s)

    async def _return_on_time(self, invoked: Invoked) -> None:
        """Let failed messages whose lease was extended come back at their own visibility timeout."""
        kinds = _FAILED if invoked.outcome.deferred else _KEPT
        kept = _receipts(invoked, kinds)
        if kept:
            remaining_ms = max(0, invoked.lease.returns_ms - self._context.clock.now_ms())
            await self._context.source.change_visibility(kept, -(-remaining_ms // 1000))

    async def _return_on_schedule(self, invoked: Invoked) -> None:
        """Let failed messages come back when the mapping's schedule says: sooner or later than the queue would."""
        context = self._context
        now_ms = context.clock.now_ms()
        for at_ms in sorted({run.verdict.at_ms for run in invoked.decision.runs if run.verdict.at_ms}):
            receipts = _receipts(invoked, _KEPT, at_ms)
            pause_s = min(max(0, -(-(at_ms - now_ms) // 1000)), VISIBILITY_MAX_S)
            await context.source.change_visibility(receipts, pause_s)


def attempt_of(records: Sequence[Record]) -> int:
    """Return which invocation a batch is about to have: the one of its message that was received most often."""
    attributes = [record.attributes for record in records]
    if attributes.count(attributes[0]) == len(
        attributes
    ):  # one object, for messages that were sent and received at once
        return _receive_count(records[0])
    return max(map(_receive_count, records))


async def _reach(point: str, batches: Sequence[Invoked]) -> None:
    for _ in batches:
        await signals.reach(point)


def _count(batches: Sequence[Invoked]) -> int:
    return sum([len(each.batch) for each in batches])


def _receive_count(record: Record) -> int:
    return int(record.attributes.get(_RECEIVE_COUNT, "1"))


def _receipts(invoked: Invoked, kinds: frozenset[VerdictKind], at_ms: int = 0) -> Sequence[str]:
    """Return the receipts, still ours, of the records whose verdict is one of ``kinds``, and for this time."""
    receipts = [
        invoked.lease.receipt(record)
        for run in invoked.decision.runs
        if run.verdict.kind in kinds and run.verdict.at_ms == at_ms
        for record in invoked.batch.records[run.start : run.stop]
    ]
    return [receipt for receipt in receipts if receipt]

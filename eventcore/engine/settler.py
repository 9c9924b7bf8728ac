"""Hop 7: the one shielded step that makes a decision durable and tells the source.

First the store: destinations' rows, kept failures and the note of what was given up, in one transaction. Then the
source's ack. So a crash never loses a record, and never tells a destination twice:

| crash | what the next process sees |
|---|---|
| before the store's commit | nothing was written: the batch is delivered and invoked again |
| after it, before the ack | the discard is durable; its records come again, and are settled without an invocation |
| after the ack | everything is done; rows of the outbox are handed over by the next process |
| in the outbox: after the send, before its mark | the row is sent again, with the same key |

An ack before the store's commit can't happen: they are consecutive statements of one function.
A batch with nothing to write skips the store.
"""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import msgspec

from eventcore import signals
from eventcore.clock import Clock
from eventcore.config.defaults import ON_FAILURE
from eventcore.config.reference import Reference
from eventcore.delivery.decide import Decision, Run
from eventcore.delivery.lineage import LINEAGE, hand_on_lineage, lineage_of
from eventcore.engine.covered import COVERED_MAX, Covered, GivenUp, covered_note, forget_given_up, read_moves
from eventcore.engine.event_value import window_name
from eventcore.engine.failure_record import carried_payload, failure_record, lost_record
from eventcore.engine.outbox import Outbox
from eventcore.engine.router import Router, dispatch_key
from eventcore.errors import StoreUnavailable
from eventcore.model import Batch, DiscardReason, Fault, Outcome, Verdict, VerdictKind
from eventcore.ports.destinations import Dispatch
from eventcore.ports.recorder import FailedBatch, Recorder
from eventcore.ports.sources import EventShape, LostRange
from eventcore.ports.store import Operation, Store
from eventcore.telemetry.propagation import hand_on
from eventcore.telemetry.tracing import Span

#: The settling step may take this long when the engine is being cancelled around it, seconds; past it the batch is
#: redelivered.
SETTLE_GRACE_S = 10.0


#: The reason of a failure whose key was parked: it was not given up.
PARKED = "Parked"


class Discarded(msgspec.Struct, frozen=True, kw_only=True):
    """What was given up by one decision, for telling people."""

    first: int | str  #: position; a queue's message id
    last: int | str
    count: int
    reason: DiscardReason
    failure_id: str
    destination: str
    fault: Fault | None = None  #: of these records; another one of the batch may have failed otherwise
    dispatch: Dispatch | None = None  #: what its destination is still to be given, where the settler does not


class SettlerContext(msgspec.Struct, frozen=True, kw_only=True):
    """What a mapping's settler works with."""

    mapping: str
    function: str
    function_arn: str
    source: str
    shape: EventShape
    on_failure: Reference
    hands_over: bool = True  #: False: whoever settles gives the destination its records, see `Discarded.dispatch`
    store: Store
    router: Router
    recorder: Recorder
    outbox: Outbox
    clock: Clock


class Settler:
    """Makes the decisions of one mapping durable."""

    def __init__(self, context: SettlerContext) -> None:
        self._context = context
        #: Reference of where results go.
        self.destination = str(context.on_failure)
        self._moves: dict[str, int] = {}  #: by shard of which something was given up

    def covered(self, shard: str, *, runs_max: int = COVERED_MAX) -> Covered:
        """Return what was given up of a shard and its source may not know yet; nothing is read before it is loaded."""
        name = covered_note(self._context.mapping, self._context.source, shard)
        return Covered(self._context.store, name, runs_max=runs_max)

    async def forget(self, shard: str) -> None:
        """Forget what was given up of a shard that is moved by hand: it is invoked again, and told again.

        Raises:
            StoreUnavailable: nothing was forgotten.
        """
        context = self._context
        await self._commit(await forget_given_up(context.store, context.mapping, context.source, shard))
        self._moves.pop(shard, None)

    async def place(self, shard: str) -> str:
        """Return where a record of a shard is given up, for its `dispatch_key`: after a move it is another place.

        Raises:
            StoreUnavailable: it can't be found out.
        """
        context = self._context
        if shard not in self._moves:
            self._moves[shard] = await read_moves(context.store, context.mapping, context.source, shard) if shard else 0
        moves = self._moves[shard]
        return f"{context.source}/{shard}" + (f"/{moves}" if moves else "")

    # -- writing -------------------------------------------------------------------------------------------------------

    async def discard(
        self,
        batch: Batch,
        decision: Decision,
        outcome: Outcome | None,
        *,
        invocations: int,
        first_failure_ms: int,
        span: Span,
        covered: GivenUp | None = None,
    ) -> list[Discarded]:
        """Write what a decision gives up: its destination's rows, its failures, the note that covers it.

        Nothing is written, and the store is not asked, when the decision gives up nothing.

        Args:
            batch: the batch that was decided on.
            decision: covers the batch.
            outcome: of its invocation; None without one.
            invocations: of exactly this batch, this one included.
            first_failure_ms: wall time; 0 when it never failed before.
            span: its trace's context is handed on to the destination.
            covered: of the shard, extended in place; None for a queue.

        Raises:
            StoreUnavailable: nothing was written.
        """
        runs = [run for run in decision.runs if run.verdict.kind is VerdictKind.DISCARD]
        if not runs:
            return []
        operations: list[Operation] = []
        discarded: list[Discarded] = []
        place = await self.place(batch.shard)
        for run in runs:
            part = msgspec.structs.replace(batch, records=batch.records[run.start : run.stop])
            own = outcome.of(run.start) if outcome is not None and len(part) == 1 else outcome
            entry, writes = self._give_up(run, part, place, own, invocations, first_failure_ms, span.traceparent)
            discarded.append(entry)
            operations.extend(writes)
            if covered is not None:
                covered.add(part.records)
        if covered is not None:
            operations.append(covered.keep())
        await self._commit(operations)
        return discarded

    def _give_up(
        self,
        run: Run,
        part: Batch,
        place: str,
        outcome: Outcome | None,
        invocations: int,
        first_failure_ms: int,
        traceparent: str,
    ) -> tuple[Discarded, list[Operation]]:
        context = self._context
        reason = run.verdict.reason
        assert reason is not None, "a discard has a reason"
        # A record whose key was refused was not given to the function.
        invocations -= reason is DiscardReason.IDEMPOTENCY_FAILED
        now_ms = context.clock.now_ms()
        failed = FailedBatch(
            batch=part,
            function=context.function,
            shape=context.shape,
            reason=reason.value,
            attempts=invocations,
            outcome=outcome,
            first_failure_ms=first_failure_ms or now_ms,
            now_ms=now_ms,
        )
        failure_id = context.recorder.failure_id(failed)
        first, last = _name(part, 0), _name(part, -1)
        target = self._target(reason)
        lineage = hand_on_lineage(lineage_of(part.records), context.function)
        dispatch = Dispatch(
            key=self._key(place, first, last, reason),
            payload=failure_record(
                part,
                context.shape,
                function_arn=context.function_arn,
                reason=reason,
                invocations=invocations,
                outcome=outcome,
                now_ms=now_ms,
                payload=carried_payload(part, context.shape, target.kind if target is not None else ""),
            ),
            lane=self.lane(part.shard),
            place=self.lane(part.shard),
            record_key=part.records[0].key if len(part) == 1 else None,
            attributes=hand_on({"eventcore-failure-id": failure_id, LINEAGE: lineage}, traceparent),
            created_ms=now_ms,
        )
        discarded = Discarded(
            first=first,
            last=last,
            count=len(part),
            reason=reason,
            failure_id=failure_id,
            destination=str(target) if target is not None else "",
            fault=outcome.fault if outcome is not None else None,
            dispatch=None if self._hands_over(target) else dispatch,
        )
        return discarded, [*context.recorder.keep(failed), *self._hand_over(dispatch, target)]

    def _target(self, reason: DiscardReason) -> Reference | None:
        """Return where a discard goes; what ends a loop goes where no part of the loop can be (design §5)."""
        if reason is not DiscardReason.RECURSION:
            return self._context.on_failure
        return ON_FAILURE if self._context.source != str(ON_FAILURE) else None

    def _hands_over(self, target: Reference | None) -> bool:
        return self._context.hands_over or target is not self._context.on_failure

    def _hand_over(self, dispatch: Dispatch, target: Reference | None) -> Sequence[Operation]:
        if target is None or not self._hands_over(target):
            return ()
        return self._context.router.operations(target, dispatch)

    def _key(self, place: str, first: int | str, last: int | str, reason: DiscardReason) -> str:
        return dispatch_key(self._context.mapping, place, str(first), str(last), self.destination, reason.value)

    async def discard_lost(self, lost: LostRange) -> Discarded:
        """Write the counted discard of a range that the source dropped unread (`RecordExpired`)."""
        context = self._context
        now_ms = context.clock.now_ms()
        reason = DiscardReason.RECORD_EXPIRED
        first, last = lost.first, lost.last
        failure_id, operations = context.recorder.keep_lost(
            lost, mapping=context.mapping, function=context.function, source=context.source, now_ms=now_ms
        )
        dispatch = Dispatch(
            key=self._key(await self.place(lost.shard), first, last, reason),
            payload=lost_record(lost, source=context.source, function_arn=context.function_arn, now_ms=now_ms),
            lane=self.lane(lost.shard),
            place=self.lane(lost.shard),
            attributes={"eventcore-failure-id": failure_id},
            created_ms=now_ms,
        )
        await self._commit([*operations, *self._hand_over(dispatch, context.on_failure)])
        return Discarded(
            first=first,
            last=last,
            count=lost.last - lost.first + 1,
            reason=reason,
            failure_id=failure_id,
            destination=self.destination,
            dispatch=None if context.hands_over else dispatch,
        )

    async def discard_final(
        self,
        batch: Batch,
        reason: DiscardReason,
        outcome: Outcome | None,
        *,
        position: int,
        invocations: int,
        first_failure_ms: int,
    ) -> Discarded:
        """Write the discard of a window's final call: its state is dropped (Lambda semantics §12 "windows").

        Args:
            batch: of the call, without records.
            reason: why it is given up.
            outcome: of the last call; None without one.
            position: the checkpoint at which it was called: a window that ended early has several final calls.
            invocations: of this call.
            first_failure_ms: wall time; 0 when it never failed before.

        Raises:
            StoreUnavailable: nothing was written.
        """
        run = Run(0, 0, Verdict(VerdictKind.DISCARD, reason=reason))
        place = f"{await self.place(batch.shard)}/window-{position}"
        entry, writes = self._give_up(run, batch, place, outcome, invocations, first_failure_ms, "")
        await self._commit(writes)
        return entry

    def keep_parked(self, batch: Batch, outcome: Outcome, *, attempts: int, first_failure_ms: int) -> list[Operation]:
        """Return the writes that keep a failing batch whose key is being parked, for looking at.

        Args:
            batch: the batch.
            outcome: of its last invocation.
            attempts: invocations of it that failed.
            first_failure_ms: wall time.
        """
        context = self._context
        failed = FailedBatch(
            batch=batch,
            function=context.function,
            shape=context.shape,
            reason=PARKED,
            attempts=attempts,
            outcome=outcome,
            first_failure_ms=first_failure_ms,
            now_ms=context.clock.now_ms(),
        )
        return list(context.recorder.keep(failed))

    async def commit(self, operations: Sequence[Operation]) -> None:
        """Write operations of the recorder that belong to a settling step; nothing for none."""
        if operations:
            await self._commit(operations)

    async def _commit(self, operations: Sequence[Operation]) -> None:
        await signals.reach("settler.before_store")
        with anyio.move_on_after(SETTLE_GRACE_S, shield=True) as scope:
            results = await self._context.store.commit(operations)
            self._context.outbox.added(operations, results)
        if scope.cancelled_caught:
            raise StoreUnavailable(f"the store took longer than {SETTLE_GRACE_S:.0f} s; the batch will be redelivered")
        await signals.reach("settler.after_store")

    # -- waiting for destinations --------------------------------------------------------------------------------------

    def lane(self, shard: str) -> str:
        """Return the name under which a shard's results keep their order."""
        return f"{self._context.mapping}/{shard}"

    @property
    def is_blocked(self) -> bool:
        """Whether the destination has no room for another result."""
        return not self._context.outbox.has_room(self.destination)

    async def wait_room(self) -> None:
        """Wait until the destination has room for another result."""
        await self._context.outbox.wait_room(self.destination)

    async def wait_taken(self, shard: str) -> None:
        """Wait until the destination has taken everything that a shard gave up."""
        await self._context.outbox.wait_lane(self.destination, self.lane(shard))


def _name(batch: Batch, index: int) -> int | str:
    if not batch.records:
        return window_name(batch)
    record = batch.records[index]
    return record.id or record.position

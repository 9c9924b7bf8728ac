"""Makes what becomes of a waiting event durable, in one commit: its destinations' rows, then it leaves its queue.

| crash | what the next process sees |
|---|---|
| before the commit | nothing was written: the event shows again when its lease ends, and is tried again |
| after it | it is delivered, given up or waits for its next try; rows of the outbox are handed over |

An event is deleted in the commit that writes its destinations' rows and its next try, or not at all. That commit is
refused where another try has the event by now: two of them must not each send it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import anyio
import msgspec

from eventcore import signals
from eventcore.clock import Clock
from eventcore.config.defaults import ON_FAILURE
from eventcore.config.effective import EffectiveEvents
from eventcore.config.reference import Reference
from eventcore.delivery.asynchronous import EventDecision, EventVerdict
from eventcore.delivery.lineage import LINEAGE, hand_on_lineage
from eventcore.embedded.events import WaitingEvent, event_queue, send_again
from eventcore.engine.event_reporter import EventReporter
from eventcore.engine.invocation_record import Delivery, dead_letter_attributes, invocation_record
from eventcore.engine.outbox import Outbox
from eventcore.engine.router import Router, dispatch_key
from eventcore.engine.settler import SETTLE_GRACE_S
from eventcore.errors import StoreUnavailable
from eventcore.model import DiscardReason, Outcome
from eventcore.ports.destinations import Dispatch
from eventcore.ports.recorder import FailedEvent, Recorder
from eventcore.ports.store import DeleteMessages, Operation, Store
from eventcore.registry import Function
from eventcore.telemetry.propagation import hand_on


class EventContext(msgspec.Struct, frozen=True, kw_only=True):
    """What the events of one function share."""

    function: Function
    settings: EffectiveEvents
    store: Store
    router: Router
    recorder: Recorder
    outbox: Outbox
    reporter: EventReporter
    clock: Clock

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function.spec.name


class EventSettling:
    """Settles the events of one function."""

    def __init__(self, context: EventContext) -> None:
        self._context = context

    async def wait_room(self) -> None:
        """Wait until every destination has room for another result."""
        context = self._context
        for destination in context.settings.destinations:
            if not context.outbox.has_room(str(destination)):
                context.reporter.outbox_blocked(str(destination))
                await context.outbox.wait_room(str(destination))

    async def settle(self, event: WaitingEvent, decision: EventDecision, outcome: Outcome | None) -> None:
        """Make a decision durable, and tell it.

        Args:
            event: as it was received.
            decision: on it.
            outcome: of its try; None without one.

        Raises:
            StoreUnavailable: it may or may not be durable; put back, the event shows again only where it is not.
            FencedOut: its lease had ended, and another try has it: what becomes of it is for that one to say.
        """
        if decision.verdict is EventVerdict.RETRY:
            await self._put_back(event, decision, outcome)
        elif decision.verdict is EventVerdict.DELIVERED:
            await self._deliver(event, decision, outcome)
        else:
            await self._give_up(event, decision, outcome)

    async def _put_back(self, event: WaitingEvent, decision: EventDecision, outcome: Outcome | None) -> None:
        context = self._context
        assert outcome is not None, "only a try puts an event back"
        now_ms = context.clock.now_ms()
        again = send_again(context.name, event, decision.state, delay_s=decision.delay_s, now_ms=now_ms)
        await self._commit(event, [again])
        context.reporter.retried(event.request_id, decision.state, decision.delay_s, outcome)

    async def _deliver(self, event: WaitingEvent, decision: EventDecision, outcome: Outcome | None) -> None:
        context = self._context
        destination = context.settings.on_success
        told = self._tell(event, _delivery(event, decision, outcome), destination) if destination is not None else ()
        await self._commit(event, told)
        reference = "" if destination is None else str(destination)
        context.reporter.delivered(event.request_id, decision.state, reference)

    async def _give_up(self, event: WaitingEvent, decision: EventDecision, outcome: Outcome | None) -> None:
        context = self._context
        reason = decision.reason
        assert reason is not None, "a discard has a reason"
        delivery = _delivery(event, decision, outcome)
        failure_id, operations = context.recorder.keep_event(
            FailedEvent(
                request_id=event.request_id,
                function=context.name,
                event=event.body,
                reason=reason.value,
                attempts=decision.state.attempts,
                outcome=outcome,
                now_ms=context.clock.now_ms(),
            )
        )
        operations = list(operations)
        told = []
        if (dead_letters := context.settings.dead_letter_queue) is not None:
            operations += self._write_dead_letter(event, delivery, dead_letters)
            told.append(str(dead_letters))
        if (destination := self._on_failure(reason)) is not None:
            operations += self._tell(event, delivery, destination)
            told.append(str(destination))
        await self._commit(event, operations)
        context.reporter.discarded(
            event.request_id, decision.state, reason, outcome, failure_id=failure_id, destinations=tuple(told)
        )

    def _on_failure(self, reason: DiscardReason) -> Reference | None:
        """Return where the record goes; a function might be a part of the loop that was just cut."""
        destination = self._context.settings.on_failure
        if reason is DiscardReason.RECURSION and destination is not None and destination.kind == "function":
            return ON_FAILURE
        return destination

    # -- what is written -----------------------------------------------------------------------------------------------

    def _tell(self, event: WaitingEvent, delivery: Delivery, destination: Reference) -> list[Operation]:
        context = self._context
        now_ms = context.clock.now_ms()
        spec = context.function.spec
        record = invocation_record(delivery, function_arn=spec.arn, version=spec.version, now_ms=now_ms)
        return self._dispatch(event, delivery, "record", destination, record, {}, now_ms)

    def _write_dead_letter(self, event: WaitingEvent, delivery: Delivery, queue: Reference) -> list[Operation]:
        now_ms = self._context.clock.now_ms()
        attributes = dead_letter_attributes(delivery)
        return self._dispatch(event, delivery, "dead letter", queue, event.received, attributes, now_ms)

    def _dispatch(
        self,
        event: WaitingEvent,
        delivery: Delivery,
        kind: str,
        destination: Reference,
        payload: bytes,
        attributes: Mapping[str, str],
        now_ms: int,
    ) -> list[Operation]:
        context = self._context
        condition = "" if delivery.reason is None else delivery.reason.value
        place = f"{event_queue(context.name)}/{kind}"
        own = {**attributes, LINEAGE: hand_on_lineage(event.lineage, context.name)}
        dispatch = Dispatch(
            key=dispatch_key("", place, event.request_id, event.request_id, str(destination), condition),
            payload=payload,
            lane=event_queue(context.name),
            place=f"async/{context.name}",
            attributes=hand_on(own, event.traceparent),
            created_ms=now_ms,
        )
        return list(context.router.operations(destination, dispatch))

    async def _commit(self, event: WaitingEvent, operations: Sequence[Operation]) -> None:
        context = self._context
        delete = DeleteMessages(queue=event_queue(context.name), receipts=(event.receipt,), is_required=True)
        writes = [*operations, delete]
        await signals.reach("events.before_store")
        with anyio.move_on_after(SETTLE_GRACE_S, shield=True) as scope:
            results = await context.store.commit(writes)
            context.outbox.added(writes, results)
        if scope.cancelled_caught:
            raise StoreUnavailable(f"the store took longer than {SETTLE_GRACE_S:.0f} s; the event will be tried again")
        await signals.reach("events.after_store")


def _delivery(event: WaitingEvent, decision: EventDecision, outcome: Outcome | None) -> Delivery:
    return Delivery(
        request_id=event.request_id,
        event=event.body,
        attempts=decision.state.attempts,
        reason=decision.reason,
        outcome=outcome,
    )

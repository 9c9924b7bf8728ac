"""Tells what one function does with the events that wait for it: to whoever subscribed, and to `status`."""

from __future__ import annotations

from collections import Counter

from eventcore.delivery.asynchronous import EventState
from eventcore.engine.invocation_record import THROTTLED_MESSAGE
from eventcore.engine.status import FunctionStatus
from eventcore.model import DiscardReason, Outcome, OutcomeKind
from eventcore.telemetry.events import (
    EngineEvent,
    EngineEvents,
    EventDelivered,
    EventDiscarded,
    EventInvoked,
    EventRetried,
    InvocationFinished,
    OutboxBlocked,
    fault_text,
)


class EventReporter:
    """What one function says of its events."""

    def __init__(self, function: str, events: EngineEvents) -> None:
        self._function = function
        self._events = events
        self._invoked = self._delivered = self._retried = self._throttled = self._untold = 0
        self._discarded: Counter[DiscardReason] = Counter()
        self.problem = ""

    def _emit(self, event: EngineEvent) -> None:
        self._events.emit(event)

    def invoked(self, request_id: str, state: EventState) -> None:
        """Tell that the function is about to be invoked."""
        self._invoked += 1
        self._emit(EventInvoked(function=self._function, request_id=request_id, attempt=state.attempts + 1))

    def finished(self, request_id: str, outcome: Outcome) -> None:
        """Tell that an invocation came back."""
        if outcome.kind in {OutcomeKind.SUCCESS, OutcomeKind.FAILURE}:
            self._emit(
                InvocationFinished(
                    mapping="",
                    function=self._function,
                    request_id=request_id,
                    duration_ms=outcome.usage.duration_ms,
                    fault=outcome.fault,
                )
            )

    def delivered(self, request_id: str, state: EventState, destination: str) -> None:
        """Tell that the function has taken an event."""
        self._delivered += 1
        self._emit(
            EventDelivered(
                function=self._function, request_id=request_id, attempt=state.attempts, destination=destination
            )
        )

    def throttled(self) -> None:
        """Count a try that found no room."""
        self._throttled += 1

    def retried(self, request_id: str, state: EventState, delay_s: int, outcome: Outcome) -> None:
        """Tell that an event waits for another try, now that it is durable."""
        fault = outcome.fault
        is_throttled = outcome.kind is OutcomeKind.THROTTLED
        self._retried += outcome.kind is OutcomeKind.FAILURE
        self._emit(
            EventRetried(
                function=self._function,
                request_id=request_id,
                attempt=state.attempts,
                delay_ms=delay_s * 1000,
                error=THROTTLED_MESSAGE if is_throttled and fault is None else fault_text(fault),
                location=fault.location if fault else "",
                is_throttled=is_throttled,
            )
        )

    def discarded(
        self,
        request_id: str,
        state: EventState,
        reason: DiscardReason,
        outcome: Outcome | None,
        *,
        failure_id: str,
        destinations: tuple[str, ...],
    ) -> None:
        """Tell that an event was given up, now that it is durable; without a destination it is counted all the same."""
        self._discarded[reason] += 1
        self._untold += not destinations
        fault = outcome.fault if outcome is not None else None
        self._emit(
            EventDiscarded(
                function=self._function,
                request_id=request_id,
                reason=reason,
                attempt=state.attempts,
                failure_id=failure_id,
                destinations=destinations,
                error=fault_text(fault),
                location=fault.location if fault else "",
            )
        )

    def expired(self, request_id: str) -> None:
        """Tell that an event waited for longer than its queue keeps anything: no engine ran."""
        self.discarded(
            request_id,
            EventState(accepted_ms=0),
            DiscardReason.RECORD_EXPIRED,
            None,
            failure_id="",
            destinations=(),
        )

    def outbox_blocked(self, destination: str) -> None:
        """Tell that a destination has no room, and events wait."""
        self._emit(OutboxBlocked(destination=destination, rows=0, error="", retry_in_ms=0, is_at_bound=True))

    def status(self, running: int) -> FunctionStatus | None:
        """Return a snapshot; None where there never was an event."""
        if not (self._invoked or self._throttled or self._discarded or running or self.problem):
            return None
        return FunctionStatus(
            function=self._function,
            running=running,
            invoked=self._invoked,
            delivered=self._delivered,
            retried=self._retried,
            throttled=self._throttled,
            discarded=dict(self._discarded),
            untold=self._untold,
            problem=self.problem,
        )

"""A circuit breaker: after failed invocations in a row a mapping stops pulling, and tries with one batch now and then.

Pure: it is told what happened, and when. Times are seconds of one steady clock.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import msgspec

from eventcore.delivery.partial import Report
from eventcore.model import Fault, FaultCause, Outcome, OutcomeKind

#: Each probe that fails makes the next pause so many times longer.
PAUSE_FACTOR = 2


class BreakerPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When a mapping's breaker opens, and for how long."""

    failures: int  #: failed invocations in a row
    pause_s: float  #: the first
    pause_max_s: float
    error_types: frozenset[str] = frozenset()  #: failures that count; empty: all


class BreakerState(enum.StrEnum):
    """Whether a mapping pulls."""

    CLOSED = "closed"  #: it does
    OPEN = "open"  #: it does not
    HALF_OPEN = "half-open"  #: one batch, to find out


class Breaker:
    """The breaker of one mapping."""

    def __init__(self, policy: BreakerPolicy) -> None:
        self._policy = policy
        self._failures = 0  #: in a row
        self._pauses = 0  #: since it was closed
        self._is_probing = False  #: the one batch has begun
        self.state = BreakerState.CLOSED
        self.opened_s = 0.0  #: when it left `CLOSED`
        self.probe_s = 0.0  #: while open: when it will be half open

    @property
    def lets_in(self) -> bool:
        """Whether an invocation may begin."""
        return self.state is BreakerState.CLOSED or (self.state is BreakerState.HALF_OPEN and not self._is_probing)

    def begin(self) -> bool:
        """Note that an invocation begins, which `lets_in` allowed; tell whether it is the probe."""
        self._is_probing = self.state is BreakerState.HALF_OPEN
        return self._is_probing

    def end(self, outcome: Outcome, report: Report, record_count: int, now_s: float, *, is_probe: bool) -> bool:
        """Note how an invocation ended; tell whether its failure is no attempt of its records.

        A failure is none once the breaker is open: what its records fail with is the dependency's fault. The one that
        opens it counts.

        Args:
            outcome: what the function returned; RELEASED when it was not called.
            report: which records the outcome names failed, already read from it.
            record_count: how many it was given, and called with.
            now_s: the time.
            is_probe: what `begin` said.
        """
        if is_probe:
            self._is_probing = False
        if outcome.kind in {OutcomeKind.THROTTLED, OutcomeKind.RELEASED}:
            return False
        is_whole = outcome.kind is OutcomeKind.FAILURE or report.is_unusable or 0 < record_count == len(report.failed)
        faults = _faults(outcome, report) if is_whole else ()
        told = [fault for fault in faults if fault is None or fault.cause is not FaultCause.UNDECODABLE]
        if faults and not told:
            # The function did nothing with any of them: nothing was learnt of what it needs.
            return False
        if is_whole and any(map(self._counts, told)):
            return self._fail(now_s, is_probe=is_probe)
        if is_probe:
            self.close()
        elif outcome.kind is OutcomeKind.SUCCESS and self.state is BreakerState.CLOSED:
            self._failures = 0
        return False

    def half_open(self) -> None:
        """Let one batch in; its pause is over."""
        if self.state is BreakerState.OPEN:
            self.state = BreakerState.HALF_OPEN

    def close(self) -> None:
        """Pull again as if nothing had failed."""
        self.state = BreakerState.CLOSED
        self._failures = self._pauses = 0
        self._is_probing = False

    def _fail(self, now_s: float, *, is_probe: bool) -> bool:
        was_closed = self.state is BreakerState.CLOSED
        if was_closed:
            self._failures += 1
            if self._failures < self._policy.failures:
                return False
            self.opened_s = now_s
        if was_closed or is_probe:
            # 2**40 pauses are past any bound; a dependency may be down for weeks.
            pause_s = self._policy.pause_s * PAUSE_FACTOR ** min(self._pauses, 40)
            self.probe_s = now_s + min(pause_s, self._policy.pause_max_s)
            self._pauses += 1
            self.state = BreakerState.OPEN
        return not was_closed

    def _counts(self, fault: Fault | None) -> bool:
        """Tell whether what a record of a batch failed with counts, when the whole batch did."""
        types = self._policy.error_types
        return not types or (fault is not None and fault.error_type in types)


def _faults(outcome: Outcome, report: Report) -> Sequence[Fault | None]:
    """Return what the records of a batch failed with that failed as a whole: at least one."""
    if outcome.kind is OutcomeKind.FAILURE or report.is_unusable or not outcome.faults:
        return (outcome.fault,)
    return [outcome.fault_of(index) for index in report.failed]

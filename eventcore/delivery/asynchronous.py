"""What becomes of an event that waits for its function: tried, tried again, delivered or given up.

Pure: no await, no I/O, no clock. Failures of the function are tried again after one and after two minutes; what keeps
the function from running (no room, a system error) uses up no attempts and is tried again after 1 s, doubling to 5
minutes. The age limit is looked at ahead: an event whose next try would come too late is given up now.

Source: Lambda semantics §2; §12 (recorded: throttles double from 1 s, the look-ahead applies to them too).
"""

from __future__ import annotations

import enum

import msgspec

from eventcore.model import DiscardReason, OutcomeKind

#: Pauses before the second and the third invocation, seconds.
RETRY_PAUSES_S = (60, 120)
#: The first pause after a try that found no room, and the longest, seconds.
THROTTLE_FIRST_S = 1
THROTTLE_MAX_S = 300
#: An event whose invocation was begun this often and never came back is given up: the engine died in it.
BEGUN_MAX = 3
#: After so many it is invoked as the only such one of its engine: the next death is to be of its own making.
SUSPECT_BEGUN = BEGUN_MAX - 1


class EventRetry(msgspec.Struct, frozen=True, kw_only=True):
    """When an event is given up. Source: Lambda semantics §2."""

    maximum_retry_attempts: int = 2  #: 0-2, after the first invocation
    maximum_event_age_in_seconds: int = 21_600  #: 60-21,600, counted from when it was accepted


class EventState(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of an event between its tries."""

    accepted_ms: int  #: wall time
    attempts: int = 0  #: invocations that came back failed
    throttles: int = 0  #: tries since the last invocation that found no room


class EventVerdict(enum.StrEnum):
    """What happens to an event."""

    DELIVERED = "delivered"
    RETRY = "retry"  #: again, after `EventDecision.delay_s`
    DISCARD = "discard"  #: given up, with a reason


class EventDecision(msgspec.Struct, frozen=True, kw_only=True):
    """The decision on an event."""

    verdict: EventVerdict
    state: EventState
    delay_s: int = 0  #: for RETRY
    reason: DiscardReason | None = None  #: for DISCARD


def decide_before(
    state: EventState, retry: EventRetry, *, concurrency: int, begun: int, is_recursive: bool, now_ms: int
) -> EventDecision | None:
    """Return what happens to an event without a try, or None when it is to be tried.

    Args:
        state: of the event.
        retry: the function's limits.
        concurrency: how many invocations the function may have at all; 0: none (`ZeroReservedConcurrency`).
        begun: how often this try was begun before and never came back.
        is_recursive: it went through its function too often in one chain (§2.3).
        now_ms: wall time.
    """
    reason: DiscardReason | None = None
    if is_recursive:
        reason = DiscardReason.RECURSION
    elif concurrency == 0:
        reason = DiscardReason.ZERO_RESERVED_CONCURRENCY
    elif begun >= BEGUN_MAX:
        reason = DiscardReason.ENGINE_CRASH
    elif _is_too_late(state, retry, now_ms):
        reason = DiscardReason.EVENT_AGE_EXCEEDED
    return None if reason is None else EventDecision(verdict=EventVerdict.DISCARD, state=state, reason=reason)


def decide_after(state: EventState, retry: EventRetry, kind: OutcomeKind, *, now_ms: int) -> EventDecision:
    """Return what happens to an event after a try.

    Args:
        state: before the try.
        retry: the function's limits.
        kind: of what came back; THROTTLED also for a system error.
        now_ms: wall time.
    """
    if kind is OutcomeKind.RELEASED:
        return EventDecision(verdict=EventVerdict.RETRY, state=state)
    if kind is OutcomeKind.THROTTLED:
        throttled = msgspec.structs.replace(state, throttles=state.throttles + 1)
        return _again(throttled, retry, throttle_pause_s(throttled.throttles), now_ms)
    tried = msgspec.structs.replace(state, attempts=state.attempts + 1, throttles=0)
    if kind is OutcomeKind.SUCCESS:
        return EventDecision(verdict=EventVerdict.DELIVERED, state=tried)
    if tried.attempts > retry.maximum_retry_attempts:
        return EventDecision(verdict=EventVerdict.DISCARD, state=tried, reason=DiscardReason.RETRIES_EXHAUSTED)
    return _again(tried, retry, RETRY_PAUSES_S[tried.attempts - 1], now_ms)


def throttle_pause_s(throttles: int) -> int:
    """Return the pause after so many tries in a row that found no room, seconds."""
    # 2**9 s is past the longest pause: the power stays small for an event that waits for hours.
    return min(THROTTLE_MAX_S, THROTTLE_FIRST_S << min(throttles - 1, 9))


def _again(state: EventState, retry: EventRetry, pause_s: int, now_ms: int) -> EventDecision:
    if _is_too_late(state, retry, now_ms + pause_s * 1000):
        return EventDecision(verdict=EventVerdict.DISCARD, state=state, reason=DiscardReason.EVENT_AGE_EXCEEDED)
    return EventDecision(verdict=EventVerdict.RETRY, state=state, delay_s=pause_s)


def _is_too_late(state: EventState, retry: EventRetry, at_ms: int) -> bool:
    return at_ms - state.accepted_ms >= retry.maximum_event_age_in_seconds * 1000

"""What becomes of an event after each try (Lambda semantics §2, §12)."""

from __future__ import annotations

import pytest

from eventcore.delivery.asynchronous import (
    BEGUN_MAX,
    EventRetry,
    EventState,
    EventVerdict,
    decide_after,
    decide_before,
    throttle_pause_s,
)
from eventcore.model import DiscardReason, OutcomeKind

NEW = EventState(accepted_ms=1_000_000)


def _try_until_given_up(kind: OutcomeKind, retry: EventRetry) -> tuple[list[int], DiscardReason | None, int]:
    """Return when it was tried, seconds, why it was given up, and the attempts that it took."""
    state, now_ms, tried = NEW, NEW.accepted_ms, []
    while True:
        tried.append((now_ms - NEW.accepted_ms) // 1000)
        decision = decide_after(state, retry, kind, now_ms=now_ms)
        if decision.verdict is EventVerdict.DISCARD:
            return tried, decision.reason, decision.state.attempts
        state, now_ms = decision.state, now_ms + decision.delay_s * 1000


@pytest.mark.parametrize(
    ("kind", "retries", "age_s", "tried", "reason"),
    [
        (OutcomeKind.FAILURE, 2, 21_600, [0, 60, 180], DiscardReason.RETRIES_EXHAUSTED),
        (OutcomeKind.FAILURE, 1, 21_600, [0, 60], DiscardReason.RETRIES_EXHAUSTED),
        (OutcomeKind.FAILURE, 2, 60, [0], DiscardReason.EVENT_AGE_EXCEEDED),
        (OutcomeKind.FAILURE, 2, 90, [0, 60], DiscardReason.EVENT_AGE_EXCEEDED),
        (OutcomeKind.THROTTLED, 0, 60, [0, 1, 3, 7, 15, 31], DiscardReason.EVENT_AGE_EXCEEDED),
        (OutcomeKind.THROTTLED, 2, 90, [0, 1, 3, 7, 15, 31, 63], DiscardReason.EVENT_AGE_EXCEEDED),
    ],
)
def test_the_tries_and_the_end(
    kind: OutcomeKind, retries: int, age_s: int, tried: list[int], reason: DiscardReason
) -> None:
    retry = EventRetry(maximum_retry_attempts=retries, maximum_event_age_in_seconds=age_s)
    found = _try_until_given_up(kind, retry)
    assert found[:2] == (tried, reason)
    assert found[2] == (len(tried) if kind is OutcomeKind.FAILURE else 0)


def test_pauses_of_throttles_end_at_five_minutes() -> None:
    assert [throttle_pause_s(count) for count in (1, 2, 9, 10, 11, 10_000)] == [1, 2, 256, 300, 300, 300]
    tried, _, _ = _try_until_given_up(OutcomeKind.THROTTLED, EventRetry())
    assert tried[-1] < 21_600 <= tried[-1] + 300


def test_an_invocation_ends_a_row_of_throttles() -> None:
    throttled = decide_after(NEW, EventRetry(), OutcomeKind.THROTTLED, now_ms=NEW.accepted_ms).state
    assert (throttled.throttles, throttled.attempts) == (1, 0)
    failed = decide_after(throttled, EventRetry(), OutcomeKind.FAILURE, now_ms=NEW.accepted_ms).state
    assert (failed.throttles, failed.attempts) == (0, 1)


def test_what_was_released_is_tried_again_as_it_was() -> None:
    decision = decide_after(NEW, EventRetry(), OutcomeKind.RELEASED, now_ms=NEW.accepted_ms)
    assert (decision.verdict, decision.state, decision.delay_s) == (EventVerdict.RETRY, NEW, 0)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({}, None),
        ({"is_recursive": True, "concurrency": 0}, DiscardReason.RECURSION),
        ({"concurrency": 0, "begun": BEGUN_MAX}, DiscardReason.ZERO_RESERVED_CONCURRENCY),
        ({"begun": BEGUN_MAX - 1}, None),
        ({"begun": BEGUN_MAX}, DiscardReason.ENGINE_CRASH),
        ({"now_ms": NEW.accepted_ms + 59_999}, None),
        ({"now_ms": NEW.accepted_ms + 60_000}, DiscardReason.EVENT_AGE_EXCEEDED),
    ],
)
def test_what_is_given_up_without_a_try(facts: dict[str, int], reason: DiscardReason | None) -> None:
    usual = {"concurrency": 10, "begun": 0, "is_recursive": False, "now_ms": NEW.accepted_ms}
    retry = EventRetry(maximum_event_age_in_seconds=60)
    decision = decide_before(NEW, retry, **{**usual, **facts})
    assert (decision.reason if decision is not None else None) == reason

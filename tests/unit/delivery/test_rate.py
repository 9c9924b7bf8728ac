"""The token bucket: a second's worth at once, then the rate, whatever the batches' sizes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventcore.delivery.rate import BURST_S, RateLimit


def test_a_seconds_worth_comes_at_once_and_then_the_rate() -> None:
    limit = RateLimit(10)
    begins = [limit.reserve(1, 0.0) for _ in range(13)]
    assert begins == pytest.approx([0.0] * 10 + [0.1, 0.2, 0.3])


def test_a_batch_larger_than_the_bucket_is_paid_for_afterwards() -> None:
    limit = RateLimit(10)
    assert [limit.reserve(100, 0.0) for _ in range(3)] == pytest.approx([0.0, 9.1, 19.1])


def test_a_rest_fills_the_bucket_and_no_more() -> None:
    limit = RateLimit(10)
    limit.reserve(10, 0.0)
    assert limit.room(0.5, 0.0) == 5
    assert limit.room(1000.0, 0.0) == 10


def test_a_slow_rate_lets_one_through_at_once() -> None:
    limit = RateLimit(0.01)
    assert limit.room(0.0, 0.0) == 1
    assert [limit.reserve(1, 0.0) for _ in range(2)] == pytest.approx([0.0, 100.0])


@given(st.floats(0.01, 1e5), st.lists(st.tuples(st.integers(1, 50), st.floats(0, 20)), min_size=1, max_size=40))
def test_the_rate_holds_over_any_span(rate: float, batches: list[tuple[int, float]]) -> None:
    """Within any span there begins at most what the rate allows in it, the bucket, and one batch in debt."""
    limit, now_s = RateLimit(rate), 0.0
    begun: list[tuple[float, int]] = []
    for count, pause_s in batches:
        now_s += pause_s
        begun.append((limit.reserve(count, now_s), count))
        assert begun[-1][0] >= now_s
    assert [at_s for at_s, _ in begun] == sorted(at_s for at_s, _ in begun)
    largest = max(count for count, _ in batches)
    for first, (start_s, _) in enumerate(begun):
        for last in range(first, len(begun)):
            span_s = begun[last][0] - start_s
            total = sum(count for _, count in begun[first : last + 1])
            assert total <= rate * (span_s + max(BURST_S, 1 / rate)) + largest + 1e-6 * total


@given(st.floats(0.01, 1e4), st.integers(1, 100), st.integers(1, 50), st.floats(0, 10))
def test_room_comes_when_it_is_said_to(rate: float, reserved: int, wanted: int, within_s: float) -> None:
    limit = RateLimit(rate)
    limit.reserve(reserved, 0.0)
    at_s = limit.room_s(wanted, within_s)
    if at_s > 0:
        assert limit.room(at_s + 1e-6 + at_s * 1e-9, within_s) >= min(wanted, int(rate * (BURST_S + within_s)))
        assert limit.room(at_s * (1 - 1e-6) - 1e-3 / rate, within_s) < wanted

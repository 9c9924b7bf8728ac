"""When a lease is lengthened (design §12, issue §2; Lambda semantics §3.2)."""

from __future__ import annotations

import pytest

from eventcore.delivery.visibility import EXTENSION_MARGIN_S, extension_s, renew_at_ms


def _extension_s(
    now_s: float, *, hidden_until_s: float = 30, deadline_s: float = 100, timeout_s: int = 100, visibility_s: int = 30
) -> int:
    return extension_s(
        received_ms=0,
        hidden_until_ms=int(hidden_until_s * 1000),
        deadline_ms=int(deadline_s * 1000),
        timeout_s=timeout_s,
        visibility_timeout_s=visibility_s,
        now_ms=int(now_s * 1000),
    )


def test_a_lease_that_outlasts_the_deadline_is_left_alone() -> None:
    """So that a failed message comes back exactly at its visibility timeout."""
    assert _extension_s(20, deadline_s=30) == 0
    assert _extension_s(20, deadline_s=3) == 0


def test_a_lease_that_ends_before_the_deadline_is_lengthened_by_one_visibility_timeout() -> None:
    """So that an engine that dies leaves the message for no longer than that."""
    assert _extension_s(20) == 30


def test_a_lease_that_has_ended_is_not_lengthened() -> None:
    """The message may have another owner."""
    assert _extension_s(30) == 0
    assert _extension_s(31) == 0


def test_no_lease_goes_past_the_timeout_and_its_margin() -> None:
    """Issue §2: to at most `timeout` + 60 s after the receive."""
    end_s = 100 + EXTENSION_MARGIN_S
    assert _extension_s(145, hidden_until_s=150, deadline_s=400) == end_s - 145
    assert _extension_s(145.5, hidden_until_s=150, deadline_s=400) == end_s - 146
    assert _extension_s(159, hidden_until_s=159.5, deadline_s=400) == 1
    assert _extension_s(159.9, hidden_until_s=160, deadline_s=400) == 0


@pytest.mark.parametrize(("visibility_s", "renew_s"), [(30, 20), (3, 2), (1, 0.667), (0, 0)])
def test_it_is_lengthened_when_a_third_is_left(visibility_s: int, renew_s: float) -> None:
    assert renew_at_ms(hidden_until_ms=visibility_s * 1000, visibility_timeout_s=visibility_s) == renew_s * 1000

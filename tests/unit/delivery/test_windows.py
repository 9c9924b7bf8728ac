"""Tumbling windows, pure: bounds, whose records are whose, states, what becomes of a final call (§4, §12)."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventcore.delivery.decide import MARKS_MIN
from eventcore.delivery.ordering import Part, ShardState, Window, decode_window, encode_state, encode_window
from eventcore.delivery.retry import StreamRetry
from eventcore.delivery.windows import (
    STATE_BYTES_MAX,
    BadState,
    count_inside,
    decide_before_final,
    decide_final,
    hand_on,
    open_window,
    read_state,
    view,
)
from eventcore.engine.event_value import window_keys
from eventcore.model import DiscardReason, Outcome, OutcomeKind, Record

WINDOW = Window(start_ms=10_000, end_ms=20_000)
FAILED = Outcome(kind=OutcomeKind.FAILURE)


def at(arrived_ms: int) -> Record:
    return Record(position=0, body=b"", arrived_ms=arrived_ms)


@given(st.integers(0, 2**45), st.integers(1, 900))
def test_a_window_holds_the_record_that_opens_it_and_its_bounds_are_multiples(arrived_ms: int, length_s: int) -> None:
    """windows/bounds-are-multiples-of-the-length."""
    window = open_window(at(arrived_ms), length_s)
    assert window.start_ms <= arrived_ms < window.end_ms
    assert window.end_ms - window.start_ms == length_s * 1000
    assert window.start_ms % (length_s * 1000) == 0


@given(st.lists(st.integers(0, 40_000), max_size=20))
def test_records_up_to_the_first_of_a_later_window_belong_to_it(times: list[int]) -> None:
    count = count_inside([at(time) for time in times], WINDOW)
    assert all(time < WINDOW.end_ms for time in times[:count])
    assert count == len(times) or times[count] >= WINDOW.end_ms


def test_a_record_from_before_the_window_belongs_to_it() -> None:
    """A clock was set back: windows never go back."""
    assert count_inside([at(15_000), at(3), at(19_999)], WINDOW) == 3


def test_keys_of_the_event_stand_as_recorded() -> None:
    window = msgspec.structs.replace(WINDOW, state=b'{"count": 2}', is_early=True)
    assert window_keys(view(window), "s", "arn") == {
        "shardId": "s",
        "eventSourceARN": "arn",
        "window": {"start": "1970-01-01T00:00:10Z", "end": "1970-01-01T00:00:20Z"},
        "state": {"count": 2},
        "isFinalInvokeForWindow": False,
        "isWindowTerminatedEarly": False,
    }
    final = window_keys(view(window, is_final=True), "s", "arn")
    assert (final["isFinalInvokeForWindow"], final["isWindowTerminatedEarly"]) == (True, True)


@pytest.mark.parametrize(
    "response",
    [b"null", b"", b"[]", b"{}", b'"x"', b'{"state": null}', b'{"state": 1}', b'{"state": [1]}', b"{", b"\xff"],
)
def test_without_an_object_state_there_is_none(response: bytes) -> None:
    with pytest.raises(BadState):
        read_state(response)


def test_a_deep_state_is_read_or_refused() -> None:
    with pytest.raises(BadState):
        read_state(b'{"state": {"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}")


def test_a_state_of_a_megabyte_stays_and_one_byte_more_ends_the_window() -> None:
    fits = b'{"a":"' + b"x" * (STATE_BYTES_MAX - 8) + b'"}'
    assert read_state(b'{"batchItemFailures": [], "state": ' + fits + b"}") == fits
    assert not hand_on(WINDOW, fits).is_early
    assert hand_on(WINDOW, fits + b" ").is_early


def test_a_final_call_has_one_more_invocation_than_retries() -> None:
    policy = StreamRetry(maximum_retry_attempts=2)
    window: Window | None = WINDOW
    for attempt in (1, 2):
        assert window is not None
        decision = decide_final(window, FAILED, policy, now_ms=1_000 * attempt, jitter=0.5)
        window = decision.window
        assert window is not None
        assert (window.final.attempt, window.final.first_failure_ms) == (attempt, 1000)
        assert decision.delay_ms == 200 * attempt
    decision = decide_final(window, FAILED, policy, now_ms=5_000, jitter=0.5)
    assert (decision.window, decision.reason) == (None, DiscardReason.RETRY_ATTEMPTS_EXHAUSTED)


def test_success_ends_a_window_and_a_throttle_changes_nothing() -> None:
    policy = StreamRetry()
    done = decide_final(WINDOW, Outcome(kind=OutcomeKind.SUCCESS), policy, now_ms=0, jitter=0)
    assert (done.window, done.reason) == (None, None)
    for kind in (OutcomeKind.THROTTLED, OutcomeKind.RELEASED):
        assert decide_final(WINDOW, Outcome(kind=kind), policy, now_ms=0, jitter=0).window == WINDOW


def test_a_final_call_is_as_old_as_its_failures_and_no_pause_outlasts_that() -> None:
    policy = StreamRetry(maximum_record_age_in_seconds=60)
    failing = msgspec.structs.replace(WINDOW, final=Part(last=-1, attempt=20, first_failure_ms=1_000))
    assert decide_before_final(failing, policy, now_ms=61_000) is None
    late = decide_before_final(failing, policy, now_ms=61_001)
    assert late is not None
    assert late.reason is DiscardReason.RECORD_AGE_EXCEEDED
    assert decide_final(failing, FAILED, policy, now_ms=60_000, jitter=0.5).delay_ms == 1_001
    assert decide_before_final(WINDOW, policy, now_ms=10**12) is None


def test_a_final_call_that_ends_the_engine_each_time_is_given_up() -> None:
    """Design §3: a mark that the next owner finds."""
    marked = msgspec.structs.replace(WINDOW, final=Part(last=-1, marks=MARKS_MIN))
    decision = decide_before_final(marked, StreamRetry(), now_ms=0)
    assert decision is not None
    assert decision.reason is DiscardReason.ENGINE_CRASH
    assert decide_before_final(marked, StreamRetry(maximum_retry_attempts=9), now_ms=0) is None


def test_a_window_is_kept_beside_the_state_for_its_own_checkpoint_alone() -> None:
    window = msgspec.structs.replace(WINDOW, state=b'{"a":1}', final=Part(last=-1, attempt=2, request_id="r"))
    note = encode_window(7, window)
    assert decode_window(note, 7) == window
    assert decode_window(note, 8) is None
    assert decode_window(encode_window(7, None), 7) is None
    assert decode_window(None, 7) is None
    assert encode_state(ShardState(window=window)) == ""

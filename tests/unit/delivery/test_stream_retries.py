"""A stream's failing batch: attempts, pauses, ages, throttles, crashes (Lambda semantics §4, §5.1, §12; design §3)."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from eventcore.delivery.decide import (
    FINAL_CAUSES,
    MARKS_MIN,
    decide_before_stream,
    decide_recursive,
    decide_skip,
    decide_stream,
    find_mark,
)
from eventcore.delivery.ordering import EMPTY, Part, ShardState, Window
from eventcore.delivery.partial import SUCCESS
from eventcore.delivery.retry import BACKOFF_MAX_S, StreamRetry, backoff_ms
from eventcore.model import DiscardReason, FaultCause, Outcome, OutcomeKind, VerdictKind
from tests.unit.delivery.naive_shard import NaiveShard, make_records, raised, raises_for, reported, reports, unusable

RETRIES_EXHAUSTED = DiscardReason.RETRY_ATTEMPTS_EXHAUSTED


@pytest.mark.parametrize("retries", [0, 1, 2, 3, 10])
def test_invocations_are_one_more_than_the_retries(retries: int) -> None:
    """§4 "Errors" (recorded): 1 + MaximumRetryAttempts; trap 17."""
    shard = NaiveShard(make_records(3), StreamRetry(maximum_retry_attempts=retries)).run(raises_for(2))
    assert shard.invocations == [[1, 2, 3]] * (retries + 1)
    assert shard.discarded == dict.fromkeys([1, 2, 3], RETRIES_EXHAUSTED)


def test_without_limits_a_batch_is_retried_until_it_succeeds() -> None:
    """§4: -1 is for ever."""
    answers = itertools.chain([raised()] * 500, itertools.repeat(reported()))
    shard = NaiveShard(make_records(2)).run(lambda _: next(answers))
    assert len(shard.invocations) == 501
    assert shard.settled == [1, 2]


@pytest.mark.parametrize("cause", list(FaultCause))
def test_however_the_function_fails_it_costs_one_attempt(cause: FaultCause) -> None:
    """§4: function error; only what no retry would change is not tried again."""
    shard = NaiveShard(make_records(1), StreamRetry(maximum_retry_attempts=1)).run(lambda _: raised(cause))
    assert len(shard.invocations) == (1 if cause in FINAL_CAUSES else 2)
    assert shard.discarded[1] is FINAL_CAUSES.get(cause, RETRIES_EXHAUSTED)


def test_unchanged_retries_wait_longer_each_time_up_to_a_minute() -> None:
    """§12: the first unchanged retry waits 0.19-0.27 s, the second 0.39 s; design §12: doubling, at most 60 s."""
    shard = NaiveShard(make_records(1), StreamRetry(maximum_retry_attempts=12)).run(raises_for(1))
    pauses = [later - earlier for earlier, later in itertools.pairwise(shard.times_ms)]
    assert pauses[:3] == [200, 400, 800]
    assert pauses == sorted(pauses)
    assert pauses[-1] == BACKOFF_MAX_S * 1000


@pytest.mark.parametrize(("jitter", "pause_ms"), [(0.0, 160), (0.5, 200), (0.999, 239)])
def test_pauses_are_spread_by_a_fifth(jitter: float, pause_ms: int) -> None:
    """Design §12: 0.2 s, ±20 %, which holds the recorded 0.19-0.24 s."""
    assert backoff_ms(1, jitter) == pause_ms


def test_a_pause_never_exceeds_its_maximum_even_when_spread() -> None:
    assert backoff_ms(30, 0.999) == BACKOFF_MAX_S * 1000
    assert backoff_ms(1_000_000, 0.5) == BACKOFF_MAX_S * 1000


def test_an_unchanged_retry_keeps_its_request_id_and_first_failure() -> None:
    """§12: unchanged retries keep the request id; design §3: the first failure is kept with them."""
    records = make_records(2)
    parts = [Part(last=2, request_id="a")]
    first = decide_stream(records, parts, *raised(), StreamRetry(), now_ms=1_000, jitter=0.5)
    second = decide_stream(records, first.state.parts, *raised(), StreamRetry(), now_ms=9_000, jitter=0.5)
    (part,) = second.state.parts
    assert part == Part(last=2, attempt=2, first_failure_ms=1_000, request_id="a")


@pytest.mark.parametrize("kind", [OutcomeKind.THROTTLED, OutcomeKind.RELEASED])
def test_what_ended_before_the_handler_ran_costs_nothing(kind: OutcomeKind) -> None:
    """§4: service errors and throttles before invocation do not use up attempts."""
    parts = (Part(last=3, attempt=2, first_failure_ms=5, request_id="a"), Part(last=9))
    policy = StreamRetry(maximum_retry_attempts=2, bisect_batch_on_function_error=True)
    decision = decide_stream(make_records(3), parts, Outcome(kind=kind), SUCCESS, policy, now_ms=9, jitter=0.5)
    assert [run.verdict.kind for run in decision.runs] == [VerdictKind.RELEASE]
    assert decision.state == ShardState(parts=parts)
    assert decision.settled_count == 0


def test_a_full_success_leaves_nothing_behind() -> None:
    decision = decide_stream(
        make_records(3), [Part(last=3, attempt=4)], *reported(), StreamRetry(), now_ms=0, jitter=0.5
    )
    assert decision.state == EMPTY
    assert decision.settled_count == 3
    assert decision.delay_ms == 0


# -- reports -----------------------------------------------------------------------------------------------------------


def test_a_report_settles_what_is_before_its_lowest_record() -> None:
    """§4: the checkpoint is the lowest number that was returned, everything behind it comes again; trap 19."""
    shard = NaiveShard(make_records(4), StreamRetry(maximum_retry_attempts=0))
    shard.step(lambda _: reported(1, 3))
    assert shard.settled == [1]
    assert [record.position for record in shard.batch()] == [2, 3, 4]


def test_a_shortened_batch_has_a_budget_and_a_request_id_of_its_own() -> None:
    """§4 (recorded): the retry budget counts from the shortened batch; §12: it goes at once."""
    records = make_records(6)
    parts = [Part(last=6, attempt=3, request_id="a", first_failure_ms=1)]
    decision = decide_stream(records, parts, *reported(5), StreamRetry(maximum_retry_attempts=3), now_ms=50, jitter=0.5)
    assert decision.state.parts == (Part(last=6),)
    assert decision.delay_ms == 0
    assert decision.runs[-1].verdict.at_ms == 50


def test_record_6_of_6_is_delivered_five_times() -> None:
    """§4 (recorded): batches of 3, 3 retries, record 6 always reported: `[4,5,6]`, then `[6]` four times."""
    policy = StreamRetry(maximum_retry_attempts=3)
    shard = NaiveShard(make_records(6), policy, batch_size=3).run(reports(6))
    assert shard.invocations == [[1, 2, 3], [4, 5, 6], [6], [6], [6], [6]]
    assert shard.discarded == {6: RETRIES_EXHAUSTED}


def test_without_bisect_a_report_gives_up_the_good_records_behind_the_bad_one() -> None:
    """§12 "partial reports"."""
    shard = NaiveShard(make_records(4), StreamRetry(maximum_retry_attempts=1)).run(reports(2))
    assert shard.invocations == [[1, 2, 3, 4], [2, 3, 4], [2, 3, 4]]
    assert shard.discarded == dict.fromkeys([2, 3, 4], RETRIES_EXHAUSTED)
    assert shard.settled == [1]


def test_an_unusable_report_fails_the_whole_batch() -> None:
    """§3.1 "Partial response parsing"; trap 11."""
    shard = NaiveShard(make_records(2), StreamRetry(maximum_retry_attempts=2)).run(lambda _: unusable())
    assert shard.invocations == [[1, 2]] * 3
    assert list(shard.discarded) == [1, 2]


# -- bisect ------------------------------------------------------------------------------------------------------------

BISECT = StreamRetry(maximum_retry_attempts=1, bisect_batch_on_function_error=True)


def test_a_raising_handler_is_bisected_in_the_recorded_order() -> None:
    """§12 "bisect": `[1,2,3,4] [1,2] [1] [2] [2] [3,4]`."""
    shard = NaiveShard(make_records(4), BISECT).run(raises_for(2))
    assert shard.invocations == [[1, 2, 3, 4], [1, 2], [1], [2], [2], [3, 4]]
    assert shard.discarded == {2: RETRIES_EXHAUSTED}
    assert shard.settled == [1, 3, 4]


def test_a_report_is_bisected_in_the_recorded_order() -> None:
    """§12 "bisect": `[1,2,3,4] [2,3,4] [2] [2] [3,4]`: a report of the batch's own head splits it at once."""
    shard = NaiveShard(make_records(4), BISECT).run(reports(2))
    assert shard.invocations == [[1, 2, 3, 4], [2, 3, 4], [2], [2], [3, 4]]
    assert shard.discarded == {2: RETRIES_EXHAUSTED}


def test_only_the_unchanged_repeat_waits() -> None:
    """§12 "retry spacing": shortened or split batches follow at once."""
    shard = NaiveShard(make_records(4), BISECT).run(raises_for(2))
    pauses = [later - earlier for earlier, later in itertools.pairwise(shard.times_ms)]
    assert pauses == [0, 0, 0, 200, 0]


def test_an_unusable_report_is_halved_like_an_exception() -> None:
    """§4: with bisect an exception means plain halving."""
    shard = NaiveShard(make_records(4), BISECT)
    shard.step(lambda _: unusable())
    assert [record.position for record in shard.batch()] == [1, 2]


def test_bisect_without_retries_still_isolates_the_record() -> None:
    """§4, trap 18: splitting does not consume the retry quota, not even one of 0."""
    policy = StreamRetry(maximum_retry_attempts=0, bisect_batch_on_function_error=True)
    shard = NaiveShard(make_records(100), policy).run(raises_for(37))
    assert shard.discarded == {37: RETRIES_EXHAUSTED}
    assert shard.invocations.count([37]) == 1


# -- age and size ------------------------------------------------------------------------------------------------------


def test_the_head_that_is_too_old_is_cut_off_before_the_invocation() -> None:
    """§4: the age is checked per record before invoking; younger ones proceed."""
    old, young = make_records(2, arrived_ms=0), make_records(4, arrived_ms=50_000)[2:]
    policy = StreamRetry(maximum_record_age_in_seconds=60)
    shard = NaiveShard([*old, *young], policy, now_ms=60_001).run(lambda _: reported())
    assert shard.discarded == dict.fromkeys([1, 2], DiscardReason.RECORD_AGE_EXCEEDED)
    assert shard.invocations == [[3, 4]]


def test_a_record_exactly_at_the_age_limit_is_still_invoked() -> None:
    shard = NaiveShard(make_records(1), StreamRetry(maximum_record_age_in_seconds=60), now_ms=60_000)
    assert shard.run(lambda _: reported()).invocations == [[1]]


def test_a_failing_record_is_invoked_until_it_is_too_old() -> None:
    """§4: an age limit of 60 s ends a batch without a limit of retries."""
    shard = NaiveShard(make_records(1), StreamRetry(maximum_record_age_in_seconds=60)).run(raises_for(1))
    assert shard.discarded == {1: DiscardReason.RECORD_AGE_EXCEEDED}
    # 0.2 s, doubled each time, passes 60 s with the ninth pause.
    assert len(shard.invocations) == 9


def test_a_record_that_alone_is_too_large_is_given_up_without_an_invocation() -> None:
    """§5.1: `MaximumPayloadSizeExceeded`."""
    records = make_records(1, size_bytes=101)
    shard = NaiveShard(records, event_bytes_max=100).run(lambda _: reported())
    assert shard.discarded == {1: DiscardReason.MAXIMUM_PAYLOAD_SIZE_EXCEEDED}
    assert shard.invocations == []
    assert NaiveShard(make_records(1, size_bytes=100), event_bytes_max=100).run(lambda _: reported()).settled == [1]


def test_an_undecodable_record_is_given_up_and_the_rest_goes_on() -> None:
    """Issue §6: a discard `Undecodable`, not a crash, not a loss, and no retry."""

    def decode(positions: list[int]) -> tuple[Outcome, object]:
        _, report = reports(3)(positions)
        return Outcome(kind=OutcomeKind.SUCCESS, fault=raised(FaultCause.UNDECODABLE)[0].fault), report

    shard = NaiveShard(make_records(5), StreamRetry(maximum_retry_attempts=5))
    shard.step(decode)
    assert shard.settled == [1, 2]
    assert shard.discarded == {3: DiscardReason.UNDECODABLE}
    assert shard.decisions[0].runs[-1].verdict.at_ms == shard.now_ms
    assert shard.run(raises_for()).invocations == [[1, 2, 3, 4, 5], [4, 5]]


# -- the engine's own death --------------------------------------------------------------------------------------------


def _deaths_until_discarded(shard: NaiveShard, killer: int) -> int:
    deaths = 0
    while killer not in shard.discarded:
        batch = shard.batch()
        parts = shard.state.parts or (Part(last=batch[-1].position),)
        is_invoked = decide_before_stream(batch, parts, shard.policy, now_ms=0, event_bytes_max=0) is None
        if is_invoked and killer in [record.position for record in batch]:
            deaths += 1
            shard.die()
        else:
            shard.step(lambda _: reported())
    return deaths


@pytest.mark.parametrize(("retries", "deaths"), [(-1, 3), (0, 3), (2, 3), (3, 4), (9, 10)])
def test_a_record_that_ends_the_engine_is_discarded_at_last(retries: int, deaths: int) -> None:
    """Design §3: at max(3, attempts allowed) marks, as `EngineCrash`."""
    shard = NaiveShard(make_records(1), StreamRetry(maximum_retry_attempts=retries))
    assert _deaths_until_discarded(shard, 1) == deaths >= MARKS_MIN
    assert shard.discarded == {1: DiscardReason.ENGINE_CRASH}


@pytest.mark.parametrize("bisects", [True, False])
def test_a_record_that_ends_the_engine_takes_no_other_with_it(bisects: bool) -> None:
    """Design §3: the record is discarded, not its batch."""
    policy = StreamRetry(maximum_retry_attempts=1, bisect_batch_on_function_error=bisects)
    shard = NaiveShard(make_records(16), policy)
    _deaths_until_discarded(shard, 11)
    shard.run(lambda _: reported())
    assert shard.discarded == {11: DiscardReason.ENGINE_CRASH}
    assert len(shard.settled) == 15


def test_a_mark_is_counted_apart_from_attempts() -> None:
    """Design §3: a mark that the next owner finds is no attempt, and an invocation that comes back clears it."""
    shard = NaiveShard(make_records(1), StreamRetry(maximum_retry_attempts=1))
    shard.die()
    shard.die()
    assert shard.state.parts[0] == Part(last=1, marks=2)
    shard.step(raises_for(1))
    assert (shard.state.parts[0].attempt, shard.state.parts[0].marks) == (1, 0)
    shard.die()
    assert shard.run(raises_for(1)).discarded == {1: RETRIES_EXHAUSTED}


@pytest.mark.parametrize("bisects", [True, False])
def test_halves_of_a_batch_that_ended_the_engine_are_suspects_until_they_come_back(bisects: bool) -> None:
    """A single record begins with no marks, but either half may hold the one that ends engines (design §3)."""
    shard = NaiveShard(make_records(2), StreamRetry(maximum_retry_attempts=1, bisect_batch_on_function_error=bisects))
    for _ in range(1 if bisects else MARKS_MIN):
        shard.die()
    shard.step(reported)
    assert shard.invocations == []
    first, second = shard.state.parts
    assert (first, second) == (Part(last=1, is_cut=True), Part(last=2, is_cut=True))
    assert first.is_suspect
    shard.step(raises_for(1))
    again, second = shard.state.parts
    assert (again.attempt, again.is_suspect, second.is_suspect) == (1, False, True)


@pytest.mark.parametrize("marks", [0, 1])
def test_what_is_left_of_a_suspect_that_was_not_invoked_is_one(marks: int) -> None:
    """Its head is too old, too large or in a loop, or a person skipped it: that says nothing of the others."""
    policy = StreamRetry(maximum_record_age_in_seconds=60)
    parts = (Part(last=3, marks=marks, is_cut=not marks),)
    old, *young = make_records(3)
    young = [msgspec.structs.replace(record, arrived_ms=100_000) for record in young]
    decided = [
        decide_before_stream([old, *young], parts, policy, now_ms=100_000, event_bytes_max=0),
        decide_recursive([old, *young], parts, [0], now_ms=0),
        decide_recursive([old, *young], parts, [2], now_ms=0),
        decide_skip([old, *young], parts, 1, now_ms=0),
    ]
    assert [[part.is_suspect for part in decision.state.parts] for decision in decided if decision is not None] == [
        [True],
        [True],
        [True, True],
        [True],
    ]


def test_halves_of_a_batch_that_failed_are_no_suspects() -> None:
    shard = NaiveShard(make_records(2), StreamRetry(maximum_retry_attempts=1, bisect_batch_on_function_error=True))
    shard.step(raises_for(1))
    assert [part.is_suspect for part in shard.state.parts] == [False, False]


def test_a_clean_state_has_no_mark_to_find() -> None:
    assert find_mark(EMPTY) == EMPTY
    kept = ShardState(parts=(Part(last=4, attempt=1),))
    assert find_mark(kept) == kept
    assert find_mark(ShardState(marked=True)) == EMPTY


def test_a_mark_is_the_final_calls_once_that_has_begun() -> None:
    """What waits behind the window is not blamed for it, and stays."""
    waiting = (Part(last=4, attempt=1),)
    window = Window(start_ms=0, end_ms=10_000, final=Part(last=-1, request_id="r", marks=1))
    found = find_mark(ShardState(parts=waiting, marked=True, window=window))
    assert found.window is not None
    assert (found.parts, found.marked, found.window.final.marks) == (waiting, False, 2)
    # Not begun: it is of the batch.
    begun = find_mark(ShardState(parts=waiting, marked=True, window=Window(start_ms=0, end_ms=10_000)))
    assert begun.window is not None
    assert (begun.parts[0].marks, begun.window.final.marks) == (1, 0)

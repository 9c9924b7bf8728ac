"""Laws of `decide` (design §10): whatever comes back, and however a batch is cut up on the way.

The laws of one decision are asked of any batch, parts, outcome and report; those of a whole shard of a naive one that
is driven to its end.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from eventcore.delivery.batching import BatchPolicy, cut
from eventcore.delivery.decide import Decision, decide_before_stream, decide_queue, decide_stream
from eventcore.delivery.ordering import STATE_BYTES_MAX, Part, ShardState, decode_state, encode_state
from eventcore.delivery.partial import SUCCESS, Report, read_report
from eventcore.delivery.retry import BACKOFF_MAX_S, StreamRetry, backoff_ms, is_exhausted
from eventcore.delivery.visibility import EXTENSION_MARGIN_S, extension_s
from eventcore.model import DiscardReason, FaultCause, Outcome, OutcomeKind, Record, VerdictKind
from tests.unit.delivery.naive_shard import (
    SUCCEEDED,
    Answer,
    Handler,
    NaiveShard,
    fault,
    make_records,
    raised,
    unusable,
)

COUNT_MAX = 40
UNSTEADY = ["raises", "reports", "throttled", "released", "undecodable", "unusable"]
DONE = {VerdictKind.SETTLE, VerdictKind.DISCARD}

policies = st.builds(
    StreamRetry,
    maximum_retry_attempts=st.integers(-1, 5),
    maximum_record_age_in_seconds=st.sampled_from([-1, 60, 600]),
    bisect_batch_on_function_error=st.booleans(),
)
jitters = st.floats(0, 1, exclude_max=True)
attempts = st.builds(
    Part,
    last=st.just(0),
    attempt=st.integers(0, 6),
    first_failure_ms=st.integers(0, 10**13),
    request_id=st.sampled_from(["", "r"]),
    marks=st.integers(0, 6),
    is_cut=st.booleans(),
)


@st.composite
def batches(draw: st.DrawFn) -> list[Record]:
    """A batch with gaps in its positions, as compacted topics have."""
    positions = sorted(draw(st.sets(st.integers(0, 10**9), min_size=1, max_size=COUNT_MAX)))
    return [
        Record(
            position=position,
            body=b"",
            arrived_ms=draw(st.integers(0, 10**6)),
            size_bytes=draw(st.integers(0, 200)),
        )
        for position in positions
    ]


@st.composite
def parts_of(draw: st.DrawFn, batch: Sequence[Record]) -> tuple[Part, ...]:
    """The shard's parts: the batch, and what else has failed behind it."""
    last = batch[-1].position
    lasts = [last]
    for distance in draw(st.lists(st.integers(1, 100), max_size=4)):
        lasts.append(lasts[-1] + distance)
    tried = [draw(attempts) for _ in lasts]
    return tuple(msgspec.structs.replace(part, last=last) for last, part in zip(lasts, tried, strict=True))


@st.composite
def answers(draw: st.DrawFn, count: int) -> Answer:
    """Whatever may come back from an invocation with ``count`` records."""
    kind = draw(st.sampled_from(OutcomeKind))
    cause = draw(st.none() | st.sampled_from(FaultCause))
    outcome = Outcome(kind=kind, fault=None if cause is None else fault(cause))
    failed = tuple(sorted(draw(st.sets(st.integers(0, count - 1)))))
    report = draw(st.sampled_from([SUCCESS, Report(failed=failed), Report(is_unusable=True)]))
    return outcome, report


def assert_covers(decision: Decision, count: int) -> None:
    """Each record has exactly one verdict, in order."""
    assert [run.start for run in decision.runs] == [0, *[run.stop for run in decision.runs[:-1]]]
    assert decision.runs[-1].stop == count
    assert all(run.start < run.stop for run in decision.runs)
    for run in decision.runs:
        assert (run.verdict.reason is not None) == (run.verdict.kind is VerdictKind.DISCARD)


def assert_ordered(decision: Decision, batch: Sequence[Record], rest: Sequence[Part], now_ms: int) -> None:
    """No record of a stream is done past an earlier one that is not, and nothing that is kept is lost or overlaps."""
    is_done = [run.verdict.kind in DONE for run in decision.runs for _ in range(run.start, run.stop)]
    assert is_done == sorted(is_done, reverse=True)
    assert decision.settled_count == sum(is_done)
    lasts = [part.last for part in decision.state.parts]
    assert lasts == sorted(set(lasts))
    assert tuple(decision.state.parts[len(decision.state.parts) - len(rest) :]) == tuple(rest)
    own = decision.state.parts[: len(decision.state.parts) - len(rest)]
    undone = [record.position for record in batch[decision.settled_count :]]
    # What is not done is covered by parts of its own, each holding at least one record, the last one the last record.
    assert [part.last for part in own][-1:] == undone[-1:]
    assert all(part.last in undone for part in own)
    for run in decision.runs:
        if run.verdict.kind is VerdictKind.RETRY:
            assert run.verdict.at_ms == now_ms + decision.delay_ms


@given(st.data())
def test_a_decision_on_a_stream_is_total_and_keeps_order(data: st.DataObject) -> None:
    batch = data.draw(batches())
    parts = data.draw(parts_of(batch))
    outcome, report = data.draw(answers(len(batch)))
    now_ms = data.draw(st.integers(0, 10**6))
    decision = decide_stream(
        batch, parts, outcome, report, data.draw(policies), now_ms=now_ms, jitter=data.draw(jitters)
    )
    assert_covers(decision, len(batch))
    assert_ordered(decision, batch, parts[1:], now_ms)
    assert 0 <= decision.delay_ms <= BACKOFF_MAX_S * 1000
    assert not decision.state.marked


@given(st.data())
def test_a_decision_before_the_invocation_is_total_and_keeps_order(data: st.DataObject) -> None:
    batch = data.draw(batches())
    parts = data.draw(parts_of(batch))
    now_ms = data.draw(st.integers(0, 10**6))
    event_bytes_max = data.draw(st.sampled_from([0, 100]))
    decision = decide_before_stream(batch, parts, data.draw(policies), now_ms=now_ms, event_bytes_max=event_bytes_max)
    if decision is not None:
        assert_covers(decision, len(batch))
        assert_ordered(decision, batch, parts[1:], now_ms)
        # It changes something, or the shard would never get to an invocation.
        assert decision.settled_count or len(decision.state.parts) > len(parts)


@given(st.data(), st.integers(1, COUNT_MAX))
def test_a_decision_on_a_queue_is_total(data: st.DataObject, count: int) -> None:
    outcome, report = data.draw(answers(count))
    decision = decide_queue(count, outcome, report)
    assert_covers(decision, count)
    verdicts = [run.verdict.kind for run in decision.runs for _ in range(run.start, run.stop)]
    if outcome.kind is OutcomeKind.SUCCESS and not report.is_unusable:
        # What was reported, and nothing else, is not settled.
        assert [index for index, kind in enumerate(verdicts) if kind is not VerdictKind.SETTLE] == list(report.failed)
    else:
        assert VerdictKind.SETTLE not in verdicts


# -- a whole shard -----------------------------------------------------------------------------------------------------


@st.composite
def unsteady_handlers(draw: st.DrawFn, poison: set[int]) -> Handler:
    """A handler that always fails for poison records, and otherwise does anything for a while, in any order."""
    moods = draw(st.lists(st.sampled_from(["steady", *UNSTEADY]), max_size=30))

    def handle(positions: list[int]) -> Answer:
        failed = [index for index, position in enumerate(positions) if position in poison]
        match kind := moods.pop() if moods else "steady":
            case "throttled" | "released":
                return Outcome(kind=OutcomeKind(kind)), SUCCESS
            case "raises":
                return raised()
            case "unusable":
                return unusable()
            case "undecodable" if failed:
                return Outcome(kind=OutcomeKind.SUCCESS, fault=fault(FaultCause.UNDECODABLE)), Report((failed[0],))
            case "reports" if failed:
                return SUCCEEDED, Report(failed=tuple(failed))
            case _ if failed:
                return raised()
            case _:
                return SUCCEEDED, SUCCESS

    return handle


@given(st.data(), st.integers(1, 20), st.integers(1, 8))
def test_a_shard_comes_to_its_end_in_order(data: st.DataObject, count: int, batch_size: int) -> None:
    """Whatever the handler does: every record is done once, in order, and batches are tried from the front."""
    poison = data.draw(st.sets(st.integers(1, count), max_size=4))
    policy = StreamRetry(
        maximum_retry_attempts=data.draw(st.integers(0, 3)), bisect_batch_on_function_error=data.draw(st.booleans())
    )
    shard = NaiveShard(make_records(count), policy, batch_size, jitter=data.draw(jitters))
    shard.run(data.draw(unsteady_handlers(poison)))
    assert sorted([*shard.settled, *shard.discarded]) == list(range(1, count + 1))
    assert shard.settled == sorted(shard.settled)
    assert list(shard.discarded) == sorted(shard.discarded)
    # An invocation begins at the first record that is not done: it never goes back, and leaves nothing out.
    starts = [positions[0] for positions in shard.invocations]
    assert starts == sorted(starts)
    assert all(positions == list(range(positions[0], positions[-1] + 1)) for positions in shard.invocations)
    assert poison <= set(shard.discarded)


@given(st.data(), st.integers(1, 200), st.integers(0, 3), st.integers(1, 200))
def test_bisect_isolates_exactly_what_is_poisonous(
    data: st.DataObject, count: int, retries: int, batch_size: int
) -> None:
    """§4, §12: only the poison records are given up, each after 1 + retries invocations alone."""
    poison = data.draw(st.sets(st.integers(1, count), max_size=4))
    reports = data.draw(st.booleans())

    def handle(positions: list[int]) -> Answer:
        failed = tuple(index for index, position in enumerate(positions) if position in poison)
        if not failed:
            return SUCCEEDED, SUCCESS
        return (SUCCEEDED, Report(failed=failed)) if reports else raised()

    policy = StreamRetry(maximum_retry_attempts=retries, bisect_batch_on_function_error=True)
    shard = NaiveShard(make_records(count), policy, batch_size).run(handle)
    assert shard.discarded == dict.fromkeys(sorted(poison), DiscardReason.RETRY_ATTEMPTS_EXHAUSTED)
    for position in poison:
        assert shard.invocations.count([position]) == retries + 1


@given(st.data(), st.integers(1, 30), st.integers(0, 4), st.integers(1, 8))
def test_without_bisect_a_batch_is_invoked_one_more_time_than_its_retries(
    data: st.DataObject, count: int, retries: int, batch_size: int
) -> None:
    """§4: 1 + MaximumRetryAttempts, then the batch is given up as a whole."""
    poison = data.draw(st.sets(st.integers(1, count), max_size=4))
    policy = StreamRetry(maximum_retry_attempts=retries)
    shard = NaiveShard(make_records(count), policy, batch_size)
    shard.run(lambda positions: raised() if poison & set(positions) else (SUCCEEDED, SUCCESS))
    for positions in {tuple(positions) for positions in shard.invocations}:
        is_poisoned = bool(poison & set(positions))
        assert shard.invocations.count(list(positions)) == (retries + 1 if is_poisoned else 1)
        assert all((position in shard.discarded) == is_poisoned for position in positions)


@given(st.data(), st.integers(1, 16), st.booleans())
def test_a_record_that_ends_the_engine_does_not_end_the_shard(data: st.DataObject, count: int, bisects: bool) -> None:
    """Design §3: however many batches it takes with it, it alone is discarded, after a bounded number of deaths."""
    killer = data.draw(st.integers(1, count))
    policy = StreamRetry(maximum_retry_attempts=data.draw(st.integers(-1, 4)), bisect_batch_on_function_error=bisects)
    shard = NaiveShard(make_records(count), policy, data.draw(st.integers(1, count)))
    deaths = 0
    while shard.checkpoint < count:
        batch = shard.batch()
        parts = shard.state.parts or (Part(last=batch[-1].position),)
        before = decide_before_stream(batch, parts, policy, now_ms=0, event_bytes_max=0)
        if before is None and killer in [record.position for record in batch]:
            deaths += 1
            shard.die()
        else:
            shard.step(lambda _: (SUCCEEDED, SUCCESS))
        # Three, or as many as attempts are allowed, for each time the batch is halved and for the record itself.
        assert deaths <= max(3, policy.maximum_retry_attempts + 1) * (count.bit_length() + 1)
    assert shard.discarded == {killer: DiscardReason.ENGINE_CRASH}


# -- limits are monotone -----------------------------------------------------------------------------------------------


@given(st.integers(1, 10_000), st.integers(-1, 10_000))
def test_once_exhausted_always_exhausted(attempt: int, retries: int) -> None:
    """A later attempt is never allowed where an earlier one was not; a higher limit never allows less."""
    if is_exhausted(attempt, retries):
        assert is_exhausted(attempt + 1, retries)
        assert retries == 0 or is_exhausted(attempt, retries - 1)
    else:
        assert not is_exhausted(attempt, retries + 1 if retries >= 0 else -1)


@given(batches(), st.integers(0, 2 * 10**6), st.integers(0, 10**6), st.sampled_from([60, 600]))
def test_what_is_too_old_stays_too_old(batch: list[Record], now_ms: int, later_ms: int, age_s: int) -> None:
    def count_given_up(at_ms: int, limit_s: int) -> int:
        parts = (Part(last=batch[-1].position),)
        policy = StreamRetry(maximum_record_age_in_seconds=limit_s)
        decision = decide_before_stream(batch, parts, policy, now_ms=at_ms, event_bytes_max=0)
        return 0 if decision is None else decision.settled_count

    given_up = count_given_up(now_ms, age_s)
    assert count_given_up(now_ms + later_ms, age_s) >= given_up
    assert count_given_up(now_ms, age_s + 60) <= given_up
    assert all(now_ms - record.arrived_ms > age_s * 1000 for record in batch[:given_up])
    assert given_up == len(batch) or now_ms - batch[given_up].arrived_ms <= age_s * 1000


@given(st.integers(1, 10**6), jitters)
def test_pauses_grow_and_are_bounded(retry: int, jitter: float) -> None:
    assert 0 < backoff_ms(retry, jitter) <= backoff_ms(retry + 1, jitter) <= BACKOFF_MAX_S * 1000


# -- the rest of delivery ----------------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(0, 3_000), max_size=700),
    st.integers(1, 700),
    st.integers(100, 200_000),
    st.integers(0, 500),
    st.booleans(),
)
def test_a_cut_is_the_longest_that_fits(
    sizes: list[int], batch_size: int, size_bytes_max: int, overhead: int, is_base64: bool
) -> None:
    """Against a cut that looks at every record."""
    records = [Record(position=index, body=b"", size_bytes=size) for index, size in enumerate(sizes)]
    policy = BatchPolicy(
        batch_size=batch_size, size_bytes_max=size_bytes_max, record_overhead_bytes=overhead, is_base64=is_base64
    )
    count, is_full = cut(records, policy)
    assert cut(records, policy, sum(sizes)) == (count, is_full)

    def fits(number: int) -> bool:
        if is_base64:
            thirds = sum(4 * size + 3 * (overhead + 12) for size in sizes[:number])
            assert thirds >= 3 * sum((size + 2) // 3 * 4 + overhead for size in sizes[:number])
            return thirds <= 3 * size_bytes_max
        return sum(size + overhead for size in sizes[:number]) <= size_bytes_max

    expected = 0
    while expected < min(len(sizes), batch_size) and fits(expected + 1):
        expected += 1
    assert count == (max(expected, 1) if sizes else 0)
    assert is_full == (count == batch_size or (expected < min(len(sizes), batch_size)))


@given(st.data())
def test_any_state_survives_its_text_as_far_as_it_fits(data: st.DataObject) -> None:
    parts = data.draw(parts_of(data.draw(batches())))
    state = ShardState(parts=parts, marked=data.draw(st.booleans()))
    assert decode_state(encode_state(state)) == state
    many = ShardState(parts=tuple(Part(index, request_id="r" * 36) for index in range(data.draw(st.integers(1, 300)))))
    text = encode_state(many)
    assert len(text) <= STATE_BYTES_MAX
    # Every record is still covered: the last part ends where it ended.
    assert decode_state(text).parts[-1].last == many.parts[-1].last


@given(st.text(st.characters()) | st.from_regex(r"\[1,\[(\[\d{1,3}(,\d)?\],?){0,3}\],(true|false)\]", fullmatch=True))
def test_any_text_is_read_as_some_state(text: str) -> None:
    assert isinstance(decode_state(text), ShardState)


@given(
    st.binary(max_size=50)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just("batchItemFailures"),
        lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=18), values, max_size=3),
    ).map(lambda value: json.dumps({"batchItemFailures": value}).encode())
)
def test_any_response_is_read_as_some_report(response: bytes) -> None:
    """What it names is in the batch, once each, in order; else it names nothing."""
    known = {"": 0, "0": 1, "a": 2}
    report = read_report(response, known, lambda value: value if isinstance(value, str) else None)
    assert list(report.failed) == sorted(set(report.failed) & set(known.values()))
    assert not (report.failed and report.is_unusable)


@given(
    st.integers(0, 10**6),
    st.integers(1, 43_200),
    st.integers(1, 900),
    st.integers(0, 10**7),
    st.integers(0, 10**7),
    st.integers(0, 10**7),
)
def test_a_lease_is_lengthened_within_its_limits(
    received_ms: int, visibility_s: int, timeout_s: int, hidden_ms: int, deadline_ms: int, passed_ms: int
) -> None:
    now_ms, hidden_until_ms = received_ms + passed_ms, received_ms + hidden_ms
    wanted_s = extension_s(
        received_ms=received_ms,
        hidden_until_ms=hidden_until_ms,
        deadline_ms=received_ms + deadline_ms,
        timeout_s=timeout_s,
        visibility_timeout_s=visibility_s,
        now_ms=now_ms,
    )
    if wanted_s:
        end_ms = now_ms + wanted_s * 1000
        assert now_ms < hidden_until_ms < end_ms
        assert hidden_until_ms < received_ms + deadline_ms
        assert wanted_s <= visibility_s
        assert end_ms <= received_ms + (timeout_s + EXTENSION_MARGIN_S) * 1000

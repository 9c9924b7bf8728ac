"""What happens to each record of a batch after an invocation: the one place where Lambda's delivery rules are decided.

Pure: no await, no I/O, no clock. The engine asks, then makes the answer durable. Every function is total: for each
outcome there is a decision that covers every record of the batch exactly once, in order.

Source: Lambda semantics §3.1 (queues), §4 (streams), §5.1 (Kafka), §12 (recorded order and pauses).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from eventcore.delivery.bisect import split_point
from eventcore.delivery.ordering import EMPTY, Part, ShardState
from eventcore.delivery.partial import Report
from eventcore.delivery.retry import RetryPlan, StreamRetry
from eventcore.model import DiscardReason, Fault, FaultCause, Outcome, OutcomeKind, Record, Verdict, VerdictKind

#: A batch whose invocation was begun this often and never came back is given up, if its retries allow no more.
MARKS_MIN = 3

#: A stream looks again after so long whether a key is free, milliseconds: most invocations are shorter.
DEFERRED_MAX_MS = 500
#: Causes of faults that no retry changes.
FINAL_CAUSES = {
    FaultCause.UNDECODABLE: DiscardReason.UNDECODABLE,
    FaultCause.IDEMPOTENCY: DiscardReason.IDEMPOTENCY_FAILED,
}

SETTLE = Verdict(VerdictKind.SETTLE)
BISECT = Verdict(VerdictKind.BISECT)
RELEASE = Verdict(VerdictKind.RELEASE)


class Run(msgspec.Struct, frozen=True):
    """A run of records of the batch with one verdict: indices ``start`` up to, not including, ``stop``."""

    start: int
    stop: int
    verdict: Verdict


class Decision(msgspec.Struct, frozen=True):
    """What to do with a batch: adjoining runs that cover it, and what is kept of the shard's failing work."""

    runs: tuple[Run, ...]
    state: ShardState = EMPTY  #: streams only
    delay_ms: int = 0  #: before the first of the state's parts is invoked

    @property
    def settled_count(self) -> int:
        """How many leading records need no further invocation: settled or discarded."""
        done = 0
        for run in self.runs:
            if run.verdict.kind not in {VerdictKind.SETTLE, VerdictKind.DISCARD}:
                break
            done = run.stop
        return done


def _discard(reason: DiscardReason) -> Verdict:
    return Verdict(VerdictKind.DISCARD, reason=reason)


def _state(*parts: Part) -> ShardState:
    return ShardState(parts=parts) if parts else EMPTY


def decide_stream(
    records: Sequence[Record],
    parts: Sequence[Part],
    outcome: Outcome,
    report: Report,
    policy: StreamRetry,
    *,
    now_ms: int,
    jitter: float,
) -> Decision:
    """Return what happens to a stream's batch.

    Args:
        records: the batch, not empty.
        parts: the shard's parts; the first one is this batch.
        outcome: what came back.
        report: which records the outcome names failed (`eventcore.delivery.partial`), already read from it.
        policy: the mapping's limits.
        now_ms: wall time, for the retry's time and the first failure's.
        jitter: in [0, 1).

    Source: Lambda semantics §4 "Errors", §12 "bisect" and "partial reports".
    """
    part, *rest = parts
    count = len(records)
    if outcome.kind in {OutcomeKind.THROTTLED, OutcomeKind.RELEASED}:
        return Decision((Run(0, count, RELEASE),), _state(part, *rest))
    if outcome.kind is OutcomeKind.SUCCESS and not report.failed and not report.is_unusable and not outcome.deferred:
        return Decision((Run(0, count, SETTLE),), _state(*rest))
    lowest = _find_lowest(count, outcome, report)
    settled = (Run(0, lowest, SETTLE),) if lowest else ()
    if outcome.deferred and outcome.deferred[0] == lowest:
        return _defer(records, lowest, settled, part, rest, outcome.deferred_ms)
    if (reason := find_final(outcome.fault)) is not None:
        return _skip_final(records, lowest, reason, settled, rest, now_ms)
    if lowest:
        # What is left is a batch of its own: a new request id and a fresh budget, at once (§12).
        left = Part(last=records[-1].position)
        return Decision((*settled, Run(lowest, count, Verdict(VerdictKind.RETRY, at_ms=now_ms))), _state(left, *rest))
    if policy.bisect_batch_on_function_error and count > 1:
        return _split(records, rest)
    attempt = part.attempt + 1
    fault = outcome.fault_of(0)
    error_type = fault.error_type if fault is not None else ""
    if policy.is_over(attempt, error_type):
        verdict = _discard(DiscardReason.RETRY_ATTEMPTS_EXHAUSTED)
        return Decision((Run(0, count, verdict),), _state(*rest))
    pause_ms = min(policy.pause_ms(attempt, error_type, jitter), _until_too_old_ms(records[0], policy, now_ms))
    first_failure_ms = part.first_failure_ms or now_ms
    # It came back, so that no engine died of it.
    again = Part(part.last, attempt, first_failure_ms, part.request_id)
    retry = Run(0, count, Verdict(VerdictKind.RETRY, at_ms=now_ms + pause_ms))
    return Decision((retry,), _state(again, *rest), delay_ms=pause_ms)


def _split(records: Sequence[Record], rest: Sequence[Part], *, marks: int = 0, is_cut: bool = False) -> Decision:
    """Halve the batch: each half has a budget of its own, so splitting costs no attempts (§4, trap 18).

    Args:
        records: two or more.
        rest: the parts behind this batch.
        marks: what a half of several records inherits; a single record always begins with none.
        is_cut: the engine died in this batch, so each half is a suspect.
    """
    middle = split_point(len(records))
    left = Part(last=records[middle - 1].position, marks=marks if middle > 1 else 0, is_cut=is_cut)
    right = Part(last=records[-1].position, marks=marks if len(records) - middle > 1 else 0, is_cut=is_cut)
    return Decision((Run(0, len(records), BISECT),), _state(left, right, *rest))


def _find_lowest(count: int, outcome: Outcome, report: Report) -> int:
    """Return the index of the first record that was not processed."""
    if outcome.kind is OutcomeKind.FAILURE or report.is_unusable:
        return 0
    return min(report.failed[0] if report.failed else count, outcome.deferred[0] if outcome.deferred else count)


def _defer(
    records: Sequence[Record], index: int, settled: tuple[Run, ...], part: Part, rest: Sequence[Part], wait_ms: int
) -> Decision:
    """Let a record wait whose key is in progress elsewhere, and all behind it; that costs no attempts.

    What was processed behind it is known by its key when it comes again.
    """
    left = part if not index else Part(last=records[-1].position)
    release = Run(index, len(records), RELEASE)
    return Decision((*settled, release), _state(left, *rest), delay_ms=0 if index else min(wait_ms, DEFERRED_MAX_MS))


def find_final(fault: Fault | None) -> DiscardReason | None:
    """Return why a record is given up at once, as no retry would change what it failed with; None when one may."""
    return None if fault is None else FINAL_CAUSES.get(fault.cause)


def _skip_final(
    records: Sequence[Record],
    index: int,
    reason: DiscardReason,
    settled: tuple[Run, ...],
    rest: Sequence[Part],
    now_ms: int,
) -> Decision:
    """Give up the one record that no retry can change; go on behind it."""
    count = len(records)
    runs = (*settled, Run(index, index + 1, _discard(reason)))
    if index + 1 == count:
        return Decision(runs, _state(*rest))
    left = Part(last=records[-1].position)
    return Decision((*runs, Run(index + 1, count, Verdict(VerdictKind.RETRY, at_ms=now_ms))), _state(left, *rest))


def decide_before_stream(
    records: Sequence[Record], parts: Sequence[Part], policy: StreamRetry, *, now_ms: int, event_bytes_max: int
) -> Decision | None:
    """Return what happens to a stream's batch without invoking it, or None when it is to be invoked.

    Gives up the head that is too old (§4: per record, before invoking), a record that alone exceeds the payload
    limit (§5.1), and a batch in which the engine died too often (design §3).

    Args:
        records: the batch, not empty.
        parts: the shard's parts; the first one is this batch.
        policy: the mapping's limits.
        now_ms: wall time.
        event_bytes_max: how many bytes of data one record may have; 0 when the handler's form sets no limit.
    """
    part, *rest = parts
    old = _count_too_old(records, policy.maximum_record_age_in_seconds, now_ms)
    if old:
        return _give_up_head(records, old, DiscardReason.RECORD_AGE_EXCEEDED, parts, now_ms)
    if event_bytes_max and len(records) == 1 and records[0].size_bytes > event_bytes_max:
        return _give_up_head(records, 1, DiscardReason.MAXIMUM_PAYLOAD_SIZE_EXCEEDED, parts, now_ms)
    marks_max = max(MARKS_MIN, policy.maximum_retry_attempts + 1)
    is_spent = part.marks >= marks_max
    if len(records) > 1 and (is_spent or (part.marks and policy.bisect_batch_on_function_error)):
        # One record kills the engine, not the batch: it is isolated whatever the mapping says of its own failures.
        # Each further halving then costs one death, not `marks_max` of them.
        return _split(records, rest, marks=marks_max - 1 if is_spent else 0, is_cut=True)
    if is_spent:
        return _give_up_head(records, 1, DiscardReason.ENGINE_CRASH, parts, now_ms)
    return None


def decide_recursive(
    records: Sequence[Record], parts: Sequence[Part], loops: Sequence[int], *, now_ms: int
) -> Decision:
    """Return what happens to a stream's batch in which some records came through their function too often (§2.3).

    They are given up where they lead the batch; else the batch is cut before the first of them.

    Args:
        records: the batch, not empty.
        parts: the shard's parts; the first one is this batch.
        loops: indices of those records, rising, not empty.
        now_ms: wall time.
    """
    part, *rest = parts
    first = loops[0]
    if first == 0:
        leading = next((count for count, index in enumerate(loops) if index != count), len(loops))
        return _give_up_head(records, leading, DiscardReason.RECURSION, parts, now_ms)
    before, behind = (Part(last=records[index].position, is_cut=part.is_suspect) for index in (first - 1, -1))
    retry = Run(0, len(records), Verdict(VerdictKind.RETRY, at_ms=now_ms))
    return Decision((retry,), _state(before, behind, *rest))


def decide_skip(records: Sequence[Record], parts: Sequence[Part], count: int, *, now_ms: int) -> Decision:
    """Return what happens when a person skips the first records of the batch that holds up its shard.

    Args:
        records: the batch, not empty.
        parts: the shard's parts; the first one is this batch.
        count: records to give up, at least 1; more than there are: all of them.
        now_ms: wall time.
    """
    return _give_up_head(records, min(count, len(records)), DiscardReason.SKIPPED, parts, now_ms)


def _give_up_head(
    records: Sequence[Record], count: int, reason: DiscardReason, parts: Sequence[Part], now_ms: int
) -> Decision:
    part, *rest = parts
    runs = (Run(0, count, _discard(reason)),)
    if count == len(records):
        return Decision(runs, _state(*rest))
    left = Part(last=records[-1].position, is_cut=part.is_suspect)
    retry = Verdict(VerdictKind.RETRY, at_ms=now_ms)
    return Decision((*runs, Run(count, len(records), retry)), _state(left, *rest))


def _until_too_old_ms(record: Record, policy: StreamRetry, now_ms: int) -> int:
    """Return when the record will be past the age limit: no pause goes further, or it would block its shard idly."""
    age_max_s = policy.maximum_record_age_in_seconds
    return (
        2**62 if age_max_s < 0 or record.arrived_ms < 0 else max(0, record.arrived_ms + age_max_s * 1000 + 1 - now_ms)
    )


def _count_too_old(records: Sequence[Record], age_max_s: int, now_ms: int) -> int:
    """Return how many leading records are past the age limit."""
    if age_max_s < 0:
        return 0
    oldest_ms = now_ms - age_max_s * 1000
    for index, record in enumerate(records):
        # A record that says nothing of its time (Kafka allows it) is never too old.
        if record.arrived_ms >= oldest_ms or record.arrived_ms < 0:
            return index
    return len(records)


def find_marked(state: ShardState) -> Part | None:
    """Return what a mark of a shard's state stands for, None when there is nothing.

    It is the final call's where the window has one: nothing else runs until that window is closed.
    """
    if state.window is not None and state.window.final.request_id:
        return state.window.final
    return state.parts[0] if state.parts else None


def find_mark(state: ShardState) -> ShardState:
    """Return a taken shard's state with the mark that the owner before left turned into a count (design §3)."""
    if not state.marked:
        return state
    unmarked, marked = msgspec.structs.replace(state, marked=False), find_marked(state)
    if marked is None:
        return unmarked
    counted = msgspec.structs.replace(marked, marks=marked.marks + 1)
    if state.window is not None and marked is state.window.final:
        return msgspec.structs.replace(unmarked, window=msgspec.structs.replace(state.window, final=counted))
    return msgspec.structs.replace(unmarked, parts=(counted, *state.parts[1:]))


def decide_queue(count: int, outcome: Outcome, report: Report) -> Decision:
    """Return what happens to a queue's batch of ``count`` messages.

    What failed stays hidden until its visibility timeout ends; there is no early reset (§3.1 "Outcome rules"). What
    can't be decoded is given up: no receive would change it.
    """
    if outcome.kind in {OutcomeKind.THROTTLED, OutcomeKind.RELEASED}:
        return Decision((Run(0, count, RELEASE),))
    if outcome.kind is OutcomeKind.FAILURE or report.is_unusable:
        return Decision((Run(0, count, Verdict(VerdictKind.RETRY)),))
    runs: list[Run] = []
    start = 0
    deferred = frozenset(outcome.deferred)
    for index in sorted((*report.failed, *deferred)) if deferred else report.failed:
        if index > start:
            runs.append(Run(start, index, SETTLE))
        runs.append(Run(index, index + 1, RELEASE if index in deferred else _verdict_of(index, outcome)))
        start = index + 1
    if start < count:
        runs.append(Run(start, count, SETTLE))
    return Decision(tuple(runs))


def _verdict_of(index: int, outcome: Outcome) -> Verdict:
    """Return what happens to one message of a batch that has failed."""
    reason = find_final(outcome.fault_of(index))
    return Verdict(VerdictKind.RETRY) if reason is None else _discard(reason)


def schedule_queue(
    decision: Decision, attempts: Sequence[int], outcome: Outcome, plan: RetryPlan, *, now_ms: int, jitter: float
) -> Decision:
    """Return a decision on a queue's batch with the mapping's own retries in the place of the visibility timeout.

    Args:
        decision: of `decide_queue`.
        attempts: of each message of the batch, how often it was received.
        outcome: what came back.
        plan: the mapping's.
        now_ms: wall time.
        jitter: in [0, 1); one for the batch, so that its messages come back together.
    """
    runs: list[Run] = []
    for run in decision.runs:
        if run.verdict.kind is not VerdictKind.RETRY:
            runs.append(run)
            continue
        for index in range(run.start, run.stop):
            verdict = _schedule_message(attempts[index], outcome.fault_of(index), plan, now_ms, jitter)
            if runs and runs[-1].verdict == verdict and runs[-1].stop == index:
                runs[-1] = Run(runs[-1].start, index + 1, verdict)
            else:
                runs.append(Run(index, index + 1, verdict))
    return msgspec.structs.replace(decision, runs=tuple(runs))


def _schedule_message(attempt: int, fault: Fault | None, plan: RetryPlan, now_ms: int, jitter: float) -> Verdict:
    error_type = fault.error_type if fault is not None else ""
    if plan.gives_up(error_type, attempt):
        return _discard(DiscardReason.RETRY_ATTEMPTS_EXHAUSTED)
    schedule = plan.find_schedule(error_type)
    at_ms = 0 if schedule is None else now_ms + schedule.pause_ms(attempt, jitter)
    return Verdict(VerdictKind.RETRY, at_ms=at_ms)

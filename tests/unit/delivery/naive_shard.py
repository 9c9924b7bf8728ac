"""One shard, driven as simply as can be: what is invoked, settled and given up when `decide` alone decides.

No engine, no loop, no time but a number: the state goes through its text form at every step, as it does through a
commit, so that nothing lives on that would not survive a change of owner.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from eventcore.delivery.decide import Decision, decide_before_stream, decide_stream, find_mark
from eventcore.delivery.ordering import EMPTY, Part, ShardState, decode_state, encode_state
from eventcore.delivery.partial import SUCCESS, Report
from eventcore.delivery.retry import StreamRetry
from eventcore.model import DiscardReason, Fault, FaultCause, Outcome, OutcomeKind, Record, VerdictKind

#: A run that takes more steps than this does not end.
STEPS_MAX = 100_000

Answer = tuple[Outcome, Report]
Handler = Callable[[list[int]], Answer]

SUCCEEDED = Outcome(kind=OutcomeKind.SUCCESS)


def make_records(count: int, *, arrived_ms: int = 0, size_bytes: int = 10) -> list[Record]:
    """Return records 1 to ``count``."""
    return [
        Record(position=position, body=b"", arrived_ms=arrived_ms, size_bytes=size_bytes)
        for position in range(1, count + 1)
    ]


def fault(cause: FaultCause = FaultCause.HANDLER) -> Fault:
    return Fault(cause=cause, error_type="ValueError", message="poison")


def raised(cause: FaultCause = FaultCause.HANDLER) -> Answer:
    """Return what comes back when the function fails."""
    return Outcome(kind=OutcomeKind.FAILURE, fault=fault(cause)), SUCCESS


def reported(*indices: int) -> Answer:
    """Return what comes back when the response names records by their index in the batch; none: success."""
    return SUCCEEDED, Report(failed=indices) if indices else SUCCESS


def unusable() -> Answer:
    """Return what comes back when the response names something that is not in the batch."""
    return SUCCEEDED, Report(is_unusable=True, problem="names no record")


def raises_for(*poison: int) -> Handler:
    """Return a handler that raises for batches with a poison record."""
    return lambda positions: raised() if set(poison) & set(positions) else reported()


def reports(*poison: int) -> Handler:
    """Return a handler that reports the poison records."""
    return lambda positions: reported(*[index for index, at in enumerate(positions) if at in poison])


@dataclass
class NaiveShard:
    """A shard's records, and what has become of them."""

    records: Sequence[Record]
    policy: StreamRetry = field(default_factory=StreamRetry)
    batch_size: int = 10_000
    now_ms: int = 0
    jitter: float = 0.5
    event_bytes_max: int = 0
    state: ShardState = EMPTY
    checkpoint: int = 0  #: index of the first record that is not done
    invocations: list[list[int]] = field(default_factory=list)
    times_ms: list[int] = field(default_factory=list)
    settled: list[int] = field(default_factory=list)
    discarded: dict[int, DiscardReason] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)

    def run(self, handler: Handler) -> NaiveShard:
        """Work until every record is done."""
        for _ in range(STEPS_MAX):
            if self.checkpoint == len(self.records):
                return self
            self.step(handler)
        raise AssertionError(f"not done after {STEPS_MAX} steps: {self.invocations[-10:]}")

    def step(self, handler: Handler) -> None:
        """Bring one batch to a decision."""
        batch = self.batch()
        parts = self.state.parts or (Part(last=batch[-1].position),)
        decision = decide_before_stream(
            batch, parts, self.policy, now_ms=self.now_ms, event_bytes_max=self.event_bytes_max
        )
        if decision is None:
            positions = [record.position for record in batch]
            self.invocations.append(positions)
            self.times_ms.append(self.now_ms)
            outcome, report = handler(positions)
            decision = decide_stream(batch, parts, outcome, report, self.policy, now_ms=self.now_ms, jitter=self.jitter)
        self._apply(batch, decision)

    def die(self) -> None:
        """Let the engine end in the middle of the next invocation, and another one take the shard."""
        batch = self.batch()
        parts = self.state.parts or (Part(last=batch[-1].position),)
        marked = ShardState(parts=parts, marked=True)
        self.state = find_mark(decode_state(encode_state(marked)))

    def batch(self) -> Sequence[Record]:
        """Return the next batch."""
        waiting = self.records[self.checkpoint :]
        if self.state.parts:
            return [record for record in waiting if record.position <= self.state.parts[0].last]
        return waiting[: self.batch_size]

    def _apply(self, batch: Sequence[Record], decision: Decision) -> None:
        self.decisions.append(decision)
        for run in decision.runs:
            positions = [record.position for record in batch[run.start : run.stop]]
            if run.verdict.kind is VerdictKind.SETTLE:
                self.settled.extend(positions)
            elif run.verdict.kind is VerdictKind.DISCARD:
                assert run.verdict.reason is not None
                self.discarded.update(dict.fromkeys(positions, run.verdict.reason))
        self.checkpoint += decision.settled_count
        self.state = decode_state(encode_state(decision.state))
        self.now_ms += decision.delay_ms

"""The books of a mapping balance: every received record is settled, given up, returned, or still held."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from eventcore.delivery.decide import Decision
from eventcore.delivery.retry import StreamRetry
from eventcore.model import DiscardReason, Fault, FaultCause, VerdictKind
from eventcore.telemetry.counters import MappingCounters
from eventcore.telemetry.events import (
    BatchBisected,
    BatchInvoked,
    BatchRetried,
    BatchSettled,
    EngineEvents,
    InvocationFinished,
    MappingStateChanged,
    RecordsDiscarded,
    RecordsFiltered,
    RecordsLost,
    RecordsReceived,
    RecordsReturned,
    ShardReleased,
    ShardTaken,
)
from tests.unit.delivery.naive_shard import NaiveShard, make_records, raises_for, reports

FAULT = Fault(cause=FaultCause.HANDLER, error_type="E", message="")


class Books:
    """Counters that are told things in short, and must balance after each."""

    def __init__(self, shard: str = "0") -> None:
        self.counters = MappingCounters("orders")
        self.shard = shard
        self._events = EngineEvents()
        self._events.subscribe(self.counters, mapping="orders")

    def tell(self, *events: object) -> Books:
        for event in events:
            self._events.emit(event)
            assert self.counters.snapshot().is_balanced, event
        return self

    def received(self, count: int) -> Books:
        return self.tell(RecordsReceived(mapping="orders", shard=self.shard, count=count))

    def settled(self, count: int) -> Books:
        return self.tell(BatchSettled(mapping="orders", shard=self.shard, first=0, last=0, count=count))

    def discarded(self, count: int, reason: DiscardReason = DiscardReason.RETRY_ATTEMPTS_EXHAUSTED) -> Books:
        return self.tell(
            RecordsDiscarded(
                mapping="orders",
                shard=self.shard,
                first=0,
                last=0,
                count=count,
                reason=reason,
                failure_id="",
                destination="",
            )
        )

    def retried(self, count: int, *, is_returned: bool = False) -> Books:
        return self.tell(
            BatchRetried(
                mapping="orders",
                shard=self.shard,
                first=0,
                last=0,
                count=count,
                attempt=1,
                delay_ms=200,
                error="",
                is_returned=is_returned,
            )
        )

    def bisected(self, left: int, right: int) -> Books:
        return self.tell(
            BatchBisected(
                mapping="orders", shard=self.shard, first=0, middle=0, last=0, left_count=left, right_count=right
            )
        )

    def follow(self, decision: Decision) -> None:
        """Tell a stream's decision as the engine does, run by run."""
        for run in decision.runs:
            count = run.stop - run.start
            match run.verdict.kind:
                case VerdictKind.SETTLE:
                    self.settled(count)
                case VerdictKind.DISCARD:
                    assert run.verdict.reason is not None
                    self.discarded(count, run.verdict.reason)
                case VerdictKind.RETRY:
                    self.retried(count)
                case VerdictKind.BISECT:
                    self.bisected(count // 2, count - count // 2)
                case VerdictKind.RELEASE:
                    pass


def test_a_poison_record_in_the_books() -> None:
    """`[1,2,3,4] [1,2] [1] [2] [2] [3,4]`, with two records waiting behind."""
    books = Books().received(6)
    seen = [books.counters.snapshot()]
    for tell in (
        lambda: books.bisected(2, 2),
        lambda: books.bisected(1, 1),
        lambda: books.settled(1),
        lambda: books.retried(1),
        lambda: books.discarded(1),
        lambda: books.settled(2),
        lambda: books.settled(2),
    ):
        tell()
        seen.append(books.counters.snapshot())
    assert [(books.in_flight, books.retrying) for books in seen] == [
        (6, 0),
        (2, 4),
        (2, 4),
        (2, 3),
        (2, 3),
        (2, 2),
        (2, 0),
        (0, 0),
    ]
    last = seen[-1]
    assert (last.received, last.settled, last.retried, last.bisected) == (6, 5, 1, 2)
    assert last.discarded == {DiscardReason.RETRY_ATTEMPTS_EXHAUSTED: 1}


def test_a_failed_message_of_a_queue_goes_back_and_is_received_again() -> None:
    books = Books(shard="").received(3).settled(2).retried(1, is_returned=True).received(1).settled(1)
    snapshot = books.counters.snapshot()
    assert (snapshot.received, snapshot.settled, snapshot.returned, snapshot.in_flight) == (4, 3, 1, 0)


def test_a_shard_that_goes_takes_what_is_held_of_it_along() -> None:
    other = RecordsReceived(mapping="orders", shard="1", count=7)
    books = Books().received(5).retried(2).tell(other, ShardReleased(mapping="orders", shard="0", why="rebalance"))
    snapshot = books.counters.snapshot()
    assert (snapshot.returned, snapshot.in_flight, snapshot.retrying) == (5, 7, 0)


def test_a_shard_that_is_taken_begins_anew() -> None:
    """Also where nobody told that it had gone: a mapping that was restarted after an error."""
    books = Books().received(5).tell(ShardTaken(mapping="orders", shard="0", epoch=2, checkpoint=0)).received(5)
    snapshot = books.counters.snapshot()
    assert (snapshot.received, snapshot.returned, snapshot.in_flight) == (10, 5, 5)


def test_filtered_records_leave_from_behind_the_failing_ones() -> None:
    books = Books().received(4).retried(4).received(6).tell(RecordsFiltered(mapping="orders", shard="0", count=6))
    snapshot = books.counters.snapshot()
    assert (snapshot.filtered, snapshot.in_flight, snapshot.retrying) == (6, 0, 4)


def test_records_go_back_as_they_were() -> None:
    books = Books(shard="").received(4).tell(RecordsReturned(mapping="orders", shard="", count=4, why="drain"))
    assert books.counters.snapshot().returned == 4


def test_lost_records_stand_outside_the_balance() -> None:
    """They were never received; a lost range is counted all the same, never a silent jump."""
    expired = DiscardReason.RECORD_EXPIRED
    books = Books().tell(
        RecordsLost(mapping="orders", shard="0", count=90, reason=expired, first=1, last=90),
        RecordsLost(mapping="orders", shard="0", count=10, reason=expired),
        RecordsLost(mapping="orders", shard="0", count=1, reason=DiscardReason.RECEIVES_EXHAUSTED),
    )
    snapshot = books.counters.snapshot()
    assert snapshot.expired == 100
    assert snapshot.lost[DiscardReason.RECEIVES_EXHAUSTED] == 1
    assert snapshot.received == 0


def test_invocations_are_counted_and_failed_ones_apart() -> None:
    invoked = BatchInvoked(
        mapping="orders", shard="0", function="f", first=0, last=0, count=1, attempt=1, request_id=""
    )
    books = Books().tell(
        invoked,
        invoked,
        InvocationFinished(mapping="orders", function="f", request_id="", duration_ms=1, fault=FAULT),
        InvocationFinished(mapping="orders", function="f", request_id="", duration_ms=1),
    )
    snapshot = books.counters.snapshot()
    assert (snapshot.invoked, snapshot.failed_invocations) == (2, 1)


def test_other_mappings_and_other_events_are_passed_over() -> None:
    """Also by counters that hear everything."""
    counters = MappingCounters("orders")
    counters(RecordsReceived(mapping="returns", shard="0", count=5))
    counters(MappingStateChanged(mapping="orders", state="Enabled"))
    assert counters.snapshot() == MappingCounters("orders").snapshot()


@given(st.data(), st.integers(1, 40), st.integers(1, 10), st.booleans(), st.booleans())
def test_the_books_of_any_shard_balance_at_every_step(
    data: st.DataObject, count: int, batch_size: int, bisects: bool, has_reports: bool
) -> None:
    poison = data.draw(st.sets(st.integers(1, count), max_size=4))
    policy = StreamRetry(maximum_retry_attempts=1, bisect_batch_on_function_error=bisects)
    shard = NaiveShard(make_records(count), policy, batch_size)
    handler = reports(*poison) if has_reports else raises_for(*poison)
    books = Books().received(count)
    while shard.checkpoint < count:
        shard.step(handler)
        books.follow(shard.decisions[-1])
        snapshot = books.counters.snapshot()
        kept = shard.state.parts[-1].last - shard.checkpoint if shard.state.parts else 0
        assert snapshot.retrying == kept
        assert snapshot.settled == len(shard.settled)
    assert (snapshot.in_flight, snapshot.retrying) == (0, 0)
    assert sum(snapshot.discarded.values()) == len(shard.discarded)

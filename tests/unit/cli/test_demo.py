"""The demo's own judgement: it agrees with a run that went well, and names whatever did not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from eventcore.cli.demo import ORDERS, Story, compare, make_orders
from eventcore.embedded.shapes import sequence_number
from eventcore.embedded.sharding import shard_name
from eventcore.engine.status import MappingState, MappingStatus, ShardStatus
from eventcore.http.contract import Header, Message, Place, StatusReport
from eventcore.model import DiscardReason
from eventcore.telemetry.events import BatchRetried, BatchSettled, RecordsDiscarded

SHARD = shard_name(0)
POISON = Place(shard=SHARD, position=3)
ID = "0123456789abcdef0123"


@pytest.fixture
def story(tmp_path: Path) -> Story:
    """A run in which record 3 was discarded alone, and record 5 recovered."""
    told = Story(tmp_path)
    for first, last in ((0, 2), (4, 4), (5, 5), (6, ORDERS - 1)):
        told.on_event(BatchSettled(mapping="m", shard=SHARD, first=first, last=last, count=last - first + 1))
    told.on_event(BatchRetried(mapping="m", shard=SHARD, first=5, last=5, count=1, attempt=1, delay_ms=1, error="E"))
    told.on_event(discarded(3))
    return told


def discarded(first: int, last: int | None = None) -> RecordsDiscarded:
    last = first if last is None else last
    return RecordsDiscarded(
        mapping="m",
        shard=SHARD,
        first=str(first),
        last=str(last),
        count=last - first + 1,
        reason=DiscardReason.RETRY_ATTEMPTS_EXHAUSTED,
        failure_id=ID,
        destination="queue:failed-orders",
    )


def message(first: int = 3, last: int = 3, failure_id: str = ID) -> Message:
    info = {
        "shardId": SHARD,
        "startSequenceNumber": sequence_number(SHARD, first),
        "endSequenceNumber": sequence_number(SHARD, last),
    }
    return Message(
        number=1,
        id="m",
        body=msgspec.json.encode({"KinesisBatchInfo": info}).decode(),
        headers=[Header(name="eventcore-failure-id", value=failure_id)],
        group="",
        sent_ms=0,
        receive_count=0,
        visible_ms=0,
        state="visible",
    )


def status(checkpoint: int = ORDERS, lag: int = 0) -> StatusReport:
    shards = [ShardStatus(shard=SHARD, checkpoint=checkpoint, lag=lag, buffered=0)]
    mapping = MappingStatus(
        mapping="m", source="stream:orders", function="f", state=MappingState.ENABLED, shards=shards
    )
    return StatusReport(is_running=True, now_ms=0, version="", mappings=[mapping])


def test_a_run_that_went_well_agrees(story: Story) -> None:
    assert compare(story, POISON, [message()], status()) == []
    assert story.done.is_set()


@pytest.mark.parametrize("messages", [[], [message(), message(4, 4)], [message(2, 3)], [message(failure_id="other")]])
def test_a_queue_that_holds_something_else_is_named(story: Story, messages: Sequence[Message]) -> None:
    (problem,) = compare(story, POISON, messages, status())
    assert problem.startswith("queue:failed-orders holds")


@pytest.mark.parametrize(
    "report", [status(checkpoint=5), status(lag=1), StatusReport(is_running=True, now_ms=0, version="")]
)
def test_positions_that_differ_are_named(story: Story, report: StatusReport) -> None:
    (problem,) = compare(story, POISON, [message()], report)
    assert "stands at" in problem or "no shard" in problem


def test_a_poison_record_that_was_not_alone_is_named(story: Story) -> None:
    story.discards = [discarded(3, 4)]
    problems = compare(story, POISON, [message(3, 4)], status())
    assert any("was to be discarded alone; discarded: shard 0 [3-4]" in problem for problem in problems)


def test_what_is_missing_or_out_of_order_is_named(story: Story) -> None:
    story.settled = [story.settled[1], story.settled[0]]
    problems = compare(story, POISON, [message()], status())
    assert any(f"of {ORDERS} records were settled or discarded" in problem for problem in problems)
    assert any("was not settled in order" in problem for problem in problems)
    story.retried = []
    assert "no record was settled after a retry" in compare(story, POISON, [message()], status())


def test_a_seed_moves_the_poison_record_and_another_one_fails_once() -> None:
    poisons = set()
    for seed in range(50):
        orders, poison = make_orders(seed)
        poisons.add(poison.id)
        assert [order.id for order in orders if order.quantity < 1] == [poison.id]
        (pounds,) = [order for order in orders if order.currency == "GBP"]
        assert pounds is not poison
        assert make_orders(seed)[1] == poison
    assert len(poisons) > 10

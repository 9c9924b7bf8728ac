"""What is written for an owned shard, and when."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from eventcore.delivery.ordering import EMPTY, Part, ShardState, decode_state, encode_state
from eventcore_connectors.kafka.shape import Partition
from eventcore_connectors.kafka.shards import Mark, OwnedShard

FAILING = ShardState(parts=(Part(last=12, attempt=1),))


TAKEN_AT = Mark(10, "")


def make_shard(*, start: int = 10, state: ShardState = EMPTY, saved: Mark | None = TAKEN_AT) -> OwnedShard:
    """Return a shard that was taken in generation 3."""
    return OwnedShard(Partition("orders", 0), 3, start=start, state=state, saved=saved)


def test_what_the_broker_has_is_not_written_again() -> None:
    """Nothing to write after taking a shard, nor after a save."""
    shard = make_shard()
    assert shard.unsaved(10) is None
    shard.deliver(14)
    shard.settle(12, EMPTY)
    assert shard.unsaved(15) == Mark(12, "")
    shard.save(Mark(12, ""))
    assert shard.unsaved(15) is None


def test_a_starting_position_is_written_at_once() -> None:
    """LATEST must mean the same record after a restart, also when nothing was settled."""
    assert make_shard(saved=None).unsaved(10) == Mark(10, "")


def test_the_position_is_written_when_all_is_settled() -> None:
    """Behind the last record lie only markers and gaps: lag reaches 0."""
    shard = make_shard()
    shard.deliver(14)
    shard.settle(14, EMPTY)
    assert shard.unsaved(20) == Mark(14, ""), "record 14 is not settled"
    shard.settle(15, EMPTY)
    assert shard.unsaved(20) == Mark(20, "")
    assert shard.unsaved(None) == Mark(15, "")


def test_gaps_before_any_record_count_too() -> None:
    """A partition of nothing but aborted transactions reaches its end."""
    assert make_shard().unsaved(25) == Mark(25, "")


def test_failing_work_holds_the_checkpoint() -> None:
    """The first part starts at the checkpoint: it is not moved over a gap while something fails."""
    shard = make_shard()
    shard.deliver(14)
    shard.settle(10, FAILING)
    assert shard.unsaved(20) == Mark(10, encode_state(FAILING))
    shard.settle(15, FAILING)
    assert shard.unsaved(20) == Mark(15, encode_state(FAILING))


def test_failing_work_of_the_owner_before_is_kept() -> None:
    """Until it is settled, background commits write it unchanged."""
    saved = Mark(10, encode_state(FAILING))
    shard = make_shard(state=FAILING, saved=saved)
    assert shard.unsaved(10) is None
    shard.deliver(14)
    assert shard.unsaved(15) is None
    shard.settle(13, EMPTY)
    assert shard.unsaved(15) == Mark(13, "")


def test_metadata_that_is_not_ours_is_replaced() -> None:
    """What another program left there means nothing here, and does not hold the checkpoint."""
    saved = Mark(10, "someone else's")
    shard = make_shard(state=decode_state(saved.metadata), saved=saved)
    assert shard.unsaved(10) == Mark(10, "")


def test_the_checkpoint_never_goes_back() -> None:
    """A settle that comes late moves nothing."""
    shard = make_shard()
    shard.deliver(14)
    shard.settle(14, EMPTY)
    shard.settle(12, EMPTY)
    assert shard.checkpoint == 14


def test_a_lost_range_waits_for_being_settled() -> None:
    """Records that retention took are settled by whoever reports them, not by themselves."""
    shard = make_shard()
    shard.deliver(19)
    assert shard.has_unsettled
    assert shard.unsaved(20) is None
    shard.settle(20, EMPTY)
    assert shard.unsaved(20) == Mark(20, "")


@given(
    steps=st.lists(st.tuples(st.integers(1, 5), st.integers(0, 3), st.integers(0, 6)), max_size=30),
    fails=st.lists(st.booleans(), min_size=30, max_size=30),
)
def test_what_is_written_is_never_ahead(steps: list[tuple[int, int, int]], fails: list[bool]) -> None:
    """Whatever is delivered, skipped and settled: no delivered record at or past the checkpoint is passed over."""
    shard = make_shard()
    position, checkpoint = 10, 10
    delivered: list[int] = []
    for (count, gap, settled), is_failing in zip(steps, fails, strict=False):
        delivered += range(position, position + count)
        shard.deliver(position + count - 1)
        position += count + gap
        open_records = [each for each in delivered if each >= checkpoint]
        checkpoint = open_records[settled] if settled < len(open_records) else delivered[-1] + 1
        shard.settle(checkpoint, FAILING if is_failing else EMPTY)
        written = shard.wanted(position).offset
        assert not [each for each in delivered if checkpoint <= each < written]
        assert written >= checkpoint
        if checkpoint > delivered[-1] and not is_failing:
            assert written == position

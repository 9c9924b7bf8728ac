"""What the group has to tell of shards that were fenced off, and by when."""

from __future__ import annotations

from eventcore.delivery.ordering import EMPTY
from eventcore_connectors.kafka.fenced_shards import FencedShards
from eventcore_connectors.kafka.shape import Partition
from eventcore_connectors.kafka.shards import OwnedShard

PATIENCE_S = 6.0


def shard(number: int, epoch: int = 1) -> OwnedShard:
    """Return an owned shard."""
    return OwnedShard(Partition("orders", number), epoch, start=0, state=EMPTY, saved=None)


def until_1_is_over(epoch: int) -> bool:
    """Tell what a group has told that took back all of the first epoch."""
    return epoch <= 1


def never(epoch: int) -> bool:
    """Tell what a group has told that knows of nothing."""
    del epoch
    return False


def test_a_group_has_some_time_to_tell() -> None:
    fenced = FencedShards(patience_s=PATIENCE_S)
    fenced.note(shard(0), "ended by others", 10.0)
    assert fenced.complaint(never, 15.9) == ""
    assert fenced.complaint(never, 16.0) == "ended by others"


def test_a_member_that_is_over_is_told_enough() -> None:
    fenced = FencedShards(patience_s=PATIENCE_S)
    fenced.note(shard(0), "first", 10.0)
    fenced.note(shard(1, epoch=2), "second", 10.0)
    assert fenced.complaint(until_1_is_over, 20.0) == "second"
    assert fenced.complaint(never, 20.0) == "second"


def test_a_shard_that_is_taken_back_is_told_of() -> None:
    """Whatever its rebalance takes: other members may have long batches to end."""
    fenced = FencedShards(patience_s=PATIENCE_S)
    fenced.note(shard(0), "first", 10.0)
    fenced.note(shard(1), "second", 10.0)
    fenced.forget(["orders-0", "orders-7"])
    assert fenced.complaint(never, 20.0) == "second"
    fenced.forget(["orders-1"])
    assert fenced.complaint(never, 20.0) == ""

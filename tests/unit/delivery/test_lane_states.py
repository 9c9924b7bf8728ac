"""What is kept of a shard's lanes."""

from __future__ import annotations

from eventcore.delivery.lanes import LaneStates, lane_key, lane_name
from eventcore.delivery.ordering import EMPTY, Part, ShardState
from eventcore.model import Record


def test_what_has_failed_or_may_have_killed_an_engine_is_forgotten_last() -> None:
    """What does not fit is left out from the end. A suspect would bring more deaths, attempts would begin anew."""
    states = LaneStates(EMPTY)
    kept = {
        "failed": ShardState(parts=(Part(last=1, attempt=2),)),
        "failed more": ShardState(parts=(Part(last=2, attempt=9),)),
        "cut": ShardState(parts=(Part(last=3, is_cut=True),)),
        "running": ShardState(parts=(Part(last=4),), marked=True),
    }
    names = {}
    for name, state in kept.items():
        key = lane_key(Record(position=0, body=b"", key=name.encode()), 1)
        names[lane_name(key)] = name
        states.keep(key, state, 0)
    assert [names[lane.name] for lane in states.compose(0).lanes] == ["cut", "failed more", "failed", "running"]

"""Whose a mark is that an engine finds."""

from __future__ import annotations

import pytest

from eventcore.delivery.ordering import Part, ShardState
from eventcore.engine.own_marks import OwnMarks
from eventcore.ports.sources import TakenShard


@pytest.mark.parametrize(
    ("found", "is_own"),
    [
        (Part(last=0, request_id="r"), True),
        (Part(last=0, request_id="r", marks=1), False),
        (Part(last=0, request_id="r", attempt=1), False),
        (Part(last=0, request_id="other"), False),
    ],
)
def test_a_mark_is_ours_as_we_wrote_it(found: Part, *, is_own: bool) -> None:
    """Another owner counts it, or fails with the batch, before it marks the same one: that mark is not ours."""
    marks = OwnMarks()
    marks.note(ShardState(parts=(Part(last=0, request_id="r"),), marked=True))
    taken = TakenShard(shard="orders-0", epoch=2, checkpoint=0, state=ShardState(parts=(found,), marked=True))
    assert marks.take_back(taken).state.marked is not is_own

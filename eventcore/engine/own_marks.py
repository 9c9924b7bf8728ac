"""The marks that this engine wrote itself: found again by it, they tell of no death."""

from __future__ import annotations

import msgspec

from eventcore.delivery.decide import find_marked
from eventcore.delivery.ordering import LaneState, ShardState
from eventcore.ports.sources import TakenShard

#: Marks that are remembered, of shards that never came back: the oldest is forgotten first.
MARKS_MAX = 10_000


class OwnMarks:
    """What one engine remembers for as long as it lives, for all of its mappings.

    A shard may be lost amid a batch: a session, or a transaction that could not be ended. Its mark can't be taken back
    then, as another owner may have the shard, which counts it. Found by us as we wrote it, it is ours, and we live:
    another owner that marks the same batch has counted ours before, or failed with it, which is an attempt more.
    """

    def __init__(self) -> None:
        #: By the batch's request id, its failed attempts and its count of marks, in order.
        self._written: dict[tuple[str, int, int], None] = {}

    def note(self, state: ShardState) -> None:
        """Remember a mark; before it is written, as a write that fails may have been made all the same."""
        if (name := _name(state)) is not None:
            self._written[name] = None
            if len(self._written) > MARKS_MAX:
                del self._written[next(iter(self._written))]

    def forget(self, state: ShardState) -> None:
        """Forget a mark whose batch is settled, or has failed."""
        if (name := _name(state)) is not None:
            self._written.pop(name, None)

    def take_back(self, taken: TakenShard) -> TakenShard:
        """Return a taken shard without the marks that are our own."""
        state = taken.state
        if state.marked and _name(state) in self._written:
            state = msgspec.structs.replace(state, marked=False)
        if any(lane.marked for lane in state.lanes):
            state = msgspec.structs.replace(state, lanes=tuple([self._take_back(lane) for lane in state.lanes]))
        return msgspec.structs.replace(taken, state=state)

    def _take_back(self, lane: LaneState) -> LaneState:
        is_own = lane.marked and _name(ShardState(parts=lane.parts)) in self._written
        return msgspec.structs.replace(lane, marked=False) if is_own else lane


def _name(state: ShardState) -> tuple[str, int, int] | None:
    part = find_marked(state)
    return None if part is None else (part.request_id, part.attempt, part.marks)

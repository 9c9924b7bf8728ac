"""The marks that this engine left behind with shards that it lost: it lives, and so they tell of no death."""

from __future__ import annotations

import msgspec

from eventcore.delivery.ordering import ShardState
from eventcore.ports.sources import TakenShard


class OwnMarks:
    """What one engine remembers for as long as it lives: one entry a shard of each mapping at most.

    A shard is lost when its lease, session or transaction ends while a batch of it runs; its mark can't be taken back
    then, as another owner may have it. Found as it was left, nobody has worked on the shard since.
    """

    def __init__(self) -> None:
        self._left: dict[tuple[str, str], tuple[int, ShardState]] = {}

    def leave(self, mapping: str, shard: str, checkpoint: int, state: ShardState) -> None:
        """Note what a mapping wrote last of a shard that it works on no more."""
        if state.marked or any(lane.marked for lane in state.lanes):
            self._left[mapping, shard] = checkpoint, state

    def take_back(self, mapping: str, taken: TakenShard) -> TakenShard:
        """Return a taken shard without the marks that are our own."""
        if self._left.get((mapping, taken.shard)) != (taken.checkpoint, taken.state):
            return taken
        state = taken.state
        lanes = tuple([msgspec.structs.replace(lane, marked=False) for lane in state.lanes])
        return msgspec.structs.replace(taken, state=msgspec.structs.replace(state, marked=False, lanes=lanes))

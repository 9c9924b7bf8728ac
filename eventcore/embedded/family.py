"""The shards of a stream that were split or merged: a parent is drained before its children are read.

Source: Lambda semantics §4 "Resharding" and §12: parents first, then siblings at once.
"""

from __future__ import annotations

from collections.abc import Sequence

from eventcore.embedded.sharding import shard_name
from eventcore.ports.sources import TakenShard
from eventcore.ports.store import ShardExtent


class ShardFamily:
    """Which shards of one mapping wait for their parents; costs nothing where a stream was never split or merged."""

    def __init__(self, extents: Sequence[ShardExtent]) -> None:
        self._parents: dict[str, tuple[str, ...]] = {}
        self._ends: dict[str, int] = {}  #: by closed shard: where it ends
        self._drained: set[str] = set()
        self._waiting: dict[str, TakenShard] = {}
        self._count = 0
        self.learn(extents)

    def is_concerned(self, extents: Sequence[ShardExtent]) -> bool:
        """Tell whether shards were made, or closed ones may be let go."""
        return len(extents) != self._count or bool(self._waiting)

    def learn(self, extents: Sequence[ShardExtent]) -> list[str]:
        """Take over what the shards are now; return the names of those that are new."""
        new = [shard_name(extent.shard) for extent in extents[self._count :]]
        self._count = len(extents)
        for extent in extents:
            if extent.is_closed:
                self._ends[shard_name(extent.shard)] = extent.end
            if extent.parents:
                self._parents[shard_name(extent.shard)] = tuple(map(shard_name, extent.parents))
        return new

    def has_drained(self, name: str) -> bool:
        """Tell whether all of a closed shard was settled, so that nobody works on it any more."""
        return name in self._drained

    def checkpoint(self, name: str, first: int) -> int:
        """Return where a waiting shard will begin; ``first`` for one that was made a moment ago."""
        held = self._waiting.get(name)
        return held.checkpoint if held is not None else first

    def is_drained(self, shard: TakenShard) -> bool:
        """Tell whether a shard is closed and all of it is settled.

        Neither a failing batch nor an open window is left then; parked keys have to be redriven first, for their later
        records are its children's.
        """
        end = self._ends.get(shard.shard)
        return end is not None and shard.checkpoint >= end and not shard.state.parked and shard.state.window is None

    def hold(self, taken: Sequence[TakenShard]) -> list[TakenShard]:
        """Keep shards back that were taken; return those that can be read, and nothing of drained ones."""
        self._waiting.update({shard.shard: shard for shard in taken})
        ready: list[TakenShard] = []
        # Parents have lower numbers than their children.
        for name in sorted(self._waiting):
            if not self._drained.issuperset(self._parents.get(name, ())):
                continue
            shard = self._waiting.pop(name)
            if self.is_drained(shard):
                self._drained.add(name)
            else:
                ready.append(shard)
        return ready

    def release(self, drained: Sequence[str]) -> list[TakenShard]:
        """Let shards go whose end was settled; return those that can be read now."""
        self._drained.update(drained)
        return self.hold(())

"""The shards of a stream that were split or merged: a parent is drained before its children are read.

Source: Lambda semantics §4 "Resharding" and §12: parents first, then siblings at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from eventcore.embedded.sharding import shard_name
from eventcore.ports.sources import TakenShard
from eventcore.ports.store import ShardExtent


class ShardFamily:
    """Which shards of one mapping wait for their parents; costs nothing where a stream was never split or merged."""

    def __init__(self, extents: Sequence[ShardExtent]) -> None:
        self._parents: dict[str, tuple[str, ...]] = {}
        self._ends: dict[str, int] = {}  #: by closed shard: where it ends
        self._drained: dict[str, TakenShard] = {}
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

    def find(self, name: str) -> TakenShard | None:
        """Return a shard that nobody works on: one that waits, or that is drained; None for any other."""
        return self._waiting.get(name) or self._drained.get(name)

    def descendants(self, name: str) -> set[str]:
        """Return the shards that a shard became by splits and merges, their children too."""
        found: set[str] = set()
        # Parents have lower numbers than their children.
        for child in sorted(self._parents):
            if not found.union((name,)).isdisjoint(self._parents[child]):
                found.add(child)
        return found

    def keep_back(self, shards: Sequence[TakenShard], drained: Iterable[str]) -> None:
        """Let shards wait again, and drained ones among them, until a parent is drained once more.

        Args:
            shards: that were worked on until now.
            drained: names; those of others are passed over.
        """
        self._waiting.update({shard.shard: shard for shard in shards})
        self._waiting.update({name: self._drained.pop(name) for name in drained if name in self._drained})

    def move(self, shard: TakenShard) -> None:
        """Take over where a shard that nobody works on was moved; `hold` tells whether it can be read."""
        self._drained.pop(shard.shard, None)
        self._waiting[shard.shard] = shard

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
            if not self._drained.keys() >= set(self._parents.get(name, ())):
                continue
            shard = self._waiting.pop(name)
            if self.is_drained(shard):
                self._drained[name] = shard
            else:
                ready.append(shard)
        return ready

    def release(self, drained: Sequence[TakenShard]) -> list[TakenShard]:
        """Let shards go whose end was settled; return those that can be read now."""
        self._drained.update({shard.shard: shard for shard in drained})
        return self.hold(())

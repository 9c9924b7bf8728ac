"""Splitting and merging shards, for every store: what becomes of their ranges, and where a key goes afterwards.

A shard that was split or merged is closed: it keeps its records, and what is appended to it goes to the one of its
descendants whose range holds the key.

Source: Kinesis Data Streams, "SplitShard", "MergeShards".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from eventcore.delivery.hash_keys import equal_range, hash_key
from eventcore.ports.store import MergeShards, ShardLineage, SplitShard

#: Shards that a stream may have, closed ones too: each is looked at in every receive.
SHARDS_MAX = 10_000

#: Shards by number, as they are to be from now on.
Changes = Mapping[int, ShardLineage]


class Shards(NamedTuple):
    """The shards of a stream, as far as splitting and merging goes."""

    made: int  #: how many the stream was made with
    lineages: Sequence[ShardLineage | None]  #: of each shard there is

    def lineage(self, shard: int) -> ShardLineage:
        """Return a shard's lineage.

        Raises:
            ValueError: there is no such shard.
        """
        if not 0 <= shard < len(self.lineages):
            raise ValueError(f"there is no shard {shard}, only 0-{len(self.lineages) - 1}")
        return lineage_of(shard, self.lineages[shard], self.made)

    def is_closed(self, shard: int) -> bool:
        """Tell whether a shard takes no more records."""
        lineage = self.lineages[shard]
        return lineage is not None and bool(lineage.children)


def split_shard(shards: Shards, operation: SplitShard) -> Changes:
    """Return what a `SplitShard` changes.

    Raises:
        ValueError: it can't be carried out.
    """
    lineage = shards.lineage(operation.shard)
    _check_room(shards, 2)
    if operation.at and not operation.at.isdecimal():
        raise ValueError(f"`{operation.at}` is not a hash key, which is a decimal number")
    return split(operation.shard, lineage, operation.at, len(shards.lineages))


def merge_shards(shards: Shards, operation: MergeShards) -> Changes:
    """Return what a `MergeShards` changes.

    Raises:
        ValueError: it can't be carried out.
    """
    lineage, others = shards.lineage(operation.shard), shards.lineage(operation.other)
    _check_room(shards, 1)
    return merge(operation.shard, lineage, operation.other, others, len(shards.lineages))


def _check_room(shards: Shards, count: int) -> None:
    if len(shards.lineages) + count > SHARDS_MAX:
        raise ValueError(f"a stream has at most {SHARDS_MAX:,} shards, closed ones too")


def lineage_of(shard: int, lineage: ShardLineage | None, count: int) -> ShardLineage:
    """Return a shard's lineage; of one that the stream was made with, its equal share.

    Args:
        shard: its number.
        lineage: None for one that the stream was made with and that was never split or merged.
        count: of shards that the stream was made with.
    """
    if lineage is not None:
        return lineage
    first, last = equal_range(shard, count)
    return ShardLineage(first_hash_key=str(first), last_hash_key=str(last))


def _bounds(lineage: ShardLineage) -> tuple[int, int]:
    return int(lineage.first_hash_key), int(lineage.last_hash_key)


def _closed(lineage: ShardLineage, *children: int) -> ShardLineage:
    return ShardLineage(
        first_hash_key=lineage.first_hash_key,
        last_hash_key=lineage.last_hash_key,
        parents=lineage.parents,
        children=children,
    )


def split(shard: int, lineage: ShardLineage, at: str, following: int) -> Changes:
    """Return what becomes of a shard that is split, and its two children.

    Args:
        shard: its number.
        lineage: of the shard.
        at: the first hash key of the upper child; empty: the middle.
        following: the number that the next shard of the stream gets.

    Raises:
        ValueError: it is closed, or the hash key is not inside its range.
    """
    _check_open(shard, lineage)
    first, last = _bounds(lineage)
    middle = int(at) if at else (first + last + 1) // 2
    if not first < middle <= last:
        raise ValueError(f"the hash key {middle} does not split shard {shard}: it must be from {first + 1} to {last}")
    lower, upper = following, following + 1
    return {
        shard: _closed(lineage, lower, upper),
        lower: ShardLineage(first_hash_key=str(first), last_hash_key=str(middle - 1), parents=(shard,)),
        upper: ShardLineage(first_hash_key=str(middle), last_hash_key=str(last), parents=(shard,)),
    }


def merge(shard: int, lineage: ShardLineage, other: int, others: ShardLineage, following: int) -> Changes:
    """Return what becomes of two shards that are merged, and their child.

    Raises:
        ValueError: one of them is closed, or their ranges do not adjoin.
    """
    _check_open(shard, lineage)
    _check_open(other, others)
    low, high = sorted([_bounds(lineage), _bounds(others)])
    if shard == other or low[1] + 1 != high[0]:
        raise ValueError(f"shards {shard} and {other} can't be merged: their hash keys do not adjoin")
    child = ShardLineage(first_hash_key=str(low[0]), last_hash_key=str(high[1]), parents=(shard, other))
    return {shard: _closed(lineage, following), other: _closed(others, following), following: child}


def _check_open(shard: int, lineage: ShardLineage) -> None:
    if lineage.children:
        children = " and ".join(str(child) for child in lineage.children)
        raise ValueError(f"shard {shard} is closed: its records go to {children}")


def follow(shard: int, key: bytes | None, find: Callable[[int], ShardLineage | None]) -> int:
    """Return the open shard that takes what was meant for a shard; a record without a key goes to its first child.

    Args:
        shard: its number.
        key: of the record.
        find: returns a shard's lineage; None for one that was never split or merged.
    """
    wanted = None if key is None else hash_key(key)
    while (lineage := find(shard)) is not None and lineage.children:
        # A split has its lower child first, a merge has one.
        shard = lineage.children[0]
        for child in lineage.children[1:]:
            upper = find(child)
            assert upper is not None, "children have a lineage"
            if wanted is not None and int(upper.first_hash_key) <= wanted:
                shard = child
    return shard

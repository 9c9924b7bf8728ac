"""Splitting and merging the shards of an embedded stream, while mappings read it.

Source: Kinesis Data Streams, "SplitShard", "MergeShards". Mappings read a parent to its end before its children
(`embedded/family.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from eventcore.embedded.sharding import shard_index, shard_name
from eventcore.errors import CommandError
from eventcore.ports.store import MergeShards, SplitShard, Store
from eventcore.store.resharding import lineage_of


class StreamShard(msgspec.Struct, frozen=True, kw_only=True):
    """A shard of an embedded stream, for people."""

    shard: str
    first_hash_key: str  #: a decimal number, inclusive
    last_hash_key: str  #: the same
    first: int  #: position of the oldest record kept
    end: int  #: position that the next record gets
    parents: tuple[str, ...] = ()
    children: tuple[str, ...] = ()  #: it is closed when there are any


async def list_shards(store: Store, stream: str) -> Sequence[StreamShard]:
    """Return the shards of a stream, closed ones too.

    Raises:
        CommandError: there is no such stream.
    """
    settings = (await store.streams()).get(stream)
    if settings is None:
        raise CommandError(f"there is no stream {stream}")
    shards = []
    for extent in await store.extents(stream):
        lineage = lineage_of(extent.shard, extent.lineage, settings.shards)
        shards.append(
            StreamShard(
                shard=shard_name(extent.shard),
                first_hash_key=lineage.first_hash_key,
                last_hash_key=lineage.last_hash_key,
                first=extent.first,
                end=extent.end,
                parents=tuple(map(shard_name, lineage.parents)),
                children=tuple(map(shard_name, lineage.children)),
            )
        )
    return shards


async def split_shard(store: Store, stream: str, shard: str, *, at: int | None = None) -> tuple[str, str]:
    """Close a shard and open two that share its hash keys; return their names, the lower one first.

    Durable when it returns. What is sent from then on goes to the children; mappings read them once they have settled
    all of the parent.

    Args:
        store: of the stream.
        stream: its name.
        shard: its name.
        at: the first hash key of the upper child; None for the middle.

    Raises:
        CommandError: there is no such stream or shard, it is closed, or the hash key is not inside its range.
        StoreUnavailable: nothing was split.
    """
    operation = SplitShard(stream=stream, shard=_number(shard), at="" if at is None else str(at))
    lower, upper = await _carry_out(store, operation)
    return shard_name(lower), shard_name(upper)


async def merge_shards(store: Store, stream: str, shard: str, other: str) -> str:
    """Close two shards whose hash keys adjoin and open one that has all of them; return its name.

    Durable when it returns; mappings read it once they have settled all of both.

    Raises:
        CommandError: there is no such stream or shard, one is closed, or they do not adjoin.
        StoreUnavailable: nothing was merged.
    """
    operation = MergeShards(stream=stream, shard=_number(shard), other=_number(other))
    (child,) = await _carry_out(store, operation)
    return shard_name(child)


async def _carry_out(store: Store, operation: SplitShard | MergeShards) -> tuple[int, ...]:
    try:
        (made,) = await store.commit([operation])
    except KeyError as error:
        raise CommandError(f"there is no stream {operation.stream}") from error
    except ValueError as error:
        raise CommandError(str(error), hint=f"eventcore stream shards {operation.stream}") from error
    return made if isinstance(made, tuple) else (made,)


def _number(shard: str) -> int:
    """Return a shard's number from its name, or from the number itself as people write it."""
    if shard.isdecimal():
        return int(shard)
    try:
        return shard_index(shard)
    except ValueError as error:
        raise CommandError(str(error)) from error

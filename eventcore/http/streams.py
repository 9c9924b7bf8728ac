"""Looks at the shards of embedded streams, splits and merges them."""

from __future__ import annotations

from collections.abc import Sequence

from eventcore.embedded.resharding import StreamShard, list_shards, merge_shards, split_shard
from eventcore.http.contract import ListShards, MergeStreamShards, Resharded, SplitStreamShard
from eventcore.ports.store import Store


class StreamOperations:
    """What people may do with the shards of a store's streams."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def shards(self, request: ListShards) -> Sequence[StreamShard]:
        """Return the shards of a stream, closed ones too.

        Raises:
            CommandError: there is no such stream.
        """
        return await list_shards(self._store, request.stream)

    async def split(self, request: SplitStreamShard) -> Resharded:
        """Split a shard; see `split_shard`."""
        at = int(request.at) if request.at else None
        children = await split_shard(self._store, request.stream, request.shard, at=at)
        return Resharded(stream=request.stream, closed=(request.shard,), opened=children)

    async def merge(self, request: MergeStreamShards) -> Resharded:
        """Merge two shards; see `merge_shards`."""
        child = await merge_shards(self._store, request.stream, request.shard, request.other)
        return Resharded(stream=request.stream, closed=(request.shard, request.other), opened=(child,))

"""Where a mapping begins that was never at a shard of an embedded stream."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from eventcore.embedded.sharding import shard_name
from eventcore.errors import ProgrammingError
from eventcore.ports.connectors import StartingPosition
from eventcore.ports.store import Checkpoint, SaveCheckpoint, ShardExtent, Store


class StartingPoint:
    """The starting position of one mapping in one stream."""

    def __init__(self, stream: str, position: StartingPosition, *, store: Store) -> None:
        self._stream = stream
        self._position = position
        self._store = store

    async def begin(
        self, names: Sequence[str], checkpoints: Sequence[Checkpoint], *, is_here: bool
    ) -> list[Checkpoint]:
        """Give the checkpoints that were never settled their starting position, durably.

        Args:
            names: of the shards.
            checkpoints: of each, as they were taken.
            is_here: the mapping has read the stream before: what a split or merge made meanwhile is read from its
                beginning.
        """
        extents = {shard_name(extent.shard): extent for extent in await self._store.extents(self._stream)}
        started = [
            checkpoint
            if checkpoint.position >= 0
            else msgspec.structs.replace(
                checkpoint,
                position=extents[name].first if is_here and extents[name].parents else await self._find(extents[name]),
            )
            for name, checkpoint in zip(names, checkpoints, strict=True)
        ]
        await self._store.commit(
            [
                SaveCheckpoint(
                    mapping=checkpoint.mapping,
                    shard=checkpoint.shard,
                    epoch=checkpoint.epoch,
                    position=checkpoint.position,
                    state=checkpoint.state,
                )
                for checkpoint in started
            ]
        )
        return started

    async def _find(self, extent: ShardExtent) -> int:
        match self._position.kind:
            case "TRIM_HORIZON":
                return extent.first
            case "LATEST":
                return extent.end
            case "AT_TIMESTAMP":
                return await self._store.find_position(self._stream, extent.shard, self._position.at_ms)
            case kind:
                raise ProgrammingError(f"{kind} is not a starting position")

"""Reads what embedded streams keep, for a replay that runs in another process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eventcore.config.structs import Settings
from eventcore.embedded.ranges import EmbeddedRange
from eventcore.http.contract import FindPositions, GetExtents, ReadRecords
from eventcore.ports.ranges import Extent, ReadRange
from eventcore.ports.store import Store


class RangeOperations:
    """What may be read of the streams of a store."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings

    def _range(self, stream: str) -> EmbeddedRange:
        settings = self._settings
        return EmbeddedRange(stream, store=self._store, region=settings.region, account_id=settings.account_id)

    async def extents(self, request: GetExtents) -> Sequence[Extent]:
        """Return what each shard keeps.

        Raises:
            SourceUnavailable: there is no such stream.
        """
        return await self._range(request.stream).open()

    async def find(self, request: FindPositions) -> Mapping[str, int]:
        """Return the position of a time in each shard."""
        return await self._range(request.stream).find(request.at_ms)

    async def read(self, request: ReadRecords) -> ReadRange:
        """Return records."""
        return await self._range(request.stream).read(
            request.shard, request.position, request.end, count_max=request.count_max
        )

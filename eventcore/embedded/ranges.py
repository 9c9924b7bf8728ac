"""An embedded stream's records from one position to another, read by nobody's mapping; see `eventcore.ports.ranges`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eventcore.embedded.reading import READ_BYTES_MAX, READ_RECORDS_MAX, read_stored
from eventcore.embedded.shapes import KinesisShape, stream_arn
from eventcore.embedded.sharding import shard_index, shard_name
from eventcore.errors import SourceUnavailable
from eventcore.ports.ranges import Extent, ReadRange
from eventcore.ports.sources import EventShape
from eventcore.ports.store import Store


class EmbeddedRange:
    """A stream of the store, read by positions."""

    def __init__(self, stream: str, *, store: Store, region: str, account_id: str) -> None:
        self._stream = stream
        self._store = store
        self.shape: EventShape = KinesisShape(stream_arn(stream, region=region, account_id=account_id))

    async def open(self) -> Sequence[Extent]:
        """Return what each shard keeps now.

        Raises:
            SourceUnavailable: there is no such stream.
        """
        if self._stream not in await self._store.streams():
            raise SourceUnavailable(f"there is no stream {self._stream}", source=self._stream)
        return [
            Extent(shard=shard_name(extent.shard), first=extent.first, end=extent.end)
            for extent in await self._store.extents(self._stream)
        ]

    async def find(self, at_ms: int) -> Mapping[str, int]:
        """Return by shard the position of the first record that arrived at that time or later."""
        return {
            shard_name(extent.shard): await self._store.find_position(self._stream, extent.shard, at_ms)
            for extent in await self._store.extents(self._stream)
        }

    async def read(self, shard: str, position: int, end: int, *, count_max: int) -> ReadRange:
        """Return records of a shard from a position on; see `RangeSource.read`."""
        stored = await self._store.read(
            self._stream,
            shard_index(shard),
            position,
            count_max=min(count_max, READ_RECORDS_MAX),
            size_bytes_max=READ_BYTES_MAX,
        )
        records = [read_stored(record) for record in stored if record.position < end]
        return ReadRange(records, records[-1].position + 1 if records else end)

    async def aclose(self) -> None:
        """Do nothing: the store stays open."""

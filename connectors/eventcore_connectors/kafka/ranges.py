"""Records of topics from one offset to another, read by nobody's group; see `eventcore.ports.ranges`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import anyio

from eventcore.config.reference import Reference
from eventcore.config.structs import KafkaConfig
from eventcore.errors import SourceUnavailable
from eventcore.loop import loop_time
from eventcore.ports.ranges import Extent, ReadRange
from eventcore.ports.sources import EventShape
from eventcore_connectors.kafka.membership import ClientFailed, OutOfRange, Unreachable, describe, locate
from eventcore_connectors.kafka.reader import TopicReader
from eventcore_connectors.kafka.shape import KafkaShape, Partition

#: One fetch waits this long for a first record, seconds.
_FETCH_WAIT_S = 1.0
#: What brokers say of offsets is asked for at most so long, seconds; and a range that brings nothing for as long is
#: given up.
_PATIENCE_S = 30.0


class KafkaRange:
    """A topic, or all that match an expression, read by offsets. Life: `open`, then anything, then `aclose`."""

    def __init__(self, reference: Reference, config: KafkaConfig) -> None:
        self._reference = reference
        self._config = config
        self._where = locate(reference.part, config)
        self.shape: EventShape = KafkaShape(reference.part, config.bootstrap_servers)
        self._partitions: dict[str, Partition] = {}
        self._reader: TopicReader | None = None

    async def open(self) -> Sequence[Extent]:
        """Connect, and return what each partition keeps now.

        Raises:
            SourceUnavailable: no broker answers, or the topic does not exist; the message names both.
        """
        try:
            self._reader = TopicReader(self._config, self._reference.part, group_id=None)
            partitions = await self._reader.connect()
        except Unreachable as error:
            raise SourceUnavailable(str(error), source=str(self._reference)) from error
        self._partitions = {partition.shard: partition for partition in partitions}
        self._reader.assign(partitions)
        try:
            with anyio.fail_after(_PATIENCE_S):
                firsts = await self._reader.first_positions(partitions)
                ends = await self._reader.end_positions(partitions)
        except (ClientFailed, TimeoutError) as error:
            raise self._unavailable("its offsets can't be read", error) from error
        for partition, first in firsts.items():
            # Every partition needs a position, also those that nobody asks for.
            self._reader.seek(partition, first)
        return [
            Extent(shard=shard, first=firsts[partition], end=ends[partition])
            for shard, partition in self._partitions.items()
        ]

    async def find(self, at_ms: int) -> Mapping[str, int]:
        """Return by shard the offset of the first record with that timestamp or a later one; the end without one."""
        try:
            with anyio.fail_after(_PATIENCE_S):
                found = await self._opened().positions_at(list(self._partitions.values()), at_ms)
        except (ClientFailed, TimeoutError) as error:
            raise self._unavailable("its offsets can't be found by time", error) from error
        return {shard: found[partition] for shard, partition in self._partitions.items()}

    async def read(self, shard: str, position: int, end: int, *, count_max: int) -> ReadRange:
        """Return records of a partition from an offset on; see `RangeSource.read`."""
        reader, partition = self._opened(), self._partitions[shard]
        if reader.position(partition) != position:
            reader.seek(partition, position)
        give_up = loop_time() + _PATIENCE_S
        try:
            while (at := reader.position(partition)) is None or at < end:
                polled = await reader.poll([partition], _FETCH_WAIT_S, count_max=count_max)
                records = [record for record in polled.get(partition, ()) if record.position < end]
                if records:
                    return ReadRange(records, records[-1].position + 1)
                if loop_time() > give_up:
                    raise self._unavailable(f"no answer for {_PATIENCE_S:.0f} s")
        except OutOfRange as error:
            return await self._skip(error, end)
        except ClientFailed as error:
            raise self._unavailable("it can't be read", error) from error
        return ReadRange((), end)

    async def _skip(self, gone: OutOfRange, end: int) -> ReadRange:
        """Go on behind what retention took since the range was opened."""
        try:
            with anyio.fail_after(_PATIENCE_S):
                first = (await self._opened().first_positions([gone.partition]))[gone.partition]
        except (ClientFailed, TimeoutError) as error:
            raise self._unavailable("its oldest record can't be found", error) from error
        if first >= end:
            return ReadRange((), end)
        return await self.read(gone.partition.shard, first, end, count_max=1)

    async def aclose(self) -> None:
        """Disconnect, in bounded time."""
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.disconnect()

    def _opened(self) -> TopicReader:
        assert self._reader is not None, "it is opened first"
        return self._reader

    def _unavailable(self, why: str, error: BaseException | None = None) -> SourceUnavailable:
        cause = f" ({describe(error)})" if error is not None else ""
        return SourceUnavailable(f"Kafka: {why}{cause}: {self._where}", source=str(self._reference))

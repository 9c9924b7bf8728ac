"""A simulated topic that a replay reads, from one position to another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eventcore.config.reference import Reference, StartingPosition
from eventcore.model import Record
from eventcore.ports.ranges import Extent, ReadRange
from eventcore.ports.sources import EventShape
from eventcore.testing.simulated_system import SimulatedSystem, starting


class SimulatedRange:
    """A topic, read from one position to another."""

    def __init__(self, system: SimulatedSystem, reference: Reference, shape: EventShape) -> None:
        self.shape = shape
        self._system = system
        self._reference = reference

    async def open(self) -> Sequence[Extent]:
        """Return what each shard keeps."""
        return [Extent(shard=shard, first=0, end=len(log)) for shard, log in sorted(self._logs().items())]

    async def find(self, at_ms: int) -> Mapping[str, int]:
        """Return by shard the position of the first record of a time."""
        return {shard: starting(StartingPosition("AT_TIMESTAMP", at_ms), log) for shard, log in self._logs().items()}

    async def read(self, shard: str, position: int, end: int, *, count_max: int) -> ReadRange:
        """Return records of a shard."""
        records = self._logs()[shard][position : min(end, position + count_max)]
        return ReadRange(records, position + len(records))

    async def aclose(self) -> None:
        """Do nothing."""

    def _logs(self) -> Mapping[str, Sequence[Record]]:
        return self._system.logs(self._reference)

"""Systems outside, simulated in memory: topics that mappings read and write, endpoints that take what is sent to them.

A mapping's source is asked of the real connector for its shape and never opened: handlers are given exactly the events
that the real system would make.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eventcore.config.reference import Reference
from eventcore.model import OutgoingRecord
from eventcore.ports.connectors import ConnectorContext, StreamRequest
from eventcore.ports.destinations import Destination
from eventcore.ports.ranges import RangeSource
from eventcore.testing.faults import Fence
from eventcore.testing.simulated_destination import SimulatedDestination
from eventcore.testing.simulated_range import SimulatedRange
from eventcore.testing.simulated_source import SimulatedSource
from eventcore.testing.simulated_system import SimulatedSystem


class SimulatedConnector:
    """A system as one engine has it."""

    def __init__(self, system: SimulatedSystem, fence: Fence) -> None:
        self.kind = system.kind
        self._system = system
        self._fence = fence

    def open_stream(self, request: StreamRequest) -> SimulatedSource:
        """Return a source of a topic, with the real system's shape."""
        real = self._system.connector().open_stream(request)
        return SimulatedSource(self._system, request, real, self._fence)

    def open_range(self, reference: Reference, connection: Any) -> RangeSource:
        """Return what reads a topic by positions."""
        real = self._system.connector().open_range(reference, connection)
        return SimulatedRange(self._system, reference, real.shape)

    def open_destination(self, reference: Reference, connection: Any, context: ConnectorContext) -> Destination:
        """Return a destination that keeps what it is given."""
        del connection, context
        return SimulatedDestination(self._system, str(reference), self._fence)

    async def send(
        self, reference: Reference, connection: Any, records: Sequence[OutgoingRecord]
    ) -> Sequence[tuple[str, int]]:
        """Append records to a topic."""
        del connection
        return self._system.append(str(reference), records)

    async def check(self, reference: Reference, connection: Any) -> str:
        """Return one line about the system."""
        del connection
        return f"{reference}, simulated"

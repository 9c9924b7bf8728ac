"""A simulated topic or endpoint that something is sent to."""

from __future__ import annotations

from collections.abc import Sequence

import anyio.lowlevel

from eventcore.errors import DestinationUnavailable
from eventcore.ports.store import OutboxRow
from eventcore.testing.faults import Fence
from eventcore.testing.simulated_system import SimulatedSystem


class SimulatedDestination:
    """A destination that keeps what it is given."""

    def __init__(self, system: SimulatedSystem, reference: str, fence: Fence) -> None:
        self.reference = reference
        self._system = system
        self._fence = fence

    async def open(self) -> None:
        """Do nothing: it is there."""

    async def deliver(self, rows: Sequence[OutboxRow]) -> None:
        """Take rows.

        Raises:
            DestinationUnavailable: a test has taken it down.
        """
        await anyio.lowlevel.checkpoint()
        if self._fence.is_cut:
            raise DestinationUnavailable("the engine has crashed", destination=self.reference)
        self._system.take(self.reference, rows)

    async def aclose(self) -> None:
        """Do nothing."""

"""What the source returned of a shard with lanes, and no lane has yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import anyio

from eventcore.model import Record
from eventcore.ports.sources import LostRange


class Arrival(NamedTuple):
    """What the source returned at one time."""

    records: Sequence[Record]
    lost: LostRange | None
    end: int  #: behind what came, where a filter has left some of it out; -1 without one


class Arrivals:
    """Arrivals of a shard, in order; one task lets them in."""

    def __init__(self) -> None:
        self.count = 0  #: records
        self._waiting: deque[Arrival] = deque()
        self._changed = anyio.Event()

    @property
    def first(self) -> Arrival | None:
        """What is to be let in next."""
        return self._waiting[0] if self._waiting else None

    @property
    def is_barrier(self) -> bool:
        """Whether what comes next is a range that the source lost."""
        return bool(self._waiting) and self._waiting[0].lost is not None

    def put(self, arrival: Arrival) -> None:
        """Add what the source returned."""
        self._waiting.append(arrival)
        self.count += len(arrival.records)
        self._changed.set()

    def pop(self) -> None:
        """Take the first out."""
        self.count -= len(self._waiting.popleft().records)

    def wake(self) -> None:
        """Have the first looked at again."""
        self._changed.set()

    async def wait(self) -> None:
        """Wait until something comes, or the first is to be looked at again."""
        self._changed = anyio.Event()
        await self._changed.wait()

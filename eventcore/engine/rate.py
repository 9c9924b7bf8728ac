"""A mapping's rate limit at work: batches wait for their turn. Rules: `delivery.rate`."""

from __future__ import annotations

import anyio

from eventcore.delivery.rate import RateLimit
from eventcore.loop import loop_time


class MappingRate:
    """The rate limit of one mapping, shared by all that invoke for it."""

    def __init__(self, records_per_second: float) -> None:
        self._limit = RateLimit(records_per_second)

    async def wait(self, count: int) -> None:
        """Wait until a batch of so many records may begin. Cancelled, its turn is lost."""
        begins_s = self._limit.reserve(count, now_s := loop_time())
        if begins_s > now_s:
            await anyio.sleep_until(begins_s)

    def room(self, within_s: float) -> int:
        """Return how many records more may begin until so many seconds from now."""
        return self._limit.room(loop_time(), within_s)

    def pause_s(self, count: int, within_s: float) -> float:
        """Return in how many seconds `room` will be so many records; 0 or less: it is."""
        return self._limit.room_s(count, within_s) - loop_time()

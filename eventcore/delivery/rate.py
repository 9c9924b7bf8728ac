"""How many records a second a mapping hands to its function: a token bucket.

Pure: it is told the time, in seconds of one steady clock. A batch begins as soon as the bucket holds one record, and
is paid for afterwards: so batches larger than the bucket run too, and the rate holds over time.
"""

from __future__ import annotations

#: What the bucket holds, in seconds of the rate: so much comes at once after a rest, and at least one record.
BURST_S = 1.0
#: Sums of fractions of a second fall short of whole records by less than this.
_ROUNDING = 1e-9


class RateLimit:
    """The bucket of one mapping, full at first."""

    def __init__(self, records_per_second: float) -> None:
        """Let so many records a second through, above 0."""
        self._record_s = 1 / records_per_second
        self._burst_s = max(BURST_S, self._record_s)
        self._paid_s = float("-inf")  #: when all that was reserved is paid for

    def reserve(self, count: int, now_s: float) -> float:
        """Take room for a batch, and return when it may begin: now, or later. Batches begin in the order they asked."""
        begins_s = max(now_s, self._paid_s + self._record_s - self._burst_s)
        self._paid_s = max(self._paid_s, now_s) + count * self._record_s
        return begins_s

    def room(self, now_s: float, within_s: float) -> int:
        """Return how many records more may begin, one by one, until so many seconds from now."""
        free_s = now_s + within_s + self._burst_s - max(self._paid_s, now_s)
        return max(0, int(free_s / self._record_s + _ROUNDING))

    def room_s(self, count: int, within_s: float) -> float:
        """Return when `room` will be so many records."""
        return self._paid_s + count * self._record_s - self._burst_s - within_s

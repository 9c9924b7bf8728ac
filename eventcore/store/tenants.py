"""Fair queues: which tenants of a standard queue are noisy neighbours. What every store decides alike; pure.

A tenant is a message group; a message without one is a tenant of its own, and never noisy. Source: SQS developer
guide, "How Amazon SQS fair queues work". Of its two measures this is the share of messages in flight, with its numbers.

What is in flight is what was received since the store was opened: who received before that has died since.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

#: A tenant with fewer messages in flight is quiet.
IN_FLIGHT_MIN = 30
#: A tenant is noisy that has more than one of so many messages that are in flight: 10 %.
SHARE_OF = 10
#: Messages of each tenant that were set aside and are looked at by one sweep of what retention ends: about 1 ms.
SWEPT_MAX = 100


class Tenants:
    """The tenants of one queue: what they have in flight, and how many of their visible messages were passed over."""

    __slots__ = ("_groups", "aside", "in_flight")

    def __init__(self) -> None:
        self.in_flight: dict[str, int] = {}  #: messages by group; none has 0
        self.aside: dict[str, int] = {}  #: visible messages by group, passed over while it was noisy; none has 0
        self._groups: dict[int, str] = {}  #: of each message in flight, by key

    @property
    def is_shared(self) -> bool:
        """Whether any tenant is known: without one a receive has nothing to be fair about."""
        return bool(self.in_flight or self.aside)

    def is_noisy(self, group: str, total: int) -> bool:
        """Return whether a tenant is noisy, with ``total`` messages of the queue in flight."""
        own = self.in_flight.get(group, 0)
        return own >= IN_FLIGHT_MIN and own * SHARE_OF > total

    def take(self, key: int, group: str) -> None:
        """Note that a message of a tenant was received."""
        self._groups[key] = group
        self.in_flight[group] = self.in_flight.get(group, 0) + 1

    def release(self, keys: Iterable[int]) -> None:
        """Note that messages are not in flight any more; those that are not known to be are passed by."""
        for key in keys:
            group = self._groups.pop(key, None)
            if group is not None:
                _add(self.in_flight, group, -1)

    def set_aside(self, group: str, count: int) -> None:
        """Note that visible messages of a tenant were passed over; with a negative number: that they no longer are."""
        _add(self.aside, group, count)

    def allot(self, count: int, total: int, *, is_quiet_only: bool) -> dict[str, int]:
        """Return how many of the messages set aside are next, by group: of who has the fewest in flight, one at a time.

        Args:
            count: at most so many.
            total: messages of the queue that are in flight.
            is_quiet_only: none of a tenant that is noisy, or would become it.
        """
        waiting = [(self.in_flight.get(group, 0), group) for group in self.aside]
        heapq.heapify(waiting)
        allotted: dict[str, int] = {}
        while waiting and count:
            own, group = heapq.heappop(waiting)
            if is_quiet_only and own >= IN_FLIGHT_MIN and own * SHARE_OF > total:
                continue
            allotted[group] = allotted.get(group, 0) + 1
            count -= 1
            total += 1
            if allotted[group] < self.aside[group]:
                heapq.heappush(waiting, (own + 1, group))
        return allotted

    def clear(self) -> None:
        """Forget everything: nothing is in the queue."""
        self.in_flight.clear()
        self.aside.clear()
        self._groups.clear()


def _add(counts: dict[str, int], group: str, count: int) -> None:
    left = counts.get(group, 0) + count
    if left:
        counts[group] = left
    else:
        counts.pop(group, None)

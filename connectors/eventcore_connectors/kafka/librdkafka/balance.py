"""Whether to read on: what comes next from librdkafka is of any partition, also of those of which enough is held.

A partition that nobody takes from must not keep the others waiting: librdkafka is told to pause it. That is the last
resort: it drops what it has fetched of a paused partition, and fetches it again afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf
from typing import Protocol

from confluent_kafka import TopicPartition

from eventcore_connectors.kafka.librdkafka.held import Held
from eventcore_connectors.kafka.shape import Partition

#: So long somebody may look for records in vain before full partitions are paused, seconds.
_STARVING_S_MAX = 0.05
#: So long they may stay full while nobody misses anything, seconds: librdkafka calls nobody back meanwhile, and so a
#: rebalance waits.
_FULL_S_MAX = 0.5


class Pausing(Protocol):
    """What librdkafka's object is needed for."""

    def pause(self, partitions: list[TopicPartition]) -> None:
        """Deliver nothing of them."""
        ...

    def resume(self, partitions: list[TopicPartition]) -> None:
        """Deliver them again."""
        ...


class Balance:
    """Decides before each read; used by the reading thread alone."""

    def __init__(self, held: Held, now: Callable[[], float]) -> None:
        """Pause nothing yet.

        Args:
            held: what was read and not taken.
            now: seconds, never going back.
        """
        self._held = held
        self._now = now
        self._paused: set[Partition] = set()
        self._full_since = self._starving_since = inf

    def forget(self, partitions: Iterable[Partition]) -> None:
        """Note that librdkafka does not have them paused any more, as after an assignment."""
        self._paused -= set(partitions)

    def may_read(self, kafka: Pausing, wait_s: float, *, is_called_back: bool = False) -> bool:
        """Tell whether to read now; else it is asked again, after whatever else is to be done.

        Once a partition is full, it waits until somebody has looked for more than is held, and not only until something
        was taken: two threads that work at the same time wait for each other, and for memory that the other one has
        just touched.

        Args:
            kafka: librdkafka's object.
            wait_s: waits so long at most.
            is_called_back: whether librdkafka is about to call back, as for a commit: it does so while it is read,
                behind what it has fetched by then. Whoever takes records may be waiting for that.
        """
        if self._held.full() - self._paused or self._full_since < inf:
            if is_called_back and not self._held.is_overfull:
                self._resume_roomy(kafka)
                return True
            has_room = self._held.wait_for_room(wait_s, besides=self._paused)
            if not has_room and not self._is_too_long():
                return False
        self._full_since = self._starving_since = inf
        if more := self._held.full() - self._paused:
            kafka.pause(_listed(more))
        self._resume_roomy(kafka)
        self._paused |= more
        return True

    def _resume_roomy(self, kafka: Pausing) -> None:
        if fewer := self._held.roomy(self._paused):
            kafka.resume(_listed(fewer))
            self._paused -= fewer

    def _is_too_long(self) -> bool:
        now = self._now()
        self._full_since = min(self._full_since, now)
        self._starving_since = min(self._starving_since, now) if self._held.is_starving else inf
        return now >= self._starving_since + _STARVING_S_MAX or now >= self._full_since + _FULL_S_MAX


def _listed(partitions: Iterable[Partition]) -> list[TopicPartition]:
    return [TopicPartition(*partition) for partition in sorted(partitions)]

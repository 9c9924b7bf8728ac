"""Which partitions a member has, since when, and how librdkafka is told: all at once, or one by one.

The classic protocol takes every partition in each rebalance, and a generation belongs to all of them. The new one
(KIP-848) moves single partitions: the member's epoch rises while the others stay, so that each epoch since the member
joined is as good as the newest one.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Sequence
from typing import cast

from confluent_kafka import Consumer, TopicPartition

from eventcore_connectors.kafka.librdkafka.held import Held
from eventcore_connectors.kafka.shape import Partition

#: Where the serialised group metadata has the generation, or the member's epoch: behind its mark, in the machine's
#: byte order.
_GENERATION = slice(7, 11)
#: Of a member that is in no group.
_NONE = -1


class Assignment:
    """What the group has given to a member. Changed in the reading thread only."""

    def __init__(self, held: Held, *, is_incremental: bool) -> None:
        """Have nothing.

        Args:
            held: knows where partitions are read.
            is_incremental: whether partitions come and go one by one.
        """
        self.partitions: frozenset[Partition] = frozenset()  #: that are ours, and read
        self.generation = _NONE  #: in which partitions came last; -1 when they were lost
        self._first = _NONE  #: generation: what was taken since is ours until it is given up
        self._owned: frozenset[Partition] = frozenset()  #: also those that are being taken or given up
        self._held = held
        self._is_incremental = is_incremental

    def is_over(self, generation: int) -> bool:
        """Tell whether partitions that were taken in that generation may have other owners by now."""
        return self.generation == _NONE or not self._first <= generation <= self.generation

    def still_ours(self, generation: int, offsets: Iterable[TopicPartition]) -> list[TopicPartition]:
        """Return the offsets that may be committed for what was taken in that generation or a later one."""
        if self.is_over(generation):
            return []
        return [each for each in offsets if Partition(each.topic, each.partition) in self._owned]

    def begin(self, kafka: Consumer, partitions: Collection[Partition]) -> None:
        """Own partitions from now on, before anybody works on them."""
        metadata = cast("bytes", kafka.consumer_group_metadata())
        generation = int.from_bytes(metadata[_GENERATION], sys.byteorder, signed=True)
        if self.generation == _NONE or not self._is_incremental:
            self._first = generation
        self.generation = generation
        self._owned |= set(partitions)

    def lose(self) -> None:
        """Note that other members may own the partitions already."""
        self.generation = _NONE

    def read(self, kafka: Consumer, partitions: Sequence[Partition]) -> None:
        """Read partitions that were begun, those that have a position; the others were given none for a reason."""
        sought = self._held.seeks().keys()
        if not self._is_incremental:
            self.partitions = frozenset(sought & set(partitions))
            kafka.assign(self._places(self.partitions))
            return
        # All of them: what is left out would be offered again without end.
        kafka.incremental_assign([TopicPartition(*each) for each in partitions if each not in sought])
        kafka.incremental_assign(self._places(sought & set(partitions)))
        self._move(kafka, sought & self.partitions)
        self.partitions |= set(partitions)

    def seek(self, kafka: Consumer) -> Collection[Partition]:
        """Read partitions from where the loop asks, and return those for which librdkafka forgot that they are paused.

        librdkafka's own seek refuses those whose position was passed.
        """
        sought = self._held.seeks().keys() & self.partitions
        if not sought:
            return ()
        if self._is_incremental:
            self._move(kafka, sought)
            return sought
        # Under this protocol it can't be done for one alone.
        kafka.assign(self._places(self.partitions))
        return self.partitions

    def _move(self, kafka: Consumer, partitions: Collection[Partition]) -> None:
        if partitions:
            kafka.incremental_unassign([TopicPartition(*each) for each in partitions])
            kafka.incremental_assign(self._places(partitions))

    def give_up(self, kafka: Consumer, partitions: Collection[Partition]) -> None:
        """Own partitions no more, now that nobody works on them."""
        self._held.drop(partitions)
        self._owned -= set(partitions)
        self.partitions -= set(partitions)
        if self._is_incremental:
            kafka.incremental_unassign([TopicPartition(*each) for each in partitions])
        else:
            self._owned = self.partitions = frozenset()
            kafka.unassign()

    def _places(self, partitions: Collection[Partition]) -> list[TopicPartition]:
        return [TopicPartition(*partition, offset) for partition, offset in self._held.read_to(partitions).items()]

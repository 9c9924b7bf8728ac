"""Records that were read and that nobody has taken yet, by partition, and where each partition stands.

Shared by the thread that reads and the loop that takes: every method holds the lock for a moment only.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet

from eventcore.model import Record
from eventcore_connectors.kafka.shape import Partition

#: Of one partition, records: two rounds of reading, as one is read before anybody looks what is held.
PARTITION_COUNT_MAX = 8_000
#: Of one partition, bytes, where records are large.
PARTITION_BYTES_MAX = 4 * 1024 * 1024
#: Times as much while the answer to a commit is waited for, which comes behind what librdkafka has fetched.
_OVERFULL = 3


class _Rounds:
    """Records of one partition, as they were read: rounds, each with its bytes."""

    __slots__ = ("_rounds", "count", "size_bytes")

    def __init__(self) -> None:
        self._rounds: deque[tuple[list[Record], int]] = deque()
        self.count = self.size_bytes = 0

    @property
    def first(self) -> Record:
        """The next record; there is one."""
        return self._rounds[0][0][0]

    @property
    def is_full(self) -> bool:
        """Whether enough is held."""
        return self.count >= PARTITION_COUNT_MAX or self.size_bytes >= PARTITION_BYTES_MAX

    @property
    def is_overfull(self) -> bool:
        """Whether several times as much is held."""
        return self.count >= _OVERFULL * PARTITION_COUNT_MAX or self.size_bytes >= _OVERFULL * PARTITION_BYTES_MAX

    @property
    def is_roomy(self) -> bool:
        """Whether not half as much as may be is held."""
        return self.count * 2 < PARTITION_COUNT_MAX and self.size_bytes * 2 < PARTITION_BYTES_MAX

    def put(self, records: list[Record]) -> None:
        size_bytes = _size_bytes(records)
        self._rounds.append((records, size_bytes))
        self._count(len(records), size_bytes)

    def take(self, count_max: int) -> list[Record]:
        """Take records, at most so many: whole rounds without looking into them, and a part of the one after."""
        found: list[Record] = []
        while self._rounds and (room := count_max - len(found)):
            records, size_bytes = self._rounds.popleft()
            if len(records) > room:
                part_bytes = _size_bytes(records[:room])
                self._rounds.appendleft((records[room:], size_bytes - part_bytes))
                records, size_bytes = records[:room], part_bytes
            self._count(-len(records), -size_bytes)
            found = found + records if found else records
        return found

    def _count(self, count: int, size_bytes: int) -> None:
        self.count += count
        self.size_bytes += size_bytes


def _size_bytes(records: Sequence[Record]) -> int:
    return sum([record.size_bytes for record in records])


class Held:
    """What is between the reading thread and the loop. Partitions are here from `begin` to `drop`."""

    def __init__(self) -> None:
        self._room = threading.Condition()
        self._rounds: dict[Partition, _Rounds] = {}
        self._is_interrupted = False
        self._is_starving = False  #: whoever looked last for records found none
        self._is_awaited = False  #: somebody found none since records were put
        self._ends: dict[Partition, int] = {}  #: behind what was read
        self._passed: dict[Partition, int] = {}  #: positions that the log has passed
        self._seeks: dict[Partition, int] = {}  #: asked for, and not done by the reading thread

    # -- called in the loop --------------------------------------------------------------------------------------------

    def begin(self, partition: Partition, position: int) -> None:
        """Read a partition from a position on."""
        with self._room:
            self._rounds[partition] = _Rounds()
            self._ends[partition] = self._seeks[partition] = position
            self._passed.pop(partition, None)

    def take(self, partitions: Sequence[Partition], count_max: int) -> Mapping[Partition, Sequence[Record]]:
        """Return records of the partitions, at most so many, and no longer hold them."""
        taken: dict[Partition, Sequence[Record]] = {}
        with self._room:
            for partition in partitions:
                rounds = self._rounds.get(partition)
                if rounds is not None and rounds.count and count_max > 0:
                    taken[partition] = found = rounds.take(count_max)
                    count_max -= len(found)
            # Whoever asks for no partition misses nothing.
            self._is_starving = bool(partitions) and not taken
            if self._is_starving:
                self._is_awaited = True
            self._room.notify_all()
        return taken

    def position(self, partition: Partition) -> int | None:
        """Return the offset behind what was taken; None for a partition that is not here."""
        with self._room:
            rounds = self._rounds.get(partition)
            return rounds.first.position if rounds is not None and rounds.count else self._ends.get(partition)

    def passed(self, partitions: Sequence[Partition]) -> tuple[Partition, int] | None:
        """Return a partition whose log has passed its position, with that position."""
        if not self._passed:
            return None
        with self._room:
            ready = (each for each in partitions if each in self._passed and not self._rounds[each].count)
            return next(((each, self._passed[each]) for each in ready), None)

    def interrupt(self) -> None:
        """End a `wait_for_room`, or else the next one: the reading thread has something else to do."""
        with self._room:
            self._is_interrupted = True
            self._room.notify_all()

    # -- called in the reading thread ----------------------------------------------------------------------------------

    def put(self, partition: Partition, records: list[Record]) -> bool:
        """Hold records, and tell whether somebody has looked for some and found none.

        Those of a partition that is not here, or is about to be read from elsewhere, are dropped.
        """
        with self._room:
            rounds = self._rounds.get(partition)
            if rounds is None or partition in self._seeks:
                return False
            rounds.put(records)
            self._ends[partition] = records[-1].position + 1
            is_awaited, self._is_awaited = self._is_awaited, False
            return is_awaited

    def reach(self, partition: Partition, end: int) -> None:
        """Note that no record lies before an offset that was not read."""
        with self._room:
            if partition in self._ends and partition not in self._seeks:
                self._ends[partition] = max(self._ends[partition], end)

    def note_passed(self, partition: Partition) -> None:
        """Note that the log has passed the partition's position."""
        with self._room:
            if partition in self._ends and partition not in self._seeks:
                self._passed[partition] = self._ends[partition]

    def seeks(self) -> Mapping[Partition, int]:
        """Return where partitions are to be read from, once."""
        with self._room:
            seeks, self._seeks = self._seeks, {}
            return seeks

    def read_to(self, partitions: Iterable[Partition]) -> Mapping[Partition, int]:
        """Return the offset behind what was read of each partition that is here."""
        with self._room:
            return {partition: self._ends[partition] for partition in partitions if partition in self._ends}

    def drop(self, partitions: Iterable[Partition]) -> None:
        """Forget partitions."""
        with self._room:
            for partition in partitions:
                for known in (self._rounds, self._ends, self._passed, self._seeks):
                    known.pop(partition, None)
            self._room.notify_all()

    def full(self) -> set[Partition]:
        """Return the partitions of which enough is held."""
        with self._room:
            return self._full()

    @property
    def is_overfull(self) -> bool:
        """Whether no more of some partition may be held, whatever it is good for."""
        with self._room:
            return any(rounds.is_overfull for rounds in self._rounds.values())

    def roomy(self, partitions: Iterable[Partition]) -> set[Partition]:
        """Return those of which not half as much as may be is held."""
        with self._room:
            return {partition for partition in partitions if self._is_roomy(partition)}

    def _is_roomy(self, partition: Partition) -> bool:
        rounds = self._rounds.get(partition)
        return rounds is None or rounds.is_roomy

    def wait_for_room(self, timeout_s: float, *, besides: AbstractSet[Partition]) -> bool:
        """Wait until records were looked for in vain and none of the partitions is full; tell whether it is so.

        Ends before its time after `interrupt`.

        Args:
            timeout_s: at most so long.
            besides: partitions that may be full.
        """
        with self._room:
            self._room.wait_for(lambda: self._is_interrupted or self._is_sought(besides), timeout_s)
            self._is_interrupted = False
            return self._is_sought(besides)

    def _is_sought(self, besides: AbstractSet[Partition]) -> bool:
        return self._is_awaited and self._full() <= besides

    @property
    def is_starving(self) -> bool:
        """Whether whoever looked last for records found none."""
        return self._is_starving

    def _full(self) -> set[Partition]:
        return {partition for partition, rounds in self._rounds.items() if rounds.is_full}

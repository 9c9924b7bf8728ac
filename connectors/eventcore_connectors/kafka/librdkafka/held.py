"""Records that were read and that nobody has taken yet, by partition, and where each partition stands.

Shared by the thread that reads and the loop that takes: every method holds the lock for a moment only.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence

from eventcore.model import Record
from eventcore_connectors.kafka.shape import Partition

#: Of one partition, records: two rounds of reading, so that a taker always finds some.
PARTITION_COUNT_MAX = 4_000
#: Of one partition, bytes, where records are large.
PARTITION_BYTES_MAX = 4 * 1024 * 1024


class Held:
    """What is between the reading thread and the loop. Partitions are here from `begin` to `drop`."""

    def __init__(self) -> None:
        self._room = threading.Condition()
        self._records: dict[Partition, list[Record]] = {}
        self._bytes: dict[Partition, int] = {}
        self._ends: dict[Partition, int] = {}  #: behind what was read
        self._passed: dict[Partition, int] = {}  #: positions that the log has passed
        self._seeks: dict[Partition, int] = {}  #: asked for, and not done by the reading thread

    # -- called in the loop --------------------------------------------------------------------------------------------

    def begin(self, partition: Partition, position: int) -> None:
        """Read a partition from a position on."""
        with self._room:
            self._records[partition], self._bytes[partition] = [], 0
            self._ends[partition] = self._seeks[partition] = position
            self._passed.pop(partition, None)

    def take(self, partitions: Sequence[Partition], count_max: int) -> Mapping[Partition, Sequence[Record]]:
        """Return records of the partitions, at most so many, and no longer hold them."""
        taken: dict[Partition, Sequence[Record]] = {}
        with self._room:
            for partition in partitions:
                records = self._records.get(partition)
                if not records or count_max <= 0:
                    continue
                taken[partition] = found = self._take(partition, records, count_max)
                count_max -= len(found)
            if taken:
                self._room.notify_all()
        return taken

    def _take(self, partition: Partition, records: list[Record], count_max: int) -> list[Record]:
        found, rest = (records, []) if len(records) <= count_max else (records[:count_max], records[count_max:])
        self._records[partition] = rest
        self._bytes[partition] = sum([record.size_bytes for record in rest])
        return found

    def position(self, partition: Partition) -> int | None:
        """Return the offset behind what was taken; None for a partition that is not here."""
        with self._room:
            records = self._records.get(partition)
            return records[0].position if records else self._ends.get(partition)

    def passed(self, partitions: Sequence[Partition]) -> tuple[Partition, int] | None:
        """Return a partition whose log has passed its position, with that position."""
        if not self._passed:
            return None
        with self._room:
            ready = (each for each in partitions if each in self._passed and not self._records.get(each))
            return next(((each, self._passed[each]) for each in ready), None)

    # -- called in the reading thread ----------------------------------------------------------------------------------

    def put(self, partition: Partition, records: list[Record]) -> None:
        """Hold records; those of a partition that is not here, or is about to be read from elsewhere, are dropped."""
        with self._room:
            held = self._records.get(partition)
            if held is None or partition in self._seeks:
                return
            held += records
            self._bytes[partition] += sum([record.size_bytes for record in records])
            self._ends[partition] = records[-1].position + 1

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
                for known in (self._records, self._bytes, self._ends, self._passed, self._seeks):
                    known.pop(partition, None)
            self._room.notify_all()

    def full(self) -> set[Partition]:
        """Return the partitions of which enough is held."""
        with self._room:
            return self._full()

    def wait_for_room(self, timeout_s: float) -> set[Partition]:
        """Return the partitions that are full even after so long a wait."""
        with self._room:
            self._room.wait_for(lambda: not self._full(), timeout_s)
            return self._full()

    def stop_waiting(self) -> None:
        """End a `wait_for_room`: nobody takes any more."""
        with self._room:
            self._records.clear()
            self._ends.clear()
            self._room.notify_all()

    def _full(self) -> set[Partition]:
        return {
            partition
            for partition, records in self._records.items()
            if len(records) >= PARTITION_COUNT_MAX or self._bytes[partition] >= PARTITION_BYTES_MAX
        }

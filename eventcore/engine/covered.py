"""What was given up before a crash that lost its ack: it settles without an invocation when it comes again (design §3).

Kept in a note of the store, which is written with the discard itself, until the source's checkpoint has passed it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from eventcore.model import Record
from eventcore.ports.store import PutNote, Store

#: Ranges of given-up records that a shard's note may hold; the checkpoint passes them long before.
COVERED_MAX = 1000

#: First and last position of a run of records that was given up, both inclusive.
Range = tuple[int, int]

_ranges = msgspec.json.Decoder(list[Range])


class Covered:
    """What one shard has given up and its source may not know yet."""

    def __init__(self, store: Store, name: str) -> None:
        """Know of nothing yet.

        Args:
            store: of the note.
            name: of the note, one for each shard.
        """
        self._store = store
        self._name = name
        self._ranges: list[Range] = []

    async def load(self, checkpoint: int) -> None:
        """Read what an earlier engine on this store gave up at or past a checkpoint.

        Raises:
            StoreUnavailable: the note can't be read.
        """
        note = await self._store.note(self._name)
        if note is not None:
            self._ranges = [covered for covered in _ranges.decode(note) if covered[1] >= checkpoint]

    def add(self, records: Sequence[Record]) -> PutNote:
        """Note that adjoining records are given up; return the write that makes it durable."""
        self._ranges.append((records[0].position, records[-1].position))
        del self._ranges[:-COVERED_MAX]
        return PutNote(name=self._name, value=msgspec.json.encode(self._ranges))

    def count_leading(self, records: Sequence[Record]) -> int:
        """Return how many leading records were given up; ranges in front of them are forgotten."""
        count = 0
        while self._ranges and count < len(records):
            first, last = self._ranges[0]
            position = records[count].position
            if position > last:
                self._ranges.pop(0)
            elif position >= first:
                count += 1
            else:
                break
        return count

    def reaches_below(self, checkpoint: int) -> bool:
        """Tell whether a checkpoint would pass something that was given up."""
        return bool(self._ranges) and self._ranges[0][0] < checkpoint

    async def settle(self, checkpoint: int) -> None:
        """Forget everything once the source's checkpoint is past it: the note must not hide it from a later rewind.

        Raises:
            StoreUnavailable: the note can't be written.
        """
        if self._ranges and self._ranges[-1][1] < checkpoint:
            self._ranges.clear()
            await self._store.commit([PutNote(name=self._name, value=b"[]")])

"""What was given up before a crash that lost its ack: it settles without an invocation when it comes again (design §3).

Kept in a note of the store, which is written with the discard itself, until the source's checkpoint has passed it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from typing import Protocol

import msgspec

from eventcore.model import Record
from eventcore.ports.store import PutNote, Store

#: Runs of given-up records that the note of a shard may hold; the checkpoint passes them long before. With lanes they
#: have others' records between them: as many runs may be held as records may lie behind the checkpoint (`skew_max`).
COVERED_MAX = 1000

#: First and last position of a run of records that was given up, both inclusive.
Range = tuple[int, int]

_ranges = msgspec.json.Decoder(list[Range])


def covered_note(mapping: str, source: str, shard: str) -> str:
    """Return the name of the note of a shard."""
    return f"covered/{mapping}/{source}/{shard}"


def _moves_note(mapping: str, source: str, shard: str) -> str:
    return f"moved/{mapping}/{source}/{shard}"


async def read_moves(store: Store, mapping: str, source: str, shard: str) -> int:
    """Return how often a shard was moved by hand: what is given up again since then is told again.

    Raises:
        StoreUnavailable: the note can't be read.
    """
    note = await store.note(_moves_note(mapping, source, shard))
    return int(note) if note is not None else 0


async def forget_given_up(store: Store, mapping: str, source: str, shard: str) -> Sequence[PutNote]:
    """Return the writes that let a shard which is moved by hand begin anew: nothing of it was ever given up.

    Raises:
        StoreUnavailable: a note can't be read.
    """
    moves = await read_moves(store, mapping, source, shard) + 1
    return (
        PutNote(name=covered_note(mapping, source, shard), value=b"[]"),
        PutNote(name=_moves_note(mapping, source, shard), value=str(moves).encode()),
    )


class GivenUp(Protocol):
    """What a lane has given up, as its settling step sees it."""

    def add(self, records: Sequence[Record]) -> None:
        """Note that records of one batch, without a gap in it, are given up; `keep` makes it last."""
        ...

    def keep(self) -> PutNote:
        """Return the write that keeps the note of all that was added."""
        ...

    def count_leading(self, records: Sequence[Record]) -> int:
        """Return how many leading records were given up; ranges in front of them are forgotten."""
        ...

    def reaches_below(self, checkpoint: int) -> bool:
        """Tell whether a checkpoint would pass something that was given up."""
        ...

    async def settle(self, checkpoint: int) -> None:
        """Forget everything once the source's checkpoint is past it: the note must not hide it from a later rewind.

        Raises:
            StoreUnavailable: the note can't be written.
        """
        ...


class Covered:
    """What one shard has given up and its source may not know yet; see `GivenUp`."""

    def __init__(self, store: Store, name: str, *, runs_max: int = COVERED_MAX) -> None:
        """Know of nothing yet.

        Args:
            store: of the note.
            name: of the note, one for each shard.
            runs_max: runs that it may hold: past it, those that are furthest behind are told again after a crash.
        """
        self._store = store
        self._name = name
        self._runs_max = runs_max
        self._ranges: list[Range] = []  #: by position, none next to another
        self._loaded: deque[Range] = deque()  #: by position, those that are not passed

    async def load(self, checkpoint: int) -> None:
        """Read what an earlier engine on this store gave up at or past a checkpoint.

        Raises:
            StoreUnavailable: the note can't be read.
        """
        note = await self._store.note(self._name)
        if note is not None:
            for first, last in _ranges.decode(note):
                if last >= checkpoint:
                    self.join(first, last)
            self._loaded = deque(self._ranges)

    @property
    def is_loaded(self) -> bool:
        """Whether an earlier engine gave something up that has not come again."""
        return bool(self._loaded)

    def pass_by(self, position: int) -> bool:
        """Tell whether an earlier engine gave a record up; to be asked in the order of positions."""
        while self._loaded and self._loaded[0][1] < position:
            self._loaded.popleft()
        return bool(self._loaded) and self._loaded[0][0] <= position

    def add(self, records: Sequence[Record]) -> None:
        """Note that records are given up, and all between the first and the last."""
        self.join(records[0].position, records[-1].position)

    def join(self, first: int, last: int) -> None:
        """Note that a run of positions is given up, both ends included: one run with those that it touches."""
        ranges = self._ranges
        begin = end = bisect_left(ranges, (first,))
        if begin and ranges[begin - 1][1] >= first - 1:
            begin -= 1
            first = ranges[begin][0]
            last = max(last, ranges[begin][1])
        while end < len(ranges) and ranges[end][0] <= last + 1:
            last = max(last, ranges[end][1])
            end += 1
        ranges[begin:end] = [(first, last)]
        if len(ranges) > self._runs_max:
            del ranges[0]

    def keep(self) -> PutNote:
        """Return the write that keeps the note."""
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
        """Forget everything once the source's checkpoint is past it."""
        if not self._ranges:
            return
        passed = bisect_left(self._ranges, checkpoint, key=_last)
        del self._ranges[:passed]
        if not self._ranges:
            await self._store.commit([PutNote(name=self._name, value=b"[]")])


def _last(run: Range) -> int:
    return run[1]


class LaneCovered:
    """What one lane of a shard gives up: records with others' between them. The shard looks after the rest."""

    def __init__(self, shard: Covered) -> None:
        """Share the shard's note."""
        self._shard = shard

    def add(self, records: Sequence[Record]) -> None:
        """Note that records are given up, each by itself."""
        for record in records:
            self._shard.join(record.position, record.position)

    def keep(self) -> PutNote:
        """Return the write that keeps the shard's note."""
        return self._shard.keep()

    def count_leading(self, records: Sequence[Record]) -> int:
        """Return 0: the shard does not hand out what was given up."""
        del records
        return 0

    def reaches_below(self, checkpoint: int) -> bool:
        """Return False: the shard's checkpoint passes no other lane's discard."""
        del checkpoint
        return False

    async def settle(self, checkpoint: int) -> None:
        """Do nothing: the shard forgets what its own checkpoint has passed."""

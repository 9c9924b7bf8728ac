"""How what a stream still keeps is read again, by whoever wants it: no group, no owner, no checkpoint.

For a replay, and for what was parked in a topic. Whoever reads a range disturbs no mapping.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from eventcore.model import Record
from eventcore.ports.sources import EventShape


class Extent(msgspec.Struct, frozen=True, kw_only=True):
    """What a shard keeps."""

    shard: str
    first: int  #: position of the oldest record kept, or after it
    end: int  #: position that the next record gets


class ReadRange(msgspec.Struct, frozen=True):
    """What one read brought."""

    records: Sequence[Record]
    next: int  #: position to read on from; at the end it is not below the end that was asked for


class RangeSource(Protocol):
    """A stream, read from one position to another. Life: `open`, then anything, then `aclose`."""

    shape: EventShape

    async def open(self) -> Sequence[Extent]:
        """Connect, and return what each shard keeps now, by name.

        Raises:
            SourceUnavailable: it can't be reached, or does not exist; the message names both.
        """
        ...

    async def find(self, at_ms: int) -> Mapping[str, int]:
        """Return by shard the position of the first record with that time or a later one; the shard's end without one.

        Raises:
            SourceUnavailable: it can't be reached.
        """
        ...

    async def read(self, shard: str, position: int, end: int, *, count_max: int) -> ReadRange:
        """Return records of a shard from a position on, in order, those at or past ``end`` left out.

        Records that are gone by now (retention, compaction) are passed over. Empty only at the end.

        Args:
            shard: its name.
            position: where to begin.
            end: not above the `Extent.end` of `open`: what comes later is not waited for.
            count_max: records at most.

        Raises:
            SourceUnavailable: it can't be reached.
        """
        ...

    async def aclose(self) -> None:
        """Disconnect."""
        ...

"""Where a replay begins and ends, as a person writes it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime

import click
import msgspec

from eventcore.archive.replay import ReplayShard
from eventcore.cli.replay_state import Position
from eventcore.clock import SystemClock
from eventcore.ports.ranges import Extent, RangeSource

#: Nine digits of days are three million years.
_AGO = re.compile(r"-([0-9]{1,9}(?:\.[0-9]{1,9})?)([smhd])")
_UNIT_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


class Bound(msgspec.Struct, frozen=True, kw_only=True):
    """An end of a range: one of these, or none for what is usual there."""

    position: int | None = None
    at_ms: int | None = None  #: wall time
    is_beginning: bool = False
    is_end: bool = False

    def of(self, usual: int, found: int | None, extent: Extent) -> int:
        """Return the position that it means in a shard.

        Args:
            usual: where nothing was written.
            found: the position of the time, where one was.
            extent: what the shard keeps.
        """
        if self.position is not None:
            return self.position
        if self.is_beginning:
            return extent.first
        if self.is_end:
            return extent.end
        return usual if found is None else found


def read_bound(text: str | None) -> Bound:
    """Return what a person wrote: `beginning`, `end`, an offset, a time (ISO 8601; local without a zone), `-2h` ago.

    Raises:
        UsageError: it is none of these.
    """
    if text is None:
        return Bound()
    if text in {"beginning", "end"}:
        return Bound(is_beginning=text == "beginning", is_end=text == "end")
    if text.isdecimal():
        return Bound(position=int(text))
    if ago := _AGO.fullmatch(text):
        return _at(SystemClock().now_ms() - int(float(ago[1]) * _UNIT_MS[ago[2]]))
    try:
        at_ms = int(datetime.fromisoformat(text).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise click.UsageError(
            f"`{text}` is neither `beginning`, `end`, an offset, a time as 2026-11-21T08:00:00, nor a span as -2h"
        ) from None
    return _at(at_ms)


def _at(at_ms: int) -> Bound:
    # Nothing is older than 1970; and to Kafka -1 and -2 mean other things.
    return Bound(at_ms=max(at_ms, 0))


async def find_range(
    source: RangeSource, extents: Sequence[Extent], begin: Bound, stop: Bound
) -> Sequence[ReplayShard]:
    """Return what bounds mean in each shard."""
    begins, stops = await _positions(source, begin), await _positions(source, stop)
    return [
        _within(
            extent,
            begin.of(extent.first, begins.get(extent.shard), extent),
            stop.of(extent.end, stops.get(extent.shard), extent),
        )
        for extent in extents
    ]


def find_left(extents: Sequence[Extent], kept: Sequence[Position]) -> Sequence[ReplayShard]:
    """Return what an interrupted replay has left of each shard that it ran."""
    left = {position.shard: position for position in kept}
    return [
        _within(extent, left[extent.shard].position, left[extent.shard].end)
        for extent in extents
        if extent.shard in left
    ]


def _within(extent: Extent, position: int, end: int) -> ReplayShard:
    """Return a range of a shard, without what it does not keep."""
    return ReplayShard(shard=extent.shard, position=max(position, extent.first), end=min(end, extent.end))


async def _positions(source: RangeSource, bound: Bound) -> Mapping[str, int]:
    return await source.find(bound.at_ms) if bound.at_ms is not None else {}


def shard_number(shard: str) -> int:
    """Return a shard's number: what stands behind its last hyphen, for Kafka and for embedded streams."""
    return int(shard.rpartition("-")[2])

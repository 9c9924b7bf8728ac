"""Where a replay begins and ends, as a person writes it."""

from __future__ import annotations

import re
from datetime import datetime

import click
import msgspec

from eventcore.clock import SystemClock
from eventcore.ports.ranges import Extent

_AGO = re.compile(r"-(\d+(?:\.\d+)?)([smhd])")
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
        return Bound(at_ms=SystemClock().now_ms() - int(float(ago[1]) * _UNIT_MS[ago[2]]))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise click.UsageError(
            f"`{text}` is neither `beginning`, `end`, an offset, a time as 2026-11-21T08:00:00, nor a span as -2h"
        ) from None
    return Bound(at_ms=int(moment.timestamp() * 1000))

"""The only reader of wall time.

Wall time is read to be *stored*: arrival, age, visibility. Durations and deadlines inside one process use the loop's
time (`eventcore.loop`), which never jumps.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol

#: The last millisecond that the format can write; producers may stamp records with any number.
_LAST_MS = 253_402_300_799_999


def iso_ms(time_ms: int) -> str:
    """Return a time as AWS writes it: `2026-03-04T05:06:07.089Z`; the nearest that can be written for any other."""
    time_ms = min(max(time_ms, 0), _LAST_MS)
    moment = datetime.fromtimestamp(time_ms // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ms % 1000:03d}Z"


class Clock(Protocol):
    """A source of wall time, injected wherever wall time is stored."""

    def now_ms(self) -> int:
        """Return the wall time in milliseconds since the epoch, UTC."""
        ...


class SystemClock:
    """The operating system's wall clock."""

    def now_ms(self) -> int:
        """Return the wall time in milliseconds since the epoch, UTC."""
        return time.time_ns() // 1_000_000


class LoopClock:
    """A wall clock that follows the event loop's time: in virtual time an hour of retries is an instant.

    Needs a running event loop when read.
    """

    #: 2026-01-01T00:00:00Z: a fixed start, so that a run's stored times are the same on every machine.
    START_MS = 1_767_225_600_000

    def __init__(self, start_ms: int = START_MS) -> None:
        self._start_ms = start_ms

    def now_ms(self) -> int:
        """Return the start plus the loop's own time, in milliseconds."""
        # Imported here: clock is in the lowest layer and must not cost an event loop's import.
        import anyio

        return self._start_ms + int(anyio.current_time() * 1000)

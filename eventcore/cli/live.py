"""The live lines of `eventcore dev`: what the engine's events and the functions' own lines say, as it happens.

What happens ten thousand times a second is counted and summed up once a second; what goes wrong is told line by line.
Both are bounded: a pipeline in trouble must not be slowed down, nor its reader buried, by what is written about it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import anyio
import click

from eventcore.cli.event_text import FAILURE_DIGITS, describe
from eventcore.cli.log_lines import show_log_line
from eventcore.cli.output import show_count
from eventcore.ports.runtime import LogLine
from eventcore.telemetry.events import (
    BatchInvoked,
    BatchSettled,
    EngineEvent,
    InvocationFinished,
    RecordsDiscarded,
    RecordsFiltered,
    RecordsReceived,
    RecordsRepeated,
    RecordsSent,
)

#: Seconds between two summaries.
SUMMARY_EVERY_S = 1.0
#: Lines of each kind in that time: as fast as a person can follow a scrolling screen.
INVOCATION_LINES_MAX = 5
FUNCTION_LINES_MAX = 25
OTHER_LINES_MAX = 25
FUNCTION_LINES = "lines of functions"

#: Told in the summary only.
_COUNTED: dict[type[EngineEvent], str] = {
    RecordsSent: "sent",
    RecordsReceived: "received",
    RecordsFiltered: "filtered out",
    RecordsRepeated: "known by their key",
    BatchSettled: "settled",
}


class LiveView:
    """Writes lines about one engine. Subscribe `on_event` and `on_line`; keep `run` running."""

    def __init__(self, write: Callable[[str], None], *, repeat_in: Callable[[str], str] = str) -> None:
        """Prepare to write.

        Args:
            write: writes a line.
            repeat_in: makes a hint's command one that can be typed; see `Options.repeat_in`.
        """
        self._write = write
        self._repeat_in = repeat_in
        #: The last line of each function that was left out: of a traceback the one that says what went wrong.
        self._last_left_out: dict[str, str] = {}
        self._counted: dict[str, Counter[str]] = {}
        self._written: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()

    async def run(self) -> None:
        """Write a summary every second in which something happened; cancelled, the last one."""
        try:
            while True:
                await anyio.sleep(SUMMARY_EVERY_S)
                self.summarise()
        finally:
            self.summarise()

    def on_event(self, event: EngineEvent) -> None:
        """Tell an event, or count it."""
        if type(event) in _COUNTED:
            name = event.mapping or event.source if isinstance(event, RecordsSent) else event.mapping
            count: int = getattr(event, "count", 0)
            self._counted.setdefault(name, Counter())[_COUNTED[type(event)]] += count
        elif isinstance(event, BatchInvoked):
            counts = self._counted.setdefault(event.mapping, Counter())
            counts["invocations"] += 1
            if counts["invocations"] <= INVOCATION_LINES_MAX:
                self._write(describe(event))
        elif not isinstance(event, InvocationFinished):
            self._put("events", OTHER_LINES_MAX, self._with_hint(event))

    def on_line(self, line: LogLine) -> None:
        """Tell what a function wrote; the platform's own lines stand in its log."""
        if line.stream != "platform":
            shown = show_log_line(line)
            if not self._put(FUNCTION_LINES, FUNCTION_LINES_MAX, shown) and line.text.strip():
                self._last_left_out[line.function] = shown

    def summarise(self) -> None:
        """Write what was counted since the last summary, and what was left out; nothing for nothing."""
        for name, counts in self._counted.items():
            parts = [show_count(counts[word], "record") + f" {word}" for word in _COUNTED.values() if counts[word]]
            if counts["invocations"] > INVOCATION_LINES_MAX:
                parts.append(show_count(counts["invocations"], "invocation"))
            if parts:
                self._write(f"{click.style(name, fg='cyan')}  {', '.join(parts)}")
        for kind, count in self._left_out.items():
            hint = self._repeat_in(" (eventcore logs shows them); the last:") if kind == FUNCTION_LINES else ""
            self._write(click.style(f"... and {count:,} more {kind}{hint}", dim=True))
        for line in self._last_left_out.values():
            self._write(line)
        self._counted.clear()
        self._written.clear()
        self._left_out.clear()
        self._last_left_out.clear()

    def _with_hint(self, event: EngineEvent) -> str:
        if isinstance(event, RecordsDiscarded) and event.failure_id:
            hint = self._repeat_in(f"eventcore failures show {event.failure_id[:FAILURE_DIGITS]}")
            return f"{describe(event)}: {hint}"
        return describe(event)

    def _put(self, kind: str, lines_max: int, line: str) -> bool:
        """Write a line unless there were enough; return False where it was left out."""
        if not line:
            return True
        if self._written[kind] >= lines_max:
            self._left_out[kind] += 1
            return False
        self._written[kind] += 1
        self._write(line)
        return True

"""The live lines of `dev`: everything is told or counted, and no faster than a person reads."""

from __future__ import annotations

import click

from eventcore.cli.live import FUNCTION_LINES_MAX, INVOCATION_LINES_MAX, OTHER_LINES_MAX, LiveView
from eventcore.ports.runtime import LogLine
from eventcore.telemetry.events import (
    BatchInvoked,
    BatchRetried,
    BatchSettled,
    EngineEvent,
    RecordsReceived,
    RecordsSent,
)


class Screen:
    """What was written."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.view = LiveView(lambda text: self.lines.append(click.unstyle(text)))

    def tell(self, event: EngineEvent, times: int = 1) -> None:
        for _ in range(times):
            self.view.on_event(event)


def invoked(number: int = 0) -> BatchInvoked:
    return BatchInvoked(
        mapping="m", shard="", function="f", first=number, last=number, count=1, attempt=1, request_id="r"
    )


RETRIED = BatchRetried(mapping="m", shard="", first=1, last=1, count=1, attempt=1, delay_ms=1, error="E")


def test_what_is_counted_is_summed_up_by_mapping() -> None:
    screen = Screen()
    screen.tell(RecordsSent(source="stream:s", count=3))
    screen.tell(RecordsReceived(mapping="m", shard="", count=2), times=2)
    screen.tell(BatchSettled(mapping="m", shard="", first=1, last=1, count=1), times=3)
    screen.tell(BatchSettled(mapping="n", shard="", first=1, last=1, count=1))
    assert screen.lines == []
    screen.view.summarise()
    assert screen.lines == [
        "stream:s  3 records sent",
        "m  4 records received, 3 records settled",
        "n  1 record settled",
    ]


def test_nothing_is_said_of_nothing() -> None:
    screen = Screen()
    screen.view.summarise()
    screen.tell(RETRIED)
    screen.view.summarise()
    screen.view.summarise()
    assert len(screen.lines) == 1


def test_a_storm_is_some_lines_and_a_count() -> None:
    """What goes wrong is never crowded out by what goes right."""
    screen = Screen()
    screen.tell(invoked(), times=1000)
    screen.tell(RETRIED, times=1000)
    for _ in range(1000):
        screen.view.on_line(LogLine(function="f", request_id="r", time_ms=0, text="words"))
    screen.view.on_line(LogLine(function="f", request_id="r", time_ms=0, text="ValueError: why"))
    screen.view.summarise()
    assert len(screen.lines) == INVOCATION_LINES_MAX + OTHER_LINES_MAX + FUNCTION_LINES_MAX + 4
    assert screen.lines[-4:] == [
        "m  1,000 invocations",
        f"... and {1000 - OTHER_LINES_MAX:,} more events",
        f"... and {1001 - FUNCTION_LINES_MAX:,} more lines of functions (eventcore logs shows them); the last:",
        "f | ValueError: why",
    ]


def test_the_next_second_has_lines_of_its_own() -> None:
    screen = Screen()
    screen.tell(RETRIED, times=OTHER_LINES_MAX + 1)
    screen.view.summarise()
    before = len(screen.lines)
    screen.tell(RETRIED)
    assert len(screen.lines) == before + 1


def test_the_platforms_own_lines_stay_in_the_log() -> None:
    screen = Screen()
    screen.view.on_line(LogLine(function="f", request_id="r", time_ms=0, text="START RequestId", stream="platform"))
    assert screen.lines == []

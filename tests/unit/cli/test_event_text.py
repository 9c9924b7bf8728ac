"""The engine's events as lines for people."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from eventcore.cli.event_text import describe, show_location, show_shard
from eventcore.model import DiscardReason, Fault, FaultCause
from eventcore.telemetry import events as told
from eventcore.telemetry.events import EngineEvent

FAULT = Fault(cause=FaultCause.HANDLER, error_type="ValueError", message="bad", location="orders.py:3")

#: Every kind of event, and what its line holds.
LINES: list[tuple[EngineEvent, str]] = [
    (told.RecordsSent(source="stream:orders", count=1), "1 record sent to stream:orders"),
    (told.RecordsReceived(mapping="m", shard="", count=2), "m  2 records received"),
    (
        told.RecordsParked(mapping="m", shard="orders-3", first=3, last=9, count=2, destination="queue:parked"),
        "m orders-3  2 records parked in queue:parked: their key keeps failing; eventcore mapping redrive m",
    ),
    (
        told.MappingControlled(mapping="m", shard="orders-3", action="seek", by="ann", detail="to 7"),
        "m orders-3  seek to 7, by ann",
    ),
    (
        told.BreakerChanged(mapping="m", state="open", why="OSError: down", pause_ms=30_000),
        "m  circuit breaker open: OSError: down; one batch is tried in 30 s",
    ),
    (told.RecordsFiltered(mapping="m", shard="", count=2), "m  2 records filtered out"),
    (told.RecordsRepeated(mapping="m", shard="", count=2), "m  2 records processed before, not invoked again"),
    (
        told.RecordsNotRemembered(mapping="m", count=1, result_bytes_max=9),
        "m  1 result not remembered, as longer than maximum_result_bytes = 9",
    ),
    (
        told.WindowCalled(
            mapping="m", shard="orders-3", function="f", window="A/B", attempt=2, is_early=False, request_id="r"
        ),
        "m orders-3  final call of A/B to f, attempt 2",
    ),
    (
        told.WindowRetried(mapping="m", shard="orders-3", window="A/B", attempt=1, delay_ms=200, error="E: bad"),
        "m orders-3  final call of A/B failed: E: bad, attempt 1 failed; again in 200 ms",
    ),
    (
        told.WindowClosed(mapping="m", shard="orders-3", window="A/B", is_early=True),
        "m orders-3  window A/B closed early: its state is too large",
    ),
    (
        told.RecordsLost(mapping="m", shard="orders-3", count=2, reason=DiscardReason.RECORD_EXPIRED),
        "m orders-3  2 records lost, RecordExpired",
    ),
    (
        told.RecordsLost(
            mapping="m",
            shard="",
            count=1,
            reason=DiscardReason.RECEIVES_EXHAUSTED,
            first="a-b",
            last="a-b",
            destination="queue:dead",
        ),
        "m  [a-b] moved to queue:dead: it was received as often as the redrive policy allows",
    ),
    (
        told.BatchInvoked(
            mapping="m", shard="shardId-000000000007", function="f", first=3, last=5, count=3, attempt=2, request_id="r"
        ),
        "m shard 7  [3-5] invokes f with 3 records, attempt 2",
    ),
    (
        told.BatchInvoked(mapping="m", shard="", function="f", first=3, last=3, count=1, attempt=2, request_id="r"),
        "m  [3] invokes f with 1 record, receive 2",
    ),
    (told.InvocationFinished(mapping="m", function="f", request_id="r", duration_ms=1.0, fault=FAULT), ""),
    (
        told.InvocationFinished(mapping="", function="f", request_id="r", duration_ms=1.0, fault=FAULT),
        "f failed: ValueError: bad",
    ),
    (told.EventAccepted(function="f", request_id="r"), "f  event r accepted"),
    (told.EventInvoked(function="f", request_id="r", attempt=1), "f  event r invokes"),
    (told.EventInvoked(function="f", request_id="r", attempt=2), "f  event r invokes, attempt 2"),
    (
        told.EventDelivered(function="f", request_id="r", attempt=1, destination="queue:done"),
        "f  event r delivered, told to queue:done",
    ),
    (
        told.EventRetried(function="f", request_id="r", attempt=1, delay_ms=60_000, error="E: x", location="a.py:1"),
        "f  event r E: x (a.py:1), attempt 1 failed; again in 1 min",
    ),
    (
        told.EventRetried(function="f", request_id="r", attempt=0, delay_ms=0, error=""),
        "ended by a stop; again at once",
    ),
    (
        told.EventDiscarded(
            function="f",
            request_id="r",
            reason=DiscardReason.RETRIES_EXHAUSTED,
            attempt=3,
            failure_id="f-1",
            destinations=("queue:dead", "queue:failed"),
            error="E: x",
        ),
        "f  event r discarded to queue:dead, queue:failed: RetriesExhausted after E: x, kept as failure f-1",
    ),
    (told.BatchSettled(mapping="m", shard="", first=3, last=3, count=1), "m  [3] settled: 1 record"),
    (
        told.BatchRetried(
            mapping="m", shard="", first=3, last=4, count=2, attempt=2, delay_ms=400, error="E: x", location="a.py:1"
        ),
        "m  [3-4] failed: E: x (a.py:1), attempt 2 failed; again in 400 ms",
    ),
    (
        told.BatchRetried(mapping="m", shard="", first=3, last=4, count=2, attempt=0, delay_ms=0, error="E: x"),
        "m  [3-4] failed: E: x; the rest again at once",
    ),
    (
        told.BatchRetried(
            mapping="m", shard="", first=3, last=4, count=2, attempt=1, delay_ms=0, error="E: x", is_returned=True
        ),
        "m  [3-4] failed: E: x, receive 1 failed; back after its visibility timeout",
    ),
    (
        told.BatchBisected(
            mapping="m",
            shard="",
            first=0,
            middle=1,
            last=3,
            left_count=2,
            right_count=2,
            error="E: x",
        ),
        "m  [0-3] failed: E: x; split into 2 and 2, [0-1] first",
    ),
    (
        told.RecordsDiscarded(
            mapping="m",
            shard="",
            first=3,
            last=3,
            count=1,
            reason=DiscardReason.RETRY_ATTEMPTS_EXHAUSTED,
            failure_id="0123456789abcdef",
            destination="queue:failed",
            error="E: x",
            location="a.py:1",
        ),
        "m  [3] discarded to queue:failed: RetryAttemptsExhausted after E: x (a.py:1), kept as failure 0123456789ab",
    ),
    (told.RecordsReturned(mapping="m", shard="", count=2, why="drain"), "m  2 records returned to the source: drain"),
    (told.MappingStateChanged(mapping="m", state="Problem", why="no broker"), "m  Problem: no broker"),
    (told.MappingStateChanged(mapping="m", state="Problem", why="Traceback:\n  File\nE: x\n"), "m  Problem: E: x"),
    (
        told.ShardTaken(mapping="m", shard="orders-0", epoch=1, checkpoint=-1),
        "taken, from the beginning on",
    ),
    (told.ShardReleased(mapping="m", shard="orders-0", why="rebalance"), "m orders-0  released: rebalance"),
    (
        told.OutboxBlocked(destination="http:x", rows=3, error="refused", retry_in_ms=1, is_at_bound=True),
        "http:x has no room: mappings that write to it wait: refused",
    ),
    (told.OutboxBlocked(destination="http:x", rows=3, error="no", retry_in_ms=1), "3 records waiting for http:x: no"),
]


@pytest.mark.parametrize(("event", "line"), LINES, ids=lambda value: type(value).__name__)
def test_an_event_says_what_happened(event: EngineEvent, line: str) -> None:
    described = click.unstyle(describe(event))
    assert line in described if line else described == ""


def test_there_is_no_event_without_words() -> None:
    assert {type(event) for event, _ in LINES} == set(EngineEvent.__subclasses__())


def test_what_comes_from_outside_stays_on_its_line() -> None:
    event = told.ShardReleased(mapping="m", shard="s", why="two\nlines\x1b[2J")
    assert "\n" not in describe(event)
    assert "\x1b[2J" not in describe(event)


@pytest.mark.parametrize(
    ("shard", "shown"), [("shardId-000000000012", "shard 12"), ("orders-3", "orders-3"), ("shardId-x", "shardId-x")]
)
def test_a_shard_is_called_what_people_call_it(shard: str, shown: str) -> None:
    assert show_shard(shard) == shown


def test_a_place_is_told_as_seen_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert show_location(f"{tmp_path}/src/orders.py:7") == "src/orders.py:7"
    assert show_location("/elsewhere/orders.py:7") == "/elsewhere/orders.py:7"
    assert show_location("") == ""

"""What the engine's events say, as lines for people. The words come from the events' facts and from nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import click

from eventcore.cli.output import show_count, show_line, show_span
from eventcore.model import DiscardReason
from eventcore.telemetry.events import (
    BatchBisected,
    BatchInvoked,
    BatchRetried,
    BatchSettled,
    BreakerChanged,
    EngineEvent,
    EventAccepted,
    EventDelivered,
    EventDiscarded,
    EventInvoked,
    EventRetried,
    InvocationFinished,
    MappingControlled,
    MappingStateChanged,
    OutboxBlocked,
    RecordsDiscarded,
    RecordsFiltered,
    RecordsLost,
    RecordsNotRemembered,
    RecordsParked,
    RecordsReceived,
    RecordsRepeated,
    RecordsReturned,
    RecordsSent,
    ShardReleased,
    ShardTaken,
    WindowCalled,
    WindowClosed,
    WindowRetried,
    fault_text,
    last_line,
)

_KINESIS_SHARD = "shardId-"
#: A failure's id is written this far: unique among any that a store keeps, and `failures show` takes it.
FAILURE_DIGITS = 12


def describe(event: EngineEvent) -> str:
    """Return an event as one line; empty for one that says nothing by itself."""
    text = _text(event)
    if not text:
        return ""
    shard = getattr(event, "shard", "")
    where = event.mapping + (f" {show_shard(shard)}" if shard else "")
    return f"{click.style(where, fg='cyan')}  {text}" if where else text


def show_shard(shard: str) -> str:
    """Return a shard's name as people say it: `shard 3`, `orders-3`."""
    digits = shard.removeprefix(_KINESIS_SHARD)
    return f"shard {int(digits)}" if digits != shard and digits.isdecimal() else shard


def show_location(location: str) -> str:
    """Return `file:line` as seen from the working directory."""
    path, _, line = location.rpartition(":")
    if not path or not Path(path).is_relative_to(Path.cwd()):
        return location
    return f"{os.path.relpath(path)}:{line}"


def show_error(error: str, location: str) -> str:
    """Return an error with where it was raised."""
    return show_line(f"{error} ({show_location(location)})" if location else error)


def show_reason(why: str) -> str:
    """Return why a mapping can't run in one line: of a traceback its last one, which says what went wrong."""
    return show_line(last_line(why))


def _text(event: EngineEvent) -> str:
    match event:
        case RecordsSent():
            return f"{show_count(event.count, 'record')} sent to {event.source}"
        case RecordsReceived():
            return f"{show_count(event.count, 'record')} received"
        case RecordsFiltered():
            return f"{show_count(event.count, 'record')} filtered out"
        case RecordsRepeated():
            return f"{show_count(event.count, 'record')} processed before, not invoked again"
        case RecordsNotRemembered():
            limit = f"maximum_result_bytes = {event.result_bytes_max}"
            return click.style(
                f"{show_count(event.count, 'result')} not remembered, as longer than {limit}", fg="yellow"
            )
        case BatchInvoked():
            counted = "attempt" if event.shard else "receive"
            attempt = f", {counted} {event.attempt}" if event.attempt > 1 else ""
            return f"{_range(event)} invokes {event.function} with {show_count(event.count, 'record')}{attempt}"
        case InvocationFinished():
            return f"{event.function} failed: {fault_text(event.fault)}" if event.fault and not event.mapping else ""
        case BatchSettled():
            return click.style(f"{_range(event)} settled: {show_count(event.count, 'record')}", fg="green")
        case BatchRetried():
            return _retried(event)
        case BatchBisected():
            halves = f"{event.left_count} and {event.right_count}, {_positions(event.first, event.middle)} first"
            error = f"failed: {show_error(event.error, event.location)}; " if event.error else ""
            return click.style(f"{_range(event)} {error}split into {halves}", fg="yellow")
        case RecordsLost(reason=DiscardReason.RECEIVES_EXHAUSTED) if event.destination:
            return click.style(f"[{event.first}] {_moved(event)}", fg="yellow")
        case RecordsDiscarded() | RecordsLost() | OutboxBlocked():
            return click.style(_given_up(event), fg="red")
        case EventAccepted() | EventInvoked() | EventDelivered():
            return _passed(event)
        case EventRetried():
            error = show_error(event.error, event.location) or "ended by a stop"
            when = f"again in {show_span(event.delay_ms)}" if event.delay_ms else "again at once"
            tried = f", attempt {event.attempt} failed" if event.attempt and not event.is_throttled else ""
            return click.style(f"{_event(event)} {error}{tried}; {when}", fg="yellow")
        case EventDiscarded():
            told = f" to {', '.join(event.destinations)}" if event.destinations else ""
            error = f" after {show_error(event.error, event.location)}" if event.error else ""
            kept = f", kept as failure {event.failure_id[:FAILURE_DIGITS]}" if event.failure_id else ""
            return click.style(f"{_event(event)} discarded{told}: {event.reason.value}{error}{kept}", fg="red")
        case RecordsParked():
            waiting = f"{show_count(event.count, 'record')} parked in {event.destination}"
            return click.style(
                f"{waiting}: their key keeps failing; eventcore mapping redrive {event.mapping}", fg="yellow"
            )
        case WindowCalled():
            attempt = f", attempt {event.attempt}" if event.attempt > 1 else ""
            return f"final call of {event.window} to {event.function}{attempt}"
        case WindowRetried():
            error = show_error(event.error, event.location)
            when = f"attempt {event.attempt} failed; again in {show_span(event.delay_ms)}"
            return click.style(f"final call of {event.window} failed: {error}, {when}", fg="yellow")
        case WindowClosed():
            early = " early: its state is too large" if event.is_early else ""
            return f"window {event.window} closed{early}"
        case RecordsReturned():
            return f"{show_count(event.count, 'record')} returned to the source: {show_line(event.why)}"
        case MappingStateChanged():
            color = "red" if event.why else None
            return click.style(event.state + (f": {show_reason(event.why)}" if event.why else ""), fg=color)
        case BreakerChanged():
            next_probe = f"; one batch is tried in {show_span(event.pause_ms)}" if event.pause_ms else ""
            why = f": {show_line(event.why)}" if event.why else ""
            return click.style(f"circuit breaker {event.state}{why}{next_probe}", fg="yellow" if event.why else None)
        case MappingControlled():
            detail = f" {event.detail}" if event.detail else ""
            return click.style(f"{event.action}{detail}, by {show_line(event.by)}", fg="yellow")
        case ShardTaken():
            begin = "the beginning" if event.checkpoint < 0 else f"position {event.checkpoint}"
            return f"taken, from {begin} on"
        case ShardReleased():
            return f"released: {show_line(event.why)}"
        case _:
            return event.NAME


def _event(event: EventAccepted | EventInvoked | EventDelivered | EventRetried | EventDiscarded) -> str:
    return f"{click.style(event.function, fg='cyan')}  event {event.request_id}"


def _passed(event: EventAccepted | EventInvoked | EventDelivered) -> str:
    if isinstance(event, EventAccepted):
        return f"{_event(event)} accepted"
    if isinstance(event, EventInvoked):
        return f"{_event(event)} invokes" + (f", attempt {event.attempt}" if event.attempt > 1 else "")
    told = f", told to {event.destination}" if event.destination else ""
    return click.style(f"{_event(event)} delivered{told}", fg="green")


def _retried(event: BatchRetried) -> str:
    error = show_error(event.error, event.location)
    if event.is_returned:
        when = f"back in {show_span(event.delay_ms)}" if event.delay_ms else "back after its visibility timeout"
    elif event.delay_ms:
        when = f"again in {show_span(event.delay_ms)}"
    else:
        when = "the rest again at once"
    # A queue counts receives, its redrive policy too: of the batch's message that was received most often.
    counted = "receive" if event.is_returned else "attempt"
    attempt = f", {counted} {event.attempt} failed" if event.attempt else ""
    return click.style(f"{_range(event)} failed: {error}{attempt}; {when}", fg="yellow")


def _moved(event: RecordsLost) -> str:
    # The source's own limit, and nothing is gone: unlike what retention drops.
    return f"moved to {event.destination}: it was received as often as the redrive policy allows"


def _given_up(event: RecordsDiscarded | RecordsLost | OutboxBlocked) -> str:
    if isinstance(event, OutboxBlocked):
        why = f": {show_line(event.error)}" if event.error else ""
        if event.is_at_bound:
            return f"{event.destination} has no room: mappings that write to it wait{why}"
        return f"{show_count(event.rows, 'record')} waiting for {event.destination}{why}"
    target = f" to {event.destination}" if event.destination else ""
    if isinstance(event, RecordsLost):
        return f"{show_count(event.count, 'record')} lost, {event.reason.value}{target}"
    error = f" after {show_error(event.error, event.location)}" if event.error else ""
    failure = f", kept as failure {event.failure_id[:FAILURE_DIGITS]}" if event.failure_id else ""
    return f"{_range(event)} discarded{target}: {event.reason.value}{error}{failure}"


def _range(event: BatchInvoked | BatchSettled | BatchRetried | BatchBisected | RecordsDiscarded) -> str:
    return _positions(event.first, event.last)


def _positions(first: int | str, last: int | str) -> str:
    return f"[{first}]" if str(first) == str(last) else f"[{first}-{last}]"

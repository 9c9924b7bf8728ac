"""`eventcore status`: what the pipeline does, or where it stands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import click

from eventcore.cli.event_text import show_error, show_reason, show_shard
from eventcore.cli.options import Options, PipelineCommand, pass_options
from eventcore.cli.output import Output, is_interactive, show_count, show_line, show_span, show_time
from eventcore.cli.place import find_place
from eventcore.cli.reach import reach
from eventcore.engine.status import (
    Blocked,
    BreakerStatus,
    FunctionStatus,
    MappingState,
    MappingStatus,
    Pause,
    ShardStatus,
)
from eventcore.http.contract import GetStatus, StatusReport
from eventcore.ports.store import QueueDepth

#: Seconds between two looks of `--watch`.
WATCH_EVERY_S = 1.0
#: Shards of a mapping that are listed without `-v`: blocked ones first, then those that lag most.
SHARDS_SHOWN = 16

_CLEAR = "\x1b[H\x1b[2J"
_COLORS = {MappingState.ENABLED: "green", MappingState.PROBLEM: "red", MappingState.CREATING: "yellow"}


@click.command("status", cls=PipelineCommand)
@click.option("--watch", is_flag=True, help="look again every second, until Ctrl-C")
@pass_options
def status_command(options: Options, watch: bool) -> None:
    """Show each mapping's state, rate, lag and last result; a blocked shard is one line with its error and next try.

    Without a running engine: where each mapping stands, from the state.
    """
    place = find_place(options)
    with reach(place) as asker:
        report = asker.ask(GetStatus())
    show_status(options.output, report, options.repeat_in)
    if watch:
        import anyio

        async def look() -> None:
            while True:
                await anyio.sleep(WATCH_EVERY_S)
                # A new connection each time: an engine may end and another one begin.
                with reach(place) as asker:
                    report = asker.ask(GetStatus())
                if is_interactive():
                    click.echo(_CLEAR, nl=False)
                show_status(options.output, report, options.repeat_in)

        anyio.run(look)


def show_status(output: Output, report: StatusReport, repeat_in: Callable[[str], str]) -> None:
    """Print a report in the form that was asked for.

    Args:
        output: where to.
        report: what is printed.
        repeat_in: makes a hint's command one that can be typed.
    """
    if not output.is_table:
        output.data(report)
        return
    output.text(repeat_in(_headline(report)))
    output.text("")
    output.table(
        ("MAPPING", "STATE", "SOURCE", "FUNCTION", "RATE", "LAG", "LAST RESULT"),
        [_mapping_row(mapping, report.queues) for mapping in report.mappings],
        shrinks={"SOURCE": 12, "FUNCTION": 10, "MAPPING": 10},
    )
    for line in _details(output, report):
        output.text(repeat_in(line))
    output.text("")
    _show_events(output, report)
    show_queues(output, report)


def _show_events(output: Output, report: StatusReport) -> None:
    """Print what functions did with the events that waited for them; nothing where there never was one."""
    if not report.functions:
        return
    output.table(
        ("FUNCTION", "RUNNING", "DELIVERED", "RETRIED", "THROTTLED", "DISCARDED"),
        [
            (
                status.function,
                f"{status.running:,}",
                f"{status.delivered:,}",
                f"{status.retried:,}",
                f"{status.throttled:,}",
                _discarded(status),
            )
            for status in report.functions
        ],
    )
    for status in report.functions:
        if status.problem:
            output.text(click.style(f"{status.function}: {show_reason(status.problem)}", fg="red"))
    output.text("")


def _discarded(status: FunctionStatus) -> str:
    count = sum(status.discarded.values())
    reasons = ", ".join(f"{reason.value} {number:,}" for reason, number in status.discarded.items())
    return click.style(f"{count:,} ({reasons})", fg="red") if count else "0"


def show_queues(output: Output, report: StatusReport) -> None:
    """Print the queues that hold something, and destinations that something waits for."""
    output.table(
        ("QUEUE", "VISIBLE", "HIDDEN", "DELAYED", "OLDEST"),
        [
            (
                depth.queue,
                f"{depth.visible:,}",
                f"{depth.hidden:,}",
                f"{depth.delayed:,}",
                show_span(report.now_ms - depth.oldest_ms) if depth.oldest_ms else "",
            )
            for depth in report.queues
        ],
    )
    for destination in report.destinations:
        if destination.rows:
            error = f": {show_line(destination.last_error)}" if destination.last_error else ""
            waiting = f"{show_count(destination.rows, 'record')} waiting for {destination.destination}"
            output.text(click.style(f"{waiting}{error}", fg="yellow"))


def _headline(report: StatusReport) -> str:
    if not report.is_running:
        return "no engine runs on this state; `eventcore run` starts one"
    since = show_span(report.now_ms - report.started_ms)
    # How long it drains is known to nobody here: the time is the engine's age.
    doing = f"draining (up {since})" if report.is_draining else f"running for {since}"
    return f"eventcore {report.version} {doing}, process {report.pid}"


def _mapping_row(mapping: MappingStatus, queues: Sequence[QueueDepth]) -> tuple[str, ...]:
    lags = [shard.lag for shard in mapping.shards]
    # A queue has no positions: what it holds is what is still to be done.
    lags += [
        depth.visible + depth.hidden + depth.delayed for depth in queues if mapping.source == f"queue:{depth.queue}"
    ]
    return (
        mapping.mapping,
        click.style(mapping.state.value, fg=_COLORS.get(mapping.state)),
        mapping.source,
        mapping.function,
        f"{mapping.rate:,.1f}/s" if mapping.state is MappingState.ENABLED else "",
        _show_lag(sum(lags) if -1 not in lags else -1) if lags else "",
        _last_result(mapping),
    )


def _last_result(mapping: MappingStatus) -> str:
    if mapping.state is MappingState.PROBLEM and mapping.reason:
        return f"PROBLEM: {show_reason(mapping.reason)}"
    blocked = [shard.blocked for shard in mapping.shards if shard.blocked is not None]
    if mapping.last_result.startswith("PROBLEM") and blocked and blocked[0].error_type:
        return f"PROBLEM: {blocked[0].error_type}: {blocked[0].error_message}"
    return mapping.last_result


def _details(output: Output, report: StatusReport) -> Iterator[str]:
    """Give the lines behind the mappings: problems, blocked shards, lags."""
    for mapping in report.mappings:
        if mapping.pause is not None:
            resume = f"eventcore mapping resume {mapping.mapping}"
            since = f"{_pause(mapping.pause, report.now_ms)}{_breaker(mapping.breaker, report.now_ms)}"
            paused = f"{mapping.mapping}: PAUSED {since}: {resume}"
            yield click.style(paused, fg="yellow")
        if mapping.reason:
            yield click.style(f"{mapping.mapping}: {show_reason(mapping.reason)}", fg="red")
        shards = sorted(mapping.shards, key=lambda shard: (shard.blocked is None, -shard.lag))
        shown = shards if output.verbosity > 0 else shards[:SHARDS_SHOWN]
        for shard in shown:
            yield f"{mapping.mapping} {_shard_line(mapping.mapping, shard, report.now_ms)}"
        if len(shown) < len(shards):
            yield f"{mapping.mapping} and {show_count(len(shards) - len(shown), 'more shard')}: -v lists all"


def _shard_line(mapping: str, shard: ShardStatus, now_ms: int) -> str:
    name, parked = show_shard(shard.shard), _parked(mapping, shard)
    paused = f"PAUSED {_pause(shard.pause, now_ms)}" if shard.pause is not None else ""
    if shard.blocked is not None:
        blocked = f"BLOCKED {_blocked(shard.blocked, now_ms, paused)}"
        return click.style(f"{name}  {blocked}, lag {_show_lag(shard.lag)}{parked}", fg="red")
    if paused:
        return click.style(f"{name}  {paused}, lag {_show_lag(shard.lag)}{parked}", fg="yellow")
    if shard.waits_for:
        parents = " and ".join(show_shard(parent) for parent in shard.waits_for.split())
        return f"{name}  waits for the end of {parents}, lag {_show_lag(shard.lag)}"
    position = "the beginning" if shard.checkpoint < 0 else str(shard.checkpoint)
    buffered = f", {show_count(shard.buffered, 'record')} buffered" if shard.buffered else ""
    age = f", iterator age {show_span(shard.iterator_age_ms)}" if shard.iterator_age_ms is not None else ""
    return f"{name}  at {position}, lag {_show_lag(shard.lag)}{age}{buffered}{parked}"


def _pause(pause: Pause, now_ms: int) -> str:
    return f"by {show_line(pause.by)} since {show_time(pause.since_ms)} ({show_span(now_ms - pause.since_ms)})"


def _breaker(breaker: BreakerStatus | None, now_ms: int) -> str:
    """Return why a circuit breaker is open and when a batch is tried; nothing where none is."""
    if breaker is None or not breaker.why:
        return ""
    left_ms = breaker.next_probe_ms - now_ms
    probe = f"one batch is tried in {show_span(left_ms)}" if left_ms > 0 else "one batch is tried now"
    return f", {show_line(breaker.why)}, {probe}"


def _parked(mapping: str, shard: ShardStatus) -> str:
    keys = show_count(shard.parked, "key")
    return f", {keys} parked: eventcore mapping redrive {mapping}" if shard.parked else ""


def _blocked(blocked: Blocked, now_ms: int, paused: str) -> str:
    error = f"{blocked.error_type}: {blocked.error_message}" if blocked.error_type else blocked.error_message
    why = f", {show_error(error, blocked.location)}" if error else ""
    since = f"since {show_time(blocked.since_ms)} ({show_span(now_ms - blocked.since_ms)})"
    if paused:
        next_try = paused
    elif not blocked.next_try_ms:
        next_try = "next try when an engine runs"
    elif blocked.next_try_ms > now_ms:
        next_try = f"next try in {show_span(blocked.next_try_ms - now_ms)}"
    else:
        next_try = "being tried now"
    return f"at {blocked.position} {since}, attempt {blocked.attempt}{why}, {next_try}"


def _show_lag(lag: int) -> str:
    return "unknown" if lag < 0 else f"{lag:,}"

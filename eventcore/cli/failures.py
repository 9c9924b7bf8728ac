"""`eventcore failures`: what failed and why, and running it again."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import click
import msgspec

from eventcore.cli.complete import complete_failures, complete_names
from eventcore.cli.event_text import FAILURE_DIGITS, show_error, show_location, show_shard
from eventcore.cli.log_lines import print_line
from eventcore.cli.options import LazyGroup, Options, pass_options
from eventcore.cli.output import confirm, show_count, show_line, show_span, show_time
from eventcore.cli.place import find_place
from eventcore.cli.reach import Asker, reach
from eventcore.errors import CommandError
from eventcore.http.contract import (
    FAILURES_MAX,
    PURGED,
    DropFailures,
    FailureReport,
    FailureSummary,
    ListFailures,
    RetryFailure,
    ShowFailure,
)
from eventcore.http.refusals import ExitCode
from eventcore.model import DiscardReason

failures_command = LazyGroup("failures", help="Look at what failed and why, run it again, forget it.")

#: Of an event, shown for people; `-o json` prints all of it.
EVENT_LINES_SHOWN = 40
RECORDS_SHOWN = 20

#: Columns that are cut on a narrow terminal, in this order, and the width that each keeps.
_SHRINKS = {"RECORDS": 10, "MAPPING": 10, "REASON": 10, "WHEN": 19}

#: What each reason means, for who meets it the first time; `show` prints it.
REASONS = {
    DiscardReason.RETRY_ATTEMPTS_EXHAUSTED.value: "it failed as often as its mapping, or its error type, lets it",
    DiscardReason.RECORD_AGE_EXCEEDED.value: "it still failed when it was older than maximum_record_age_in_seconds",
    DiscardReason.MAXIMUM_PAYLOAD_SIZE_EXCEEDED.value: "its event is larger than the 6 MB that a function can be given",
    DiscardReason.RECORD_EXPIRED.value: "the source's retention dropped it before it could be processed",
    DiscardReason.UNDECODABLE.value: "it is not what the typed handler can read; trying again would not help",
    DiscardReason.IDEMPOTENCY_FAILED.value: "its key was processed with another payload, or it has none and needs one",
    DiscardReason.ENGINE_CRASH.value: "the engine died each time it was invoked",
    DiscardReason.SKIPPED.value: "somebody gave it up, for it held up its shard: eventcore mapping skip",
    DiscardReason.WINDOWS_REMOVED.value: "its mapping has no tumbling windows any more; `retry` makes its final call",
    DiscardReason.RECEIVES_EXHAUSTED.value: "it was received as often as the queue's redrive policy allows",
    DiscardReason.RETRIES_EXHAUSTED.value: "it failed as often as the function's maximum_retry_attempts allows",
    DiscardReason.EVENT_AGE_EXCEEDED.value: "its next try would have come after maximum_event_age_in_seconds",
    DiscardReason.ZERO_RESERVED_CONCURRENCY.value: "its function may not run: reserved_concurrent_executions is 0",
    DiscardReason.RECURSION.value: "it came through its function 16 times in one chain, which recursive_loop forbids",
    "Failing": "it failed and comes back by itself: its queue still has it",
    PURGED: "its queue was purged: the message is gone, and only what is kept here is left",
}


@failures_command.command("ls")
@click.option("--mapping", default="", help="only of this mapping", shell_complete=complete_names("mappings"))
@click.option("-n", "--count", type=click.IntRange(1, FAILURES_MAX), default=50, show_default=True)
@pass_options
def ls_command(options: Options, mapping: str, count: int) -> None:
    """List kept failures, newest first."""
    with reach(find_place(options)) as asker:
        failures = asker.ask(ListFailures(mapping=mapping, count_max=count))
    output = options.output
    if not output.is_table:
        output.data(failures)
        return
    output.table(
        ("ID", "WHEN", "MAPPING", "RECORDS", "REASON", "TRIES", "ERROR"),
        [
            (
                failure.id[:FAILURE_DIGITS],
                show_time(failure.created_ms),
                failure.mapping or failure.source,
                _records(failure),
                failure.reason,
                str(failure.attempts),
                show_error(_error(failure), failure.location),
            )
            for failure in failures
        ],
        shrinks=_SHRINKS,
    )
    if failures:
        output.note(options.repeat_in("eventcore failures show ID tells everything about one"))
    else:
        output.note("no failures are kept")


@failures_command.command("show")
@click.argument("failure_id", metavar="[ID]", required=False, shell_complete=complete_failures)
@pass_options
def show_command(options: Options, failure_id: str | None) -> None:
    """Print everything about one failure: why, where, how often, what it was given, and what to do next.

    Without an ID it is the newest one.
    """
    with reach(find_place(options)) as asker:
        failure = asker.ask(ShowFailure(id=failure_id or _newest(asker)))
    if not options.output.is_table:
        options.output.data(failure)
        return
    for line in _describe(failure, options.repeat_in):
        options.output.text(line)


@failures_command.command("retry")
@click.argument("failure_id", metavar="[ID]", required=False, shell_complete=complete_failures)
@pass_options
def retry_command(options: Options, failure_id: str | None) -> int:
    """Run the function again with exactly what failed; forget the failure if it succeeds.

    A queue's message that still stands in its queue, or in the dead-letter queue, is then deleted there.

    Without an ID it is the newest one. Exits with 1 if it fails again: the failure then stays as it is.
    """
    with reach(find_place(options)) as asker:
        retried = asker.ask(RetryFailure(id=failure_id or _newest(asker)))
    for line in retried.invoked.lines:
        print_line(line)
    output = options.output
    if not output.is_table:
        output.data(retried)
    elif retried.is_settled:
        output.text(f"{click.style('succeeded', fg='green')}: failure {retried.id[:FAILURE_DIGITS]} is forgotten")
    else:
        location = retried.invoked.fault.location if retried.invoked.fault else ""
        output.text(f"{click.style('failed again', fg='red')}: {show_error(retried.problem, location)}")
    if retried.is_settled and retried.destination:
        output.note(f"what {retried.destination} was told of it is left where it is")
    for queue in retried.dropped_from:
        output.note(f"deleted from queue:{queue}, for it has been processed now")
    if retried.stale_pid:
        output.note(f"the running engine (pid {retried.stale_pid}) still runs the code it started with: restart it")
    return ExitCode.OK if retried.is_settled else ExitCode.FAILED


@failures_command.command("drop")
@click.argument("failure_ids", metavar="[ID]...", nargs=-1, shell_complete=complete_failures)
@click.option("--all", "everything", is_flag=True, help="all of them, or all of --mapping")
@click.option("--mapping", default="", help="with --all: only of this mapping")
@click.option("--yes", is_flag=True, help="do not ask")
@pass_options
def drop_command(options: Options, failure_ids: tuple[str, ...], everything: bool, mapping: str, yes: bool) -> None:
    """Forget failures."""
    if everything == bool(failure_ids):
        raise click.UsageError("name failures by their IDs, or give --all")
    if mapping and not everything:
        raise click.UsageError("--mapping belongs to --all")
    if everything and not yes:
        what = f"failure of {mapping}" if mapping else "failure"
        confirm(f"Forget every {what}?")
    with reach(find_place(options)) as asker:
        dropped: list[str] = []
        ids = failure_ids
        while ids or everything:
            if everything:
                ids = tuple(failure.id for failure in asker.ask(ListFailures(mapping=mapping, count_max=FAILURES_MAX)))
            if ids:
                dropped.extend(asker.ask(DropFailures(ids=ids)).ids)
            if not everything or len(ids) < FAILURES_MAX:
                break
    if options.output.is_table:
        options.output.text(f"forgot {show_count(len(dropped), 'failure')}")
    else:
        options.output.data(dropped)


def _newest(asker: Asker) -> str:
    failures = asker.ask(ListFailures(count_max=1))
    if not failures:
        raise CommandError("no failures are kept")
    return failures[0].id


# -- how a failure reads -----------------------------------------------------------------------------------------------


def _records(failure: FailureSummary) -> str:
    shard = f"{show_shard(failure.shard)} " if failure.shard else ""
    positions = failure.first if failure.first == failure.last else f"{failure.first}-{failure.last}"
    return f"{shard}[{positions}]"


def _error(failure: FailureSummary) -> str:
    parts = (failure.error_type, failure.error_message)
    return ": ".join(part for part in parts if part)


def _describe(failure: FailureReport, repeat_in: Callable[[str], str]) -> Iterator[str]:
    yield click.style(show_error(_error(failure), failure.location) or failure.reason, fg="red", bold=True)
    yield ""
    for name, value in _facts(failure):
        yield f"{click.style(f'{name:<12}', fg='cyan')} {show_line(value)}"
    if failure.stack_trace:
        yield ""
        yield click.style("traceback", fg="cyan")
        for line in failure.stack_trace.rstrip().splitlines():
            yield f"  {show_line(line)}"
        yield f"  {show_line(_error(failure))}"
    yield ""
    yield from _records_of(failure)
    yield from _event(failure)
    yield ""
    yield click.style("what next", fg="cyan")
    for step in _next_steps(failure):
        yield f"  {repeat_in(step)}"


def _facts(failure: FailureReport) -> Iterator[tuple[str, str]]:
    reason = REASONS.get(failure.reason, "")
    yield "failure", failure.id
    yield "reason", f"{failure.reason}: {reason}" if reason else failure.reason
    if failure.location:
        yield "where", show_location(failure.location)
    yield "function", failure.function
    if failure.mapping:
        yield "mapping", failure.mapping
    yield "source", f"{failure.source} {_records(failure)}, {show_count(failure.count, 'record')}"
    yield "tries", str(failure.attempts)
    if failure.first_failure_ms and failure.first_failure_ms != failure.created_ms:
        lasted = show_span(failure.created_ms - failure.first_failure_ms)
        until = "it was given up" if failure.is_final else "it last failed"
        yield "first failed", f"{show_time(failure.first_failure_ms)}, {lasted} before {until}"
    yield "kept", show_time(failure.created_ms)
    if failure.request_id:
        yield "request id", failure.request_id
    if failure.code_hash:
        yield "code", f"{failure.code_hash} (hash of the function's Python files)"
    yield "environment", ", ".join(failure.environment_names) or "no variables of its own"


def _records_of(failure: FailureReport) -> Iterator[str]:
    if not failure.records:
        return
    yield click.style("records", fg="cyan")
    for record in failure.records[:RECORDS_SHOWN]:
        key = f" key {record.key}:" if record.key is not None else ""
        body = "(tombstone)" if record.body is None else str(record.body)
        yield f"  [{record.id or record.position}]{show_line(key)} {show_line(body)}"
    if len(failure.records) > RECORDS_SHOWN:
        yield f"  ... and {show_count(len(failure.records) - RECORDS_SHOWN, 'more record')}: -o json prints all"
    yield ""


def _event(failure: FailureReport) -> Iterator[str]:
    if not failure.is_event_kept:
        yield "the event was not kept: it was too large, or its records were never read"
        return
    yield click.style("event, as a Lambda handler is given it", fg="cyan")
    lines = msgspec.json.format(bytes(failure.event), indent=2).decode().splitlines()
    for line in lines[:EVENT_LINES_SHOWN]:
        yield f"  {show_line(line)}"
    if len(lines) > EVENT_LINES_SHOWN:
        yield f"  ... {len(lines) - EVENT_LINES_SHOWN:,} more lines: -o json prints all of it"


def _next_steps(failure: FailureReport) -> Iterator[str]:
    short = failure.id[:FAILURE_DIGITS]
    if failure.request_id:
        yield f"eventcore logs {failure.function} --request-id {failure.request_id}   what the function wrote"
    if not failure.is_final:
        yield "nothing has to be done: its queue hands it out again by itself"
    if failure.is_event_kept:
        where = f" {show_location(failure.location).rpartition(':')[0]}" if failure.location else " the function"
        does = (
            "runs it again with exactly this event"
            if failure.is_final
            else "runs it now, and takes it out of its queue"
        )
        yield f"change{where}, then: eventcore failures retry {short}   {does}"
    yield f"eventcore failures drop {short}   forgets it"

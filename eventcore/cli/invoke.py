"""`eventcore invoke`: runs a function once."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec

from eventcore.cli.complete import complete_names
from eventcore.cli.log_lines import print_line
from eventcore.cli.options import Options, PipelineCommand, pass_options
from eventcore.cli.place import find_place
from eventcore.cli.reach import reach
from eventcore.embedded.events import event_queue
from eventcore.errors import CommandError
from eventcore.http.contract import Invoke, InvokeAsync, Invoked
from eventcore.http.refusals import ExitCode
from eventcore.model import PAYLOAD_BYTES_MAX, UNREADABLE_JSON, Batch, OutcomeKind

#: A longer text names no file.
PATH_CHARACTERS_MAX = 255
SAMPLES = ("sqs", "kinesis", "kafka")


@click.command("invoke", cls=PipelineCommand)
@click.argument("function", shell_complete=complete_names("functions"))
@click.argument("event_text", metavar="[EVENT]", required=False)
@click.option("-e", "--event", "event_file", metavar="FILE|-", help="a file that holds the event; `-`: standard input")
@click.option("--sample", type=click.Choice(SAMPLES), help="an event as this source gives it, of one record")
@click.option("--body", help="the sample's record, instead of an order")
@click.option("--async", "is_async", is_flag=True, help="let the event wait for the function, and print its request id")
@pass_options
def invoke_command(
    options: Options,
    function: str,
    event_text: str | None,
    event_file: str | None,
    sample: str | None,
    body: str | None,
    is_async: bool,
) -> int:
    """Run FUNCTION once with EVENT, JSON, and print its response; what it writes goes to standard error.

    Without a running engine it runs in an environment of its own. Exits with 1 when the function failed; the error is
    then printed as Lambda's callers see it.

    With --async the event is durable when the command ends: an engine, now or when one runs, invokes the function with
    it, up to three times, and tells its destinations.
    """
    if event_text == "-" and event_file is None:
        event_text, event_file = None, "-"
    event, batch = _read_event(event_text, event_file, sample, body)
    if is_async:
        return _accept(options, function, event)
    with reach(find_place(options), needs_state=False) as asker:
        invoked = asker.ask(Invoke(function=function, event=msgspec.Raw(event), batch=batch))
    for line in invoked.lines:
        print_line(line)
    output = options.output
    if invoked.stale_pid:
        output.note(f"the running engine (pid {invoked.stale_pid}) ran the code it started with: restart it")
    if output.is_table:
        output.text(bytes(invoked.response).decode())
    else:
        output.data(invoked.response)
    return _exit_code(invoked)


def _accept(options: Options, function: str, event: bytes) -> int:
    with reach(find_place(options)) as asker:
        accepted = asker.ask(InvokeAsync(function=function, event=msgspec.Raw(event)))
    output = options.output
    if not accepted.is_served:
        output.note(options.repeat_in(f"it waits in queue:{event_queue(function)} until an engine runs: eventcore run"))
    if output.is_table:
        output.text(accepted.request_id)
    else:
        output.data(accepted)
    return ExitCode.OK


def _exit_code(invoked: Invoked) -> int:
    if invoked.kind is OutcomeKind.RELEASED:
        raise CommandError("the invocation was ended before it finished: the engine drains")
    is_success = invoked.kind is OutcomeKind.SUCCESS and invoked.fault is None and not invoked.failed_count
    return ExitCode.OK if is_success else ExitCode.FAILED


def _read_event(
    event_text: str | None, event_file: str | None, sample: str | None, body: str | None
) -> tuple[bytes, Batch | None]:
    given = sum(way is not None for way in (event_text, event_file, sample))
    if given > 1:
        raise click.UsageError("an event is given as EVENT, by --event or by --sample: by one of them")
    if not given and body is None:
        raise click.UsageError(
            f"which event? '{{}}' or other JSON as EVENT, -e FILE, -e - for standard input, or --sample "
            f"{'|'.join(SAMPLES)}"
        )
    if body is not None and sample is None:
        raise click.UsageError("--body belongs to --sample")
    if sample is not None:
        from eventcore.cli.samples import make_sample

        return make_sample(sample, body)
    data = _read(event_file) if event_file is not None else str(event_text).encode(errors="surrogateescape")
    try:
        msgspec.json.decode(data)
    except UNREADABLE_JSON as error:
        is_file = event_text is not None and len(event_text) < PATH_CHARACTERS_MAX and Path(event_text).is_file()
        hint = f"did you mean -e {event_text}?" if is_file else ""
        raise CommandError(f"{_name(event_file)} is not JSON: {error}", exit_code=ExitCode.USAGE, hint=hint) from error
    if len(data) > PAYLOAD_BYTES_MAX:
        raise CommandError(f"an event has at most {PAYLOAD_BYTES_MAX:,} bytes, not {len(data):,}")
    return data, None


def _read(event_file: str) -> bytes:
    # One byte more than an event may have: enough to tell that it is too large.
    size_bytes = PAYLOAD_BYTES_MAX + 1
    if event_file == "-":
        return sys.stdin.buffer.read(size_bytes)
    try:
        with Path(event_file).open("rb") as file:
            return file.read(size_bytes)
    except OSError as error:
        raise CommandError(f"{event_file} can't be read: {error.strerror}", exit_code=ExitCode.USAGE) from error


def _name(event_file: str | None) -> str:
    if event_file is None:
        return "EVENT"
    return "standard input" if event_file == "-" else event_file

"""`eventcore send`: puts records into a queue, a stream or a topic."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import cycle, islice
from pathlib import Path
from typing import BinaryIO

import click

from eventcore.cli.complete import complete_references
from eventcore.cli.options import Options, PipelineCommand, pass_options
from eventcore.cli.output import BAR_FROM, Output, is_interactive, show_count, show_progress
from eventcore.cli.place import find_place
from eventcore.cli.reach import Asker, reach
from eventcore.errors import CommandError
from eventcore.http.contract import SEND_BYTES_MAX, SEND_RECORDS_MAX, Place, Send
from eventcore.http.refusals import ExitCode
from eventcore.http.targets import read_target
from eventcore.ports.connectors import OutgoingRecord
from eventcore.ports.store import BODY_BYTES_MAX

#: Parts a second that a given rate is sent in: smooth enough to look like a steady flow.
PARTS_PER_S = 10
#: Read from a file at once.
READ_BYTES = 256 * 1024
#: A longer text names no file.
PATH_CHARACTERS_MAX = 255


@click.command("send", cls=PipelineCommand)
@click.argument("reference", metavar="REF", shell_complete=complete_references)
@click.argument("bodies", metavar="[BODY]...", nargs=-1)
@click.option("--key", help="partition key; for a queue the message group")
@click.option("--header", "headers", metavar="NAME=VALUE", multiple=True, help="a header; may be repeated")
@click.option("--file", "file", metavar="FILE|-", help="records, one a line; `-`: standard input, as a BODY of `-`")
@click.option(
    "--count",
    type=click.IntRange(min=1),
    help="records in all: BODYs are repeated, `{n}` in them is the record's number",
)
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), metavar="N", help="records a second at most")
@click.option("--delay", type=click.IntRange(0, 900), metavar="SECONDS", help="before a message shows; queues only")
@click.option("--group", metavar="NAME", help="message group; of a standard queue a tenant, and a FIFO queue needs it")
@click.option(
    "--deduplication-id", metavar="ID", help="FIFO queues, one record: sent again within 5 minutes, it is dropped"
)
@pass_options
def send_command(
    options: Options,
    reference: str,
    bodies: tuple[str, ...],
    key: str | None,
    headers: tuple[str, ...],
    file: str | None,
    count: int | None,
    rate: float | None,
    delay: int | None,
    group: str | None,
    deduplication_id: str | None,
) -> None:
    """Send records to REF: queue:NAME, stream:NAME or kafka:NAME/TOPIC.

    Prints where each went, once it is durable there: message ids, or shard and position.
    """
    target = read_target(reference)
    if delay is not None and target.kind != "queue":
        raise click.UsageError("--delay is for queues: streams keep their order")
    if target.kind != "queue" and (group is not None or deduplication_id is not None):
        raise click.UsageError("--group and --deduplication-id are for queues: a stream has a --key")
    if group is not None and key is not None:
        raise click.UsageError("--group and --key are the same for a queue: give one of them")
    if deduplication_id is not None and (file is not None or bodies == ("-",) or (count or len(bodies)) > 1):
        raise click.UsageError("--deduplication-id is for one record: all but the first of several would be dropped")
    key = key if group is None else group
    for body in bodies if file is None else ():
        if len(body) < PATH_CHARACTERS_MAX and Path(body).is_file():
            options.output.note(f"`{body}` is sent as it is, and there is a file of that name: did you mean --file?")
    template = OutgoingRecord(body=b"", key=None if key is None else _encode(key), headers=_read_headers(headers))
    with ExitStack() as stack:
        groups = _open_bodies(stack, bodies, file, count)
        parts = _cut_parts(template, groups, _part_records_max(rate))
        asker = stack.enter_context(reach(find_place(options), needs_state=target.kind in {"queue", "stream"}))
        sender = _Sender(options.output, asker, str(target), delay_s=delay, deduplication_id=deduplication_id or "")
        total = count or (len(bodies) if file is None and "-" not in bodies else None)
        sender.is_silent = total is not None and total >= BAR_FROM and options.output.is_table and is_interactive()
        sender.advance = stack.enter_context(show_progress(total, f"sending to {target}"))
        if rate is None:
            for part in parts:
                sender.send(part)
        else:
            import anyio

            anyio.run(_send_paced, sender, parts, rate)
    sender.finish()


def _read_headers(headers: Sequence[str]) -> tuple[tuple[str, bytes], ...]:
    pairs = [header.partition("=") for header in headers]
    for name, separator, _ in pairs:
        if not separator or not name:
            raise click.UsageError(f"--header {name}: write NAME=VALUE")
    return tuple((name, _encode(value)) for name, _, value in pairs)


def _encode(argument: str) -> bytes:
    """Return the bytes that were typed, UTF-8 or not."""
    return argument.encode(errors="surrogateescape")


# -- what to send ------------------------------------------------------------------------------------------------------

#: Bodies that are there at the same moment.
Group = list[bytes]


def _open_bodies(stack: ExitStack, bodies: Sequence[str], file: str | None, count: int | None) -> Iterator[Group]:
    """Give the bodies as they come: arguments, or one a line of a file.

    With a count arguments are repeated, and a file is cut.
    """
    if (file is None) == (not bodies):
        raise click.UsageError("give records as BODY, `-` for standard input, or by --file")
    if file is not None or "-" in bodies:
        if len(bodies) > 1:
            raise click.UsageError("`-` stands alone: standard input is all there is to send")
        groups = _read_lines(_open(stack, file or "-"))
        return groups if count is None else _cut_off(groups, count)
    given = [_encode(body) for body in bodies]
    return iter([given]) if count is None else _repeat(given, count)


def _open(stack: ExitStack, file: str) -> BinaryIO:
    if file == "-":
        return sys.stdin.buffer
    try:
        return stack.enter_context(Path(file).open("rb"))
    except OSError as error:
        raise CommandError(f"{file} can't be read: {error.strerror}", exit_code=ExitCode.USAGE) from error


def _read_lines(file: BinaryIO) -> Iterator[Group]:
    """Give the lines of a file that are there already, then those that come; empty lines are no records."""
    rest = b""
    # `read1`: who writes a line now and then, as `tail -f` does, must not wait for a full buffer.
    while data := getattr(file, "read1", file.read)(READ_BYTES):
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) > BODY_BYTES_MAX:
            raise CommandError(f"a record has at most {BODY_BYTES_MAX:,} bytes: a line is longer")
        if group := [body for line in lines if (body := line.rstrip(b"\r"))]:
            yield group
    if rest:
        yield [rest.rstrip(b"\r")]


def _cut_off(groups: Iterable[Group], count: int) -> Iterator[Group]:
    for group in groups:
        yield group[:count]
        count -= len(group)
        if count <= 0:
            return


def _repeat(bodies: Sequence[bytes], count: int) -> Iterator[Group]:
    """Give bodies over and over, `{n}` in them replaced by the record's number, from 1."""
    numbered = (body.replace(b"{n}", b"%d" % number) for number, body in zip(range(1, count + 1), cycle(bodies)))
    while group := list(islice(numbered, SEND_RECORDS_MAX)):
        yield group


def _cut_parts(template: OutgoingRecord, groups: Iterable[Group], count_max: int) -> Iterator[Part]:
    """Cut groups into parts that one request can carry."""
    for group in groups:
        part: list[OutgoingRecord] = []
        size_bytes = 0
        for body in group:
            if part and (len(part) >= count_max or size_bytes + len(body) > SEND_BYTES_MAX):
                yield tuple(part)
                part, size_bytes = [], 0
            part.append(OutgoingRecord(body=body, key=template.key, headers=template.headers))
            size_bytes += len(body)
        if part:
            yield tuple(part)


# -- sending -----------------------------------------------------------------------------------------------------------

Part = tuple[OutgoingRecord, ...]


class _Sender:
    """Sends parts and prints where their records went."""

    def __init__(
        self, output: Output, asker: Asker, target: str, *, delay_s: int | None, deduplication_id: str
    ) -> None:
        self._output = output
        self._asker = asker
        self._target = target
        self._delay_s = delay_s
        self._deduplication_id = deduplication_id
        self.is_silent = False  #: a screen shows the bar, and not a thousand places
        self.advance: Callable[[int], None] = lambda _: None
        self._places: list[Place] = []
        self.count = 0

    def send(self, part: Part) -> None:
        """Send a part and print its places once they are durable."""
        request = Send(
            reference=self._target, records=part, delay_s=self._delay_s, deduplication_id=self._deduplication_id
        )
        places = self._asker.ask(request)
        self.count += len(places)
        self.advance(len(places))
        if self.is_silent:
            return
        if self._output.form == "json":
            self._places.extend(places)  # one document, printed at the end
        elif self._output.is_table:
            self._output.text("\n".join(place.id or f"{place.shard} {place.position}" for place in places))
        else:
            self._output.data(places)

    def finish(self) -> None:
        """Say how many records were sent."""
        if self._output.form == "json":
            self._output.data(self._places)
        self._output.note(f"{show_count(self.count, 'record')} sent to {self._target}")


def _part_records_max(rate: float | None) -> int:
    """Return how many records one request carries: few enough for a steady flow where a rate is given."""
    return SEND_RECORDS_MAX if rate is None else max(1, min(SEND_RECORDS_MAX, int(rate / PARTS_PER_S)))


async def _send_paced(sender: _Sender, parts: Iterable[Part], rate: float) -> None:
    """Send parts so that never more than the rate's share of time has gone out."""
    import anyio

    began_s = anyio.current_time()
    for part in parts:
        due_s = began_s + sender.count / rate
        await anyio.sleep_until(due_s)
        sender.send(part)

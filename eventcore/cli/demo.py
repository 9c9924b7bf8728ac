"""`make demo`: runs the bundled pipeline and shows what the engine does with a record that can't be processed.

Every line comes from an event of the engine. At the end another process reads the queue and the positions through the
command line; what it reads must agree with what the events said, and the poison record must have been given up alone.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import anyio.to_thread
import click
import msgspec

from eventcore.cli.event_text import describe, show_shard
from eventcore.cli.init import find_template, write_template
from eventcore.cli.output import GuardedWriter
from eventcore.cli.place import PipelinePlace, read_pipeline
from eventcore.cli.running import LOGS_FOLDER, open_running
from eventcore.embedded.shapes import sequence_position
from eventcore.errors import CommandError
from eventcore.http.client import ControlClient
from eventcore.http.contract import Message, Place, Send, StatusReport
from eventcore.http.refusals import ExitCode
from eventcore.ids import SeededIds
from eventcore.ports.connectors import OutgoingRecord
from eventcore.telemetry.events import (
    BatchBisected,
    BatchInvoked,
    BatchRetried,
    BatchSettled,
    EngineEvent,
    EngineEvents,
    MappingStateChanged,
    RecordsDiscarded,
    RecordsLost,
    RecordsSent,
)
from eventcore.telemetry.logs import FunctionLogs

ORDERS = 24
SOURCE = "stream:orders"
FAILED = "failed-orders"
#: The whole demo takes some seconds; past this it has failed, seconds.
SETTLE_TIMEOUT_S = 40.0
#: The command that reads at the end takes less than one, seconds.
READ_TIMEOUT_S = 20.0

_CUSTOMERS = ("ada", "fay", "eve", "max")
_TOLD = (RecordsSent, BatchInvoked, BatchRetried, BatchBisected, BatchSettled, RecordsDiscarded, RecordsLost)
_messages = msgspec.json.Decoder(tuple[Message, ...])


class Order(msgspec.Struct):
    """What the demo's records hold; the pipeline's own struct is its own."""

    id: int
    customer: str
    quantity: int
    currency: str


class Story:
    """Listens to the engine, tells what it says, and keeps what the end is compared with."""

    def __init__(self, folder: Path) -> None:
        self._prefix = f"{folder}/"
        self._write = GuardedWriter(click.echo, self._end)
        self.discards: list[RecordsDiscarded] = []
        self.settled: list[BatchSettled] = []
        self.retried: list[BatchRetried] = []
        self.done = anyio.Event()

    @property
    def finished_count(self) -> int:
        """Records that were settled or given up."""
        return sum(event.count for event in self.settled) + sum(event.count for event in self.discards)

    def on_event(self, event: EngineEvent) -> None:
        """Tell an event and remember it."""
        if isinstance(event, _TOLD) or (isinstance(event, MappingStateChanged) and event.why):
            # The folder is gone in a minute: nobody needs to read its name.
            self._write(describe(event).replace(self._prefix, ""))
        match event:
            case RecordsDiscarded():
                self.discards.append(event)
            case BatchSettled():
                self.settled.append(event)
            case BatchRetried():
                self.retried.append(event)
            case _:
                return
        if self.finished_count >= ORDERS:
            self.done.set()

    def _end(self) -> None:
        self.done.set()


def make_orders(seed: int) -> tuple[list[Order], Order]:
    """Return the orders to send, and the poison one among them; the seed moves it, and the one that fails once."""
    ids = SeededIds(seed)
    poison, pounds = ids.random_bits(16) % ORDERS, ids.random_bits(16) % (ORDERS - 1)
    if pounds >= poison:
        pounds += 1
    orders = [
        Order(
            id=number + 1,
            customer=_CUSTOMERS[number % len(_CUSTOMERS)],
            quantity=-1 if number == poison else number % 5 + 1,
            currency="GBP" if number == pounds else "EUR",
        )
        for number in range(ORDERS)
    ]
    return orders, orders[poison]


async def run_demo(folder: Path, seed: int) -> list[str]:
    """Run the pipeline in a folder on a fresh state, and return what was not as it should be.

    Raises:
        EventcoreError: the pipeline can't be run.
    """
    place = PipelinePlace(str(folder), folder / ".eventcore")
    pipeline = read_pipeline(place)
    orders, poison = make_orders(seed)
    story, events = Story(folder), EngineEvents()
    events.subscribe(story.on_event)
    (pounds,) = [order for order in orders if order.currency == "GBP"]
    _headline(f"{ORDERS} orders go into {SOURCE}; order {poison.id} has a quantity of {poison.quantity}")
    click.echo(f"order {pounds.id} is in {pounds.currency}, whose rate is missing at the first try")
    with FunctionLogs(place.state / LOGS_FOLDER) as logs:
        async with (
            open_running(pipeline, place.state, events, logs) as (engine, _, _),
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(engine.run)
            send = Send(reference=SOURCE, records=tuple(_record(order) for order in orders))
            places = await anyio.to_thread.run_sync(ControlClient(place.state).ask, send)
            with anyio.move_on_after(SETTLE_TIMEOUT_S) as waiting:
                await story.done.wait()
            _headline(f"another process reads queue:{FAILED} and the positions")
            messages = _messages.decode(await _read(place, "queue", "peek", FAILED))
            status = msgspec.json.decode(await _read(place, "status"), type=StatusReport)
            if waiting.cancelled_caught:
                engine.abort()
            engine.drain()
    return compare(story, places[orders.index(poison)], messages, status)


def _record(order: Order) -> OutgoingRecord:
    return OutgoingRecord(body=msgspec.json.encode(order), key=order.customer.encode())


async def _read(place: PipelinePlace, *command: str) -> bytes:
    """Return what a command prints, run as a process of its own."""
    line = [sys.executable, "-m", "eventcore", "-c", place.config, "-o", "json", *command]
    click.echo(click.style(f"$ eventcore -o json {' '.join(command)}", dim=True))
    with anyio.fail_after(READ_TIMEOUT_S):
        done = await anyio.run_process(line, check=False, stderr=None)
    if done.returncode:
        raise CommandError(f"`eventcore {' '.join(command)}` exits with {done.returncode}")
    return done.stdout


# -- comparing ---------------------------------------------------------------------------------------------------------


def compare(story: Story, poison: Place, messages: Sequence[Message], status: StatusReport) -> list[str]:
    """Return what differs between the events, the queue and the positions, and from what was promised.

    Args:
        story: what the events said.
        poison: where the poison record went.
        messages: of the queue of failed orders.
        status: of the pipeline, when all was settled.
    """
    return [*_judge_story(story, poison), *_judge_queue(story, messages), *_judge_positions(story, status)]


def _judge_story(story: Story, poison: Place) -> list[str]:
    problems = []
    if story.finished_count != ORDERS:
        problems.append(f"{story.finished_count} of {ORDERS} records were settled or discarded")
    if [(event.shard, str(event.first), str(event.last)) for event in story.discards] != [
        (poison.shard, str(poison.position), str(poison.position))
    ]:
        discards = ", ".join(f"{show_shard(event.shard)} [{event.first}-{event.last}]" for event in story.discards)
        problems.append(
            f"the poison record, {show_shard(poison.shard)} [{poison.position}], was to be discarded alone; "
            f"discarded: {discards or 'nothing'}"
        )
    for shard in {event.shard for event in story.settled}:
        firsts = [event.first for event in story.settled if event.shard == shard]
        if firsts != sorted(firsts):
            problems.append(f"{show_shard(shard)} was not settled in order: {firsts}")
    recovered = {(event.shard, event.first) for event in story.retried} & {
        (event.shard, event.first) for event in story.settled
    }
    if not recovered:
        problems.append("no record was settled after a retry")
    return problems


def _judge_queue(story: Story, messages: Sequence[Message]) -> list[str]:
    told = {(event.failure_id, event.shard, int(event.first), int(event.last)) for event in story.discards}
    found = {_read_message(message) for message in messages}
    return [] if told == found else [f"queue:{FAILED} holds {sorted(found)}, the events told of {sorted(told)}"]


def _read_message(message: Message) -> tuple[str, str, int, int]:
    """Return the failure's id, shard, first and last position that an on-failure record names."""
    ids = [str(header.value) for header in message.headers if header.name == "eventcore-failure-id"]
    info: dict[str, Any] = msgspec.json.decode(str(message.body))["KinesisBatchInfo"]
    first, last = (sequence_position(info[name]) for name in ("startSequenceNumber", "endSequenceNumber"))
    return (ids[0] if ids else "", info["shardId"], first, last)


def _judge_positions(story: Story, status: StatusReport) -> list[str]:
    finished: list[BatchSettled | RecordsDiscarded] = [*story.settled, *story.discards]
    ends: dict[str, int] = {}
    for event in finished:
        ends[event.shard] = max(ends.get(event.shard, 0), int(event.last) + 1)
    shards = [shard for mapping in status.mappings for shard in mapping.shards]
    return [
        f"{show_shard(shard.shard)} stands at {shard.checkpoint} with a lag of {shard.lag}; the events say {end}"
        for shard in shards
        if (shard.checkpoint, shard.lag) != ((end := ends.get(shard.shard, 0)), 0)
    ] or ([] if shards else ["status shows no shard"])


# -- the command -------------------------------------------------------------------------------------------------------


def _headline(text: str) -> None:
    click.echo()
    click.secho(text, bold=True)


def next_steps() -> list[str]:
    """Return commands that lead on, as they can be typed here."""
    script = Path(sys.executable).with_name("eventcore")
    is_found = shutil.which("eventcore") == str(script)
    here = script.relative_to(Path.cwd()) if script.is_relative_to(Path.cwd()) else script
    eventcore = "eventcore" if is_found else str(here)
    return [
        f"{eventcore} init my-pipeline",
        f"{eventcore} -c my-pipeline validate --explain",
        f"{eventcore} -c my-pipeline dev",
        f'{eventcore} -c my-pipeline send {SOURCE} \'{{"id": "1", "customer": "ada", "quantity": -1}}\' --key ada',
        f"{eventcore} -c my-pipeline failures ls",
    ]


@click.command()
@click.option("--seed", type=int, default=1, show_default=True, help="moves the poison record")
@click.option(
    "--pipeline", type=click.Path(exists=True, file_okay=False, path_type=Path), help="run this folder instead"
)
def demo(seed: int, pipeline: Path | None) -> int:
    """Run the bundled pipeline, watch a poison record being isolated, and check what is left."""
    with TemporaryDirectory(prefix="eventcore-demo-") as temporary:
        folder = Path(temporary)
        if pipeline is None:
            write_template(find_template("demo"), folder)
        else:
            shutil.copytree(pipeline, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".eventcore"))
        problems = anyio.run(run_demo, folder, seed)
    if problems:
        _headline("this is not what the events promised:")
        for problem in problems:
            click.secho(f"  {problem}", fg="red")
        return ExitCode.ASSERTION_FAILED
    click.secho(
        "they agree with the events: one record discarded, alone, with its reason; all others settled", fg="green"
    )
    _headline("what to try next")
    for step in next_steps():
        click.echo(f"  {step}")
    return ExitCode.OK


if __name__ == "__main__":
    from eventcore.cli.main import run_command

    sys.exit(run_command(demo, sys.argv[1:]))

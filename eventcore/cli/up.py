"""`eventcore up`: starts a server on this machine to try a pipeline with, and stops it again."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import click

from eventcore.cli.options import LazyGroup, Options, pass_options
from eventcore.cli.output import Output, confirm, show_count, show_progress
from eventcore.engine.outside import load_connector
from eventcore.errors import CommandError, StateInUse
from eventcore.http.refusals import ExitCode
from eventcore.ports.servers import PreparedServer, RunningServer, ServerConnector, ServerRequest, Way
from eventcore.store.lock import hold_state

HOST = "127.0.0.1"
#: Kafka's own, and the one in the template of `init`.
PORT_DEFAULT = 9092
PORT_MAX = 65535
#: One broker with a quarter of a gigabyte bears them; more is a slip of the finger.
PARTITIONS_MAX = 1000
#: Kafka's rule for topics' names.
_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")
#: The topic that the template of `init` reads.
_TEMPLATE_TOPIC = "orders"

up_command = LazyGroup("up", help="Start a server on this machine to try a pipeline with.")


class TopicToMake(click.ParamType[tuple[str, int]]):
    """A topic and its number of partitions: `orders:4`, or `orders` for one."""

    name = "NAME:PARTITIONS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        """Return the name and the number of partitions."""
        name, _, count = str(value).partition(":")
        if not _TOPIC.fullmatch(name) or name in {".", ".."}:
            self.fail(f"`{value}`: write NAME or NAME:PARTITIONS; a name has letters, digits, . _ -", param, ctx)
        if count and not (count.isascii() and count.isdigit() and 1 <= int(count) <= PARTITIONS_MAX):
            self.fail(f"`{value}`: write NAME or NAME:PARTITIONS, as orders:4; 1 to {PARTITIONS_MAX}", param, ctx)
        return name, int(count or 1)


@up_command.command("kafka")
@click.option(
    "--port", type=click.IntRange(1, PORT_MAX), default=PORT_DEFAULT, show_default=True, help="where clients come"
)
@click.option(
    "--topic", "topics", type=TopicToMake(), multiple=True, help="make it, unless it is there; may be repeated"
)
@click.option("--with", "way", type=click.Choice(("docker", "java")), help="what it runs in  [default: what is there]")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="where Java keeps its data  [default: in ~/.local/state, by port]",
)
@click.option("--fresh", is_flag=True, help="delete what it has kept before")
@click.option("--yes", is_flag=True, help="do not ask before that")
@pass_options
def kafka_command(
    options: Options,
    *,
    port: int,
    topics: tuple[tuple[str, int], ...],
    way: Way | None,
    data: Path | None,
    fresh: bool,
    yes: bool,
) -> int:
    """Run one Kafka broker on loopback until Ctrl-C; what was written is there again the next time.

    In a container where a Docker engine answers, else in Java 17 or later. What is missing is downloaded once, after
    saying so: the image by Docker, or Kafka's jars from Maven Central into ~/.cache/eventcore.
    """
    if data is not None and way == "docker":
        raise click.UsageError("--data is for Java: with Docker, data are kept in a volume")
    _refuse_used_port(port)
    if fresh and not yes:
        confirm(f"Delete all that the broker on port {port} has kept{f' in {data}' if data else ''}?")
    request = ServerRequest(
        port=port,
        folder=(data or _state_folder() / f"kafka-{port}").absolute(),
        way="java" if data is not None else way,
        is_fresh=fresh,
        topics=dict(topics),
    )
    return _run("kafka", request, options.output)


def _run(kind: str, request: ServerRequest, output: Output) -> int:
    connector = load_connector(kind)
    assert isinstance(connector, ServerConnector)
    with _hold(request.folder):
        prepared = connector.prepare_server(request, _Progress(output))
        return anyio.run(_Up(kind, request.topics, output).run, prepared)


class _Progress:
    """Tells what takes long."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def say(self, text: str) -> None:
        self._output.note(text)

    def show(self, total: int, label: str) -> AbstractContextManager[Callable[[int], None]]:
        return show_progress(total, label)


class _Up:
    """Runs a server until a signal."""

    def __init__(self, kind: str, wanted: Mapping[str, int], output: Output) -> None:
        self._kind = kind
        self._wanted = wanted
        self._output = output
        self._is_running = False

    async def run(self, prepared: PreparedServer) -> int:
        """Run the server and return the exit code; when this returns, it is stopped.

        Raises:
            CommandError: it did not start, or ended by itself.
        """
        async with anyio.create_task_group() as tasks:
            await tasks.start(self._watch_signals, tasks.cancel_scope)
            self._output.note(f"starting {self._kind}")
            async with prepared.open() as running:
                self._is_running = True
                self._tell(running)
                why = await running.wait()
                raise CommandError(f"{self._kind} has ended by itself: {why}")
        return ExitCode.OK if self._is_running else ExitCode.INTERRUPTED

    async def _watch_signals(
        self, scope: anyio.CancelScope, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        # A terminal that is closed sends the last one.
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            task_status.started()
            async for _ in signals:
                self._output.note(f"stopping {self._kind}")
                scope.cancel()

    def _tell(self, running: RunningServer) -> None:
        output = self._output
        if not output.is_table:
            output.data(_describe(running))
            return
        output.note(
            f"{self._kind} {running.version} is at {running.address}, in {running.way.capitalize()}; "
            f"Ctrl-C stops it and keeps its data, in {running.data}"
        )
        self._tell_topics(running.topics)
        output.note("in eventcore.toml:\n")
        output.text(f'[{self._kind}.local]\nbootstrap_servers = "{running.address}"')
        output.note("\nnext, in a second terminal:")
        output.note(f"  eventcore init --template {self._kind} my-pipeline")
        if not running.address.endswith(f":{PORT_DEFAULT}"):
            output.note("  (then the address above belongs into my-pipeline/eventcore.toml)")
        output.note("  eventcore -c my-pipeline dev")

    def _tell_topics(self, topics: Mapping[str, int]) -> None:
        """Say which topics are there, and which one has other partitions than was asked for."""
        shown = [f"{name} ({show_count(count, 'partition')})" for name, count in topics.items()]
        missing = (
            "" if _TEMPLATE_TOPIC in topics else f"; the template reads {_TEMPLATE_TOPIC}: --topic {_TEMPLATE_TOPIC}:4"
        )
        self._output.note(f"topics: {', '.join(shown) or 'none'}{missing}")
        for name, wanted in self._wanted.items():
            if topics[name] != wanted:
                self._output.warn(f"the topic {name} was there already, with {show_count(topics[name], 'partition')}")


def _describe(running: RunningServer) -> object:
    names = ("address", "version", "way", "data", "topics")
    return {name: getattr(running, name) for name in names}


def _state_folder() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "eventcore"


@contextmanager
def _hold(folder: Path) -> Iterator[None]:
    """Have the folder for this command alone."""
    try:
        with hold_state(folder):
            yield
    except StateInUse as error:
        raise CommandError(f"another `eventcore up` has {folder}", hint="name another folder: --data DIR") from error


def _refuse_used_port(port: int) -> None:
    with closing(socket.socket()) as probe:
        # As a server does it: connections of one that has ended are in nobody's way.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except PermissionError as error:
            raise CommandError(f"port {port} is for administrators alone", hint="--port 9092, say") from error
        except OSError as error:
            other = port + 1 if port < PORT_MAX else port - 1
            message = f"port {port} is taken: perhaps by a broker that runs already"
            raise CommandError(message, hint=f"choose another one: --port {other}") from error

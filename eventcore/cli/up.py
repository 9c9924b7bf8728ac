"""`eventcore up`: starts what a pipeline needs around it, for development."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eventcore.cli.kafka_broker import (
    DOWNLOAD_MB,
    KAFKA_VERSION,
    BrokerUnavailable,
    container_command,
    docker_answers,
    find_jars,
    format_data,
    has_jars,
    java_command,
    single_node,
    write_properties,
)
from eventcore.cli.options import LazyGroup, Options, pass_options
from eventcore.cli.output import Output, confirm
from eventcore.errors import CommandError

if TYPE_CHECKING:
    from types import FrameType

PORT = 9092
#: Ready in 3 s alone on two cores; other work may run, or an image be pulled.
READY_TIMEOUT_S = 120.0
#: Pause between two looks whether it is ready, seconds.
LOOK_PAUSE_S = 0.2
#: A broker that has its data on disk needs less to stop, seconds.
STOP_TIMEOUT_S = 10
LOG_LINES_SHOWN = 20

up_command = LazyGroup("up", help="Start what a pipeline needs around it, for development.")


class TopicToMake(click.ParamType[tuple[str, int]]):
    """A topic and its number of partitions: `orders:4`."""

    name = "NAME:PARTITIONS"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        """Return name and partitions."""
        name, _, partitions = str(value).partition(":")
        if not name or not (partitions or "1").isdecimal() or int(partitions or 1) < 1:
            self.fail(f"`{value}`: write NAME or NAME:PARTITIONS, as orders:4", param, ctx)
        return name, int(partitions or 1)


@up_command.command("kafka")
@click.option("--port", type=click.IntRange(1024, 65534), default=PORT, show_default=True, help="on loopback")
@click.option(
    "--topic", "topics", type=TopicToMake(), multiple=True, help="make it, unless it is there; may be repeated"
)
@click.option(
    "--data", type=click.Path(file_okay=False, path_type=Path), help="folder of its data  [default: one of the user's]"
)
@click.option("--fresh", is_flag=True, help="delete what the broker kept before")
@click.option("--yes", is_flag=True, help="do not ask before that")
@pass_options
def kafka_command(
    options: Options, port: int, topics: Sequence[tuple[str, int]], data: Path | None, fresh: bool, yes: bool
) -> int:
    """Run one Kafka broker on loopback until Ctrl-C; what was written is there again the next time.

    In a container where a Docker engine answers, else on Java 17 or later, with jars that Maven downloads once.
    """
    folder = data or _data_folder(port)
    _refuse_taken(port)
    if fresh and folder.exists():
        if not yes:
            confirm(f"Delete {folder}, with all that the broker has kept?")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _running(options.output, port, folder) as process:
            _wait_ready(process, port, folder)
            _make_topics(port, topics)
            _tell(options.output, port, topics)
            code = process.wait()
    except BrokerUnavailable as error:
        raise CommandError(
            f"Kafka can't be started: {error}", hint="install Docker, or Java 17 and Maven; or name a broker that runs"
        ) from error
    raise CommandError(f"the broker ended with {code}: {_tail(folder)}")


def _data_folder(port: int) -> Path:
    root = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(root) / "eventcore" / f"kafka-{port}"


def _refuse_taken(port: int) -> None:
    for each in (port, port + 1):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", each))
            except OSError as error:
                message = f"port {each} is taken: perhaps by a broker that runs already"
                raise CommandError(message, hint="choose two others: --port 9192 takes 9192 and 9193") from error


@contextmanager
def _running(output: Output, port: int, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the broker within the block; Ctrl-C and SIGTERM end the block, and the block's end the broker."""
    command = _prepare(output, port, folder)
    with (folder / "broker.log").open("ab") as log:
        # A session of its own: Ctrl-C on the terminal is ours alone.
        process = subprocess.Popen(  # noqa: S603 - our own command
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )

    def end(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield process
    except KeyboardInterrupt:
        output.note("stopping")
        _stop(process)
        sys.exit(0)
    finally:
        signal.signal(signal.SIGTERM, before)
        _stop(process)


def _prepare(output: Output, port: int, folder: Path) -> Sequence[str]:
    data = folder / "data"
    if docker_answers():
        data.mkdir(exist_ok=True)
        output.note(f"starting Kafka {KAFKA_VERSION} in a container")
        return container_command(port, data.resolve(), f"{os.getuid()}:{os.getgid()}")
    if not has_jars():
        output.note(f"downloading Kafka {KAFKA_VERSION} with Maven, once: about {DOWNLOAD_MB} MB")
    jars = find_jars()
    output.note(f"starting Kafka {KAFKA_VERSION} on Java")
    properties = folder / "server.properties"
    write_properties(properties, single_node(port, port + 1, str(data.resolve())))
    format_data(jars, properties, "--ignore-formatted")
    return java_command(jars, "kafka.Kafka", str(properties))


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_ready(process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
    """Wait until groups can be joined.

    Raises:
        CommandError: the broker ended, or is not ready in time; the message has its last words.
    """
    import anyio

    async def wait() -> bool:
        with anyio.move_on_after(READY_TIMEOUT_S):
            while process.poll() is None:
                if await _answers(port):
                    return True
                await anyio.sleep(LOOK_PAUSE_S)
        return False

    if not anyio.run(wait):
        raise CommandError(f"the broker did not become ready: {_tail(folder)}")


async def _answers(port: int) -> bool:
    import logging

    from aiokafka.admin import AIOKafkaAdminClient
    from aiokafka.errors import KafkaError

    # It reports every try that meets nobody yet.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    admin: Any = AIOKafkaAdminClient(bootstrap_servers=f"127.0.0.1:{port}", request_timeout_ms=2000)
    try:
        await admin.start()
        # The first question makes it create the topic for offsets.
        await admin.find_coordinator("eventcore-up")
    except (KafkaError, OSError):
        return False
    else:
        return True
    finally:
        await admin.close()


def _make_topics(port: int, topics: Sequence[tuple[str, int]]) -> None:
    """Make topics that are not there."""
    if not topics:
        return
    import anyio
    from aiokafka.admin import AIOKafkaAdminClient, NewTopic
    from aiokafka.errors import KafkaError

    async def make() -> None:
        admin: Any = AIOKafkaAdminClient(bootstrap_servers=f"127.0.0.1:{port}")
        await admin.start()
        try:
            there = set(await admin.list_topics())
            missing: list[Any] = [
                NewTopic(name, partitions, 1)  # type: ignore[no-untyped-call]
                for name, partitions in topics
                if name not in there
            ]
            if missing:
                await admin.create_topics(missing)
        except KafkaError as error:
            raise CommandError(f"a topic can't be made: {error}") from error
        finally:
            await admin.close()

    anyio.run(make)


def _tell(output: Output, port: int, topics: Sequence[tuple[str, int]]) -> None:
    output.text(f"Kafka {KAFKA_VERSION} is at 127.0.0.1:{port}; Ctrl-C stops it")
    output.note("put this into eventcore.toml:\n\n  [kafka.local]")
    output.note(f'  bootstrap_servers = "127.0.0.1:{port}"\n')
    topic = topics[0][0] if topics else "orders"
    made = ", ".join(f"{name} ({partitions})" for name, partitions in topics)
    output.note(f"topics: {made or 'none asked for: --topic orders:4 makes one'}")
    output.note(f"then: eventcore dev, and in another terminal eventcore send kafka:local/{topic} '{{\"id\": 1}}'")


def _tail(folder: Path) -> str:
    path = folder / "broker.log"
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return "\n".join(["", *lines[-LOG_LINES_SHOWN:], f"its log: {path}"])

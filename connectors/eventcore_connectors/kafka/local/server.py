"""A broker for people: chooses what it runs in, starts it, waits until it serves groups, stops it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import anyio.to_thread
import msgspec

from eventcore.errors import CommandError, ConnectorUnavailable
from eventcore.ports.servers import Progress, ServerRequest, Way
from eventcore_connectors.kafka.local import docker, java, tied
from eventcore_connectors.kafka.local.jars import find_jars
from eventcore_connectors.kafka.local.ports import free_ports
from eventcore_connectors.kafka.local.settings import HOST, KAFKA_VERSION, broker_settings
from eventcore_connectors.kafka.local.topics import answers, make_topics

#: Ready in 3 s alone on two cores; other work may run.
READY_TIMEOUT_S = 60.0
_LOOK_AGAIN_S = 0.1
#: A broker stops within two seconds or so; what is left is killed, and loses nothing that was acknowledged.
STOP_TIMEOUT_S = 8.0
#: After SIGKILL.
_END_TIMEOUT_S = 2.0
#: Of the broker's log, in an error.
LOG_LINES_SHOWN = 15
_MISSES: Mapping[Way, Callable[[], str]] = {"docker": docker.miss_docker, "java": java.miss_java}


class PreparedKafka(msgspec.Struct, frozen=True):
    """A broker whose programs are all on this machine."""

    request: ServerRequest
    way: Way
    jars: Path | None  #: for Java

    @property
    def log(self) -> Path:
        """What the broker writes, of the last run."""
        return self.request.folder / "broker.log"

    @property
    def data(self) -> str:
        """Where the records are."""
        return (
            str(self._folder) if self.way == "java" else f"Docker's volume {docker.container_name(self.request.port)}"
        )

    @property
    def _folder(self) -> Path:
        return self.request.folder / "kafka-data"

    @asynccontextmanager
    async def open(self) -> AsyncIterator[RunningKafka]:
        """Start the broker, wait until groups can be joined, make the topics; stop it when the context is left.

        Raises:
            CommandError: it does not start, does not answer in `READY_TIMEOUT_S`, or refuses a topic.
        """
        process = await self._start()
        running = RunningKafka(self, process)
        try:
            await running.wait_ready()
            running.topics = await make_topics(running.address, self.request.topics)
            yield running
        finally:
            await self._stop(process)

    async def _start(self) -> anyio.abc.Process:
        try:
            command = await anyio.to_thread.run_sync(self._prepare)
            with self.log.open("wb") as log:
                # Not in the terminal's foreground: Ctrl-C is for the command, which then stops the broker.
                return await anyio.open_process(
                    _tie(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
        except OSError as error:
            raise CommandError(f"{self.request.folder} can't be used: {error}") from error

    def _prepare(self) -> Sequence[str]:
        """Prepare the data, and return what runs the broker."""
        port = self.request.port
        if self.jars is None:
            if self.request.is_fresh:
                docker.delete_volume(port)
            docker.remove_container(port)
            return docker.container_command(port)
        if self.request.is_fresh:
            java.delete_data(self._folder)
        controller_port = next(each for each in free_ports(2) if each != port)
        file = self.request.folder / "server.properties"
        java.write_settings(file, broker_settings(port=port, controller_port=controller_port, data=self._folder))
        java.prepare_data(self.jars, file, self._folder)
        return java.broker_command(self.jars, file)

    async def _stop(self, process: anyio.abc.Process) -> None:
        """Stop the broker: SIGTERM, then SIGKILL, by its process id; a container also by its name."""
        with anyio.move_on_after(STOP_TIMEOUT_S, shield=True):
            if process.returncode is None:
                process.terminate()
            await process.wait()
        if process.returncode is None:
            process.kill()
            with anyio.move_on_after(_END_TIMEOUT_S, shield=True):
                await process.wait()
        if self.way == "docker":
            with anyio.move_on_after(docker.REMOVE_TIMEOUT_S, shield=True):
                await anyio.to_thread.run_sync(docker.remove_container, self.request.port)


class RunningKafka:
    """A broker that runs."""

    version = KAFKA_VERSION

    def __init__(self, prepared: PreparedKafka, process: anyio.abc.Process) -> None:
        self.address = f"{HOST}:{prepared.request.port}"
        self.way = prepared.way
        self.data = prepared.data
        self.topics: Mapping[str, int] = {}
        self._log = prepared.log
        self._process = process

    async def wait(self) -> str:
        """Return when the broker has ended by itself, with its exit code and its last words."""
        code = await self._process.wait()
        return f"exit code {code}; the end of {self._log}:\n{self._tail()}"

    async def wait_ready(self) -> None:
        """Return when the broker serves groups.

        Raises:
            CommandError: it ended, or it does not answer.
        """
        with anyio.move_on_after(READY_TIMEOUT_S):
            while self._process.returncode is None:
                if await answers(self.address):
                    return
                await anyio.sleep(_LOOK_AGAIN_S)
            raise CommandError(f"Kafka does not start: {await self.wait()}")
        raise CommandError(f"Kafka does not answer within {READY_TIMEOUT_S:g} s; the end of its log:\n{self._tail()}")

    def _tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:])


def prepare_kafka(request: ServerRequest, progress: Progress) -> PreparedKafka:
    """Choose what the broker runs in, and download what is missing, after saying so.

    Raises:
        ConnectorUnavailable: there is neither Docker nor Java; the message says what to install.
        CommandError: the download failed.
    """
    way = _choose(request)
    if way == "docker":
        docker.pull_image(progress)
        return PreparedKafka(request, way, None)
    return PreparedKafka(request, way, find_jars(progress))


def _choose(request: ServerRequest) -> Way:
    ways = [request.way] if request.way else list(_MISSES)
    reasons = []
    for way in ways:
        reason = _MISSES[way]()
        if not reason:
            return way
        reasons.append(reason)
    needed = {"docker": "a running Docker engine", "java": f"Java {java.JAVA_VERSION_MIN} or later"}
    raise ConnectorUnavailable(
        f"Kafka needs {' or '.join(needed[way] for way in ways)}, and {', and '.join(reasons)}: install one, "
        "such as Debian's `default-jre-headless` or Homebrew's `openjdk`, and start it again"
    )


def _tie(command: Sequence[str]) -> list[str]:
    """Return what runs a command for no longer than this process lives."""
    return [sys.executable, "-I", "-S", tied.__file__, str(os.getpid()), *command]

"""A real Kafka broker for the tests: one KRaft node on loopback, from Maven Central's jars or from `compose/`.

Nothing is left behind: the process is stopped by its id, its data lives in a temporary folder. Jars and settings are
those of `eventcore up kafka`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import anyio

from eventcore.errors import CommandError
from eventcore_connectors.kafka.local import docker, jars, java
from eventcore_connectors.kafka.local.settings import broker_settings
from eventcore_connectors.kafka.local.topics import answers
from tests.servers.ports import free_ports

#: For Docker, which may download first.
COMPOSE_TIMEOUT_S = 300
#: Ready in 3 s alone on two cores; other work may run.
READY_TIMEOUT_S = 60
#: The last node of a quorum ignores SIGTERM for long: it waits for a controller.
STOP_TIMEOUT_S = 3
COMPOSE_FILE = Path(__file__).parents[2] / "compose" / "kafka.yaml"
LOG_LINES_SHOWN = 40


class ServerUnavailable(Exception):
    """The server can't be had on this machine; the message says why."""


class _Told:
    """Takes what a download says."""

    def say(self, text: str) -> None:
        logging.getLogger(__name__).info(text)

    def show(self, total: int, label: str) -> contextlib.AbstractContextManager[Callable[[int], None]]:
        return contextlib.nullcontext(lambda _: None)


def find_jars() -> Path:
    """Return the folder of Kafka's jars, downloading them first if need be.

    Raises:
        ServerUnavailable: Java is missing, or the download failed.
    """
    if missing := java.miss_java():
        raise ServerUnavailable(missing)
    try:
        return jars.find_jars(_Told())
    except CommandError as error:
        raise ServerUnavailable(str(error)) from error


def _settings(port: int, controller_port: int, data: Path, more: Mapping[str, str]) -> Mapping[str, str]:
    settings = broker_settings(port=port, controller_port=controller_port, data=data)
    # As brokers come: a client that asks for a missing topic makes it, unless it says that it must not.
    settings["auto.create.topics.enable"] = "true"
    for name, value in more.items():
        # Lists grow, everything else is replaced.
        is_list = name in {"listeners", "advertised.listeners", "listener.security.protocol.map"}
        settings[name] = f"{settings[name]},{value}" if is_list else value
    return settings


class KafkaServer:
    """A running broker.

    A second listener says that it is at `front_port`, and is at `behind_port`: a network of the test's may lie between.

    Args:
        jars: Kafka's.
        folder: for its data, configuration and log.
        settings: of the broker, beside the usual ones, read by `format`; listeners are added to the usual ones.
        format_arguments: for `kafka-storage format`.
    """

    def __init__(
        self,
        jars: Path,
        folder: Path,
        *,
        settings: Mapping[str, str] = MappingProxyType({}),
        format_arguments: Sequence[str] = (),
    ) -> None:
        self._settings = settings
        self._format_arguments = format_arguments
        self._folder = folder
        self._jars = jars
        self.port, self.controller_port, self.behind_port, self.front_port = free_ports(4)
        self.address = f"127.0.0.1:{self.port}"
        self.log = folder / "broker.log"
        self._configuration = folder / "server.properties"
        self._process: subprocess.Popen[bytes] | None = None

    def format(self) -> None:
        """Prepare the data folder."""
        data = self._folder / "data"
        java.write_settings(self._configuration, _settings(self.port, self.controller_port, data, self._more()))
        java.prepare_data(self._jars, self._configuration, data, self._format_arguments)

    def _more(self) -> Mapping[str, str]:
        """Return the settings beside the usual ones, with the second listener among them."""
        mine = {
            "listeners": f"FRONT://127.0.0.1:{self.behind_port}",
            "advertised.listeners": f"FRONT://127.0.0.1:{self.front_port}",
            "listener.security.protocol.map": "FRONT:PLAINTEXT",
        }
        lists = {name: ",".join(filter(None, (text, self._settings.get(name)))) for name, text in mine.items()}
        return {**self._settings, **lists}

    def start(self) -> None:
        """Start the broker and wait until it answers, and until groups can be joined."""
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Start the broker, and wait for nothing."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                java.broker_command(self._jars, self._configuration), stdout=log, stderr=log, cwd=self._folder
            )

    def wait_ready(self) -> None:
        """Wait until the broker answers, and until groups can be joined."""
        try:
            anyio.run(_wait_ready, self.address, self._raise_if_ended)
        except TimeoutError as error:
            self.stop()
            raise ServerUnavailable(f"the broker did not answer within {READY_TIMEOUT_S} s:\n{self.tail()}") from error

    def _raise_if_ended(self) -> None:
        """Raise ServerUnavailable if the broker has ended by itself."""
        if self._process is not None and (code := self._process.poll()) is not None:
            self._process = None
            raise ServerUnavailable(f"the broker ended with exit code {code}:\n{self.tail()}")

    def stop(self) -> None:
        """Stop the broker: SIGTERM, then SIGKILL, by its process id."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    @property
    def is_running(self) -> bool:
        """Whether it was started, and neither stopped nor killed."""
        return self._process is not None

    def kill(self) -> None:
        """End the broker as a crash does."""
        process, self._process = self._process, None
        assert process is not None, "it is started first"
        process.kill()
        process.wait()

    @contextlib.contextmanager
    def hanging(self) -> Iterator[None]:
        """Let the broker hang for the block: its port accepts connections, and nothing answers. It may be killed."""
        process = self._process
        assert process is not None, "it is started first"
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def run_command(self, name: str, *arguments: str) -> None:
        """Run one of Kafka's own commands on the broker, to its end."""
        command = java.java_command(self._jars, name, "--bootstrap-server", self.address, *arguments)
        subprocess.run(command, check=True, capture_output=True, timeout=READY_TIMEOUT_S)

    def restart(self) -> None:
        """Stop the broker and start it on the same data and ports."""
        self.stop()
        self.start()

    def tail(self) -> str:
        """Return the last lines of the broker's log."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:])


async def _wait_ready(address: str, raise_if_ended: Callable[[], None] = lambda: None) -> None:
    with anyio.fail_after(READY_TIMEOUT_S):
        while not await answers(address):
            raise_if_ended()
            await anyio.sleep(0.1)


class ComposedKafkaServer:
    """A broker from `compose/kafka.yaml`."""

    def __init__(self) -> None:
        (self.port,) = free_ports(1)
        self.address = f"127.0.0.1:{self.port}"
        self._environment = {**os.environ, "EVENTCORE_KAFKA_PORT": str(self.port)}
        self._project = f"eventcore-tests-{self.port}"

    def start(self) -> None:
        """Start the container, or start it again, and wait until groups can be joined."""
        self._compose("up", "--detach", "--wait")
        anyio.run(_wait_ready, self.address)

    def stop(self) -> None:
        """Stop the container; its data stays until `remove`."""
        self._compose("stop", "--timeout", str(STOP_TIMEOUT_S))

    def restart(self) -> None:
        """Stop the container and start it on the same data and port."""
        self.stop()
        self.start()

    def remove(self) -> None:
        """Remove the container and its data."""
        self._compose("down", "--volumes")

    def tail(self) -> str:
        """Return the last lines of the container's log."""
        return self._compose("logs", "--tail", str(LOG_LINES_SHOWN))

    def _compose(self, *arguments: str) -> str:
        command = ["docker", "compose", "--project-name", self._project, "--file", str(COMPOSE_FILE), *arguments]
        done = subprocess.run(
            command,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=COMPOSE_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            raise ServerUnavailable(f"docker compose: {(done.stdout + done.stderr)[-500:]}")
        return done.stdout


@contextlib.contextmanager
def running_kafka() -> Iterator[KafkaServer | ComposedKafkaServer]:
    """Run a broker for as long as the block lasts.

    Raises:
        ServerUnavailable: it can be had neither from jars nor from a Docker engine.
    """
    try:
        jars = find_jars()
    except ServerUnavailable as error:
        if missing := docker.miss_docker():
            raise ServerUnavailable(f"{error}; and {missing}") from error
        composed = ComposedKafkaServer()
        try:
            composed.start()
            yield composed
        finally:
            composed.remove()
        return
    with tempfile.TemporaryDirectory(prefix="eventcore-kafka-", ignore_cleanup_errors=True) as folder:
        server = KafkaServer(jars, Path(folder))
        try:
            server.format()
            server.start()
            yield server
        finally:
            server.stop()

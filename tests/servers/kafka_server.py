"""A real Kafka broker for the tests: one KRaft node on loopback, from Maven Central's jars or from `compose/`.

Nothing is left behind: the process is stopped by its id, its data lives in a temporary folder. Jars are kept in the
user's cache folder; a download becomes visible there only when it is whole.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import anyio
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

KAFKA_VERSION = "4.3.0"
#: What Kafka needs to run; its logging goes to standard error through the simple binding.
ARTIFACTS = (
    ("org.apache.kafka", "kafka_2.13", KAFKA_VERSION),
    ("org.apache.kafka", "kafka-tools", KAFKA_VERSION),
    ("org.slf4j", "slf4j-simple", "1.7.36"),
)
#: A cold download takes 14 s on a fast line; this is for slow ones.
DOWNLOAD_TIMEOUT_S = 300
#: Ready in 3 s alone on two cores; other work may run.
READY_TIMEOUT_S = 60
#: The last node of a quorum ignores SIGTERM for long: it waits for a controller.
STOP_TIMEOUT_S = 3
#: Any 16 bytes in base64.
CLUSTER_ID = "MkU3OEVBNTcwNTJENDM2Qg"
#: The JVM starts twice as fast so, and a broker for tests needs no more memory; its log is for failures.
JVM_FLAGS = (
    "-Xmx256m",
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
)
COMPOSE_FILE = Path(__file__).parents[2] / "compose" / "kafka.yaml"
LOG_LINES_SHOWN = 40


class ServerUnavailable(Exception):
    """The server can't be had on this machine; the message says why."""


# -- jars --------------------------------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """Return the folder of the jars, which may not be there yet."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "eventcore" / f"kafka-{KAFKA_VERSION}"


def find_jars() -> Path:
    """Return the folder of Kafka's jars, downloading them first if need be.

    Raises:
        ServerUnavailable: Java or Maven is missing, or the download failed.
    """
    if shutil.which("java") is None:
        raise ServerUnavailable("no `java` on the path")
    libs = cache_folder() / "libs"
    if libs.is_dir():
        return libs
    if shutil.which("mvn") is None:
        raise ServerUnavailable("no `mvn` on the path, and no jars in the cache folder")
    libs.parent.mkdir(parents=True, exist_ok=True)
    # Renamed when it is whole: a download that was cut off is never taken for the cache.
    with tempfile.TemporaryDirectory(dir=libs.parent, prefix="download-") as folder:
        _download(Path(folder))
        with contextlib.suppress(FileExistsError, OSError):
            (Path(folder) / "libs").rename(libs)
    if not libs.is_dir():
        raise ServerUnavailable(f"the jars could not be put into {libs.parent}")
    return libs


def _download(folder: Path) -> None:
    dependencies = "".join(
        f"<dependency><groupId>{group}</groupId><artifactId>{name}</artifactId><version>{version}</version></dependency>"
        for group, name, version in ARTIFACTS
    )
    (folder / "pom.xml").write_text(
        "<project><modelVersion>4.0.0</modelVersion>"
        "<groupId>tests</groupId><artifactId>kafka</artifactId><version>1</version>"
        f"<dependencies>{dependencies}</dependencies></project>"
    )
    command = ["mvn", "-q", "-B", "-ntp", "dependency:copy-dependencies", "-DoutputDirectory=libs"]
    try:
        done = subprocess.run(
            [*command, "-DincludeScope=runtime"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ServerUnavailable(f"downloading Kafka took longer than {DOWNLOAD_TIMEOUT_S} s") from error
    if done.returncode:
        raise ServerUnavailable(f"Maven could not download Kafka: {(done.stdout + done.stderr)[-500:]}")


# -- the broker --------------------------------------------------------------------------------------------------------


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _properties(port: int, controller_port: int, folder: Path, more: Mapping[str, str]) -> str:
    settings = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": str(folder / "data"),
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "1",
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        "log.cleaner.backoff.ms": "100",
        # As brokers come: a client that asks for a missing topic makes it, unless it says that it must not.
        "auto.create.topics.enable": "true",
    }
    for name, value in more.items():
        # Lists grow, everything else is replaced.
        settings[name] = f"{settings[name]},{value}" if name in {"listeners", "advertised.listeners"} else value
    return "".join(f"{name}={value}\n" for name, value in settings.items())


class KafkaServer:
    """A running broker.

    A second listener says that it is at `front_port`, and is at `behind_port`: a network of the test's may lie between.

    Args:
        jars: Kafka's.
        folder: for its data, configuration and log.
        settings: of the broker, beside the usual ones; listeners are added to the usual ones.
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
        self._class_path = f"{jars}/*"
        self.port, self._controller_port, self.behind_port, self.front_port = free_ports(4)
        self.address = f"127.0.0.1:{self.port}"
        self.log = folder / "broker.log"
        self._configuration = folder / "server.properties"
        self._process: subprocess.Popen[bytes] | None = None

    def format(self) -> None:
        """Prepare the data folder."""
        self._configuration.write_text(_properties(self.port, self._controller_port, self._folder, self._more()))
        arguments = ["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(self._configuration)]
        arguments += self._format_arguments
        subprocess.run(self._java(*arguments), check=True, capture_output=True, timeout=READY_TIMEOUT_S)

    def _more(self) -> Mapping[str, str]:
        """Return the settings beside the usual ones, with the second listener among them."""
        mine = {
            "listeners": f"FRONT://127.0.0.1:{self.behind_port}",
            "advertised.listeners": f"FRONT://127.0.0.1:{self.front_port}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,FRONT:PLAINTEXT",
        }
        lists = {name: ",".join(filter(None, (text, self._settings.get(name)))) for name, text in mine.items()}
        return {**self._settings, **lists}

    def start(self) -> None:
        """Start the broker and wait until it answers, and until groups can be joined."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._java("kafka.Kafka", str(self._configuration)), stdout=log, stderr=log, cwd=self._folder
            )
        try:
            anyio.run(_wait_ready, self.address)
        except TimeoutError as error:
            self.stop()
            raise ServerUnavailable(f"the broker did not answer within {READY_TIMEOUT_S} s:\n{self.tail()}") from error

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

    def restart(self) -> None:
        """Stop the broker and start it on the same data and ports."""
        self.stop()
        self.start()

    def tail(self) -> str:
        """Return the last lines of the broker's log."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:])

    def _java(self, *arguments: str) -> list[str]:
        return ["java", *JVM_FLAGS, "-cp", self._class_path, *arguments]


async def _wait_ready(address: str) -> None:
    with anyio.fail_after(READY_TIMEOUT_S):
        while not await _answers(address):  # noqa: ASYNC110 - another process is waited for
            await anyio.sleep(0.1)


async def _answers(address: str) -> bool:
    """Tell whether the broker serves groups; the first question makes it create the topic for their offsets."""
    admin = AIOKafkaAdminClient(bootstrap_servers=address, request_timeout_ms=2000)
    try:
        await admin.start()
        await admin.find_coordinator("tests-of-eventcore")
    except KafkaError:
        return False
    else:
        return True
    finally:
        await admin.close()


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
            timeout=DOWNLOAD_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            raise ServerUnavailable(f"docker compose: {(done.stdout + done.stderr)[-500:]}")
        return done.stdout


def _docker_answers() -> bool:
    if shutil.which("docker") is None:
        return False
    try:
        done = subprocess.run(["docker", "info"], capture_output=True, timeout=10, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


@contextlib.contextmanager
def running_kafka() -> Iterator[KafkaServer | ComposedKafkaServer]:
    """Run a broker for as long as the block lasts.

    Raises:
        ServerUnavailable: it can be had neither from jars nor from a Docker engine.
    """
    try:
        jars = find_jars()
    except ServerUnavailable as error:
        if not _docker_answers():
            raise ServerUnavailable(f"{error}; and no Docker engine answers") from error
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

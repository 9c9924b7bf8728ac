"""One Kafka broker for development, as a process on loopback: from Java and jars, or from a container.

Jars are kept in the user's cache folder; a download becomes visible there only when it is whole.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

KAFKA_VERSION = "4.3.0"
#: The image of the same version; `compose/kafka.yaml` names it too.
IMAGE = f"apache/kafka:{KAFKA_VERSION}"
#: What Kafka needs to run; its logging goes to standard error through the simple binding.
ARTIFACTS = (
    ("org.apache.kafka", "kafka_2.13", KAFKA_VERSION),
    ("org.apache.kafka", "kafka-tools", KAFKA_VERSION),
    ("org.slf4j", "slf4j-simple", "1.7.36"),
)
#: What the jars take, for people who wait for them, MB.
DOWNLOAD_MB = 54
#: A cold download takes 14 s on a fast line; this is for slow ones.
DOWNLOAD_TIMEOUT_S = 300
#: Preparing the data folder takes 1.5 s; other work may run, seconds.
FORMAT_TIMEOUT_S = 60
#: Whether a Docker engine answers, seconds: one that is starting up does not.
DOCKER_TIMEOUT_S = 10
#: Any 16 bytes in base64.
CLUSTER_ID = "MkU3OEVBNTcwNTJENDM2Qg"
#: The JVM starts twice as fast so, and a broker for development needs no more memory.
JVM_FLAGS = (
    "-Xmx256m",
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
)


class BrokerUnavailable(Exception):
    """No broker can be started on this machine; the message says what is missing."""


# -- jars --------------------------------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """Return the folder of the jars, which may not be there yet."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "eventcore" / f"kafka-{KAFKA_VERSION}"


def has_jars() -> bool:
    """Tell whether the jars are there."""
    return (cache_folder() / "libs").is_dir()


def find_jars() -> Path:
    """Return the folder of Kafka's jars, downloading them first if need be.

    Raises:
        BrokerUnavailable: Java or Maven is missing, or the download failed.
    """
    if shutil.which("java") is None:
        raise BrokerUnavailable("no `java` on the path")
    libs = cache_folder() / "libs"
    if libs.is_dir():
        return libs
    if shutil.which("mvn") is None:
        raise BrokerUnavailable("no `mvn` on the path, and no jars in the cache folder")
    libs.parent.mkdir(parents=True, exist_ok=True)
    # Renamed when it is whole: a download that was cut off is never taken for the cache.
    with tempfile.TemporaryDirectory(dir=libs.parent, prefix="download-") as folder:
        _download(Path(folder))
        with contextlib.suppress(FileExistsError, OSError):
            (Path(folder) / "libs").rename(libs)
    if not libs.is_dir():
        raise BrokerUnavailable(f"the jars could not be put into {libs.parent}")
    return libs


def _download(folder: Path) -> None:
    dependencies = "".join(
        f"<dependency><groupId>{group}</groupId><artifactId>{name}</artifactId><version>{version}</version></dependency>"
        for group, name, version in ARTIFACTS
    )
    (folder / "pom.xml").write_text(
        "<project><modelVersion>4.0.0</modelVersion>"
        "<groupId>local</groupId><artifactId>kafka</artifactId><version>1</version>"
        f"<dependencies>{dependencies}</dependencies></project>"
    )
    # Maven compares each file with its checksum; a difference fails the download (-C).
    command = ["mvn", "-q", "-B", "-C", "-ntp", "dependency:copy-dependencies", "-DoutputDirectory=libs"]
    try:
        done = subprocess.run(  # noqa: S603 - our own command
            [*command, "-DincludeScope=runtime"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BrokerUnavailable(f"downloading Kafka took longer than {DOWNLOAD_TIMEOUT_S} s") from error
    if done.returncode:
        raise BrokerUnavailable(f"Maven could not download Kafka: {(done.stdout + done.stderr)[-500:]}")


# -- the broker --------------------------------------------------------------------------------------------------------


def java_command(jars: Path, *arguments: str) -> list[str]:
    """Return the command that runs one of Kafka's programs."""
    return ["java", *JVM_FLAGS, "-cp", f"{jars}/*", *arguments]


def single_node(port: int, controller_port: int, data: str) -> dict[str, str]:
    """Return the settings of a broker that is its own controller, on loopback, keeping everything once.

    Args:
        port: where clients come.
        controller_port: where it talks to itself.
        data: its folder.
    """
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": data,
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "1",
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        "log.cleaner.backoff.ms": "100",
    }


def write_properties(path: Path, settings: Mapping[str, str]) -> None:
    """Write a broker's settings."""
    path.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))


def format_data(jars: Path, properties: Path, *arguments: str) -> None:
    """Prepare the data folder that the settings name; one that is prepared stays as it is with `--ignore-formatted`.

    Raises:
        BrokerUnavailable: it can't be prepared; the message has Kafka's words.
    """
    command = ["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(properties), *arguments]
    done = subprocess.run(  # noqa: S603 - our own command
        java_command(jars, *command), capture_output=True, text=True, timeout=FORMAT_TIMEOUT_S, check=False
    )
    if done.returncode:
        raise BrokerUnavailable(f"the broker's data can't be prepared: {(done.stdout + done.stderr)[-500:]}")


def container_command(port: int, data: Path, user: str) -> Sequence[str]:
    """Return the command that runs the same broker in a container, in the foreground; ended, the container is gone.

    Args:
        port: where clients come, on loopback.
        data: its folder on this machine.
        user: owner of the data, as `UID:GID`.
    """
    settings = single_node(port, port + 1, "/var/lib/kafka/data")
    # Inside, everything listens everywhere; outside, Docker opens the one port on loopback.
    settings["listeners"] = f"PLAINTEXT://0.0.0.0:{port},CONTROLLER://127.0.0.1:{port + 1}"
    settings["listener.security.protocol.map"] = "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT"
    variables = [
        word
        for name, value in settings.items()
        for word in ("--env", f"KAFKA_{name.replace('.', '_').upper()}={value}")
    ]
    return [
        *("docker", "run", "--rm", "--name", f"eventcore-kafka-{port}", "--user", user),
        *("--publish", f"127.0.0.1:{port}:{port}", "--volume", f"{data}:/var/lib/kafka/data"),
        *variables,
        *("--env", "KAFKA_HEAP_OPTS=-Xmx512m"),
        IMAGE,
    ]


def docker_answers() -> bool:
    """Tell whether a Docker engine can be used."""
    if shutil.which("docker") is None:
        return False
    try:
        done = subprocess.run(
            ["docker", "info"],  # noqa: S607 - whichever the user's is
            capture_output=True,
            timeout=DOCKER_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0

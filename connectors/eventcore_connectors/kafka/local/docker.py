"""Runs Kafka in a container, where a Docker engine answers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from eventcore.errors import CommandError
from eventcore.ports.servers import Progress
from eventcore_connectors.kafka.local.programs import run_program
from eventcore_connectors.kafka.local.settings import KAFKA_VERSION, broker_settings

IMAGE = f"apache/kafka:{KAFKA_VERSION}"
#: Unpacked (KIP-975, "POC").
IMAGE_SIZE_TEXT = "some 460 MB unpacked"
#: An engine that is there answers in a tenth of this, seconds.
ENGINE_TIMEOUT_S = 10.0
#: For removing a container or a volume, seconds.
REMOVE_TIMEOUT_S = 30.0
#: In the container; the second one where the first is what clients come to.
_CONTROLLER_PORTS = (29093, 29094)
_STDERR = 2
_DATA = Path("/var/lib/kafka/data")


def miss_docker() -> str:
    """Return why Kafka can't run in Docker here; empty where it can."""
    if shutil.which("docker") is None:
        return "there is no `docker` on the path"
    return "" if _succeeds(ENGINE_TIMEOUT_S, "info") else "no Docker engine answers `docker info`"


def pull_image(progress: Progress) -> None:
    """Have the image on this machine.

    Raises:
        CommandError: it can't be downloaded; Docker has said why.
    """
    if _succeeds(ENGINE_TIMEOUT_S, "image", "inspect", IMAGE):
        return
    progress.say(f"downloading the image {IMAGE} by Docker, once: {IMAGE_SIZE_TEXT}")
    # Docker shows how far it is; standard output is for data.
    command = ["docker", "pull", IMAGE]
    pulled = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=_STDERR, check=False)  # noqa: S603
    if pulled.returncode:
        raise CommandError(f"Docker could not download {IMAGE}")


def container_name(port: int) -> str:
    """Return the name of the container, and of the volume with its data: one for each port."""
    return f"eventcore-kafka-{port}"


def container_command(port: int) -> list[str]:
    """Return what runs the broker in a container that goes when it ends; the volume stays."""
    controller_port = next(each for each in _CONTROLLER_PORTS if each != port)
    settings = broker_settings(port=port, controller_port=controller_port, data=_DATA, bind="0.0.0.0")  # noqa: S104 - within the container
    # The image takes each setting of the broker from a variable (apache/kafka, "docker/examples").
    variables = {f"KAFKA_{name.replace('.', '_').upper()}": value for name, value in settings.items()}
    variables |= {"KAFKA_HEAP_OPTS": "-Xmx512m", "KAFKA_LOG4J_ROOT_LOGLEVEL": "WARN"}
    name = container_name(port)
    return [
        *("docker", "run", "--rm", "--name", name, "--publish", f"127.0.0.1:{port}:{port}"),
        *("--volume", f"{name}:{_DATA}"),
        *(word for variable, value in variables.items() for word in ("--env", f"{variable}={value}")),
        IMAGE,
    ]


def remove_container(port: int) -> None:
    """Remove the container, running or not; without one nothing happens."""
    _succeeds(REMOVE_TIMEOUT_S, "rm", "--force", container_name(port))


def delete_volume(port: int) -> None:
    """Delete the data; without any nothing happens.

    Raises:
        CommandError: Docker does not delete them.
    """
    name = container_name(port)
    remove_container(port)
    if not _succeeds(REMOVE_TIMEOUT_S, "volume", "rm", "--force", name):
        raise CommandError(f"Docker does not delete the volume {name}", hint=f"docker volume rm {name}")


def _succeeds(timeout_s: float, *arguments: str) -> bool:
    try:
        done = run_program(["docker", *arguments], timeout_s=timeout_s)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0

"""What `compose/` promises: versions are pinned, nothing listens beyond loopback, everything says when it is ready."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from eventcore_connectors.kafka.local.docker import IMAGE
from eventcore_connectors.kafka.local.jars import read_jars
from eventcore_connectors.kafka.local.settings import KAFKA_VERSION

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "compose"
FILES = sorted(FOLDER.glob("*.yaml"))
#: A version of at least major and minor; `latest`, `4` and no tag at all move.
PINNED = re.compile(r"^[\w./-]+:v?\d+\.\d+[\w.-]*$")
#: `HOST:OUTSIDE:INSIDE`, where ports may be variables with a default.
PORT = r"(?:\d+|\$\{[A-Z_]+:-\d+\})"
LOOPBACK = re.compile(rf"^127\.0\.0\.1:{PORT}:{PORT}$")


def read(file: Path) -> dict[str, Any]:
    document = yaml.safe_load(file.read_text())
    assert isinstance(document, dict)
    return document


def services(file: Path) -> dict[str, dict[str, Any]]:
    """Return the services of a file, and of those that it includes."""
    document = read(file)
    found = dict(document.get("services", {}))
    for included in document.get("include", []):
        found.update(services(FOLDER / included))
    return found


SERVICES = [
    pytest.param(service, id=f"{file.name}:{name}") for file in FILES for name, service in services(file).items()
]


def test_the_files_that_are_promised_are_there() -> None:
    """kafka.yaml, and all.yaml with every service of the others."""
    assert {"kafka.yaml", "all.yaml"} <= {file.name for file in FILES}
    others = {name for file in FILES if file.name != "all.yaml" for name in services(file)}
    assert set(services(FOLDER / "all.yaml")) == others


@pytest.mark.parametrize("service", SERVICES)
def test_images_are_pinned(service: dict[str, Any]) -> None:
    """An image is named with its version, and nothing is built here."""
    assert PINNED.match(service["image"])
    assert "build" not in service


@pytest.mark.parametrize("service", SERVICES)
def test_ports_are_bound_to_loopback(service: dict[str, Any]) -> None:
    """No port is open to the network, and none takes the host's network."""
    assert service["ports"]
    for port in service["ports"]:
        assert LOOPBACK.match(port), port
    assert "network_mode" not in service


@pytest.mark.parametrize("service", SERVICES)
def test_services_say_when_they_are_ready(service: dict[str, Any]) -> None:
    """`up --wait` waits for something, and not for ever."""
    check = service["healthcheck"]
    assert check["test"][0] in {"CMD", "CMD-SHELL"}
    assert len(check["test"]) > 1
    assert set(check) >= {"interval", "timeout", "retries"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_volumes_are_declared(file: Path) -> None:
    """Data goes to volumes that `down --volumes` removes, never to a folder of the host."""
    document = read(file)
    declared = set(document.get("volumes", {}))
    for service in document.get("services", {}).values():
        for volume in service.get("volumes", []):
            assert volume.partition(":")[0] in declared


def test_containers_and_jars_are_the_same_version() -> None:
    """Whichever way the broker is had, it is the same one: compose, image, jars, and the commands of the README."""
    version = KAFKA_VERSION
    assert services(FOLDER / "kafka.yaml")["kafka"]["image"] == IMAGE == f"apache/kafka:{version}"
    assert read_jars()
    readme = (FOLDER / "README.md").read_text()
    assert re.findall(r"<artifactId>kafka[\w.-]+</artifactId><version>([\d.]+)<", readme) == [version, version]
    assert f"Apache Kafka {version}" in readme
    for file in FILES:
        assert f"`{file.name}`" in readme

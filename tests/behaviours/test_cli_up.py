"""`eventcore up kafka`: what it starts with, and what it says when it can't."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from tests.behaviours.commands import run

pytestmark = pytest.mark.slow

#: Notes what it was called with, says that it is there, and ends at once otherwise.
DOCKER = """#!/bin/sh
if [ "$1" = info ]; then exit 0; fi
for word in "$@"; do printf '%s\\n' "$word"; done > "{log}"
echo "no such image"
exit 125
"""


def two_free_ports() -> int:
    """Return a port that is free, as is the next one."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


def test_a_port_that_is_taken_is_said_to_be_so(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = run("up", "kafka", "--port", str(port), "--data", "data", cwd=tmp_path)
    assert refused.returncode == 1
    assert f"port {port} is taken" in refused.stderr
    assert "--port" in refused.stderr


def test_without_docker_and_java_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    refused = run("up", "kafka", "--port", str(two_free_ports()), "--data", "data", cwd=tmp_path)
    assert refused.returncode == 1
    assert "no `java` on the path" in refused.stderr
    assert "install Docker, or Java 17 and Maven" in refused.stderr


def test_java_without_jars_needs_maven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    refused = run("up", "kafka", "--port", str(two_free_ports()), "--data", "data", cwd=tmp_path)
    assert "no `mvn` on the path" in refused.stderr
    assert "downloading Kafka" in refused.stderr


def test_where_docker_answers_a_pinned_container_is_run_on_loopback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker, log = tmp_path / "docker", tmp_path / "called"
    docker.write_text(DOCKER.format(log=log))
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    port = two_free_ports()
    refused = run("up", "kafka", "--port", str(port), "--data", "data", cwd=tmp_path)
    assert refused.returncode == 1
    assert "no such image" in refused.stderr
    words = log.read_text().splitlines()
    assert words[:2] == ["run", "--rm"]
    assert words[-1] == "apache/kafka:4.3.0"
    assert f"127.0.0.1:{port}:{port}" in words
    assert f"KAFKA_ADVERTISED_LISTENERS=PLAINTEXT://127.0.0.1:{port}" in words


def test_the_image_is_the_one_that_compose_pins() -> None:
    from eventcore.cli.kafka_broker import IMAGE

    compose = Path(__file__).parents[2] / "compose" / "kafka.yaml"
    assert f"image: {IMAGE}\n" in compose.read_text()


@pytest.mark.parametrize("topic", [":3", "orders:0", "orders:many"])
def test_a_topic_that_can_not_be_read_is_refused(tmp_path: Path, topic: str) -> None:
    refused = run("up", "kafka", "--topic", topic, cwd=tmp_path)
    assert refused.returncode == 2
    assert "write NAME or NAME:PARTITIONS" in refused.stderr


def test_nothing_is_deleted_without_being_asked(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "kept").write_text(json.dumps("kept"))
    refused = run("up", "kafka", "--port", str(two_free_ports()), "--data", "data", "--fresh", cwd=tmp_path, data="n\n")
    assert refused.returncode == 130
    assert (tmp_path / "data" / "kept").exists()

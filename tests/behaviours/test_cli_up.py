"""`eventcore up kafka`: what it starts with, and what it says when it can't."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.behaviours.commands import Done, run
from tests.servers.ports import free_ports

Up = Callable[..., Done]

JAVA = """echo 'openjdk version "{version}" 2025-04-15' >&2"""
#: Notes what it was called with, and knows neither the image nor how to run one.
DOCKER = """
case "$1 $2" in
  "info "|rm*|volume*) exit 0 ;;
  image*|pull*) {image} ;;
esac
printf '%s\\n' "$@" >> "{log}"
echo "no such image"
exit 125
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Begin with no program at all, and return what adds one: its name, and its lines of shell."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    for name in ("cache", "state"):
        monkeypatch.setenv(f"XDG_{name.upper()}_HOME", str(tmp_path / name))
    for name in ("JAVA_HOME", "EVENTCORE_MAVEN_REPOSITORY"):
        monkeypatch.delenv(name, raising=False)

    def add(name: str, lines: str) -> None:
        file = folder / name
        file.write_text(f"#!/bin/sh\n{lines}\n")
        file.chmod(0o755)

    return add


@pytest.fixture
def up(tmp_path: Path, programs: Callable[[str, str], None]) -> Up:
    """Return what runs the command on a free port, with the programs of the test alone."""
    del programs
    return lambda *arguments, port=None: run(
        "up", "kafka", "--port", str(port or free_ports(1)[0]), *arguments, cwd=tmp_path
    )


def test_a_port_that_is_taken_is_said_to_be_so(up: Up) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = up(port=port)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert f"port {port} is taken" in refused.stderr
    assert "--port" in refused.stderr


def test_without_docker_and_java_it_says_what_to_install(up: Up) -> None:
    refused = up()
    assert (refused.returncode, refused.stderr.count("\n")) == (4, 1)
    for part in ("a running Docker engine or Java 17 or later", "no `docker` on the path", "no Java", "install one"):
        assert part in refused.stderr


def test_a_docker_without_its_engine_and_an_old_java_are_named(up: Up, programs: Callable[[str, str], None]) -> None:
    programs("docker", "exit 1")
    programs("java", JAVA.format(version="1.8.0_392"))
    refused = up()
    assert refused.returncode == 4
    assert "no Docker engine answers" in refused.stderr
    assert "is Java 8, older than 17" in refused.stderr


def test_where_docker_answers_a_pinned_container_is_run_on_loopback(
    tmp_path: Path, up: Up, programs: Callable[[str, str], None]
) -> None:
    log = tmp_path / "called"
    programs("docker", DOCKER.format(log=log, image="exit 0"))
    programs("java", JAVA.format(version="21.0.2"))
    (port,) = free_ports(1)
    refused = up(port=port)
    assert refused.returncode == 1
    assert "no such image" in refused.stderr
    words = log.read_text().splitlines()
    assert words[:2] == ["run", "--rm"]
    assert words[-1] == "apache/kafka:4.3.0"
    assert words[words.index("--publish") + 1] == f"127.0.0.1:{port}:{port}"
    assert f"KAFKA_LISTENERS=PLAINTEXT://0.0.0.0:{port},CONTROLLER://127.0.0.1:29093" in words
    assert f"KAFKA_ADVERTISED_LISTENERS=PLAINTEXT://127.0.0.1:{port}" in words


def test_an_image_that_can_not_be_pulled_is_an_error(
    tmp_path: Path, up: Up, programs: Callable[[str, str], None]
) -> None:
    programs("docker", DOCKER.format(log=tmp_path / "called", image="exit 1"))
    refused = up()
    assert refused.returncode == 1
    said, *_, error = refused.stderr.splitlines()
    assert "downloading the image apache/kafka:4.3.0" in said
    assert "MB" in said
    assert "Docker could not download apache/kafka:4.3.0" in error


def test_with_java_a_docker_is_not_asked(up: Up, programs: Callable[[str, str], None]) -> None:
    programs("docker", "exit 0")
    for arguments in (["--with", "java"], ["--data", "data"]):
        refused = up(*arguments)
        assert refused.returncode == 4
        assert "Kafka needs Java 17 or later" in refused.stderr
    assert up("--with", "docker", "--data", "data").returncode == 2


# -- the download ------------------------------------------------------------------------------------------------------


class _Repository(BaseHTTPRequestHandler):
    """Answers every path with the same bytes."""

    def __init__(self, *arguments: object, content: bytes | None) -> None:
        self._content = content
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        if self._content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self._content)))
        self.end_headers()
        self.wfile.write(self._content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bytes | None], str]]:
    """Return what starts a repository, makes it the one that is asked, and gives its address."""
    running = []

    def start(content: bytes | None) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Repository, content=content))
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((server, thread))
        address = f"http://127.0.0.1:{server.server_port}/maven"
        monkeypatch.setenv("EVENTCORE_MAVEN_REPOSITORY", address)
        return address

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_download_is_announced_with_its_size_and_refused_when_it_was_changed(
    tmp_path: Path, up: Up, programs: Callable[[str, str], None], serve: Callable[[bytes | None], str]
) -> None:
    programs("java", JAVA.format(version="17.0.15"))
    address = serve(b"not what was published")
    refused = up()
    said, error, _ = refused.stderr.splitlines()
    assert refused.returncode == 1
    assert "downloading Apache Kafka 4.3.0" in said
    assert "56 MB" in said
    assert address in said
    assert "is not Apache Kafka 4.3.0 as published" in error
    assert list((tmp_path / "cache" / "eventcore" / "kafka-4.3.0").iterdir()) == []


def test_a_repository_without_the_jars_is_named(
    up: Up, programs: Callable[[str, str], None], serve: Callable[[bytes | None], str]
) -> None:
    programs("java", JAVA.format(version="17.0.15"))
    address = serve(None)
    refused = up()
    assert refused.returncode == 1
    assert f"can't be downloaded from {address}" in refused.stderr
    assert "404" in refused.stderr


def test_without_maven_a_repository_must_be_named(up: Up, programs: Callable[[str, str], None]) -> None:
    """No address of one stands in eventcore."""
    programs("java", JAVA.format(version="17.0.15"))
    refused = up()
    assert refused.returncode == 1
    assert "neither is Maven" in refused.stderr
    assert "EVENTCORE_MAVEN_REPOSITORY" in refused.stderr


def test_a_maven_that_fails_is_told_with_its_words(up: Up, programs: Callable[[str, str], None]) -> None:
    programs("java", JAVA.format(version="17.0.15"))
    programs("mvn", "echo 'no route to host'; exit 1")
    refused = up()
    assert refused.returncode == 1
    assert "Maven could not download Kafka: no route to host" in refused.stderr
    assert "EVENTCORE_MAVEN_REPOSITORY" in refused.stderr


# -- what is given -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", [":3", "orders:0", "orders:many", "or ders:2", "..", "orders:1001"])
def test_a_topic_that_can_not_be_is_refused(up: Up, topic: str) -> None:
    refused = up("--topic", topic)
    assert refused.returncode == 2
    assert "write NAME or NAME:PARTITIONS" in refused.stderr


def _with_jars(tmp_path: Path, programs: Callable[[str, str], None]) -> None:
    """Have a Java that runs nothing, and a folder of jars, which it does not read."""
    programs("java", f'{JAVA.format(version="17.0.15")}; [ "$1" = -version ] || exit 3')
    (tmp_path / "cache" / "eventcore" / "kafka-4.3.0" / "libs").mkdir(parents=True)


def test_nothing_is_deleted_without_being_asked(tmp_path: Path, programs: Callable[[str, str], None]) -> None:
    _with_jars(tmp_path, programs)
    kept = tmp_path / "data" / "kafka-data" / "meta.properties"
    kept.parent.mkdir(parents=True)
    kept.write_text("version=1\n")
    refused = run("up", "kafka", "--port", str(free_ports(1)[0]), "--data", "data", "--fresh", cwd=tmp_path, data="n\n")
    assert refused.returncode == 130
    assert kept.exists()


def test_only_data_of_kafkas_are_deleted(tmp_path: Path, up: Up, programs: Callable[[str, str], None]) -> None:
    _with_jars(tmp_path, programs)
    mine = tmp_path / "data" / "kafka-data" / "letter.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("dear")
    refused = up("--data", "data", "--fresh", "--yes")
    assert refused.returncode == 1
    assert "is no data folder of Kafka's" in refused.stderr
    assert mine.exists()


def test_a_broker_that_does_not_start_is_told_with_its_exit_code(
    tmp_path: Path, up: Up, programs: Callable[[str, str], None]
) -> None:
    _with_jars(tmp_path, programs)
    data = tmp_path / "data" / "kafka-data"
    data.mkdir(parents=True)
    (data / "meta.properties").write_text("version=1\n")
    refused = up("--data", "data")
    assert refused.returncode == 1
    assert "Kafka does not start: exit code 3" in refused.stderr
    assert str(data.parent / "broker.log") in refused.stderr


@pytest.mark.parametrize("folder", ["file/data", "data"])
def test_a_folder_that_can_not_be_used_is_said_to_be_so(
    tmp_path: Path, up: Up, programs: Callable[[str, str], None], folder: str
) -> None:
    _with_jars(tmp_path, programs)
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "data" / "server.properties").mkdir(parents=True)
    refused = up("--data", folder)
    assert refused.returncode == 1
    assert str(tmp_path / folder) in refused.stderr
    assert "defect" not in refused.stderr

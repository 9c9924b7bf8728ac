"""Kafka's jars are downloaded once, whoever else downloads them at the same time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from eventcore_connectors.kafka.local import jars
from eventcore_connectors.kafka.local.jars import Jar, cache_folder, find_jars

CONTENT = b"what was published"


class _Silence:
    """Shows no progress."""

    def say(self, text: str) -> None:
        del text

    @contextmanager
    def show(self, total: int, label: str) -> Iterator[Callable[[int], None]]:
        del total, label
        yield lambda _: None


class _Repository(BaseHTTPRequestHandler):
    """Answers with the jar; by then, another process has downloaded it."""

    def __init__(self, *arguments: object, libs: Path) -> None:
        self._libs = libs
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        self._libs.mkdir(parents=True)
        (self._libs / "one.jar").write_bytes(CONTENT)
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    server = HTTPServer(("127.0.0.1", 0), partial(_Repository, libs=cache_folder() / "libs"))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("EVENTCORE_MAVEN_REPOSITORY", f"http://127.0.0.1:{server.server_port}/maven")
    yield
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.usefixtures("repository")
def test_another_process_may_be_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its jars are taken: they have the same checksums. Nothing of the download is left."""
    published = Jar(hashlib.sha256(CONTENT).hexdigest(), len(CONTENT), "org/one.jar")
    monkeypatch.setattr(jars, "read_jars", lambda: [published])
    libs = find_jars(_Silence())
    assert [file.name for file in libs.iterdir()] == ["one.jar"]
    assert [folder.name for folder in libs.parent.iterdir()] == ["libs"]

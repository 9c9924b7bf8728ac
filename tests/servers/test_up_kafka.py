"""`eventcore up kafka` for real: downloaded, started, kept, and gone with its command, however that ends."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import anyio
import anyio.to_thread
import msgspec
import pytest

from eventcore_connectors.kafka.local.java import miss_java
from tests.behaviours.commands import Running, running
from tests.servers.conftest import do_without
from tests.servers.kafka_cluster import open_cluster
from tests.servers.kafka_server import ServerUnavailable, find_jars
from tests.servers.ports import free_ports

#: For a process that was told to end, seconds.
END_S = 20


class _Repository(SimpleHTTPRequestHandler):
    """Gives the jars that this machine has, under the paths that they have at Maven Central."""

    def translate_path(self, path: str) -> str:
        return str(Path(self.directory) / path.rpartition("/")[2])

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def repository(jars: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Repository, directory=str(jars)))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/maven2"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def processes_of(folder: Path) -> list[str]:
    """Return the commands of the brokers on a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue  # it has ended
        if f"{folder}/data/server.properties" in command:
            found.append(command)
    return found


async def test_a_broker_is_downloaded_started_stopped_and_started_on_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one, in the middle of its work, loses its command to SIGKILL: nobody is left with the port."""
    if missing := miss_java():
        do_without("Kafka", missing)
    try:
        jars = find_jars()
    except ServerUnavailable as error:
        do_without("Kafka", str(error))
    (port,) = free_ports(1)
    arguments = ("up", "kafka", "--port", str(port), "--data", "data", "--topic", "orders:3", "--topic", "more")
    with repository(jars) as address:
        monkeypatch.setenv("EVENTCORE_MAVEN_REPOSITORY", address)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        with running(*arguments, cwd=tmp_path, until="downloading Apache Kafka") as up:
            await _wait_for(up, f'bootstrap_servers = "127.0.0.1:{port}"')
            await _send(port, expected_offset=0)
            assert len(processes_of(tmp_path)) == 1
            up.send_signal(signal.SIGINT)
            assert await anyio.to_thread.run_sync(up.wait) == 0
    assert any("topics: more (1 partition), orders (3 partitions)" in line for line in up.lines)
    assert processes_of(tmp_path) == []

    with running("-o", "ndjson", *arguments[:-2], cwd=tmp_path, until="") as up:
        await _wait_for(up, "address")
        told = msgspec.json.decode(up.printed[0])
        assert (told["address"], told["topics"]) == (f"127.0.0.1:{port}", {"more": 1, "orders": 3})
        await _send(port, expected_offset=1)
        assert len(processes_of(tmp_path)) == 1
        up.send_signal(signal.SIGKILL)
        assert await anyio.to_thread.run_sync(up.wait) == -signal.SIGKILL
    with anyio.fail_after(END_S):
        while processes_of(tmp_path):  # noqa: ASYNC110 - another process is waited for
            await anyio.sleep(0.05)


async def _wait_for(up: Running, text: str) -> None:
    await anyio.to_thread.run_sync(up.wait_printed, text)


async def _send(port: int, *, expected_offset: int) -> None:
    async with open_cluster(f"127.0.0.1:{port}") as cluster:
        assert await cluster.send("orders", [b"1"], partition=2) == [expected_offset]

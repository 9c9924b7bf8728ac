"""`eventcore up kafka` for real: a broker that answers, keeps what was written, and is gone after Ctrl-C."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from eventcore.cli.kafka_broker import docker_answers, has_jars
from tests.behaviours.commands import running, write_pipeline
from tests.behaviours.test_cli_up import two_free_ports
from tests.servers.conftest import do_without
from tests.servers.kafka_cluster import open_cluster

PIPELINE = '[kafka.local]\nbootstrap_servers = "127.0.0.1:{port}"\n'


@pytest.fixture(autouse=True)
def _can_be_had() -> None:
    if not docker_answers() and (shutil.which("java") is None or not has_jars()):
        do_without("Kafka", "neither Docker nor Java with jars")


async def test_a_broker_is_started_twice_on_the_same_data(tmp_path: Path) -> None:
    port = two_free_ports()
    write_pipeline(tmp_path, "", PIPELINE.format(port=port))
    arguments = ("up", "kafka", "--port", str(port), "--data", "data", "--topic", "orders:3")
    for count in (1, 2):
        with running(*arguments, cwd=tmp_path, until="") as up:
            up.wait_printed(f"is at 127.0.0.1:{port}")
            async with open_cluster(f"127.0.0.1:{port}") as cluster:
                offsets = await cluster.send("orders", [b"1"], partition=2)
                assert offsets == [count - 1]
            up.send_signal(signal.SIGINT)
            assert up.wait() == 0
            assert any(f'bootstrap_servers = "127.0.0.1:{port}"' in line for line in up.lines)
    assert not _processes_with(str(tmp_path))


def _processes_with(text: str) -> list[Path]:
    return [process for process in Path("/proc").iterdir() if _is_called_with(process, text)]


def _is_called_with(process: Path, text: str) -> bool:
    try:
        return process.name.isdecimal() and text in (process / "cmdline").read_text()
    except OSError:
        return False

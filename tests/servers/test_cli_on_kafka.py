"""The template of `eventcore init --template kafka`, as its README says, on a real broker."""

from __future__ import annotations

import signal
from pathlib import Path

import anyio.to_thread
import pytest

from tests.behaviours.commands import ask, run_process, running
from tests.servers.kafka_cluster import KafkaCluster

pytestmark = pytest.mark.any_client

GOOD = '{"id": "1", "customer": "ada", "quantity": 2}'
POISON = '{"id": "2", "customer": "ada", "quantity": -1}'


def write_template(folder: Path, address: str, topic: str, connection: str = "") -> None:
    """Write the template, with the test's broker, what its connection says besides, and the topic in it."""
    assert run_process("init", "--template", "kafka", cwd=folder).returncode == 0
    file = folder / "eventcore.toml"
    text = file.read_text()
    assert "127.0.0.1:9092" in text
    assert "kafka:local/orders" in text
    written = text.replace("127.0.0.1:9092", address).replace("local/orders", f"local/{topic}")
    file.write_text(written.replace("[kafka.local]\n", f"[kafka.local]\n{connection}"))


def play(folder: Path, topic: str) -> None:
    """Do what the template's README says."""
    sent = run_process("send", f"kafka:local/{topic}", "-", "--key", "ada", cwd=folder, data=GOOD + "\n")
    assert (sent.returncode, sent.stdout.split()[1]) == (0, "0"), sent.stderr
    partition = sent.stdout.split()[0]
    with running("-v", "run", cwd=folder) as engine:
        engine.wait_line("batch.settled")
        sent = run_process("send", f"kafka:local/{topic}", POISON, "--key", "ada", cwd=folder)
        assert sent.stdout == f"{partition} 1\n"
        engine.wait_line("records.discarded", "RetryAttemptsExhausted")
        (mapping,) = ask("status", cwd=folder)["mappings"]
        (failure,) = ask("failures", "ls", cwd=folder)
        engine.send_signal(signal.SIGTERM)
        assert engine.wait() == 0
    assert (mapping["state"], mapping["counters"]["settled"]) == ("Enabled", 1)
    assert (failure["first"], failure["last"], failure["source"]) == ("1", "1", f"kafka:local/{topic}")
    assert len(ask("queue", "peek", "failed-orders", cwd=folder)) == 1
    retried = run_process("failures", "retry", failure["id"], cwd=folder)
    assert retried.returncode == 1
    assert "failed again: ValueError: order 2" in retried.stdout


async def test_the_template_does_what_it_says(tmp_path: Path, kafka: KafkaCluster) -> None:
    topic = await kafka.create_topic("orders", partitions=2)
    write_template(tmp_path, kafka.address, topic, kafka.connection)
    await anyio.to_thread.run_sync(play, tmp_path, topic)


async def test_a_topic_that_is_not_there_is_named_with_its_broker(tmp_path: Path, kafka: KafkaCluster) -> None:
    write_template(tmp_path, kafka.address, "nix", kafka.connection)
    done = await anyio.to_thread.run_sync(lambda: run_process("send", "kafka:local/nix", GOOD, cwd=tmp_path))
    assert (done.returncode, done.stdout) == (4, "")
    assert "nix" in done.stderr
    assert kafka.address in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_broker_that_is_not_there_is_named(tmp_path: Path) -> None:
    write_template(tmp_path, "127.0.0.1:1", "orders")
    done = run_process("send", "kafka:local/orders", GOOD, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (4, "")
    assert "127.0.0.1:1 (no broker answers there)" in done.stderr
    assert "orders" in done.stderr
    assert done.stderr.count("\n") == 1

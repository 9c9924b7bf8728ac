"""Pause, seek and skip on a real Kafka: the group keeps its members, and its offsets go where they are sent."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from tests.behaviours.commands import run_process
from tests.servers.engines import engine_folders, until
from tests.servers.kafka_cluster import KafkaCluster

pytestmark = pytest.mark.any_client


@pytest.mark.both_clients
async def test_a_partition_is_paused_moved_and_skipped_without_a_rebalance(kafka: KafkaCluster, tmp_path: Path) -> None:
    topic, failed = await kafka.create_topic(partitions=2), await kafka.create_topic("failed")
    settings = kafka.pipeline(topic, failed, runtime="inline")
    mapping = "batch_size = 1\nmaximum_batching_window_in_seconds = 0\nmaximum_retry_attempts = -1"
    body = "if numbers == [13]: raise ValueError('no')"
    with engine_folders(tmp_path, 1, body=body, is_async=True, mapping=mapping, **settings) as (engine,):

        async def control(*arguments: str) -> str:
            command = ("mapping", *arguments)
            done = await anyio.to_thread.run_sync(lambda: run_process(*command, cwd=engine.folder))
            assert done.returncode == 0, done.stderr
            return done.stdout

        engine.start()
        await kafka.send(topic, [b"0"], partition=0)
        await kafka.send(topic, [b"10"], partition=1)
        await until(lambda: sorted(engine.numbers()) == [0, 10], "both partitions are read")
        members = await kafka.members(topic)
        await control("pause", "orders", "--shard", f"{topic}-0")
        await kafka.send(topic, [b"1", b"2"], partition=0)
        await kafka.send(topic, [b"11", b"12"], partition=1)
        await until(lambda: engine.numbers()[-2:] == [11, 12], "the other partition goes on")
        assert not {1, 2} & set(engine.numbers())
        await control("resume", "orders")
        await until(lambda: engine.numbers()[-2:] == [1, 2], "it goes on where it was")
        assert await control("seek", "orders", "--shard", f"{topic}-0", "--to", "1") == f"{topic}-0: from 3 to 1\n"
        await until(lambda: engine.numbers()[-4:] == [1, 2, 1, 2], "records come again")
        await kafka.send(topic, [b"13", b"14"], partition=1)
        await until(lambda: engine.numbers().count(13) >= 2, "a record holds up its partition")
        assert "gave up 1 record" in await control("skip", "orders", "--shard", f"{topic}-1")
        await until(lambda: 14 in engine.numbers("done.log"), "it goes on behind what was skipped")
        assert await kafka.members(topic) == members
        assert engine.log().count("shard.taken") == 2 + 1  # taken at the start, and once more where it was moved
        assert engine.stop() == 0
        committed = [await kafka.committed(topic, topic, partition=partition) for partition in range(2)]
        assert [mark.offset for mark in committed if mark is not None] == [3, 5]

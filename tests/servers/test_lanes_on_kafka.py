"""Lanes on a real Kafka: engines that die, and keys that wait in a topic, which any engine of the group redrives."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import anyio
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from tests.servers.engines import PATIENCE_S, EngineFolder, engine_folders, until
from tests.servers.kafka_cluster import KafkaCluster

pytestmark = pytest.mark.any_client

KEYS = 20
#: Numbers from here on belong to keys that fail until the file `mended` is there.
FAILING = 1000
FAILS = "if numbers[0] >= 1000 and not (HERE / 'mended').exists(): raise ValueError('not yet')"


async def _send(kafka: KafkaCluster, topic: str, key: str, *numbers: int) -> None:
    await kafka.send(topic, [str(number).encode() for number in numbers], key=key.encode())


def _first_seen(engine: EngineFolder) -> dict[int, list[int]]:
    """What each key's records were done in, each for the first time; a key is its number's remainder."""
    seen: dict[int, list[int]] = defaultdict(list)
    for number in engine.numbers("done.log"):
        if number not in seen[number % KEYS]:
            seen[number % KEYS].append(number)
    return seen


async def test_an_engine_dies_in_its_lanes_and_nothing_is_lost_nor_out_of_order(
    kafka: KafkaCluster, tmp_path: Path
) -> None:
    topic, failed = await kafka.create_topic(), await kafka.create_topic("failed")
    count = 600
    for number in range(count):
        await kafka.producer.send(topic, str(number).encode(), key=b"k%d" % (number % KEYS), partition=0)
    await kafka.producer.flush()
    settings = kafka.pipeline(topic, failed, runtime="inline")
    mapping = 'lanes = 8\nbatch_size = 2\nparking = "queue:parked"'
    body = "await asyncio.sleep(0.02)"
    with engine_folders(tmp_path, 2, body=body, is_async=True, mapping=mapping, **settings) as (first, second):
        first.start()
        await until(lambda: len(first.numbers("done.log")) >= 100, "a hundred records are done")
        first.kill()
        second.start()
        await until(
            lambda: set(first.numbers("done.log")) | set(second.numbers("done.log")) == set(range(count)),
            "the second engine has done the rest",
        )
        assert second.stop() == 0
        for engine in (first, second):
            assert all(numbers == sorted(numbers) for numbers in _first_seen(engine).values())
        committed = await kafka.committed(topic, topic)
        assert committed is not None
        assert committed.offset == count


async def test_a_key_parked_in_a_topic_is_redriven_in_order_by_another_engine(
    kafka: KafkaCluster, tmp_path: Path
) -> None:
    """The engines share no store: what is parked is named in the commit, and stands in a topic."""
    topic, failed = await kafka.create_topic(), await kafka.create_topic("failed")
    parked = await kafka.create_topic("parked", partitions=2)
    settings = kafka.pipeline(topic, failed, runtime="inline")
    mapping = f'lanes = 2\nbatch_size = 1\nmaximum_retry_attempts = -1\nparking = "kafka:local/{parked}"'
    with engine_folders(tmp_path, 2, body=FAILS, is_async=True, mapping=mapping, **settings) as (first, second):
        first.start()
        await _send(kafka, topic, "good", 0)
        await _send(kafka, topic, "a", FAILING)
        await until(lambda: FAILING in first.numbers(), "the first key fails")
        await _send(kafka, topic, "b", 2001, 2002)
        await until(lambda: 2001 in first.numbers(), "the second key fails")
        await _send(kafka, topic, "good", 1)
        await until(lambda: 1 in first.numbers("done.log"), "the others go on")
        await _count(kafka, parked, 2)
        assert first.stop() == 0

        second.start()
        await _send(kafka, topic, "b", 2003)
        await _count(kafka, parked, 3)
        assert not {2001, 2002, 2003} & set(second.numbers())
        (second.folder / "mended").touch()
        redriven = _redrive(second)
        assert redriven.returncode == 0, redriven.stderr
        assert "3 records redriven" in redriven.stdout
        assert [number for number in second.numbers("done.log") if number > 2000] == [2001, 2002, 2003]
        await _send(kafka, topic, "b", 2004)
        await until(lambda: 2004 in second.numbers("done.log"), "the key is as any other again")
        assert second.stop() == 0


def _redrive(engine: EngineFolder) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "eventcore", "mapping", "redrive", "orders"],
        cwd=engine.folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


async def _count(kafka: KafkaCluster, topic: str, count: int) -> None:
    """Wait until a topic of two partitions holds so many records."""
    partitions = [TopicPartition(topic, partition) for partition in range(2)]

    async def held() -> int:
        return sum((await reader.end_offsets(partitions)).values())

    reader = AIOKafkaConsumer(bootstrap_servers=kafka.address)
    await reader.start()
    try:
        with anyio.fail_after(PATIENCE_S):
            while await held() < count:  # noqa: ASYNC110 - another process sets no event of ours
                await anyio.sleep(0.05)
    finally:
        await reader.stop()

"""Whole engines on a real Kafka: what "it is done when" of the first capability says, as a person would see it."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiokafka import AIOKafkaConsumer

from eventcore.delivery.ordering import EMPTY, decode_state
from tests.servers.engines import PATIENCE_S, EngineFolder, engine_folders, until
from tests.servers.kafka_cluster import KafkaCluster

pytestmark = pytest.mark.any_client

PARTITIONS = 4


async def _send_numbers(kafka: KafkaCluster, topic: str, count: int, *, partitions: int = PARTITIONS) -> None:
    for partition in range(partitions):
        numbers = range(partition, count, partitions)
        await kafka.send(topic, [str(number).encode() for number in numbers], partition=partition)


async def _lag(kafka: KafkaCluster, group: str, topic: str, counts: list[int]) -> int:
    lag = 0
    for partition, count in enumerate(counts):
        committed = await kafka.committed(group, topic, partition=partition)
        lag += count - (committed.offset if committed is not None else 0)
    return lag


async def _results(kafka: KafkaCluster, topic: str) -> list[dict[str, Any]]:
    """Return what was written to a destination topic so far."""
    reader = AIOKafkaConsumer(topic, bootstrap_servers=kafka.address, auto_offset_reset="earliest")
    await reader.start()
    try:
        batches = await reader.getmany(timeout_ms=3000)
        return [json.loads(record.value) for records in batches.values() for record in records]
    finally:
        await reader.stop()


def _first_times_in_order(engines: list[EngineFolder]) -> bool:
    """Tell whether each engine saw each shard's records in order, redelivered ones set aside."""
    for engine in engines:
        newest: dict[str, int] = defaultdict(lambda: -1)
        for note in engine.invocations():
            numbers = note["numbers"]
            if numbers != sorted(numbers):
                return False
            fresh = [number for number in numbers if number > newest[note["shard"]]]
            if fresh and fresh[0] < newest[note["shard"]]:
                return False
            newest[note["shard"]] = max([newest[note["shard"]], *numbers])
    return True


@pytest.mark.both_clients
async def test_two_engines_share_a_topic_and_one_is_killed_in_a_batch(kafka: KafkaCluster, tmp_path: Path) -> None:
    """Nothing is lost, order per partition holds, and the lag reaches 0."""
    count = 400
    topic, failed = await kafka.create_topic(partitions=PARTITIONS), await kafka.create_topic("failed")
    body = "time.sleep(0.05)"
    settings = kafka.pipeline(topic, failed)
    with engine_folders(tmp_path, 2, body=body, mapping="batch_size = 5", **settings) as engines:
        first, second = engines
        first.start()
        second.start()
        for engine in engines:
            await until(lambda engine=engine: "shard.taken" in engine.log(), "it has shards")  # type: ignore[misc]
        await _send_numbers(kafka, topic, count)
        both = lambda: min(len(engine.invocations()) for engine in engines)  # noqa: E731
        await until(lambda: both() >= 2, "both engines have shards and are working")
        first.kill()
        everything = set(range(count))
        await until(
            lambda: set(first.numbers("done.log")) | set(second.numbers("done.log")) == everything,
            "the engine that is left has finished everything",
        )
        assert _first_times_in_order(engines)
        assert second.stop() == 0
        assert await _lag(kafka, topic, topic, [count // PARTITIONS] * PARTITIONS) == 0


async def _given_up(kafka: KafkaCluster, group: str, topic: str, *, end: int) -> None:
    """Wait until a group has passed a topic's only partition."""

    async def committed() -> int:
        found = await kafka.committed(group, topic)
        return found.offset if found is not None else 0

    with anyio.fail_after(PATIENCE_S):
        while await committed() < end:  # noqa: ASYNC110 - another process sets no event of ours
            await anyio.sleep(0.05)


async def _kept_attempts(kafka: KafkaCluster, group: str, topic: str) -> int:
    found = await kafka.committed(group, topic)
    state = decode_state(found.metadata) if found is not None else EMPTY
    return state.parts[0].attempt if state.parts else 0


async def test_attempts_survive_a_clean_restart(kafka: KafkaCluster, tmp_path: Path) -> None:
    """A restart after attempt 2 of 4 makes exactly 2 more."""
    topic, failed = await kafka.create_topic(), await kafka.create_topic("failed")
    await kafka.send(topic, [b"1"])
    settings = kafka.pipeline(topic, failed)
    mapping = "maximum_retry_attempts = 3"
    with engine_folders(tmp_path, 1, body="raise ValueError('no')", mapping=mapping, **settings) as (engine,):
        engine.start()
        await until(lambda: len(engine.invocations()) == 2, "two attempts")
        assert engine.stop() == 0
        assert len(engine.invocations()) == 2
        engine.start()
        await _given_up(kafka, topic, topic, end=1)
        assert len(engine.invocations()) == 4
        assert len({note["request_id"] for note in engine.invocations()}) == 1
        (record,) = await _results(kafka, failed)
        assert record["requestContext"]["approximateInvokeCount"] == 4


async def test_attempts_survive_a_kill_and_another_engine_goes_on_with_them(
    kafka: KafkaCluster, tmp_path: Path
) -> None:
    """The attempts travel in the commit's metadata, so that any state folder will do (design §3)."""
    topic, failed = await kafka.create_topic(), await kafka.create_topic("failed")
    await kafka.send(topic, [b"1"])
    settings = kafka.pipeline(topic, failed)
    mapping = "maximum_retry_attempts = 5"
    with engine_folders(tmp_path, 2, body="raise ValueError('no')", mapping=mapping, **settings) as (first, second):
        first.start()
        # The pause before the fourth attempt is 0.64 s at least: the kill comes between two attempts.
        await until(lambda: len(first.invocations()) == 3, "three attempts")
        with anyio.fail_after(PATIENCE_S):
            while await _kept_attempts(kafka, topic, topic) < 3:  # noqa: ASYNC110 - as above
                await anyio.sleep(0.02)
        first.kill()
        assert len(first.invocations()) == 3
        second.start()
        await _given_up(kafka, topic, topic, end=1)
        assert len(second.invocations()) == 3
        (record,) = await _results(kafka, failed)
        assert record["requestContext"]["condition"] == "RetryAttemptsExhausted"
        assert record["requestContext"]["approximateInvokeCount"] == 6


async def test_a_record_that_kills_its_environment_is_given_up_after_its_attempts(
    kafka: KafkaCluster, tmp_path: Path
) -> None:
    topic, failed = await kafka.create_topic(), await kafka.create_topic("failed")
    await kafka.send(topic, [b"1", b"2", b"3"])
    settings = kafka.pipeline(topic, failed)
    mapping = "batch_size = 1\nmaximum_retry_attempts = 2"
    body = "os._exit(3) if 2 in numbers else None"
    with engine_folders(tmp_path, 1, body=body, mapping=mapping, **settings) as (engine,):
        engine.start()
        await _given_up(kafka, topic, topic, end=3)
        assert engine.numbers() == [1, 2, 2, 2, 3]
        (record,) = await _results(kafka, failed)
        assert record["requestContext"]["condition"] == "RetryAttemptsExhausted"
        assert record["KafkaBatchInfo"]["batchSize"] == 1


async def test_a_record_that_kills_an_inline_engine_is_given_up_after_its_marks(
    kafka: KafkaCluster, tmp_path: Path
) -> None:
    """Design §3: counted apart from attempts; at max(3, attempts allowed) it is an `EngineCrash`."""
    topic, failed = await kafka.create_topic(), await kafka.create_topic("failed")
    await kafka.send(topic, [b"1", b"2", b"3"])
    settings = kafka.pipeline(topic, failed, runtime="inline")
    mapping = "batch_size = 1\nmaximum_retry_attempts = 1"
    body = "os.kill(os.getpid(), 9) if 2 in numbers else None"
    with engine_folders(tmp_path, 1, body=body, is_async=True, mapping=mapping, **settings) as (engine,):
        # The first death is unmarked: only a batch that comes first after a take, and a retry, is marked.
        for _ in range(4):
            engine.start()
            await until(lambda: engine.process.poll() is not None, "the engine is killed by its handler")
        engine.start()
        await _given_up(kafka, topic, topic, end=3)
        assert engine.numbers() == [1, 2, 2, 2, 2, 3]
        (record,) = await _results(kafka, failed)
        assert record["requestContext"]["condition"] == "EngineCrash"


async def test_computing_for_long_costs_no_rebalance(kafka: KafkaCluster, tmp_path: Path) -> None:
    """Heartbeats and polls go on while a handler computes for twice as long as session and poll interval."""
    topic, failed = await kafka.create_topic(), await kafka.create_topic("failed")
    await kafka.send(topic, [b"1", b"2"])
    settings = kafka.pipeline(topic, failed)
    body = "end = time.monotonic() + (16 if 1 in numbers else 0)\n    while time.monotonic() < end: pass"
    with engine_folders(tmp_path, 1, body=body, mapping="batch_size = 1", max_poll_interval_ms=8000, **settings) as (
        engine,
    ):
        engine.start()
        await _given_up(kafka, topic, topic, end=2)
        assert engine.numbers() == [1, 2]
        assert engine.stop() == 0
        assert engine.log().count("shard.taken") <= 1


async def test_backing_off_for_long_costs_no_rebalance(kafka: KafkaCluster, tmp_path: Path) -> None:
    """A blocked partition is paused, and the poll stays pending for longer than its interval (design §12)."""
    topic, failed = await kafka.create_topic(), await kafka.create_topic("failed")
    await kafka.send(topic, [b"1"])
    settings = kafka.pipeline(topic, failed)
    mapping = "maximum_retry_attempts = 7"
    with engine_folders(
        tmp_path, 1, body="raise ValueError('no')", mapping=mapping, max_poll_interval_ms=8000, **settings
    ) as (engine,):
        engine.start()
        await until(lambda: len(engine.invocations()) == 8, "pauses up to 12.8 s", within_s=90)
        await _given_up(kafka, topic, topic, end=1)
        assert len({note["request_id"] for note in engine.invocations()}) == 1
        assert engine.stop() == 0
        assert engine.log().count("shard.taken") <= 1


async def test_a_missing_topic_and_a_wrong_address_are_named_within_seconds(
    kafka: KafkaCluster, tmp_path: Path
) -> None:
    failed = await kafka.create_topic("failed")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    missing = kafka.pipeline("no-such-topic", failed)
    wrong = kafka.pipeline("orders", failed, address="127.0.0.1:9")
    with (
        engine_folders(tmp_path / "a", 1, body="pass", **missing) as (one,),
        engine_folders(tmp_path / "b", 1, body="pass", **wrong) as (other,),
    ):
        one.start()
        other.start()
        await until(lambda: "no-such-topic" in one.log() and kafka.address in one.log(), "both are named", within_s=40)
        await until(lambda: "127.0.0.1:9" in other.log() and "orders" in other.log(), "both are named", within_s=40)
        assert one.stop() == 0
        assert other.stop() == 0

"""Flow control on a real Kafka: schedules of retries, a circuit breaker, and keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer

from tests.servers.engines import engine_folders, until
from tests.servers.kafka_cluster import KafkaCluster

BODY = """
    if numbers == [1] and not (HERE / "tried").exists():
        (HERE / "tried").touch()
        raise ValueError("once")
    if numbers == [2]:
        raise PermissionError("never again")
    if numbers == [4] and not (HERE / "up").exists():
        raise ConnectionError("down")
"""
#: A pause after any failure; none for one type; a breaker that a third type opens; and a key, the record itself.
MAPPING = """
batch_size = 1
maximum_retry_attempts = 2
retry_schedule = { kind = "list", seconds = [0.5] }
retry_exceptions = [{ error_type = "PermissionError", maximum_retry_attempts = 0 }]
circuit_breaker = { failures = 1, pause = 1, maximum_pause = 1, error_types = ["ConnectionError"] }
idempotency = { key = "$" }
"""


async def _read(kafka: KafkaCluster, topic: str) -> list[Any]:
    reader = AIOKafkaConsumer(topic, bootstrap_servers=kafka.address, auto_offset_reset="earliest")
    await reader.start()
    try:
        batches = await reader.getmany(timeout_ms=5000)
        return [record for records in batches.values() for record in records]
    finally:
        await reader.stop()


async def test_failures_keys_and_a_dependency_that_is_down(kafka: KafkaCluster, tmp_path: Path) -> None:
    topic, failed = await kafka.create_topic(), await kafka.create_topic("failed")
    settings = kafka.pipeline(topic, failed, runtime="inline", mapping=MAPPING)
    with engine_folders(tmp_path, 1, body=BODY.strip(), is_async=True, **settings) as (engine,):
        engine.start()
        await kafka.send(topic, [b"1", b"2", b"3", b"3", b"4", b"5"], key=b"k")
        # More probes than attempts are allowed: none of them is one.
        await until(lambda: engine.numbers().count(4) >= 4, "the breaker probes")
        assert engine.numbers("done.log") == [1, 3]
        (engine.folder / "up").touch()
        await until(lambda: engine.numbers("done.log") == [1, 3, 4, 5], "all others are done")
        assert engine.stop() == 0
        seen = engine.numbers()
        assert [seen.count(number) for number in (1, 2, 3, 5)] == [2, 1, 1, 1]
        (told,) = await _read(kafka, failed)
        assert json.loads(told.value)["requestContext"]["approximateInvokeCount"] == 1
        committed = await kafka.committed(topic, topic)
        assert committed is not None
        assert committed.offset == 6

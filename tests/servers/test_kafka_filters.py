"""Filters on a real Kafka: keys and values, and a group's offsets that pass what no function saw."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.servers.engines import engine_folders, until
from tests.servers.kafka_cluster import KafkaCluster

pytestmark = pytest.mark.any_client

FILTERED = """
maximum_batching_window_in_seconds = 0
filter_criteria = { filters = [{ pattern = { key = [{ prefix = "keep" }], value = [{ anything-but = ["13"] }] } }] }
"""


async def test_only_what_matches_reaches_the_function_and_the_offsets_pass_the_rest(
    kafka: KafkaCluster, tmp_path: Path
) -> None:
    """A group that is left where nothing matches goes on behind it, and reads nothing twice."""
    topic, failed = await kafka.create_topic(), await kafka.create_topic("failed")
    for number in range(20):
        key = b"keep-it" if number % 2 else b"drop-it"
        await kafka.producer.send(topic, str(number).encode(), key=key, partition=0)
    await kafka.producer.send(topic, None, key=b"drop-it", partition=0)
    await kafka.producer.flush()
    wanted = [number for number in range(1, 20, 2) if number != 13]
    settings = kafka.pipeline(topic, failed, runtime="inline")
    with engine_folders(tmp_path, 2, body="pass", mapping=FILTERED, **settings) as (first, second):
        first.start()
        await until(lambda: sorted(first.numbers("done.log")) == wanted, "all that match are done")
        assert first.stop() == 0
        committed = await kafka.committed(topic, topic)
        assert committed is not None
        assert committed.offset == 21
        await kafka.send(topic, [b"20", b"22"], key=b"drop-it")
        await kafka.send(topic, [b"21"], key=b"keep-it")
        second.start()
        await until(lambda: second.numbers("done.log") == [21], "what came since is done")
        assert second.stop() == 0
        committed = await kafka.committed(topic, topic)
        assert committed is not None
        assert committed.offset == 24

"""What `client = "librdkafka"` does beside what every client does."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import anyio
import pytest

from eventcore.delivery.ordering import Part, ShardState
from eventcore.errors import SourceUnavailable
from eventcore.testing.conformance.stream import HAPPENS_WITHIN_S, opened, reading
from eventcore_connectors.kafka.librdkafka.held import PARTITION_COUNT_MAX
from tests.servers.kafka_cluster import KafkaCluster, open_cluster
from tests.servers.kafka_server import ComposedKafkaServer, KafkaServer

FAILING = ShardState(parts=(Part(last=1, attempt=3, request_id="r"),))
#: The shortest that the configuration allows.
SESSION_MS = 1_000
#: The loop stands still for so long, seconds: a member that sends no heartbeats is out three times over.
STANDS_STILL_S = 3.0


@pytest.fixture
async def cluster(kafka_server: KafkaServer | ComposedKafkaServer) -> AsyncIterator[KafkaCluster]:
    """The broker, read by librdkafka."""
    async with open_cluster(kafka_server.address) as cluster:
        cluster.client_settings = {"client": "librdkafka"}
        yield cluster


async def test_a_loop_that_stands_still_keeps_its_session(cluster: KafkaCluster) -> None:
    """Heartbeats are off the loop: a handler that blocks it for longer than the session costs no shard."""
    topic, shard = (topic := await cluster.create_topic()), f"{topic}-0"
    await cluster.send(topic, [b"0", b"1"])
    async with opened(cluster.source(topic, "g", session_timeout_ms=SESSION_MS)) as reader:
        await reader.receive_until(lambda: len(reader.bodies(shard)) == 2)
        time.sleep(STANDS_STILL_S)  # noqa: ASYNC251 - the loop stands still on purpose
        await reader.settle(shard, 2, is_urgent=True)
        await cluster.send(topic, [b"2"])
        await reader.receive_until(lambda: len(reader.bodies(shard)) == 3)
        assert reader.history == [("taken", shard)]
    mark = await cluster.committed("g", topic)
    assert mark is not None
    assert mark.offset == 2


async def test_members_of_both_clients_share_a_group(cluster: KafkaCluster) -> None:
    """They speak one assignment strategy, and each reads the failing work that the other left."""
    topic = await cluster.create_topic(partitions=2)
    first_shard = f"{topic}-0"
    await cluster.send(topic, [b"0", b"1"])
    async with reading(cluster.source(topic, "g")) as first:
        await first.until(lambda: len(first.bodies(first_shard)) == 2)
        await first.settle(first_shard, 1, FAILING, is_urgent=True)
        async with reading(cluster.source(topic, "g", client="aiokafka")) as second:
            await second.until(lambda: len(second.taken) == 1)
            await first.until(lambda: len(first.taken) == 1)
            (owner,) = [each for each in (first, second) if first_shard in each.taken]
            assert owner.taken[first_shard].state == FAILING
    async with reading(cluster.source(topic, "g", client="aiokafka")) as alone:
        await alone.until(lambda: len(alone.taken) == 2)
        assert (alone.taken[first_shard].checkpoint, alone.taken[first_shard].state) == (1, FAILING)


async def test_what_nobody_takes_is_bounded_and_comes_in_order(cluster: KafkaCluster) -> None:
    """A shard that is paused for long is paused at librdkafka, too, and nothing of it is lost or doubled."""
    topic = await cluster.create_topic(partitions=2)
    first_shard, second_shard = f"{topic}-0", f"{topic}-1"
    bodies = [b"%d" % number for number in range(3 * PARTITION_COUNT_MAX)]
    async with opened(cluster.source(topic, "g")) as reader:
        await reader.receive_until(lambda: len(reader.taken) == 2)
        reader.source.pause(first_shard)
        await cluster.send(topic, bodies)
        await cluster.send(topic, bodies, partition=1)
        await reader.receive_until(lambda: len(reader.bodies(second_shard)) == len(bodies))
        assert reader.bodies(first_shard) == []
        reader.source.resume(first_shard)
        await reader.receive_until(lambda: len(reader.bodies(first_shard)) == len(bodies))
    assert reader.bodies(first_shard) == bodies
    assert reader.bodies(second_shard) == bodies


async def test_a_topic_that_goes_away_is_told(cluster: KafkaCluster) -> None:
    """The mapping stops with a sentence, and waits for nothing."""
    topic = await cluster.create_topic()
    source = cluster.source(topic, "g", metadata_max_age_ms=200)
    async with opened(source) as reader:
        await reader.receive_until(lambda: bool(reader.taken))
        await cluster.delete_topic(topic)
        with anyio.fail_after(HAPPENS_WITHIN_S), pytest.raises(SourceUnavailable, match="topic") as told:
            await reader.run()
    assert topic in str(told.value)

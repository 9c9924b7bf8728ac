"""A group whose members speak the two group protocols, as it is while engines are moved to the newer one."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from eventcore.delivery.ordering import Part, ShardState
from eventcore.testing.conformance.stream import reading
from tests.servers.conftest import CLIENTS
from tests.servers.kafka_cluster import KafkaCluster, open_cluster
from tests.servers.kafka_server import ComposedKafkaServer, KafkaServer

FAILING = ShardState(parts=(Part(last=3, attempt=3, request_id="r"),))
PARTITIONS = 2
NEW = "kip848"


@pytest.fixture
async def cluster(kafka_server: KafkaServer | ComposedKafkaServer) -> AsyncIterator[KafkaCluster]:
    """The broker, for members of either protocol."""
    async with open_cluster(kafka_server.address) as cluster:
        yield cluster


@pytest.mark.parametrize(
    ("before", "after"),
    [("aiokafka", NEW), (NEW, "aiokafka"), ("librdkafka", NEW), (NEW, "librdkafka")],
)
async def test_shards_go_from_one_protocol_to_the_other_with_their_failing_work(
    cluster: KafkaCluster, before: str, after: str
) -> None:
    """The group is converted while it works: a shard goes on where it was, there and back."""
    topic = await cluster.create_topic(partitions=PARTITIONS)
    shards = [f"{topic}-{number}" for number in range(PARTITIONS)]
    for number in range(PARTITIONS):
        await cluster.send(topic, [b"0", b"1", b"2", b"3"], partition=number)
    cluster.client_settings = CLIENTS[before]
    async with reading(cluster.source(topic, "g")) as first:
        await first.until(lambda: all(len(first.bodies(shard)) == 4 for shard in shards))
        for shard in shards:
            await first.settle(shard, 2, FAILING, is_urgent=True)
        cluster.client_settings = CLIENTS[after]
        async with reading(cluster.source(topic, "g")) as second:
            await second.until(lambda: len(second.taken) == len(first.taken) == 1)
            ((moved, taken),) = second.taken.items()
            (stays,) = first.taken
            assert {moved, stays} == set(shards)
            assert (taken.checkpoint, taken.state) == (2, FAILING)
            await second.until(lambda: len(second.bodies(moved)) == 2)
            assert second.bodies(moved) == [b"2", b"3"]
            await second.settle(moved, 3, FAILING, is_urgent=True)
        await first.until(lambda: set(first.taken) == set(shards))
        assert (first.taken[moved].checkpoint, first.taken[moved].state) == (3, FAILING)
        assert first.taken[moved].epoch > taken.epoch
        for shard in shards:
            await first.settle(shard, 4, is_urgent=True)
        for number in range(PARTITIONS):
            await cluster.send(topic, [b"4"], partition=number)
        await first.until(lambda: all(first.bodies(shard)[-1:] == [b"4"] for shard in shards))
        assert first.bodies(moved).count(b"4") == first.bodies(stays).count(b"4") == 1

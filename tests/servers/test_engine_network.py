"""Engines behind a network that is cut, or slow: nothing is lost, order holds, and nobody has to help."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from tests.servers.engines import PATIENCE_S, EngineFolder, engine_folders, until
from tests.servers.kafka_cluster import KafkaCluster
from tests.servers.kafka_server import ComposedKafkaServer, KafkaServer
from tests.servers.network import Network, open_network

pytestmark = pytest.mark.any_client

PARTITIONS = 2
#: Records of one half of a test.
COUNT = 100


@asynccontextmanager
async def network_before(kafka_server: KafkaServer | ComposedKafkaServer) -> AsyncIterator[tuple[Network, str]]:
    """Open the network in front of the broker's second port; give the address that clients have, too."""
    if isinstance(kafka_server, ComposedKafkaServer):
        pytest.skip("the broker in the container has no second port")
    async with open_network(kafka_server.front_port, kafka_server.behind_port) as network:
        yield network, f"127.0.0.1:{kafka_server.front_port}"


async def send_numbers(kafka: KafkaCluster, topic: str, numbers: range) -> None:
    """Send numbers past the network, to one partition after the other in turn."""
    for partition in range(PARTITIONS):
        mine = [str(number).encode() for number in numbers if number % PARTITIONS == partition]
        await kafka.send(topic, mine, partition=partition)


async def finish(kafka: KafkaCluster, topic: str, engine: EngineFolder, count: int) -> None:
    """Wait for everything, then for the commits, and look at the order."""
    await until(lambda: set(engine.numbers("done.log")) == set(range(count)), "everything is finished")
    for partition in range(PARTITIONS):
        shard = f"{topic}-{partition}"
        seen = [number for note in engine.invocations() if note["shard"] == shard for number in note["numbers"]]
        first_times = list(dict.fromkeys(seen))
        assert first_times == sorted(first_times), f"{shard} out of order"
    # Not after its end: a short session may be over on a busy machine, and what is left for the next owner is no loss.
    await until_committed(kafka, topic, count // PARTITIONS)
    # In a thread: the network needs this loop.
    assert await anyio.to_thread.run_sync(engine.stop) == 0


async def until_committed(kafka: KafkaCluster, topic: str, offset: int) -> None:
    """Wait until every partition is committed up to an offset."""
    with anyio.fail_after(PATIENCE_S):
        for partition in range(PARTITIONS):
            committed = None
            while committed is None or committed.offset < offset:
                await anyio.sleep(0.1)
                committed = await kafka.committed(topic, topic, partition=partition)
            assert committed.offset == offset


async def until_expelled(kafka: KafkaCluster, group: str) -> None:
    """Wait until the broker has given up on a group's members."""
    with anyio.fail_after(PATIENCE_S):
        while await kafka.members(group):  # noqa: ASYNC110 - another process sets no event of ours
            await anyio.sleep(0.1)


@pytest.mark.both_clients
@pytest.mark.parametrize("is_long", [False, True], ids=["within the session", "longer than the session"])
async def test_a_cut_network_costs_nothing_but_time(
    kafka: KafkaCluster,
    kafka_server: KafkaServer,
    tmp_path: Path,
    is_long: bool,
) -> None:
    """Within the session the engine goes on as it was; past it, it takes its shards anew."""
    topic, failed = await kafka.create_topic(partitions=PARTITIONS), await kafka.create_topic("failed")
    await send_numbers(kafka, topic, range(COUNT))
    session_timeout_ms = 1500 if is_long else 20_000
    async with network_before(kafka_server) as (network, address):
        settings = kafka.pipeline(topic, failed, address=address)
        mapping = "batch_size = 5"
        with engine_folders(
            tmp_path,
            1,
            body="time.sleep(0.02)",
            mapping=mapping,
            session_timeout_ms=session_timeout_ms,
            **settings,
        ) as (engine,):
            engine.start()
            await until(lambda: len(engine.invocations()) >= 2, "the engine is working")
            network.cut()
            connections = network.opened_count
            await send_numbers(kafka, topic, range(COUNT, 2 * COUNT))
            if is_long:
                await until_expelled(kafka, topic)
            network.heal()
            await until(lambda: network.opened_count > connections, "the engine is back")
            if is_long:
                await until(lambda: "shard.released" in engine.log(), "the engine has given its shards up")
            await finish(kafka, topic, engine, 2 * COUNT)


async def test_a_slow_network_is_only_slow(kafka: KafkaCluster, kafka_server: KafkaServer, tmp_path: Path) -> None:
    """A fifth of a second each way: joining, fetching and committing take their time, and all is well."""
    topic, failed = await kafka.create_topic(partitions=PARTITIONS), await kafka.create_topic("failed")
    await send_numbers(kafka, topic, range(COUNT))
    async with network_before(kafka_server) as (network, address):
        network.latency_s = 0.2
        settings = kafka.pipeline(topic, failed, address=address)
        with engine_folders(tmp_path, 1, body="pass", mapping="batch_size = 50", **settings) as (engine,):
            engine.start()
            await finish(kafka, topic, engine, COUNT)

"""Brokers that are not there, topics that are not there, and both going away."""

from __future__ import annotations

import socket

import anyio
import anyio.to_thread
import pytest
from aiokafka.client import AIOKafkaClient, ConnectionGroup

from eventcore.config.reference import Reference
from eventcore.errors import SourceClosed, SourceUnavailable
from eventcore.testing.conformance.stream import HAPPENS_WITHIN_S, Reader, opened, reading
from eventcore_connectors.kafka import client, connector
from eventcore_connectors.kafka.membership import OPEN_TIMEOUT_S
from tests.servers.kafka_cluster import KafkaCluster
from tests.servers.kafka_server import KafkaServer

pytestmark = pytest.mark.any_client

#: An open that fails is over by then, seconds: its own bound, and closing.
FAILED_BY_S = OPEN_TIMEOUT_S + 5.0


def free_address() -> str:
    """Return an address where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


async def assert_unavailable(kafka: KafkaCluster, topic: str, address: str) -> None:
    """Opening and checking fail in time, and name both topic and address."""
    source = kafka.source(topic, "g", bootstrap_servers=address)
    reference = Reference("kafka", "local", topic)
    with anyio.fail_after(2 * FAILED_BY_S):
        with pytest.raises(SourceUnavailable) as by_open:
            await source.open(Reader(source))
        await source.aclose()
        with pytest.raises(SourceUnavailable) as by_check:
            await connector.check(reference, kafka.config(bootstrap_servers=address))
    for caught in (by_open, by_check):
        assert topic in str(caught.value)
        assert address in str(caught.value)
        assert caught.value.source == str(reference)


async def test_a_wrong_address_is_named(kafka: KafkaCluster) -> None:
    """Nobody listens there."""
    await assert_unavailable(kafka, await kafka.create_topic(), free_address())


async def test_an_address_that_never_answers_is_named(kafka: KafkaCluster) -> None:
    """Something listens there and says nothing: aiokafka alone would wait for 40 s."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        await assert_unavailable(kafka, "orders", f"127.0.0.1:{silent.getsockname()[1]}")


@pytest.mark.parametrize("address", ["127.0.0.1:no-port", "host.invalid:9092"])
async def test_an_address_that_is_none_is_named(kafka: KafkaCluster, address: str) -> None:
    """A port that is no number, a name that does not resolve."""
    await assert_unavailable(kafka, "orders", address)


async def test_a_missing_topic_is_named_and_not_made(kafka: KafkaCluster) -> None:
    """This broker makes topics for whoever asks for them: we ask so that it does not."""
    await assert_unavailable(kafka, "no-such-topic", kafka.address)
    assert not await kafka.has_topic("no-such-topic")


async def test_a_topic_that_is_deleted_is_told_and_not_made_again(kafka: KafkaCluster) -> None:
    """A running source notices, and does not bring the topic back, empty."""
    topic = await kafka.create_topic()
    async with opened(kafka.source(topic, "g")) as reader:
        await reader.receive_until(lambda: bool(reader.taken))
        # The test's own producer asks for its topics in the form that makes them.
        await kafka.producer.client.set_topics([])
        await kafka.delete_topic(topic)
        with anyio.fail_after(HAPPENS_WITHIN_S), pytest.raises(SourceUnavailable, match=topic):
            await reader.run()
    assert not await kafka.has_topic(topic)


async def test_check_counts_brokers_and_partitions(kafka: KafkaCluster) -> None:
    """One line for `doctor` and `validate`."""
    topic = await kafka.create_topic(partitions=3)
    line = await connector.check(Reference("kafka", "local", topic), kafka.config())
    assert line == f"Kafka at {kafka.address}: brokers 1, topic `{topic}`, partitions 3"


@pytest.mark.aiokafka_only
async def test_a_connection_that_the_broker_has_ended_is_not_left_open(kafka: KafkaCluster) -> None:
    """As that behind a token which it refuses, before it has named brokers: aiokafka forgets it at once."""
    topic = await kafka.create_topic()
    own = AIOKafkaClient(bootstrap_servers=kafka.address)
    try:
        await client.connect(own.bootstrap, own, kafka.config(), topic)
        own.cluster._brokers.clear()
        own._conns = {("bootstrap", ConnectionGroup.DEFAULT): own._conns.popitem()[1]}
        for connection in own._conns.values():
            connection._reader.feed_eof()
        del connection
        # What is left open is told as a warning, which fails the test.
        assert not await own._metadata_update(own.cluster, {topic})
    finally:
        await own.close()


async def test_a_closed_source_says_so(kafka: KafkaCluster) -> None:
    """A receive that waits while the source is closed ends."""
    topic = await kafka.create_topic()
    source = kafka.source(topic, "g")
    async with opened(source) as reader:
        await reader.receive_until(lambda: bool(reader.taken))
        with anyio.fail_after(HAPPENS_WITHIN_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(source.aclose)
                with pytest.raises(SourceClosed):
                    await reader.receive(wait_s=2 * HAPPENS_WITHIN_S)


@pytest.mark.both_clients
async def test_a_broker_that_comes_back_is_read_on(kafka: KafkaCluster, kafka_server: KafkaServer) -> None:
    """Within the session a restart of the broker costs nothing: same owner, same epoch, no record lost or repeated."""
    topic, shard = (topic := await kafka.create_topic()), f"{topic}-0"
    async with reading(kafka.source(topic, "g", session_timeout_ms=45_000)) as reader:
        await kafka.send(topic, [b"0", b"1"])
        await reader.until(lambda: len(reader.bodies(shard)) == 2)
        epoch = reader.taken[shard].epoch
        await anyio.to_thread.run_sync(kafka_server.restart)
        await kafka.send(topic, [b"2"])
        await reader.until(lambda: len(reader.bodies(shard)) == 3)
        assert reader.bodies(shard) == [b"0", b"1", b"2"]
        assert reader.taken[shard].epoch == epoch
        await reader.settle(shard, 3, is_urgent=True)


@pytest.mark.both_clients
@pytest.mark.classic_only
async def test_a_broker_that_stays_away_is_told(kafka: KafkaCluster, kafka_server: KafkaServer) -> None:
    """After a session without an answer others own the shards: they are given up, and the mapping shows why."""
    topic, shard = (topic := await kafka.create_topic()), f"{topic}-0"
    async with opened(kafka.source(topic, "g", session_timeout_ms=2000)) as reader:
        await reader.receive_until(lambda: bool(reader.taken))
        await anyio.to_thread.run_sync(kafka_server.stop)
        try:
            with anyio.fail_after(HAPPENS_WITHIN_S), pytest.raises(SourceUnavailable, match=kafka.address):
                await reader.run()
            assert reader.history == [("taken", shard), ("lost", shard)]
            with anyio.fail_after(HAPPENS_WITHIN_S):
                await reader.source.aclose()
        finally:
            await anyio.to_thread.run_sync(kafka_server.start)

"""Three brokers: leaders and coordinators that move, one that is gone for good, and the secured cluster."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from eventcore.config.reference import Reference
from eventcore.testing.conformance.stream import reading
from eventcore_connectors.kafka import connector
from eventcore_connectors.kafka.destination import IDEMPOTENCY_HEADER
from tests.servers.conftest import do_without
from tests.servers.engines import EngineFolder, engine_folders, until
from tests.servers.kafka_cluster import KafkaCluster, open_cluster
from tests.servers.kafka_server import ServerUnavailable
from tests.servers.test_cli_on_kafka import play, write_template
from tests.servers.three_brokers import COUNT, ThreeBrokers, leaders, moved_away, replicated, running_brokers

pytestmark = pytest.mark.any_client

#: Records of one stage of a test: before the leaders move, after the first move, after the second.
STAGE = 60
#: What a broker that hangs costs each client, milliseconds.
REQUEST_TIMEOUT_MS = 2000
#: The one record that can't be processed, in each stage.
POISON = 17
BODY = f"if any(number % {STAGE} == {POISON} for number in numbers): raise ValueError('no')\n    time.sleep(0.02)"
MAPPING = "batch_size = 5\nmaximum_retry_attempts = 2\nbisect_batch_on_function_error = true"


@pytest.fixture(scope="module")
def started() -> Iterator[ThreeBrokers]:
    """The brokers, once for all tests of this module."""
    try:
        with running_brokers() as brokers:
            yield brokers
    except ServerUnavailable as error:
        do_without("Kafka with three brokers", str(error))


@pytest.fixture
def brokers(started: ThreeBrokers) -> ThreeBrokers:
    """All three, whatever the test before has done to them."""
    started.mend()
    return started


@pytest.fixture
async def cluster(brokers: ThreeBrokers, client_settings: Mapping[str, str]) -> AsyncIterator[KafkaCluster]:
    """A test's own view of the brokers."""
    async with open_cluster(brokers.addresses()) as cluster:
        cluster.client_settings = client_settings
        yield cluster


async def make_topic(cluster: KafkaCluster, name: str = "orders") -> str:
    """Return a topic that has a leader on each broker, and all its replicas."""
    topic = await cluster.create_topic(name, partitions=COUNT, replicas=COUNT)
    await replicated(cluster, topic)
    return topic


async def send_stage(cluster: KafkaCluster, topic: str, stage: int) -> None:
    """Send a stage's numbers, to one partition after the other in turn."""
    for partition in range(COUNT):
        numbers = range(stage * STAGE + partition, (stage + 1) * STAGE, COUNT)
        await cluster.send(topic, [str(number).encode() for number in numbers], partition=partition)


async def finish_stages(engine: EngineFolder, count: int) -> None:
    """Wait until every record but the poison is done, of so many stages."""
    wanted = {number for number in range(count * STAGE) if number % STAGE != POISON}
    await until(lambda: set(engine.numbers("done.log")) == wanted, f"{count} stages are finished")


def assert_in_order(engine: EngineFolder, topic: str) -> None:
    """Every shard's records came in order, those that came again set aside."""
    for partition in range(COUNT):
        notes = [note for note in engine.invocations() if note["shard"] == f"{topic}-{partition}"]
        first_times = list(dict.fromkeys(number for note in notes for number in note["numbers"]))
        assert first_times == sorted(first_times)


async def read_failed(cluster: KafkaCluster, topic: str, count: int) -> list[Any]:
    """Return what was discarded into a topic; what was written twice, as it may be, once."""
    shards = [f"{topic}-{partition}" for partition in range(COUNT)]
    found: dict[bytes, Any] = {}

    def has_all() -> bool:
        for record in (record for shard in shards for record in reader.records.get(shard, ())):
            found[dict(record.headers)[IDEMPOTENCY_HEADER]] = json.loads(record.body or b"")
        return len(found) >= count

    async with reading(cluster.source(topic, f"{topic}-g")) as reader:
        await reader.until(has_all)
    return list(found.values())


@pytest.mark.both_clients
async def test_an_engine_goes_on_while_leaders_and_the_coordinator_move(
    brokers: ThreeBrokers, cluster: KafkaCluster, tmp_path: Path
) -> None:
    """First the coordinator is killed, which leads a partition too; then it comes back, and leads again.

    Nothing is lost, order holds, and what can't be processed is given up each time, without any help.
    """
    topic, failed = await make_topic(cluster), await make_topic(cluster, "failed")
    settings = cluster.pipeline(topic, failed, address=brokers.addresses())
    with engine_folders(tmp_path, 1, body=BODY, mapping=MAPPING, **settings) as (engine,):
        engine.start()
        await send_stage(cluster, topic, 0)
        await until(lambda: len(engine.invocations()) >= 2, "the engine is working")
        coordinator = (await leaders(cluster, "__consumer_offsets"))[0]
        led_before = await leaders(cluster, topic)
        assert coordinator in led_before.values()
        await anyio.to_thread.run_sync(brokers.brokers[coordinator].kill)
        await send_stage(cluster, topic, 1)
        await finish_stages(engine, 2)
        assert coordinator not in (await leaders(cluster, topic)).values()

        await anyio.to_thread.run_sync(brokers.mend)
        await replicated(cluster, topic)
        await send_stage(cluster, topic, 2)
        await anyio.to_thread.run_sync(brokers.prefer_leaders, topic)
        await finish_stages(engine, 3)
        assert await leaders(cluster, topic) == led_before

        assert_in_order(engine, topic)
        assert await anyio.to_thread.run_sync(engine.stop) == 0
    # A client that has seen no broker die: the test's own asks one that it knows, and gives up when it is gone.
    async with open_cluster(brokers.addresses()) as after:
        after.client_settings = cluster.client_settings
        for partition in range(COUNT):
            committed = await after.committed(topic, topic, partition=partition)
            assert committed is not None
            assert committed.offset == 3 * STAGE // COUNT
        discarded = await read_failed(after, failed, 3)
    assert {record["KafkaBatchInfo"]["batchSize"] for record in discarded} == {1}
    assert len({json.dumps(record["KafkaBatchInfo"]["recordsInfo"]) for record in discarded}) == 3


async def test_the_brokers_that_are_left_are_found_when_one_is_gone_for_good(
    brokers: ThreeBrokers, cluster: KafkaCluster
) -> None:
    """The dead one stands first in the list, had the coordinator, and led a partition."""
    topic = await make_topic(cluster)
    for partition in range(COUNT):
        await cluster.send(topic, [b"0"], partition=partition)
    gone = (await leaders(cluster, "__consumer_offsets"))[0]
    addresses = brokers.addresses(first=gone)
    source = cluster.source(topic, f"{topic}-g", bootstrap_servers=addresses)
    shards = [f"{topic}-{partition}" for partition in range(COUNT)]
    async with reading(source) as reader:
        await reader.until(lambda: all(reader.bodies(shard) == [b"0"] for shard in shards))
        await anyio.to_thread.run_sync(brokers.brokers[gone].kill)
        for shard in shards:
            await reader.settle(shard, 1, is_urgent=True)
        for partition in range(COUNT):
            await cluster.send(topic, [b"1"], partition=partition)
        await reader.until(lambda: all(reader.bodies(shard) == [b"0", b"1"] for shard in shards))
    # Whoever comes new finds them, too.
    line = await connector.check(Reference("kafka", "local", topic), cluster.config(bootstrap_servers=addresses))
    assert "brokers 2" in line
    async with reading(cluster.source(topic, f"{topic}-g", bootstrap_servers=addresses)) as reader:
        await reader.until(lambda: all(reader.bodies(shard) == [b"1"] for shard in shards))


async def test_progress_that_was_given_up_does_not_come_back_with_a_new_coordinator(
    brokers: ThreeBrokers, cluster: KafkaCluster
) -> None:
    """A commit that hangs is given up, and its coordinator dies: what is committed behind it stands."""
    topic = await make_topic(cluster)
    for partition in range(COUNT):
        await cluster.send(topic, [b"0", b"0"], partition=partition)
    gone = (await leaders(cluster, "__consumer_offsets"))[0]
    left = ",".join(broker.address for node, broker in brokers.brokers.items() if node != gone)
    shards = [f"{topic}-{partition}" for partition in range(COUNT)]
    async with reading(cluster.source(topic, f"{topic}-g")) as reader:
        await reader.until(lambda: all(reader.bodies(shard) == [b"0", b"0"] for shard in shards))
        with brokers.brokers[gone].hanging():
            for shard in shards:
                await reader.settle(shard, 1)
            async with open_cluster(left, request_timeout_ms=REQUEST_TIMEOUT_MS) as rest:
                # It takes the brokers longer than the source waits for an answer to what is written behind.
                await moved_away(rest, "__consumer_offsets", gone)
            await anyio.to_thread.run_sync(brokers.brokers[gone].kill)
        # Short sessions may have ended meanwhile.
        await reader.until(lambda: reader.owns(shards))
        for shard in shards:
            await reader.settle(shard, 2, is_urgent=True)
    for partition in range(COUNT):
        await cluster.send(topic, [b"1"], partition=partition)
    async with reading(cluster.source(topic, f"{topic}-g", bootstrap_servers=left)) as reader:
        await reader.until(lambda: all(b"1" in reader.bodies(shard) for shard in shards))
        assert all(reader.bodies(shard) == [b"1"] for shard in shards)


async def test_a_broker_that_hangs_is_passed(brokers: ThreeBrokers, cluster: KafkaCluster) -> None:
    """It accepts connections and never answers; first in the list, it had the coordinator and led a partition."""
    topic = await make_topic(cluster)
    for partition in range(COUNT):
        await cluster.send(topic, [b"0"], partition=partition)
    hung = (await leaders(cluster, "__consumer_offsets"))[0]
    addresses = brokers.addresses(first=hung)
    source = cluster.source(topic, f"{topic}-g", bootstrap_servers=addresses, request_timeout_ms=REQUEST_TIMEOUT_MS)
    shards = [f"{topic}-{partition}" for partition in range(COUNT)]
    others = ",".join(broker.address for node, broker in brokers.brokers.items() if node != hung)
    async with reading(source) as reader:
        await reader.until(lambda: all(reader.bodies(shard) == [b"0"] for shard in shards))
        with brokers.brokers[hung].hanging():
            async with open_cluster(others, request_timeout_ms=REQUEST_TIMEOUT_MS) as rest:
                await moved_away(rest, topic, hung)
                for partition in range(COUNT):
                    await rest.send(topic, [b"1"], partition=partition)
                await reader.until(lambda: all(b"1" in reader.bodies(shard) for shard in shards))
                line = await connector.check(
                    Reference("kafka", "local", topic), rest.config(bootstrap_servers=addresses)
                )
                assert "brokers 2" in line


async def test_the_template_runs_on_the_secured_cluster(
    brokers: ThreeBrokers, cluster: KafkaCluster, tmp_path: Path
) -> None:
    """What the Kafka template's README says, over TLS and with a password; the pipeline is the demo's."""
    topic = await make_topic(cluster)
    settings = brokers.secured_settings()
    address = settings.pop("bootstrap_servers")
    cluster.client_settings = {**cluster.client_settings, **settings}
    write_template(tmp_path, address, topic, cluster.connection)
    await anyio.to_thread.run_sync(play, tmp_path, topic)

"""A topic read from one offset to another, by nobody's group (`eventcore.ports.ranges`)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from eventcore.config.reference import Reference
from eventcore.config.structs import KafkaConfig
from eventcore.errors import SourceUnavailable
from eventcore.ports.ranges import Extent, RangeSource
from eventcore_connectors.kafka import connector
from tests.servers.kafka_cluster import KafkaCluster


@asynccontextmanager
async def open_range(kafka: KafkaCluster, topic: str) -> AsyncIterator[tuple[RangeSource, list[Extent]]]:
    source = connector.open_range(Reference("kafka", "local", topic), KafkaConfig(bootstrap_servers=kafka.address))
    try:
        yield source, list(await source.open())
    finally:
        await source.aclose()


async def read_all(source: RangeSource, extent: Extent, *, start: int | None = None) -> list[bytes | None]:
    bodies: list[bytes | None] = []
    position = extent.first if start is None else start
    while position < extent.end:
        read = await source.read(extent.shard, position, extent.end, count_max=3)
        assert len(read.records) <= 3
        assert read.next > position
        position = read.next
        bodies += [record.body for record in read.records]
    return bodies


async def test_every_partition_is_read_to_the_end_that_was_there(kafka: KafkaCluster) -> None:
    topic = await kafka.create_topic(partitions=2)
    await kafka.send(topic, [b"%d" % number for number in range(7)])
    await kafka.send(topic, [b"x"], partition=1)
    async with open_range(kafka, topic) as (source, extents):
        await kafka.send(topic, [b"later"])
        assert [(extent.shard, extent.first, extent.end) for extent in extents] == [
            (f"{topic}-0", 0, 7),
            (f"{topic}-1", 0, 1),
        ]
        assert await read_all(source, extents[0]) == [b"%d" % number for number in range(7)]
        assert await read_all(source, extents[1]) == [b"x"]
        assert await read_all(source, extents[0], start=5) == [b"5", b"6"]


async def test_markers_of_transactions_and_aborted_records_are_passed_over(kafka: KafkaCluster) -> None:
    topic = await kafka.create_topic()
    async with kafka.transactions() as producer:
        async with producer.transaction():
            await producer.send_and_wait(topic, b"kept", partition=0)
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"aborted", partition=0)
        await producer.abort_transaction()
    async with open_range(kafka, topic) as (source, (extent,)):
        assert extent.end == 4
        assert await read_all(source, extent) == [b"kept"]


async def test_an_open_transaction_is_not_waited_for(kafka: KafkaCluster) -> None:
    topic = await kafka.create_topic()
    await kafka.send(topic, [b"before"])
    async with kafka.transactions() as producer:
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"open", partition=0)
        async with open_range(kafka, topic) as (source, (extent,)):
            assert extent.end == 1
            assert await read_all(source, extent) == [b"before"]
            assert await source.find(4_102_444_800_000) == {extent.shard: extent.end}
        await producer.abort_transaction()


async def test_a_time_is_the_offset_of_the_first_record_at_or_after_it(kafka: KafkaCluster) -> None:
    topic = await kafka.create_topic()
    for at_ms in (1000, 2000, 3000):
        await kafka.send(topic, [b"%d" % at_ms], timestamp_ms=at_ms)
    async with open_range(kafka, topic) as (source, _):
        found = [(await source.find(at_ms))[f"{topic}-0"] for at_ms in (0, 1001, 2000, 3001)]
    assert found == [0, 1, 1, 3]


async def test_what_retention_takes_meanwhile_is_passed_over(kafka: KafkaCluster) -> None:
    topic = await kafka.create_topic()
    await kafka.send(topic, [b"%d" % number for number in range(6)])
    async with open_range(kafka, topic) as (source, (extent,)):
        await kafka.trim(topic, 4)
        # From the second one: the first fetch was under way before.
        assert await read_all(source, extent, start=1) == [b"4", b"5"]


async def test_a_topic_that_is_not_there_is_said_to_be_so(kafka: KafkaCluster) -> None:
    with pytest.raises(SourceUnavailable, match="does not exist"):
        async with open_range(kafka, "nix"):
            pass

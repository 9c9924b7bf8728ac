"""What only a real broker shows of a topic's ranges: transactions. For the rest see the kit, for gaps the records."""

from __future__ import annotations

import pytest

from eventcore.testing.conformance.ranges import opened, read_all
from tests.servers.kafka_cluster import KafkaCluster

pytestmark = pytest.mark.any_client

#: A time after that of every record here: the year 2100.
LATER_MS = 4_102_444_800_000


async def test_markers_of_transactions_and_aborted_records_are_passed_over(kafka: KafkaCluster) -> None:
    topic = await kafka.create_topic()
    async with kafka.transactions() as producer:
        async with producer.transaction():
            await producer.send_and_wait(topic, b"kept", partition=0)
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"aborted", partition=0)
        await producer.abort_transaction()
    source = kafka.range_source(topic)
    async with opened(source) as extents:
        (extent,) = extents.values()
        assert extent.end == 4
        assert [record.body for record in await read_all(source, extent.shard, 0, extent.end)] == [b"kept"]


async def test_an_open_transaction_is_not_waited_for(kafka: KafkaCluster) -> None:
    topic = await kafka.create_topic()
    await kafka.send(topic, [b"before"])
    source = kafka.range_source(topic)
    async with kafka.transactions() as producer:
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"open", partition=0)
        async with opened(source) as extents:
            (extent,) = extents.values()
            assert extent.end == 1
            assert [record.body for record in await read_all(source, extent.shard, 0, extent.end)] == [b"before"]
            assert await source.find(LATER_MS) == {extent.shard: extent.end}
        await producer.abort_transaction()

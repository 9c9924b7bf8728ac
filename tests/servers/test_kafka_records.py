"""What only a real broker shows of records: wire format, gaps, transactions, isolation, limits."""

from __future__ import annotations

import base64

import anyio
import anyio.lowlevel
import pytest
from aiokafka import AIOKafkaProducer

from eventcore.delivery.ordering import EMPTY
from eventcore.testing.conformance import ranges
from eventcore.testing.conformance.stream import HAPPENS_WITHIN_S, Reader, opened, reading
from tests.servers.kafka_cluster import KafkaCluster

pytestmark = pytest.mark.any_client


async def until_committed(kafka: KafkaCluster, group: str, topic: str, offset: int) -> None:
    """Wait until a group's commit stands at an offset: then its lag is what lies behind it."""
    with anyio.fail_after(HAPPENS_WITHIN_S):
        while (mark := await kafka.committed(group, topic)) is None or mark.offset != offset:
            await anyio.lowlevel.checkpoint()


async def settle_all(reader: Reader, shard: str) -> None:
    await reader.settle(shard, reader.positions(shard)[-1] + 1)


async def test_an_event_carries_what_was_sent(kafka: KafkaCluster) -> None:
    """Offsets, times, keys, tombstones and headers as they are on the broker. Source: Lambda semantics §5.1."""
    topic = await kafka.create_topic()
    shard = f"{topic}-0"
    source = kafka.source(topic, "g")
    async with reading(source) as reader:
        await kafka.send(topic, [b"\x00one"], key=b"k", headers=[("h", b"\xc3\xab")], timestamp_ms=1_700_000_000_001)
        await kafka.send(topic, [None], key=b"gone", timestamp_ms=1_700_000_000_002)
        await kafka.send(topic, [b"two"], timestamp_ms=1_700_000_000_003)
        await reader.until(lambda: len(reader.records.get(shard, ())) == 3)
    event = source.shape.event(reader.records[shard], shard)
    place = {"topic": topic, "partition": 0, "timestampType": "CREATE_TIME"}
    assert event == {
        "eventSource": "SelfManagedKafka",
        "bootstrapServers": kafka.address,
        "records": {
            shard: [
                {
                    **place,
                    "offset": 0,
                    "timestamp": 1_700_000_000_001,
                    "key": "aw==",
                    "value": base64.b64encode(b"\x00one").decode(),
                    "headers": [{"h": [-61, -85]}],
                },
                {
                    **place,
                    "offset": 1,
                    "timestamp": 1_700_000_000_002,
                    "key": "Z29uZQ==",
                    "value": None,
                    "headers": [],
                },
                {**place, "offset": 2, "timestamp": 1_700_000_000_003, "key": None, "value": "dHdv", "headers": []},
            ]
        },
    }


async def test_log_append_time_is_told(kafka: KafkaCluster) -> None:
    """A topic that sets times itself has them in the event, and says so."""
    topic = await kafka.create_topic(message_timestamp_type="LogAppendTime")
    shard = f"{topic}-0"
    source = kafka.source(topic, "g")
    async with reading(source) as reader:
        await kafka.send(topic, [b"x"], timestamp_ms=1)
        await reader.until(lambda: bool(reader.records.get(shard)))
    (entry,) = source.shape.event(reader.records[shard], shard)["records"][shard]
    assert entry["timestampType"] == "LOG_APPEND_TIME"
    assert entry["timestamp"] > 1_700_000_000_000


@pytest.mark.parametrize("outcome", ["commit", "abort"])
async def test_lag_reaches_zero_behind_a_transaction(kafka: KafkaCluster, outcome: str) -> None:
    """Markers and aborted records take offsets that nobody receives: the commit goes past them all the same."""
    topic, group = await kafka.create_topic(), f"g-{outcome}"
    shard = f"{topic}-0"
    async with reading(kafka.source(topic, group)) as reader:
        await kafka.send(topic, [b"before"])
        async with kafka.transactions() as producer:
            await producer.begin_transaction()
            await producer.send_and_wait(topic, b"inside", partition=0)
            await (producer.commit_transaction() if outcome == "commit" else producer.abort_transaction())
        expected = [b"before", b"inside"] if outcome == "commit" else [b"before"]
        await reader.until(lambda: reader.bodies(shard) == expected)
        await settle_all(reader, shard)
        # Offset 0, the record inside at 1, the marker at 2.
        await until_committed(kafka, group, topic, 3)
        (lag,) = await reader.source.lag()
        assert (lag.end, lag.checkpoint, lag.lag) == (3, 3, 0)


async def test_markers_after_the_last_settle_count_too(kafka: KafkaCluster) -> None:
    """A marker that comes when all is settled long since is passed without a record."""
    topic, shard = (topic := await kafka.create_topic()), f"{topic}-0"
    async with reading(kafka.source(topic, "g")) as reader:
        await kafka.send(topic, [b"a"])
        await reader.until(lambda: bool(reader.bodies(shard)))
        await settle_all(reader, shard)
        await until_committed(kafka, "g", topic, 1)
        async with kafka.transactions() as producer:
            await producer.begin_transaction()
            await producer.send_and_wait(topic, b"never", partition=0)
            await producer.abort_transaction()
        await until_committed(kafka, "g", topic, 3)
        assert reader.bodies(shard) == [b"a"]


async def test_an_unsettled_record_holds_the_commit_before_it(kafka: KafkaCluster) -> None:
    """The commit never goes past a record that is not settled, whatever lies behind it."""
    topic, shard = (topic := await kafka.create_topic()), f"{topic}-0"
    async with reading(kafka.source(topic, "g")) as reader:
        await kafka.send(topic, [b"a", b"b"])
        async with kafka.transactions() as producer:
            await producer.begin_transaction()
            await producer.send_and_wait(topic, b"never", partition=0)
            await producer.abort_transaction()
        await reader.until(lambda: len(reader.bodies(shard)) == 2)
        await reader.settle(shard, 1, EMPTY, is_urgent=True)
        mark = await kafka.committed("g", topic)
        assert mark is not None
        assert mark.offset == 1


async def test_lag_reaches_zero_on_a_compacted_topic(kafka: KafkaCluster) -> None:
    """Compaction leaves gaps between offsets: the settled prefix is over what is delivered."""
    topic = await kafka.create_topic(
        cleanup_policy="compact", segment_ms="100", min_cleanable_dirty_ratio="0.01", max_compaction_lag_ms="100"
    )
    shard = f"{topic}-0"
    for number in range(20):
        await kafka.send(topic, [b"%d" % number], key=b"same")
    # A new segment, so that the one before may be compacted.
    await anyio.sleep(0.2)
    await kafka.send(topic, [b"last"], key=b"other")
    with anyio.fail_after(HAPPENS_WITHIN_S):
        mapping = 0
        while True:
            mapping += 1
            async with reading(kafka.source(topic, f"g{mapping}")) as reader:
                await reader.until(lambda reader=reader: reader.bodies(shard)[-1:] == [b"last"])
                if len(reader.bodies(shard)) < 21:
                    break
    async with reading(kafka.source(topic, "g")) as reader:
        await reader.until(lambda: reader.bodies(shard)[-1:] == [b"last"])
        assert reader.positions(shard) != list(range(21))
        await settle_all(reader, shard)
        await until_committed(kafka, "g", topic, 21)
        (lag,) = await reader.source.lag()
        assert lag.lag == 0
    # A range may begin within a gap.
    source = kafka.range_source(topic)
    async with ranges.opened(source):
        records = await ranges.read_all(source, shard, 1, 21)
    assert records[-1].body == b"last"
    assert [record.position for record in records] != list(range(1, 21))


async def test_isolation_level_decides_on_open_transactions(kafka: KafkaCluster) -> None:
    """read_committed waits for the outcome; read_uncommitted does not."""
    topic, shard = (topic := await kafka.create_topic()), f"{topic}-0"
    async with kafka.transactions() as producer:
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"open", partition=0)
        async with reading(kafka.source(topic, "early", isolation_level="read_uncommitted")) as early:
            await early.until(lambda: early.bodies(shard) == [b"open"])
        async with opened(kafka.source(topic, "late")) as late:
            await late.receive_until(lambda: bool(late.taken))
            assert await late.receive(wait_s=1.0) == 0
            await producer.commit_transaction()
            with anyio.fail_after(HAPPENS_WITHIN_S):
                while late.bodies(shard) != [b"open"]:
                    await late.receive()


async def test_at_timestamp_past_the_end_begins_with_the_next_record(kafka: KafkaCluster) -> None:
    """No record is that late yet: nothing old is received, and nothing new is missed."""
    from eventcore.ports.connectors import StartingPosition

    topic, shard = (topic := await kafka.create_topic()), f"{topic}-0"
    await kafka.send(topic, [b"old"], timestamp_ms=1_000)
    late = StartingPosition("AT_TIMESTAMP", 2_000)
    async with reading(kafka.source(topic, "g", starting_position=late)) as reader:
        await reader.until(lambda: shard in reader.taken)
        await kafka.send(topic, [b"new"], timestamp_ms=1_500)
        await reader.until(lambda: bool(reader.bodies(shard)))
        assert reader.bodies(shard) == [b"new"]


async def test_a_starting_position_holds_from_then_on(kafka: KafkaCluster) -> None:
    """LATEST, stopped before any record came: what is sent while it is away is received when it is back."""
    from eventcore.ports.connectors import StartingPosition

    latest = StartingPosition("LATEST")
    topic, shard = (topic := await kafka.create_topic()), f"{topic}-0"
    await kafka.send(topic, [b"old"])
    async with reading(kafka.source(topic, "g", starting_position=latest)) as reader:
        await reader.until(lambda: shard in reader.taken)
    await kafka.send(topic, [b"while away"])
    async with reading(kafka.source(topic, "g", starting_position=latest)) as reader:
        await reader.until(lambda: reader.bodies(shard) == [b"while away"])


async def test_a_receive_brings_no_more_than_may_be_held(kafka: KafkaCluster) -> None:
    """`records_ahead_max` bounds one receive; the rest comes with the next ones, in order."""
    topic, shard = (topic := await kafka.create_topic()), f"{topic}-0"
    bodies = [b"%d" % number for number in range(1000)]
    await kafka.send(topic, bodies)
    counts = []
    async with opened(kafka.source(topic, "g", records_ahead_max=64)) as reader:
        with anyio.fail_after(HAPPENS_WITHIN_S):
            while len(reader.bodies(shard)) < 1000:
                counts.append(await reader.receive())
    assert max(counts) == 64
    assert reader.bodies(shard) == bodies


async def test_a_record_larger_than_a_fetch_arrives(kafka: KafkaCluster) -> None:
    """`max_partition_fetch_bytes` bounds a fetch, never a record: one that is larger comes alone."""
    topic, shard = (topic := await kafka.create_topic()), f"{topic}-0"
    await kafka.send(topic, [b"x" * 200_000, b"small"])
    async with reading(kafka.source(topic, "g", max_partition_fetch_bytes=1024, fetch_max_bytes=1024)) as reader:
        await reader.until(lambda: len(reader.bodies(shard)) == 2)
        assert [len(body or b"") for body in reader.bodies(shard)] == [200_000, 5]


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
async def test_every_compression_is_read(kafka: KafkaCluster, codec: str) -> None:
    """All codecs come with the base install: what a producer chose is no business of a pipeline."""
    topic = await kafka.create_topic()
    shard, bodies = f"{topic}-0", [b"%03d " % number * 50 for number in range(100)]
    async with AIOKafkaProducer(bootstrap_servers=kafka.address, compression_type=codec, linger_ms=20) as producer:
        pending = [await producer.send(topic, value=body, partition=0) for body in bodies]
        for each in pending:
            await each
    async with reading(kafka.source(topic, "g")) as reader:
        await reader.until(lambda: len(reader.bodies(shard)) == len(bodies))
        assert reader.bodies(shard) == bodies
        assert reader.positions(shard) == list(range(len(bodies)))

"""Commits on a real broker: metadata, merging, fencing, ranges that are gone."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.commit import OffsetCommitRequest
from aiokafka.structs import TopicPartition

from eventcore.delivery.ordering import EMPTY, Part, ShardState, decode_state, encode_state
from eventcore.errors import SourceUnavailable
from eventcore.ports.sources import LostRange
from eventcore.testing.conformance.stream import HAPPENS_WITHIN_S, opened, reading
from eventcore_connectors.kafka.progress import COMMIT_INTERVAL_S
from tests.servers.held_requests import HeldRequests
from tests.servers.kafka_cluster import KafkaCluster

pytestmark = pytest.mark.any_client

FAILING = ShardState(parts=(Part(last=3, attempt=2, first_failure_ms=1_700_000_000_000, request_id="r"),), marked=True)


def count_commits(monkeypatch: pytest.MonkeyPatch) -> list[OffsetCommitRequest]:
    """Return a list that every commit from now on is added to."""
    requests: list[OffsetCommitRequest] = []
    send = AIOKafkaClient.send

    async def count(self: AIOKafkaClient, node: Any, request: Any, **options: Any) -> Any:
        if isinstance(request, OffsetCommitRequest):
            requests.append(request)
        return await send(self, node, request, **options)

    monkeypatch.setattr(AIOKafkaClient, "send", count)
    return requests


async def test_failing_work_is_readable_by_any_client(kafka: KafkaCluster) -> None:
    """Attempts stand in the commit's metadata, as text of a few bytes; a background commit writes it unchanged."""
    topic = await kafka.create_topic(partitions=2)
    first, second = f"{topic}-0", f"{topic}-1"
    async with reading(kafka.source(topic, "g")) as reader:
        for partition in (0, 1):
            await kafka.send(topic, [b"0", b"1", b"2", b"3"], partition=partition)
        await reader.until(lambda: len(reader.bodies(first)) == len(reader.bodies(second)) == 4)
        await reader.settle(first, 2, FAILING, is_urgent=True)
        mark = await kafka.committed("g", topic)
        assert mark is not None
        assert (mark.offset, decode_state(mark.metadata)) == (2, FAILING)
        await reader.settle(second, 4)
        with anyio.fail_after(COMMIT_INTERVAL_S + HAPPENS_WITHIN_S):
            while (other := await kafka.committed("g", topic, partition=1)) is None or other.offset != 4:
                await anyio.lowlevel.checkpoint()
        assert await kafka.committed("g", topic) == mark


async def test_the_largest_state_is_taken_by_the_broker(kafka: KafkaCluster) -> None:
    """A state of the largest size is committed, and comes back whole."""
    parts = tuple(Part(last=number, attempt=9, request_id=f"{number:036}") for number in range(30, 300))
    state = decode_state(encode_state(ShardState(parts=parts)))
    assert len(state.parts) < len(parts)
    topic, shard = (topic := await kafka.create_topic()), f"{topic}-0"
    async with reading(kafka.source(topic, "g")) as reader:
        await reader.until(lambda: shard in reader.taken)
        await reader.settle(shard, 0, state, is_urgent=True)
    async with reading(kafka.source(topic, "g")) as reader:
        await reader.until(lambda: shard in reader.taken)
        assert reader.taken[shard].state == state


async def test_a_commit_by_others_clears_failing_work(kafka: KafkaCluster) -> None:
    """Whoever resets the group's offsets with Kafka's own tools begins afresh there."""
    topic, shard = (topic := await kafka.create_topic()), f"{topic}-0"
    await kafka.send(topic, [b"0", b"1", b"2", b"3"])
    async with reading(kafka.source(topic, "g")) as reader:
        await reader.until(lambda: len(reader.bodies(shard)) == 4)
        await reader.settle(shard, 2, FAILING, is_urgent=True)
    tool = AIOKafkaConsumer(bootstrap_servers=kafka.address, group_id="g", enable_auto_commit=False)
    await tool.start()
    tool.assign([TopicPartition(topic, 0)])
    await tool.commit({TopicPartition(topic, 0): 1})
    await tool.stop()
    async with reading(kafka.source(topic, "g")) as reader:
        await reader.until(lambda: len(reader.bodies(shard)) == 3)
        assert (reader.taken[shard].checkpoint, reader.taken[shard].state) == (1, EMPTY)


@pytest.mark.aiokafka_only
async def test_urgent_commits_that_wait_share_a_request(kafka: KafkaCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty failing shards cost two requests at most: the one under way, and one for all that wait behind it."""
    topic = await kafka.create_topic(partitions=30)
    async with opened(kafka.source(topic, "g")) as reader:
        await reader.receive_until(lambda: len(reader.taken) == 30)
        for partition in range(30):
            await kafka.send(topic, [b"x", b"y"], partition=partition)
        await reader.receive_until(lambda: len(reader.records) == 30)
        requests = count_commits(monkeypatch)
        async with anyio.create_task_group() as tasks:
            for shard in list(reader.taken):
                tasks.start_soon(_settle_urgently, reader, shard)
        assert 1 <= len(requests) <= 2
        for partition in range(30):
            mark = await kafka.committed("g", topic, partition=partition)
            assert mark is not None
            assert (mark.offset, decode_state(mark.metadata)) == (1, FAILING)


async def _settle_urgently(reader: Any, shard: str) -> None:
    await reader.settle(shard, 1, FAILING, is_urgent=True)


async def test_a_drain_leaves_nothing_to_a_next_receive(kafka: KafkaCluster) -> None:
    """When a receive has been cancelled, and none comes after it, what is settled becomes durable all the same."""
    topic, shard = (topic := await kafka.create_topic()), f"{topic}-0"
    await kafka.send(topic, [b"0", b"1", b"2", b"3"])
    async with opened(kafka.source(topic, "g")) as reader:
        await reader.receive_until(lambda: len(reader.bodies(shard)) == 4)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reader.receive, 60.0)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        for checkpoint in (1, 2, 3):
            await reader.settle(shard, checkpoint)
            with anyio.fail_after(COMMIT_INTERVAL_S + HAPPENS_WITHIN_S):
                while (mark := await kafka.committed("g", topic)) is None or mark.offset < checkpoint:
                    await anyio.lowlevel.checkpoint()
        await reader.settle(shard, 4)
    mark = await kafka.committed("g", topic)
    assert mark is not None
    assert mark.offset == 4


@pytest.mark.aiokafka_only
async def test_no_record_waits_for_a_commit(kafka: KafkaCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record comes while a broker still takes its time over a commit, which holds once it is answered."""
    topic, shard = (topic := await kafka.create_topic()), f"{topic}-0"
    async with reading(kafka.source(topic, "g")) as reader:
        await kafka.send(topic, [b"0"])
        await reader.until(lambda: len(reader.bodies(shard)) == 1)
        held, came_meanwhile = HeldRequests(monkeypatch, OffsetCommitRequest), False
        await reader.settle(shard, 1)
        with anyio.fail_after(HAPPENS_WITHIN_S):
            # On a busy machine a record may take longer than a commit is waited for.
            while not came_meanwhile:
                while held.began == held.over:
                    await anyio.lowlevel.checkpoint()
                before, count = held.over, len(reader.bodies(shard))
                await kafka.send(topic, [b"1"])
                await reader.until(lambda count=count: len(reader.bodies(shard)) > count)  # type: ignore[misc]
                came_meanwhile = held.over == before
        mark = await kafka.committed("g", topic)
        # Where it began is written, too, if that was before.
        assert mark is None or mark.offset == 0
        held.let_go.set()
        with anyio.fail_after(HAPPENS_WITHIN_S):
            while (mark := await kafka.committed("g", topic)) is None or mark.offset != 1:
                await anyio.lowlevel.checkpoint()


#: What begins the keys of commits in the brokers' own topic, among those of what groups are. Source: Apache Kafka,
#: `OffsetCommitKey.json`.
COMMIT_KEYS = (b"\0\0", b"\0\1")


async def count_written(kafka: KafkaCluster, topic: str) -> int:
    """Return how many commits the brokers have written for a topic, one for each partition."""
    offsets, count = "__consumer_offsets", 0
    (described,) = await kafka.admin.describe_topics([offsets])
    partitions = [TopicPartition(offsets, each["partition"]) for each in described["partitions"]]
    async with AIOKafkaConsumer(bootstrap_servers=kafka.address) as reader:
        reader.assign(partitions)
        await reader.seek_to_beginning(*partitions)
        ends = await reader.end_offsets(partitions)
        while any([await reader.position(each) < ends[each] for each in partitions]):
            for records in (await reader.getmany(timeout_ms=100)).values():
                keys = [record.key or b"" for record in records]
                count += sum(key.startswith(COMMIT_KEYS) and topic.encode() in key for key in keys)
    return count


async def test_whoever_receives_and_settles_in_turn_commits_now_and_then(kafka: KafkaCluster) -> None:
    """A loop that settles between its receives does not pay a commit for each, and is never far behind."""
    topic, shard = (topic := await kafka.create_topic()), f"{topic}-0"
    await kafka.send(topic, [b"%d" % number for number in range(400)])
    async with opened(kafka.source(topic, "g", records_ahead_max=1)) as reader:
        await reader.receive_until(lambda: shard in reader.taken)
        before, began = await count_written(kafka, topic), anyio.current_time()
        while len(reader.bodies(shard)) < 400:
            if await reader.receive():
                await reader.settle(shard, reader.positions(shard)[-1] + 1)
        lasted_s = anyio.current_time() - began
        assert await count_written(kafka, topic) - before <= 2 + 2 * lasted_s / COMMIT_INTERVAL_S
        with anyio.fail_after(HAPPENS_WITHIN_S):
            while (mark := await kafka.committed("g", topic)) is None or mark.offset < 400:
                await reader.receive()
    assert await count_written(kafka, topic) > before


async def test_retention_that_passes_a_reader_is_told(kafka: KafkaCluster) -> None:
    """A shard that is paused while retention takes what comes next: the range is named before the record behind it."""
    topic, shard = (topic := await kafka.create_topic()), f"{topic}-0"
    async with reading(kafka.source(topic, "g", records_ahead_max=2)) as reader:
        await reader.until(lambda: shard in reader.taken)
        reader.source.pause(shard)
        await kafka.send(topic, [b"%d" % number for number in range(10)])
        await kafka.trim(topic, 6)
        reader.source.resume(shard)
        await reader.until(lambda: reader.bodies(shard)[-1:] == [b"9"])
        received = set(reader.positions(shard))
        lost = {each for gone in reader.lost for each in range(gone.first, gone.last + 1)}
        assert received | lost == set(range(10))
        assert not received & lost
        assert {each.shard for each in reader.lost} <= {shard}


async def test_a_lost_range_is_told_without_a_record_behind_it(kafka: KafkaCluster) -> None:
    """When retention took everything, the range is named at once, and settled it makes the lag 0."""
    topic, shard = (topic := await kafka.create_topic()), f"{topic}-0"
    async with reading(kafka.source(topic, "g")) as reader:
        await kafka.send(topic, [b"%d" % number for number in range(10)])
        await reader.until(lambda: len(reader.bodies(shard)) == 10)
        await reader.settle(shard, 4, is_urgent=True)
    await kafka.trim(topic, 10)
    async with reading(kafka.source(topic, "g")) as reader:
        await reader.until(lambda: bool(reader.lost))
        assert reader.lost == [LostRange(shard=shard, first=4, last=9)]
        mark = await kafka.committed("g", topic)
        assert mark is not None
        assert mark.offset == 4, "nobody has settled the lost range"
        await reader.settle(shard, 10, is_urgent=True)
        (lag,) = await reader.source.lag()
        assert (lag.checkpoint, lag.lag) == (10, 0)


async def test_a_checkpoint_behind_the_end_is_no_silent_jump(kafka: KafkaCluster) -> None:
    """Offsets that do not exist (a topic made anew, a log cut back) need a person: the mapping says so."""
    topic, shard = (topic := await kafka.create_topic()), f"{topic}-0"
    await kafka.send(topic, [b"0"])
    async with opened(kafka.source(topic, "g")) as reader:
        await reader.receive_until(lambda: bool(reader.bodies(shard)))
        await reader.settle(shard, 500, is_urgent=True)
    async with opened(kafka.source(topic, "g")) as reader:
        with anyio.fail_after(HAPPENS_WITHIN_S), pytest.raises(SourceUnavailable, match=r"offset 500.*made anew"):
            await reader.run()

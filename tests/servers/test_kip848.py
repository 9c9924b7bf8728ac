"""What `group_protocol = "consumer"` (KIP-848) does beside what every member does: single partitions move."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from eventcore.delivery.ordering import Part, ShardState
from eventcore.errors import SourceUnavailable
from eventcore.testing.conformance.stream import HAPPENS_WITHIN_S, opened, reading
from eventcore_connectors.kafka.connector import make_member
from eventcore_connectors.kafka.membership import Fenced, Member
from eventcore_connectors.kafka.shape import Partition
from eventcore_connectors.kafka.shards import Mark
from tests.servers.conftest import CLIENTS
from tests.servers.kafka_cluster import KafkaCluster, open_cluster
from tests.servers.kafka_server import ComposedKafkaServer, KafkaServer, find_jars

FAILING = ShardState(parts=(Part(last=3, attempt=3, request_id="r"),))
PARTITIONS = 2


@pytest.fixture
async def cluster(kafka_server: KafkaServer | ComposedKafkaServer) -> AsyncIterator[KafkaCluster]:
    """The broker, read by the new protocol."""
    async with open_cluster(kafka_server.address) as cluster:
        cluster.client_settings = CLIENTS["kip848"]
        yield cluster


async def offset(cluster: KafkaCluster, topic: str, partition: Partition) -> int:
    """Return what the group `g` has committed; -1 for nothing."""
    mark = await cluster.committed("g", topic, partition=partition.number)
    return -1 if mark is None else mark.offset


async def test_a_shard_that_stays_goes_on_while_another_moves_with_its_failing_work(cluster: KafkaCluster) -> None:
    """The member's epoch rises, and what was taken before is still settled; nothing of it comes again."""
    topic = await cluster.create_topic(partitions=PARTITIONS)
    shards = [f"{topic}-{number}" for number in range(PARTITIONS)]
    for number in range(PARTITIONS):
        await cluster.send(topic, [b"0", b"1", b"2", b"3"], partition=number)
    async with reading(cluster.source(topic, "g")) as first:
        await first.until(lambda: all(len(first.bodies(shard)) == 4 for shard in shards))
        for shard in shards:
            await first.settle(shard, 2, FAILING, is_urgent=True)
        epoch = first.taken[shards[0]].epoch
        async with reading(cluster.source(topic, "g")) as second:
            await second.until(lambda: any(len(second.bodies(shard)) == 2 for shard in shards))
            ((moved, taken),) = second.taken.items()
            (stays,) = set(shards) - {moved}
            assert (taken.checkpoint, taken.state) == (2, FAILING)
            assert taken.epoch > epoch
            assert first.history == [*((("taken", shard)) for shard in shards), ("revoked", moved)]
            assert first.taken[stays].epoch == epoch
            await first.settle(stays, 4, is_urgent=True)
            assert await offset(cluster, topic, Partition.of_shard(stays)) == 4
            await cluster.send(topic, [b"4"], partition=Partition.of_shard(stays).number)
            await first.until(lambda: len(first.bodies(stays)) == 5)
        assert first.bodies(stays) == [b"0", b"1", b"2", b"3", b"4"]
        await first.until(lambda: set(first.taken) == set(shards))
        assert first.taken[moved].epoch > taken.epoch
        assert first.taken[stays].epoch == epoch
        await first.settle(stays, 5, is_urgent=True)
        assert await offset(cluster, topic, Partition.of_shard(stays)) == 5


class Holder:
    """A member that notes what it has."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self.partitions: set[Partition] = set()
        self.generation = -1  #: in which the first ones came
        self.read_again: set[Partition] = set()  #: with the next that come

    async def join(self) -> None:
        await self.member.join(self._on_revoked, self._on_assigned)
        self.member.set_active(True)

    async def _on_revoked(self, partitions: Sequence[Partition]) -> None:
        self.partitions -= set(partitions)

    async def _on_assigned(self, partitions: Sequence[Partition]) -> None:
        for partition in (*partitions, *self.read_again):
            self.member.seek(partition, 0)
        self.partitions |= set(partitions)
        if self.generation < 0:
            self.generation = self.member.generation

    async def read(self, partition: Partition, count: int) -> list[bytes | None]:
        """Return so many records of a partition."""
        found: list[bytes | None] = []
        with anyio.fail_after(HAPPENS_WITHIN_S):
            while len(found) < count:
                polled = await self.member.poll([partition], 0.05, count_max=count - len(found))
                found += [record.body for record in polled.get(partition, ())]
        return found

    async def has(self, count: int) -> None:
        with anyio.fail_after(HAPPENS_WITHIN_S):
            while len(self.partitions) != count:
                await self.member.poll((), 0.05, count_max=1)


async def test_what_was_given_away_is_not_committed_and_what_stayed_is(cluster: KafkaCluster) -> None:
    """Both were taken in the same epoch: that is no proof any more, and what the member gave up counts."""
    topic = await cluster.create_topic(partitions=PARTITIONS)
    first, second = (Holder(make_member(cluster.request(topic, "g"))) for _ in range(2))
    try:
        await first.join()
        await first.has(PARTITIONS)
        both = set(first.partitions)
        await second.join()
        await second.has(1)
        await first.has(1)
        ((stays,), (moved,)) = first.partitions, second.partitions
        assert {stays, moved} == both
        with pytest.raises(Fenced):
            await first.member.commit(first.generation, {moved: Mark(5, "")})
        await first.member.commit(first.generation, {moved: Mark(5, ""), stays: Mark(7, "")})
        assert [await offset(cluster, topic, each) for each in (moved, stays)] == [-1, 7]
        with pytest.raises(Fenced):
            await first.member.commit(first.generation - 1, {stays: Mark(9, "")})
        await second.member.commit(second.generation, {moved: Mark(3, "")})
        assert [await offset(cluster, topic, each) for each in (moved, stays)] == [3, 7]
    finally:
        for each in (first, second):
            await each.member.leave()


async def test_a_shard_that_stays_can_be_moved_while_another_comes(cluster: KafkaCluster) -> None:
    """What is asked for while partitions are being taken is not forgotten, nor done to those that come."""
    topic = await cluster.create_topic(partitions=PARTITIONS)
    for number in range(PARTITIONS):
        await cluster.send(topic, [b"0", b"1"], partition=number)
    first, second = (Holder(make_member(cluster.request(topic, "g"))) for _ in range(2))
    try:
        await first.join()
        await first.has(PARTITIONS)
        await second.join()
        await second.has(1)
        await first.has(1)
        (stays,) = first.partitions
        assert await first.read(stays, 2) == [b"0", b"1"]
        first.read_again = {stays}
        await second.member.leave()
        await first.has(PARTITIONS)
        (other,) = first.partitions - {stays}
        assert await first.read(stays, 2) == [b"0", b"1"]
        assert await first.read(other, 2) == [b"0", b"1"]
    finally:
        for each in (first, second):
            await each.member.leave()


async def test_brokers_that_do_not_speak_it_are_told(
    kafka_server: KafkaServer | ComposedKafkaServer, tmp_path: Path
) -> None:
    """With what to write instead."""
    if isinstance(kafka_server, ComposedKafkaServer):
        pytest.skip("the broker in the container has one configuration")
    older = KafkaServer(find_jars(), tmp_path, settings={"group.coordinator.rebalance.protocols": "classic"})
    older.format()
    await anyio.to_thread.run_sync(older.start)
    try:
        async with open_cluster(older.address) as cluster:
            cluster.client_settings = CLIENTS["kip848"]
            topic = await cluster.create_topic()
            async with opened(cluster.source(topic, "g")) as reader:
                with anyio.fail_after(HAPPENS_WITHIN_S), pytest.raises(SourceUnavailable, match='write "classic"'):
                    await reader.run()
    finally:
        older.stop()

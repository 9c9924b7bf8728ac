"""Owners of shards on a real broker: rebalance, death, being thrown out, staying in."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from eventcore.delivery.ordering import EMPTY, Part, ShardState
from eventcore.errors import ShardLost, SourceUnavailable
from eventcore.ports.connectors import StartingPosition
from eventcore.ports.sources import StreamSource, TakenShard
from eventcore.testing.conformance.stream import HAPPENS_WITHIN_S, Reader, opened, reading
from eventcore_connectors.kafka.connector import make_member
from eventcore_connectors.kafka.membership import Fenced
from eventcore_connectors.kafka.shape import Partition
from eventcore_connectors.kafka.shards import Mark
from tests.servers import kafka_victim
from tests.servers.kafka_cluster import KafkaCluster, open_cluster

pytestmark = pytest.mark.any_client

ROOT = Path(__file__).parents[2]
FAILING = ShardState(parts=(Part(last=4, attempt=3, request_id="r"),))
PARTITIONS = 6
#: Of what a process of a test says.
LINE_BYTES_MAX = 100
#: The shortest that the configuration allows, milliseconds: tests wait for it.
MAX_POLL_INTERVAL_MS = 1000
#: Long enough that a member which does not count as alive is thrown out several times over, seconds.
LONGER_THAN_POLL_INTERVAL_S = 3.0


class Settler(Reader):
    """Settles what it receives, one receive late, so that a rebalance always finds records in hand."""

    def __init__(self, source: StreamSource, delivered: dict[str, list[tuple[int, int]]]) -> None:
        super().__init__(source)
        self.settles_on_revoke = True
        self._delivered = delivered

    async def receive(self, wait_s: float = 0.5) -> int:
        before = {shard: self.positions(shard)[-1] + 1 for shard in self.taken if self.records.get(shard)}
        for received in await self.source.receive(wait_s=wait_s):
            epoch = self.taken[received.shard].epoch
            self._delivered[received.shard] += [(epoch, record.position) for record in received.records]
            self.records.setdefault(received.shard, []).extend(received.records)
        for shard, checkpoint in before.items():
            if shard in self.taken:
                await self.settle(shard, checkpoint)
        self._notify()
        return 0


@pytest.mark.both_clients
async def test_owners_that_come_and_go_lose_nothing(kafka: KafkaCluster) -> None:
    """While records are sent, three owners join and leave: nothing is lost, and each owner goes on without a gap."""
    topic = await kafka.create_topic(partitions=PARTITIONS)
    delivered: dict[str, list[tuple[int, int]]] = defaultdict(list)
    ends: dict[str, int] = {}

    async def send() -> None:
        for number in range(60):
            for partition in range(PARTITIONS):
                (position,) = await kafka.send(topic, [b"%d" % number], partition=partition)
                ends[f"{topic}-{partition}"] = position + 1

    async def own(reader: Settler, stop: anyio.Event) -> None:
        async with opened(reader.source, reader), anyio.create_task_group() as tasks:
            tasks.start_soon(reader.run)
            await stop.wait()
            tasks.cancel_scope.cancel()

    readers = [Settler(kafka.source(topic, topic), delivered) for _ in range(3)]
    stops = [anyio.Event() for _ in readers]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(own, readers[0], stops[0])
        await readers[0].until(lambda: len(readers[0].taken) == PARTITIONS)
        tasks.start_soon(send)
        tasks.start_soon(own, readers[1], stops[1])
        await readers[1].until(lambda: len(readers[1].taken) == PARTITIONS // 2)
        tasks.start_soon(own, readers[2], stops[2])
        await readers[2].until(lambda: len(readers[2].taken) == PARTITIONS // 3)
        stops[0].set()
        await readers[1].until(lambda: len(readers[1].taken) == PARTITIONS // 2)
        with anyio.fail_after(HAPPENS_WITHIN_S):
            for partition in range(PARTITIONS):
                while (mark := await kafka.committed(topic, topic, partition=partition)) is None or mark.offset < 60:
                    await anyio.lowlevel.checkpoint()
        stops[1].set()
        stops[2].set()
    assert len(ends) == PARTITIONS
    for shard, end in ends.items():
        runs: dict[int, list[int]] = defaultdict(list)
        for epoch, position in delivered[shard]:
            runs[epoch].append(position)
        assert {position for run in runs.values() for position in run} == set(range(end))
        for run in runs.values():
            assert run == list(range(run[0], run[0] + len(run))), "an owner's records have a gap or a repeat"
        for (_, before), (_, after) in pairwise(sorted(runs.items())):
            assert after[0] <= before[-1] + 1, "a new owner began behind what was delivered"


class Refuser(Reader):
    """A listener that can't work on what it is given."""

    async def on_taken(self, shards: Sequence[TakenShard]) -> None:
        """Refuse it."""
        raise SourceUnavailable("keys are parked")


@pytest.mark.both_clients
async def test_a_shard_that_is_refused_is_told_and_not_kept_in_silence(kafka: KafkaCluster) -> None:
    """Clients note what their callbacks raise, and go on; or their thread ends."""
    topic = await kafka.create_topic()
    source = kafka.source(topic, topic)
    async with opened(source, Refuser(source)) as reader:
        with anyio.fail_after(HAPPENS_WITHIN_S), pytest.raises(SourceUnavailable, match="keys are parked"):
            await reader.run()


@pytest.mark.both_clients
@pytest.mark.classic_only
async def test_a_shard_that_comes_back_keeps_its_failing_work(kafka: KafkaCluster) -> None:
    """Whoever gets a shard in a rebalance goes on with its attempts; what was not settled comes again."""
    topic, shard = (topic := await kafka.create_topic()), f"{topic}-0"
    await kafka.send(topic, [b"0", b"1", b"2", b"3", b"4"])
    async with reading(kafka.source(topic, topic)) as first:
        await first.until(lambda: len(first.bodies(shard)) == 5)
        epoch = first.taken[shard].epoch
        await first.settle(shard, 2, FAILING, is_urgent=True)
        first.records.clear()
        async with reading(kafka.source(topic, topic)) as second:
            await first.until(lambda: ("revoked", shard) in first.history)
            owners: list[Reader] = []
            with anyio.fail_after(HAPPENS_WITHIN_S):
                while not owners:
                    owners = [reader for reader in (first, second) if len(reader.bodies(shard)) == 3]
                    await anyio.lowlevel.checkpoint()
            (owner,) = owners
            assert owner.taken[shard].epoch > epoch
            assert (owner.taken[shard].checkpoint, owner.taken[shard].state) == (2, FAILING)
            assert owner.bodies(shard) == [b"2", b"3", b"4"]
            first.records.clear()
        await first.until(lambda: shard in first.taken and len(first.bodies(shard)) == 3)
        assert (first.taken[shard].checkpoint, first.taken[shard].state) == (2, FAILING)


def victim_command(kafka: KafkaCluster, topic: str) -> list[str]:
    """Return what starts an owner of a topic's shards in a process of its own, in the group of that name."""
    return [sys.executable, "-m", kafka_victim.__name__, kafka.address, topic, topic, json.dumps(kafka.client_settings)]


async def test_a_killed_owner_leaves_its_shards_after_its_session(kafka: KafkaCluster) -> None:
    """SIGKILL: others own the shards after `session_timeout_ms`, with its checkpoint and its failing work."""
    topic, shard = (topic := await kafka.create_topic()), f"{topic}-0"
    await kafka.send(topic, [b"0", b"1", b"2", b"3", b"4"])
    async with await anyio.open_process(victim_command(kafka, topic), cwd=ROOT, stderr=None) as victim:
        assert victim.stdout is not None
        with anyio.fail_after(HAPPENS_WITHIN_S):
            assert (await victim.stdout.receive()).startswith(b"ready")
        victim.kill()
    async with reading(kafka.source(topic, topic)) as reader:
        await reader.until(lambda: len(reader.bodies(shard)) == 3)
        assert reader.taken[shard].checkpoint == kafka_victim.CHECKPOINT
        assert reader.taken[shard].state == kafka_victim.FAILING
        assert reader.bodies(shard) == [b"2", b"3", b"4"]


async def test_a_process_that_stood_still_writes_nothing(kafka: KafkaCluster) -> None:
    """Stopped past its session and let go on: its settle raises ShardLost, the newer owner's checkpoint stands."""
    topic, shard = (topic := await kafka.create_topic()), f"{topic}-0"
    await kafka.send(topic, [b"0", b"1", b"2", b"3", b"4"])
    async with await anyio.open_process(victim_command(kafka, topic), cwd=ROOT, stderr=None) as victim:
        assert victim.stdout is not None
        assert victim.stdin is not None
        said = BufferedByteReceiveStream(victim.stdout)
        with anyio.fail_after(HAPPENS_WITHIN_S):
            assert await said.receive_until(b"\n", LINE_BYTES_MAX) == b"ready"
        victim.send_signal(signal.SIGSTOP)
        async with reading(kafka.source(topic, topic)) as other:
            await other.until(lambda: len(other.bodies(shard)) == 3)
            await other.settle(shard, 4, is_urgent=True)
            await victim.stdin.send(b"settle\n")
            victim.send_signal(signal.SIGCONT)
            with anyio.fail_after(HAPPENS_WITHIN_S):
                assert await said.receive_until(b"\n", LINE_BYTES_MAX) == b"lost"
            mark = await kafka.committed(topic, topic)
            assert mark is not None
            assert (mark.offset, mark.metadata) == (4, "")
        victim.kill()


@pytest.mark.aiokafka_only
async def test_an_owner_whose_loop_stood_still_writes_nothing(kafka: KafkaCluster) -> None:
    """A loop that stands still sends no heartbeat, and is refused in the same way."""
    topic, shard = (topic := await kafka.create_topic()), f"{topic}-0"
    await kafka.send(topic, [b"0", b"1", b"2", b"3", b"4"])

    async def take_over() -> None:
        async with open_cluster(kafka.address) as cluster, reading(cluster.source(topic, topic)) as other:
            await other.until(lambda: len(other.bodies(shard)) == 5)
            await other.settle(shard, 4, is_urgent=True)

    async with opened(kafka.source(topic, topic, session_timeout_ms=1000)) as reader:
        await reader.receive_until(lambda: len(reader.bodies(shard)) == 5)
        done = False

        def elsewhere() -> None:
            nonlocal done
            anyio.run(take_over)
            done = True

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, elsewhere)
            await anyio.wait_all_tasks_blocked()
            give_up = time.monotonic() + HAPPENS_WITHIN_S
            while not done and time.monotonic() < give_up:
                # This loop stands still, as under a handler that never yields: no heartbeat is sent.
                time.sleep(0.01)  # noqa: ASYNC251
            with pytest.raises(ShardLost):
                await reader.settle(shard, 2, FAILING, is_urgent=True)
    mark = await kafka.committed(topic, topic)
    assert mark is not None
    # Settled to 4 by the newer owner; nothing is kept of the older one.
    assert (mark.offset, mark.metadata) == (4, "")


async def test_a_commit_of_another_generation_is_refused(kafka: KafkaCluster) -> None:
    """A commit carries the generation in which its partitions were taken, and no other one is written."""
    topic = await kafka.create_topic()
    joined = anyio.Event()

    async def on_revoked(partitions: Sequence[Partition]) -> None:
        pass

    async def on_assigned(partitions: Sequence[Partition]) -> None:
        member.seek(partitions[0], 0)
        joined.set()

    member = make_member(kafka.request(topic, topic))
    await member.join(on_revoked, on_assigned)
    with anyio.fail_after(HAPPENS_WITHIN_S):
        await joined.wait()
        with pytest.raises(Fenced):
            await member.commit(member.generation - 1, {Partition(topic, 0): Mark(5, "")})
        assert await kafka.committed(topic, topic) is None
        await member.commit(member.generation, {Partition(topic, 0): Mark(7, "")})
        await member.leave()
    mark = await kafka.committed(topic, topic)
    assert mark is not None
    assert mark.offset == 7


async def test_a_receive_that_waits_is_life(kafka: KafkaCluster) -> None:
    """Every shard paused for longer than `max_poll_interval_ms`, as while a batch backs off: no rebalance."""
    topic, shard = (topic := await kafka.create_topic()), f"{topic}-0"
    await kafka.send(topic, [b"0"])
    async with opened(kafka.source(topic, topic, max_poll_interval_ms=MAX_POLL_INTERVAL_MS)) as reader:
        await reader.receive_until(lambda: shard in reader.taken)
        reader.source.pause(shard)
        await receive_for(reader, LONGER_THAN_POLL_INTERVAL_S)
        reader.source.resume(shard)
        await reader.receive_until(lambda: bool(reader.bodies(shard)))
        await reader.settle(shard, 1, is_urgent=True)
        assert reader.history == [("taken", shard)]


async def receive_for(reader: Reader, duration_s: float) -> None:
    """Keep a receive pending, cut off now and then as by an engine that has other things to do."""
    until = anyio.current_time() + duration_s
    while anyio.current_time() < until:
        with anyio.move_on_after(0.3):
            await reader.receive(wait_s=5.0)


async def test_a_record_in_hand_is_life(kafka: KafkaCluster) -> None:
    """A drain: nobody receives while the last batch runs for longer than `max_poll_interval_ms`; it can be settled."""
    topic, shard = (topic := await kafka.create_topic()), f"{topic}-0"
    await kafka.send(topic, [b"0"])
    async with opened(kafka.source(topic, topic, max_poll_interval_ms=MAX_POLL_INTERVAL_MS)) as reader:
        await reader.receive_until(lambda: bool(reader.bodies(shard)))
        await anyio.sleep(LONGER_THAN_POLL_INTERVAL_S)
        await reader.settle(shard, 1, is_urgent=True)
        assert reader.history == [("taken", shard)]


@pytest.mark.both_clients
async def test_an_owner_that_asks_for_nothing_is_thrown_out(kafka: KafkaCluster) -> None:
    """No receive and nothing in hand for `max_poll_interval_ms`: the shards are for others, and come back on return."""
    topic, shard = (topic := await kafka.create_topic()), f"{topic}-0"
    async with opened(kafka.source(topic, topic, max_poll_interval_ms=MAX_POLL_INTERVAL_MS)) as reader:
        await reader.receive_until(lambda: shard in reader.taken)
        epoch = reader.taken[shard].epoch
        await reader.until(lambda: shard not in reader.taken)
        assert reader.history == [("taken", shard), ("lost", shard)]
        with pytest.raises(ShardLost):
            await reader.source.settle(shard, epoch, 0, EMPTY, is_urgent=True)
        await reader.receive_until(lambda: shard in reader.taken)
        assert reader.taken[shard].epoch > epoch


async def test_members_are_known_by_their_client_id(kafka: KafkaCluster) -> None:
    """`client_id` is what an operator of the cluster sees."""
    topic, shard = (topic := await kafka.create_topic()), f"{topic}-0"
    async with reading(kafka.source(topic, "seen", client_id="orders-engine")) as reader:
        await reader.until(lambda: shard in reader.taken)
        assert [client for _, client in await kafka.members("seen")] == ["orders-engine"]
    assert await kafka.members("seen") == [], "closing leaves the group"


async def test_latest_begins_with_the_first_record_of_an_added_partition(kafka: KafkaCluster) -> None:
    """Whatever it got before the next look for metadata is new as well."""
    topic, latest = await kafka.create_topic(), StartingPosition("LATEST")
    await kafka.send(topic, [b"old"])
    source = kafka.source(topic, f"{topic}-g", starting_position=latest, metadata_max_age_ms=1_000)
    async with reading(source) as reader:
        await reader.until(lambda: f"{topic}-0" in reader.taken)
        await kafka.add_partitions(topic, 2)
        await kafka.send(topic, [b"new"], partition=1)
        await reader.until(lambda: reader.bodies(f"{topic}-1") == [b"new"])
        assert reader.bodies(f"{topic}-0") == []


async def test_a_partition_that_is_added_is_read(kafka: KafkaCluster) -> None:
    """Found at the next look for metadata; the others go on where they were, and nothing comes twice."""
    topic = await kafka.create_topic()
    async with reading(kafka.source(topic, f"{topic}-g", metadata_max_age_ms=200)) as reader:
        await kafka.send(topic, [b"0"])
        await reader.until(lambda: reader.bodies(f"{topic}-0") == [b"0"])
        await reader.settle(f"{topic}-0", 1, is_urgent=True)
        await kafka.add_partitions(topic, 2)
        await reader.until(lambda: f"{topic}-1" in reader.taken)
        await kafka.send(topic, [b"1"])
        await kafka.send(topic, [b"new"], partition=1)
        await reader.until(lambda: len(reader.bodies(f"{topic}-0")) == 2 and bool(reader.bodies(f"{topic}-1")))
        assert reader.bodies(f"{topic}-0") == [b"0", b"1"]
        assert reader.bodies(f"{topic}-1") == [b"new"]

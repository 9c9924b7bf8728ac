"""Transactions on a real broker: which offset goes with which results, and what else is committed beside."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition, errors
from aiokafka.protocol.commit import OffsetCommitRequest
from aiokafka.protocol.group import HeartbeatRequest

from eventcore.delivery.ordering import EMPTY, Part, ShardState, decode_state
from eventcore.errors import ShardLost, SourceUnavailable
from eventcore.model import OutgoingRecord
from eventcore.ports.sources import ResultRecord, StreamSource
from eventcore.testing.conformance.stream import HAPPENS_WITHIN_S, Reader, opened, reading
from eventcore_connectors.kafka import client, connector
from eventcore_connectors.kafka.membership import Unreachable
from eventcore_connectors.kafka.result_writer import ResultWriter, WriterFenced
from eventcore_connectors.kafka.shards import Mark
from tests.servers.held_ends import HeldEnds
from tests.servers.held_requests import HeldRequests
from tests.servers.kafka_cluster import KafkaCluster

pytestmark = pytest.mark.any_client

#: Ending a transaction may take twice as long.
HALF_AN_END_S = 5.0
FAILING = ShardState(parts=(Part(last=3, attempt=2, first_failure_ms=1_700_000_000_000, request_id="r"),))


async def create_exchange(kafka: KafkaCluster, *, partitions: int = 1) -> tuple[str, str]:
    """Return a topic with four records a partition, and one for results."""
    topic, results = await kafka.create_topic(partitions=partitions), await kafka.create_topic("results")
    for partition in range(partitions):
        await kafka.send(topic, [b"0", b"1", b"2", b"3"], partition=partition)
    return topic, results


def make_source(kafka: KafkaCluster, topic: str, results: str, **settings: Any) -> StreamSource:
    """Return what reads the one and writes the other exactly once."""
    request = kafka.request(topic, topic, **settings)
    request = msgspec.structs.replace(request, topics_written=(results,), is_exactly_once=True)
    return connector.open_stream(request)


async def committed(kafka: KafkaCluster, topic: str, partition: int = 0) -> int:
    """Return the group's offset; 0 where nothing but the start was ever written."""
    mark = await kafka.committed(topic, topic, partition=partition)
    return mark.offset if mark is not None else 0


async def until_committed(kafka: KafkaCluster, topic: str, offset: int, partition: int = 0) -> None:
    """Wait until the broker tells an offset: that of a transaction some time after it has ended."""
    with anyio.fail_after(HAPPENS_WITHIN_S):
        while await committed(kafka, topic, partition) != offset:
            await anyio.lowlevel.checkpoint()


async def produce(reader: Reader, shard: str, results: str, body: bytes) -> None:
    """Send one result on, in the shard's transaction."""
    result = ResultRecord(topic=results, record=OutgoingRecord(body=body))
    await reader.source.produce(shard, reader.taken[shard].epoch, [result])  # type: ignore[attr-defined]


async def test_what_is_settled_while_a_transaction_ends_is_kept(
    kafka: KafkaCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed attempt that comes while the broker still commits what was before it is durable on return."""
    topic, results = await create_exchange(kafka)
    shard = f"{topic}-0"
    held = HeldEnds(monkeypatch)
    async with reading(make_source(kafka, topic, results)) as reader:
        await reader.until(lambda: len(reader.bodies(shard)) == 4)
        await produce(reader, shard, results, b"0")
        await reader.settle(shard, 1)
        await held.until_held()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: reader.settle(shard, 2, FAILING, is_urgent=True))
            await anyio.wait_all_tasks_blocked()
            held.let_go.set()
        mark = await kafka.committed(topic, topic)
        assert mark is not None
        assert (mark.offset, decode_state(mark.metadata)) == (2, FAILING)


@pytest.mark.aiokafka_only
async def test_no_transaction_overtakes_a_commit_that_is_on_its_way(
    kafka: KafkaCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain commit, of what had no results, would else arrive behind the transaction's and take its offset back."""
    topic, results = await create_exchange(kafka)
    shard, overtaken = f"{topic}-0", list[bool]()
    send_offsets = AIOKafkaProducer.send_offsets_to_transaction

    async def note(self: AIOKafkaProducer, *arguments: Any) -> None:
        overtaken.append(held.is_holding)
        await send_offsets(self, *arguments)

    async with reading(make_source(kafka, topic, results)) as reader:
        await reader.until(lambda: len(reader.bodies(shard)) == 4)
        held = HeldRequests(monkeypatch, OffsetCommitRequest)
        monkeypatch.setattr(AIOKafkaProducer, "send_offsets_to_transaction", note)
        await reader.settle(shard, 1)
        with anyio.fail_after(HAPPENS_WITHIN_S):
            while not held.is_holding:
                await anyio.lowlevel.checkpoint()
            await produce(reader, shard, results, b"1")
            await reader.settle(shard, 2)
            while not (overtaken or held.over):
                await anyio.lowlevel.checkpoint()
            held.let_go.set()
        await until_committed(kafka, topic, 2)
    assert overtaken == [False]


async def test_results_that_are_dropped_while_a_transaction_ends_are_told(
    kafka: KafkaCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A producer that is closed cancels what it still sends: the mapping says so, and no commit passes it."""
    topic, results = await create_exchange(kafka)
    shard, dropped = f"{topic}-0", list[Any]()

    async def send_never(self: AIOKafkaProducer, *_: Any, **__: Any) -> Any:
        dropped.append(self._loop.create_future())
        return dropped[-1]

    monkeypatch.setattr(AIOKafkaProducer, "send_batch", send_never)
    async with opened(make_source(kafka, topic, results)) as reader:
        await reader.receive_until(lambda: len(reader.bodies(shard)) == 4)
        await produce(reader, shard, results, b"0")
        await reader.settle(shard, 1)
        await anyio.wait_all_tasks_blocked()
        dropped[0].cancel()
        with anyio.fail_after(HAPPENS_WITHIN_S), pytest.raises(SourceUnavailable, match=results):
            await reader.run()
        assert await committed(kafka, topic) == 0


async def test_a_mark_that_is_taken_back_leaves_the_transaction_its_offset(kafka: KafkaCluster) -> None:
    """A worker that is cancelled before its settle is over takes back the mark of its batch, which stands before it."""
    topic, results = await create_exchange(kafka)
    shard = f"{topic}-0"
    async with opened(make_source(kafka, topic, results)) as reader:
        await reader.receive_until(lambda: len(reader.bodies(shard)) == 4)
        await produce(reader, shard, results, b"0-3")
        await reader.settle(shard, 4)
        await reader.settle(shard, 0, is_urgent=True)
    await until_committed(kafka, topic, 4)
    assert await kafka.visible(results) == [b"0-3"]


async def test_half_a_batch_of_results_is_never_committed(kafka: KafkaCluster) -> None:
    """A worker that is cancelled amid its results: they are undone, whatever is settled then, and come once more."""
    topic, results = await create_exchange(kafka)
    shard = f"{topic}-0"
    async with opened(make_source(kafka, topic, results)) as reader:
        await reader.receive_until(lambda: len(reader.bodies(shard)) == 4)
        await produce(reader, shard, results, b"0-1")
        await reader.settle(shard, 2)
        await produce(reader, shard, results, b"half of 2-3")
        await reader.settle(shard, 2, is_urgent=True)
    assert (await committed(kafka, topic), await kafka.visible(results)) == (0, [])
    async with opened(make_source(kafka, topic, results)) as reader:
        await reader.receive_until(lambda: len(reader.bodies(shard)) == 4)
        await produce(reader, shard, results, b"0-3")
        await reader.settle(shard, 4, is_urgent=True)
    await until_committed(kafka, topic, 4)
    assert await kafka.visible(results) == [b"0-3"]


async def test_half_a_batch_of_results_goes_nowhere_with_a_move(kafka: KafkaCluster) -> None:
    """Moved by hand while results are written: what they belong to is undone, and the shard is taken anew."""
    topic, results = await create_exchange(kafka)
    shard = f"{topic}-0"
    async with opened(make_source(kafka, topic, results)) as reader:
        await reader.receive_until(lambda: len(reader.bodies(shard)) == 4)
        await produce(reader, shard, results, b"half")
        with pytest.raises(ShardLost):
            await reader.source.seek(shard, 3, EMPTY)
        assert reader.history == [("taken", shard), ("lost", shard)]
    assert (await committed(kafka, topic), await kafka.visible(results)) == (0, [])


async def test_no_shard_waits_for_the_transaction_of_another(
    kafka: KafkaCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither with a transaction of its own, nor with a plain commit."""
    topic, results = await create_exchange(kafka, partitions=3)
    first, second, third = (f"{topic}-{partition}" for partition in range(3))
    held = HeldEnds(monkeypatch, count_max=1)
    async with reading(make_source(kafka, topic, results)) as reader:
        await reader.until(lambda: all(len(reader.bodies(shard)) == 4 for shard in (first, second, third)))
        await produce(reader, first, results, b"0")
        await reader.settle(first, 1)
        await held.until_held()
        await produce(reader, second, results, b"0")
        with anyio.fail_after(HALF_AN_END_S):
            await reader.settle(second, 1, is_urgent=True)
            await reader.settle(third, 2, FAILING, is_urgent=True)
        await until_committed(kafka, topic, 1, partition=1)
        assert (await committed(kafka, topic), await committed(kafka, topic, partition=2)) == (0, 2)
        held.let_go.set()
        await until_committed(kafka, topic, 1)


@pytest.mark.parametrize("is_alone", [True, False])
async def test_a_transaction_whose_writer_is_closed_ends_at_once(
    kafka: KafkaCluster, monkeypatch: pytest.MonkeyPatch, *, is_alone: bool
) -> None:
    """As when its shard is lost: a producer that is stopped answers nobody, and would be waited for in vain."""
    is_ending, may_end = anyio.Event(), anyio.Event()

    async def commit_never(self: AIOKafkaProducer) -> None:
        is_ending.set()
        await anyio.sleep_forever()

    @asynccontextmanager
    async def not_alone_yet() -> AsyncIterator[None]:
        is_ending.set()
        await may_end.wait()
        yield

    monkeypatch.setattr(AIOKafkaProducer, "commit_transaction", commit_never)
    topic, results = await create_exchange(kafka)
    writer = ResultWriter(kafka.config(), [results], now_ms=lambda: 0, transactional_id=topic)
    await writer.open()
    await writer.write("any", [ResultRecord(topic=results, record=OutgoingRecord(body=b"0"))])
    assert await writer.settle(Mark(1, ""), 0)

    async def commit() -> None:
        alone = nullcontext() if is_alone else not_alone_yet()
        with pytest.raises(Unreachable):
            await writer.commit(topic, TopicPartition(topic, 0), alone)

    with anyio.fail_after(HALF_AN_END_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(commit)
            await is_ending.wait()
            await writer.close()
            may_end.set()
    assert not writer.is_open


async def test_whoever_waits_for_a_transaction_that_fails_hears_that_the_shard_is_lost(
    kafka: KafkaCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not that a producer is in no transaction, which is nobody's business and would be taken for a defect."""
    topic, results = await create_exchange(kafka)
    shard = f"{topic}-0"
    held = HeldEnds(monkeypatch)
    commit = AIOKafkaProducer.commit_transaction

    async def commit_and_say_otherwise(self: AIOKafkaProducer) -> None:
        await commit(self)
        raise errors.KafkaTimeoutError("the answer was lost")

    monkeypatch.setattr(AIOKafkaProducer, "commit_transaction", commit_and_say_otherwise)
    async with opened(make_source(kafka, topic, results)) as reader:
        await reader.receive_until(lambda: len(reader.bodies(shard)) == 4)
        await produce(reader, shard, results, b"0")
        await reader.settle(shard, 1)
        await held.until_held()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_produce_in_vain, reader, shard, results)
            await anyio.wait_all_tasks_blocked()
            held.let_go.set()
        with anyio.fail_after(HAPPENS_WITHIN_S):
            while reader.history != [("taken", shard), ("lost", shard)]:
                await anyio.lowlevel.checkpoint()


async def _produce_in_vain(reader: Reader, shard: str, results: str) -> None:
    with pytest.raises(ShardLost):
        await produce(reader, shard, results, b"1")


@pytest.mark.aiokafka_only
async def test_no_transaction_ends_before_what_was_given_up_has_arrived(
    kafka: KafkaCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain commit that was given up may still be on its way: an answer to one behind it tells that it is not."""
    topic, results = await create_exchange(kafka)
    shard, is_first_through = f"{topic}-0", list[bool]()
    send_offsets = AIOKafkaProducer.send_offsets_to_transaction

    async def note(self: AIOKafkaProducer, *arguments: Any) -> None:
        is_first_through.append(held.let_go.is_set())
        await send_offsets(self, *arguments)

    async with reading(make_source(kafka, topic, results)) as reader:
        await reader.until(lambda: len(reader.bodies(shard)) == 4)
        held = HeldRequests(monkeypatch, OffsetCommitRequest)
        monkeypatch.setattr(AIOKafkaProducer, "send_offsets_to_transaction", note)
        await reader.settle(shard, 1)
        with anyio.fail_after(HAPPENS_WITHIN_S):
            while held.over == 0:
                await anyio.lowlevel.checkpoint()
            await produce(reader, shard, results, b"1")
            await reader.settle(shard, 2)
            began = held.began
            while held.began == began:
                await anyio.lowlevel.checkpoint()
        await held.send_first()
        held.let_go.set()
        await until_committed(kafka, topic, 2)
    assert is_first_through == [True]
    assert await committed(kafka, topic) == 2


@pytest.mark.aiokafka_only
async def test_a_transaction_that_can_not_be_ended_for_long_is_told(
    kafka: KafkaCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In silence, it would grow until the broker aborts it, and the shard be worked on by nobody then."""
    topic, results = await create_exchange(kafka)
    shard = f"{topic}-0"
    async with opened(make_source(kafka, topic, results)) as reader:
        await reader.receive_until(lambda: len(reader.bodies(shard)) == 4)
        held = HeldRequests(monkeypatch, OffsetCommitRequest)
        await reader.settle(shard, 1)
        with anyio.fail_after(HAPPENS_WITHIN_S):
            while held.over == 0:
                await anyio.lowlevel.checkpoint()
        await produce(reader, shard, results, b"1")
        await reader.settle(shard, 2)
        with anyio.fail_after(HAPPENS_WITHIN_S), pytest.raises(SourceUnavailable, match="progress can't be written"):
            await reader.run()
        held.let_go.set()
    assert await kafka.visible(results) == []


@asynccontextmanager
async def another_writer(kafka: KafkaCluster, shard: str, group: str, results: str) -> AsyncIterator[None]:
    """Take a shard's transactional id, as its next owner does, and end what was open."""
    writer = ResultWriter(kafka.config(), [results], now_ms=lambda: 0, transactional_id=f"{group}/{shard}")
    await writer.open()
    try:
        yield
    finally:
        await writer.close()


class SettlesWhenRevoked(Reader):
    """Settles what it can when its shards are given up, as an engine does."""

    async def on_revoked(self, shards: Sequence[str], *, why: str = "") -> None:
        """Settle the first record of each, and let them go."""
        for shard in shards:
            with suppress(ShardLost):
                await self.settle(shard, 1)
        await super().on_revoked(shards, why=why)


@pytest.mark.parametrize("is_fenced", [True, False])
async def test_a_transaction_that_fails_while_its_shard_is_given_up_stops_nothing_else(
    kafka: KafkaCluster, monkeypatch: pytest.MonkeyPatch, *, is_fenced: bool
) -> None:
    """Its mapping goes on as a member: whoever gets the shard next begins at what the broker has."""

    async def end_never(_: AIOKafkaProducer) -> None:
        raise errors.KafkaTimeoutError("no answer")

    topic, results = await create_exchange(kafka, partitions=2)
    shards = [f"{topic}-0", f"{topic}-1"]
    source = make_source(kafka, topic, results)
    async with opened(source, SettlesWhenRevoked(source)) as reader:
        await reader.receive_until(lambda: all(len(reader.bodies(shard)) == 4 for shard in shards))
        for shard in shards:
            await produce(reader, shard, results, b"0")
            if is_fenced:
                async with another_writer(kafka, shard, topic, results):
                    pass
        if not is_fenced:
            monkeypatch.setattr(AIOKafkaProducer, "commit_transaction", end_never)
        async with reading(make_source(kafka, topic, results)) as other:
            await reader.receive_until(lambda: any(how == "revoked" for how, _ in reader.history))
            await reader.receive_until(lambda: {*reader.taken, *other.taken} == set(shards))
    assert (await committed(kafka, topic), await committed(kafka, topic, partition=1)) == (0, 0)
    assert await kafka.visible(results) == []


@pytest.mark.aiokafka_only
async def test_a_member_that_was_fenced_off_hears_from_its_group_that_it_is_over(
    kafka: KafkaCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thrown out, and told so by the next owner's writer first: it joins again, and its mapping does not fail."""
    topic, results = await create_exchange(kafka)
    shard = f"{topic}-0"
    async with opened(make_source(kafka, topic, results, heartbeat_interval_ms=3000)) as reader:
        await reader.receive_until(lambda: len(reader.bodies(shard)) == 4)
        # Nothing is left to commit, which would be told as well.
        await reader.settle(shard, 0, is_urgent=True)
        await produce(reader, shard, results, b"0")
        heartbeats = HeldRequests(monkeypatch, HeartbeatRequest)
        await kafka.throw_out(topic)
        async with reading(make_source(kafka, topic, results)) as other, anyio.create_task_group() as tasks:
            await other.until(lambda: len(other.bodies(shard)) == 4)
            tasks.start_soon(reader.run)
            with anyio.fail_after(HAPPENS_WITHIN_S), suppress(ShardLost):
                await reader.settle(shard, 1, is_urgent=True)
            assert reader.history == [("taken", shard), ("lost", shard)]
            heartbeats.let_go.set()
            with anyio.fail_after(HAPPENS_WITHIN_S):
                while len(await kafka.members(topic)) < 2:
                    await anyio.lowlevel.checkpoint()
            taken = ("taken", shard)
            await reader.until(lambda: (reader.history + other.history).count(taken) >= 3)
            tasks.cancel_scope.cancel()
    assert (await committed(kafka, topic), await kafka.visible(results)) == (0, [])


async def test_a_shard_that_was_fenced_off_and_has_no_other_owner_is_told(kafka: KafkaCluster) -> None:
    """By a stranger's writer: the group gives it to nobody else, and it would be worked on by nobody."""
    topic, results = await create_exchange(kafka)
    shard = f"{topic}-0"
    async with opened(make_source(kafka, topic, results)) as reader:
        await reader.receive_until(lambda: len(reader.bodies(shard)) == 4)
        await produce(reader, shard, results, b"0")
        async with another_writer(kafka, shard, topic, results):
            with suppress(ShardLost):
                await reader.settle(shard, 1)
            with anyio.fail_after(HAPPENS_WITHIN_S), pytest.raises(SourceUnavailable, match="ended by others"):
                await reader.run()
        assert reader.history == [("taken", shard), ("lost", shard)]


async def test_a_writer_that_is_fenced_off_leaves_no_error_behind_that_nobody_takes(kafka: KafkaCluster) -> None:
    """Its client keeps one for whoever waits for the end of the transaction; asyncio would show it to people."""
    topic, results = await create_exchange(kafka)
    shown: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: shown.append(context))
    writer = ResultWriter(kafka.config(), [results], now_ms=lambda: 0, transactional_id=f"{topic}/any")
    await writer.open()
    await writer.write("any", [ResultRecord(topic=results, record=OutgoingRecord(body=b"0"))])
    assert await writer.settle(Mark(1, ""), 0)
    async with another_writer(kafka, "any", topic, results):
        with pytest.raises(WriterFenced):
            await writer.commit(topic, TopicPartition(topic, 0), nullcontext())
    await writer.close()
    del writer
    gc.collect()
    assert shown == []


@pytest.mark.aiokafka_only
async def test_a_shard_that_is_lost_is_told_before_it_is_taken_again(
    kafka: KafkaCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its writer's client may take seconds to stop; a loss that is told then would end who works on the shard anew."""
    topic, results = await create_exchange(kafka)
    shard = f"{topic}-0"
    is_stopping, may_stop = anyio.Event(), anyio.Event()
    stop = AIOKafkaProducer.stop

    async def stop_late(self: AIOKafkaProducer) -> None:
        is_stopping.set()
        await may_stop.wait()
        await stop(self)

    async with opened(make_source(kafka, topic, results, heartbeat_interval_ms=3000)) as reader:
        await reader.receive_until(lambda: len(reader.bodies(shard)) == 4)
        # Nothing is left to commit, which would be told as well.
        await reader.settle(shard, 0, is_urgent=True)
        await produce(reader, shard, results, b"0")
        heartbeats = HeldRequests(monkeypatch, HeartbeatRequest)
        await kafka.throw_out(topic)
        async with another_writer(kafka, shard, topic, results):
            pass
        monkeypatch.setattr(AIOKafkaProducer, "stop", stop_late)
        monkeypatch.setattr(client, "STOP_TIMEOUT_S", HAPPENS_WITHIN_S)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_settle_in_vain, reader, shard)
            with anyio.fail_after(HAPPENS_WITHIN_S):
                await is_stopping.wait()
            heartbeats.let_go.set()
            await reader.receive_until(lambda: reader.history.count(("taken", shard)) == 2)
            may_stop.set()
        assert reader.history == [("taken", shard), ("lost", shard), ("taken", shard)]


async def _settle_in_vain(reader: Reader, shard: str) -> None:
    with pytest.raises(ShardLost):
        await reader.settle(shard, 1, is_urgent=True)


async def test_a_source_that_is_closed_amid_a_rebalance_leaves_no_writer_open(
    kafka: KafkaCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rebalance is just opening writers: closed before it is over, they would connect behind the close."""
    topic, results = await create_exchange(kafka)
    is_starting, may_start, has_started = anyio.Event(), anyio.Event(), anyio.Event()
    started: list[AIOKafkaProducer] = []
    start, stop = AIOKafkaProducer.start, AIOKafkaProducer.stop

    async def start_late(self: AIOKafkaProducer) -> None:
        is_starting.set()
        await may_start.wait()
        started.append(self)
        has_started.set()
        await start(self)

    async def note_stop(self: AIOKafkaProducer) -> None:
        await stop(self)
        if self in started:
            started.remove(self)

    monkeypatch.setattr(AIOKafkaProducer, "start", start_late)
    monkeypatch.setattr(AIOKafkaProducer, "stop", note_stop)
    source = make_source(kafka, topic, results)
    await source.open(Reader(source))
    with anyio.fail_after(HAPPENS_WITHIN_S):
        await is_starting.wait()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(source.aclose)
        await anyio.wait_all_tasks_blocked()
        may_start.set()
    assert has_started.is_set()
    assert started == []

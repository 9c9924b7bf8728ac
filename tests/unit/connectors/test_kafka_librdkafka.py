"""From librdkafka's messages to our records, and what is held of them between its thread and the loop."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from anyio.abc import TaskGroup
from confluent_kafka import (
    TIMESTAMP_CREATE_TIME,
    TIMESTAMP_LOG_APPEND_TIME,
    TIMESTAMP_NOT_AVAILABLE,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from eventcore.model import Record, TimestampKind
from eventcore.testing.conformance.stream import HAPPENS_WITHIN_S
from eventcore_connectors.kafka.librdkafka import pump as pump_module
from eventcore_connectors.kafka.librdkafka.balance import Balance
from eventcore_connectors.kafka.librdkafka.held import PARTITION_BYTES_MAX, PARTITION_COUNT_MAX, Held
from eventcore_connectors.kafka.librdkafka.messages import read_messages
from eventcore_connectors.kafka.librdkafka.pump import Pump
from eventcore_connectors.kafka.librdkafka.subscription import Subscription
from eventcore_connectors.kafka.librdkafka.topics import NamedTopics
from eventcore_connectors.kafka.shape import Partition

FIRST, SECOND = Partition("orders", 0), Partition("orders", 1)


def make_message(**changes: Any) -> Any:
    """Return a message as librdkafka gives it."""
    fields: dict[str, Any] = {
        "topic": "orders",
        "partition": 0,
        "offset": 7,
        "key": b"key",
        "value": b"body",
        "timestamp": (TIMESTAMP_CREATE_TIME, 1_700_000_000_000),
    }
    return Message(**{**fields, **changes})


def read_one(**changes: Any) -> Record:
    """Read one message."""
    found, events = read_messages("orders", [make_message(**changes)])
    ((record,),) = found.values()
    assert not events
    return record


def make_records(first: int, behind: int, size_bytes: int = 1) -> list[Record]:
    """Return records of these positions."""
    return [Record(position=position, body=b"x", size_bytes=size_bytes) for position in range(first, behind)]


def positions(held: Held, *partitions: Partition, count_max: int = 1_000_000) -> list[int]:
    """Take, and return the positions of what was taken."""
    return [record.position for records in held.take(partitions, count_max).values() for record in records]


# -- messages ----------------------------------------------------------------------------------------------------------


def test_a_record_keeps_what_the_message_has() -> None:
    """Position, bytes, time and who set it, headers; a header without a value is an empty one."""
    stamp = (TIMESTAMP_LOG_APPEND_TIME, 1_700_000_000_000)
    assert read_one(headers=[("a", b"1"), ("a", None)], timestamp=stamp) == Record(
        position=7,
        body=b"body",
        key=b"key",
        arrived_ms=1_700_000_000_000,
        headers=(("a", b"1"), ("a", b"")),
        size_bytes=4 + 3 + 2 * (1 + 8) + 4,
        timestamp_kind=TimestampKind.LOG_APPEND_TIME,
    )


@pytest.mark.parametrize(
    ("changes", "size_bytes"),
    [({}, 7), ({"key": None}, 4), ({"value": None}, 3), ({"value": None, "key": None}, 0), ({"value": b""}, 3)],
)
def test_a_message_counts_what_is_there(changes: dict[str, Any], size_bytes: int) -> None:
    """A missing key or value counts nothing, and stays missing."""
    record = read_one(**changes)
    wanted = {"key": b"key", "value": b"body"} | changes
    assert (record.key, record.body, record.size_bytes) == (wanted["key"], wanted["value"], size_bytes)


@pytest.mark.parametrize("stamp", [(TIMESTAMP_NOT_AVAILABLE, -1), (TIMESTAMP_CREATE_TIME, -1)])
def test_a_record_without_a_time_has_none(stamp: tuple[int, int]) -> None:
    """Neither the oldest format's nor one whose producer set none."""
    record = read_one(timestamp=stamp)
    assert (record.arrived_ms, record.timestamp_kind) == (0, TimestampKind.CREATE_TIME)


def test_messages_go_to_their_partitions_in_order_and_events_apart() -> None:
    """However they are mixed; an error is no record."""
    end = make_message(error=KafkaError(KafkaError._PARTITION_EOF), timestamp=(TIMESTAMP_NOT_AVAILABLE, -1))
    mixed = [(0, 1), (0, 2), (1, 5), (0, 3), (1, 6)]
    messages = [make_message(partition=partition, offset=offset) for partition, offset in mixed]
    found, events = read_messages("orders", [*messages[:2], end, *messages[2:]])
    assert {partition: [each.position for each in records] for partition, records in found.items()} == {
        FIRST: [1, 2, 3],
        SECOND: [5, 6],
    }
    assert events == [end]


# -- held --------------------------------------------------------------------------------------------------------------


def test_takes_of_any_size_get_each_record_once_and_in_order() -> None:
    """Rounds are cut and joined as takes ask for, and the position goes with them."""
    held = Held()
    held.begin(FIRST, 0)
    held.seeks()
    for first, behind in ((0, 10), (10, 12), (12, 30)):
        held.put(FIRST, make_records(first, behind))
    taken: list[int] = []
    for count in (3, 7, 1, 8, 11):
        taken += positions(held, FIRST, count_max=count)
        assert held.position(FIRST) == len(taken)
    assert taken == list(range(30))
    assert held.take([FIRST], 5) == {}


def test_a_take_is_bounded_over_all_partitions() -> None:
    """The first ones come first; those that are not asked for wait."""
    held = Held()
    for partition in (FIRST, SECOND):
        held.begin(partition, 0)
        held.seeks()
        held.put(partition, make_records(0, 10))
    taken = held.take([FIRST, SECOND], 15)
    assert {partition: len(records) for partition, records in taken.items()} == {FIRST: 10, SECOND: 5}
    assert positions(held, FIRST) == []
    assert positions(held, SECOND) == [5, 6, 7, 8, 9]


@pytest.mark.parametrize(("count", "size_bytes"), [(PARTITION_COUNT_MAX, 1), (2, PARTITION_BYTES_MAX // 2)])
def test_a_partition_is_full_by_count_or_by_bytes_until_it_is_taken(count: int, size_bytes: int) -> None:
    """Also when a part of a round was taken."""
    held = Held()
    held.begin(FIRST, 0)
    held.seeks()
    held.put(FIRST, make_records(0, count, size_bytes))
    assert held.full() == {FIRST}
    held.take([FIRST], 1)
    assert held.full() == set()
    held.put(FIRST, make_records(count, count + 1, size_bytes))
    assert held.full() == {FIRST}


def test_only_a_taker_that_found_nothing_is_woken() -> None:
    """And once."""
    held = Held()
    held.begin(FIRST, 0)
    held.seeks()
    assert not held.put(FIRST, make_records(0, 1))
    assert positions(held, FIRST) == [0]
    assert not held.put(FIRST, make_records(1, 2))
    assert positions(held, FIRST) == [1]
    assert positions(held, FIRST) == []
    assert not held.put(SECOND, make_records(0, 1))
    assert held.put(FIRST, make_records(2, 3))
    assert not held.put(FIRST, make_records(3, 4))


def test_a_seek_drops_what_was_read_and_what_is_still_being_read() -> None:
    """Until the reading thread has done it."""
    held = Held()
    held.begin(FIRST, 0)
    held.seeks()
    held.put(FIRST, make_records(0, 10))
    held.begin(FIRST, 5)
    assert held.position(FIRST) == 5
    held.put(FIRST, make_records(10, 20))
    assert positions(held, FIRST) == []
    assert held.seeks() == {FIRST: 5}
    held.put(FIRST, make_records(5, 7))
    assert positions(held, FIRST) == [5, 6]
    assert held.read_to([FIRST]) == {FIRST: 7}


# -- balance -----------------------------------------------------------------------------------------------------------


class Paused:
    """What librdkafka was told to pause, and not to resume since."""

    def __init__(self) -> None:
        self.partitions: set[Partition] = set()

    def pause(self, partitions: list[TopicPartition]) -> None:
        self.partitions |= {Partition(each.topic, each.partition) for each in partitions}

    def resume(self, partitions: list[TopicPartition]) -> None:
        self.partitions -= {Partition(each.topic, each.partition) for each in partitions}


class Reading:
    """A reading thread that is about to read: both partitions are assigned, and the first is full."""

    def __init__(self) -> None:
        self.held, self.kafka, self.now_s = Held(), Paused(), 100.0
        self.balance = Balance(self.held, lambda: self.now_s)
        for partition in (FIRST, SECOND):
            self.held.begin(partition, 0)
        self.held.seeks()
        self.held.put(FIRST, make_records(0, PARTITION_COUNT_MAX))

    def may_read(self, after_s: float = 0, *, is_called_back: bool = False) -> bool:
        self.now_s += after_s
        return self.balance.may_read(self.kafka, 0, is_called_back=is_called_back)


def test_reading_goes_on_when_all_that_is_held_was_taken_and_more_is_looked_for() -> None:
    """Not as soon as there is room; and nothing is paused."""
    reading = Reading()
    for _ in range(2):
        assert not reading.may_read()
        positions(reading.held, FIRST, SECOND)
        assert not reading.may_read()
        assert positions(reading.held, FIRST, SECOND) == []
        assert reading.may_read()
        reading.held.put(FIRST, make_records(0, PARTITION_COUNT_MAX))
    assert reading.kafka.partitions == set()


def test_a_full_partition_that_lets_others_starve_is_paused_until_half_of_it_was_taken() -> None:
    """And soon; once it is paused, it holds up nobody."""
    reading = Reading()
    assert positions(reading.held, SECOND) == []
    assert not reading.may_read()
    assert not reading.may_read(0.04)
    assert reading.may_read(0.02)
    assert reading.kafka.partitions == {FIRST}
    assert reading.may_read()
    positions(reading.held, FIRST, count_max=PARTITION_COUNT_MAX // 2)
    assert reading.may_read()
    assert reading.kafka.partitions == {FIRST}
    positions(reading.held, FIRST, count_max=1)
    assert reading.may_read()
    assert reading.kafka.partitions == set()


@pytest.mark.parametrize("wanted", [(), (FIRST, SECOND)])
def test_a_full_partition_is_left_alone_while_nobody_misses_anything(wanted: tuple[Partition, ...]) -> None:
    """Nobody asks, or whoever asks finds records; but callbacks of the client do not wait for that for ever."""
    reading = Reading()
    assert not reading.may_read()
    for _ in range(4):
        positions(reading.held, *wanted, count_max=1)
        if wanted:
            reading.held.put(FIRST, make_records(PARTITION_COUNT_MAX, PARTITION_COUNT_MAX + 1))
        assert not reading.may_read(0.1)
    assert reading.kafka.partitions == set()
    assert reading.may_read(0.15)
    assert reading.kafka.partitions == {FIRST}


def test_what_the_client_is_to_call_back_with_is_read_up_to() -> None:
    """As for a commit: whoever takes records may be waiting for it. Even that is bounded."""
    reading = Reading()
    assert not reading.may_read()
    assert reading.may_read(is_called_back=True)
    reading.held.put(FIRST, make_records(0, 2 * PARTITION_COUNT_MAX))
    assert not reading.may_read(is_called_back=True)
    assert reading.kafka.partitions == set()


def test_a_paused_partition_that_was_taken_is_resumed_while_a_callback_is_awaited() -> None:
    """Also while another one is full: a commit may go unanswered for as long as a session."""
    reading = Reading()
    positions(reading.held, SECOND)
    reading.may_read()
    assert reading.may_read(0.06)
    assert reading.kafka.partitions == {FIRST}
    reading.held.put(SECOND, make_records(0, PARTITION_COUNT_MAX))
    positions(reading.held, FIRST)
    assert reading.may_read(is_called_back=True)
    assert reading.kafka.partitions == set()


def test_a_pause_that_the_client_has_forgotten_is_told_anew() -> None:
    """After an assignment it reads everything."""
    reading = Reading()
    positions(reading.held, SECOND)
    reading.may_read()
    reading.may_read(0.06)
    reading.kafka.partitions.clear()
    reading.balance.forget([FIRST])
    assert not reading.may_read()
    reading.may_read(0.06)
    assert reading.kafka.partitions == {FIRST}


def make_pump() -> Pump:
    """Return what reads one topic, from a broker that is not there."""
    topics = NamedTopics("orders")
    subscription = Subscription(topics, max_poll_interval_s=300, look_every_s=300, now_s=lambda: 0.0)
    settings = {"bootstrap.servers": "127.0.0.1:1", "group.id": "g", "log_level": 0}
    return Pump(settings, subscription, lambda: None, is_incremental=False)


async def test_the_reading_thread_ends_in_silence_when_nobody_waits_for_it_any_more() -> None:
    """Leaving takes as long as a broker that is gone lets it, and is waited for only so long."""
    pump = make_pump()
    before = set(threading.enumerate())
    await pump.open()
    (thread,) = set(threading.enumerate()) - before
    with anyio.CancelScope() as scope:
        scope.cancel()
        await pump.stop()
    assert scope.cancelled_caught
    await anyio.to_thread.run_sync(thread.join)


class SlowKafka:
    """librdkafka's consumer, in its place: it answers each commit when the test says so, in their order."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._on_commit = settings["on_commit"]
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.unanswered = 0
        self._is_closing = False
        self.committed: list[int] = []

    def consumer_group_metadata(self) -> bytes:
        """Be in the first generation."""
        return b"CGMDv2:" + (1).to_bytes(4, sys.byteorder) + b"g"

    def commit(self, *, offsets: list[TopicPartition], asynchronous: bool) -> list[TopicPartition]:
        """Note what is sent."""
        assert not self._is_closing, "librdkafka aborts the process"
        self.committed += [each.offset for each in offsets]
        self.unanswered += asynchronous
        return offsets

    def list_topics(self, *_: Any, **__: Any) -> None:
        """Find no broker."""
        raise KafkaException(KafkaError(KafkaError._TRANSPORT))

    def subscribe(self, topics: list[str], **hooks: Any) -> None:
        """Be given the first partition at once."""
        self._hooks = hooks
        self.give()

    def assign(self, partitions: list[TopicPartition]) -> None:
        """Read nothing."""

    def unassign(self) -> None:
        """Read nothing."""

    def give(self) -> None:
        """Have the group give it the first partition."""
        self._calls.put(lambda: self._hooks["on_assign"](self, [TopicPartition(*FIRST)]))

    def revoke(self) -> None:
        """Have the group take the first partition away."""
        self._calls.put(lambda: self._hooks["on_revoke"](self, [TopicPartition(*FIRST)]))

    def answer(self, refused: KafkaError | None) -> None:
        """Have the broker answer the first commit that it has not answered."""
        self._calls.put(lambda: self._answer(refused))

    def _answer(self, refused: KafkaError | None) -> None:
        self.unanswered -= 1
        self._on_commit(refused, [])

    def poll(self, wait_s: float) -> None:
        """Read nothing, and call back."""
        with suppress(queue.Empty):
            self._calls.get(timeout=wait_s)()

    def consume(self, count: int, wait_s: float) -> list[Message]:
        """Read nothing."""
        return []

    def close(self) -> None:
        """Find no coordinator for what is not answered, and say so."""
        self._is_closing = True
        while self.unanswered:
            self._answer(KafkaError(KafkaError._WAIT_COORD))


class Commits:
    """Commits of the first partition, by offset; the pump has begun."""

    def __init__(self, pump: Pump, kafka: SlowKafka) -> None:
        self._pump, self.kafka = pump, kafka
        self.heard: dict[int, KafkaError | None] = {}

    async def commit(self, offset: int) -> None:
        """Commit, and note what is heard."""
        self.heard[offset] = await self._pump.commit(1, [TopicPartition(*FIRST, offset)])

    async def begin(self, offset: int, tasks: TaskGroup) -> None:
        """Commit in the background, and return when the thread has been told."""
        tasks.start_soon(self.commit, offset)
        await anyio.lowlevel.checkpoint()
        # Behind the commit.
        await self._pump.ask(lambda _: None)

    async def give_up(self, offset: int) -> None:
        """Commit, and wait for no answer."""
        async with anyio.create_task_group() as tasks:
            await self.begin(offset, tasks)
            tasks.cancel_scope.cancel()


@pytest.fixture
async def committing(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Pump, Commits]]:
    """The thread runs, with the first partition assigned."""
    monkeypatch.setattr(pump_module, "Consumer", SlowKafka)
    pump = make_pump()

    def assign(client: Any) -> SlowKafka:
        pump.assignment.begin(client, [FIRST])
        assert isinstance(client, SlowKafka)
        return client

    with anyio.fail_after(HAPPENS_WITHIN_S):
        await pump.open()
        kafka = await pump.ask(assign)
    yield pump, Commits(pump, kafka)
    with anyio.fail_after(HAPPENS_WITHIN_S):
        await pump.stop()


async def test_a_commit_waits_for_one_that_was_given_up(committing: tuple[Pump, Commits]) -> None:
    """librdkafka sends that one until there is a coordinator: behind what is sent before then, it would take it back.

    What is given up while it waits is never sent, and each has its own answer.
    """
    pump, commits = committing
    with anyio.fail_after(HAPPENS_WITHIN_S):
        await commits.give_up(5)
        await commits.give_up(6)
        async with anyio.create_task_group() as tasks:
            await commits.begin(7, tasks)
            assert commits.kafka.committed == [5]
            commits.kafka.answer(None)
            commits.kafka.answer(KafkaError(KafkaError.UNKNOWN_MEMBER_ID))
        await commits.give_up(8)
        await commits.give_up(9)
        commits.kafka.answer(None)
        while commits.kafka.unanswered:
            await pump.ask(lambda _: None)
        # Behind what it is called back with.
        await pump.ask(lambda _: None)
    assert commits.kafka.committed == [5, 7, 8]
    assert commits.heard == {7: KafkaError(KafkaError.UNKNOWN_MEMBER_ID)}


async def test_what_waits_for_a_commit_is_not_sent_while_the_client_closes(committing: tuple[Pump, Commits]) -> None:
    """librdkafka answers what it has then, and aborts the whole process when it is given another commit."""
    pump, commits = committing
    with anyio.fail_after(HAPPENS_WITHIN_S):
        await commits.give_up(5)
        async with anyio.create_task_group() as tasks:
            await commits.begin(7, tasks)
            await pump.stop()
        await commits.commit(8)
    assert commits.kafka.committed == [5]
    assert commits.heard == {7: KafkaError(KafkaError._DESTROY), 8: KafkaError(KafkaError._DESTROY)}


async def test_a_commit_that_a_rebalance_overtakes_is_heard_of_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is polled while partitions are given up, so that no answer would come: it is to be sent again at once.

    Behind the rebalance, librdkafka still has it: what is committed then waits for it.
    """
    monkeypatch.setattr(pump_module, "Consumer", SlowKafka)
    pump, is_assigned, is_over = make_pump(), anyio.Event(), anyio.Event()
    heard: list[KafkaError | None] = []
    await pump.open()
    kafka = await pump.ask(lambda client: client)
    assert isinstance(kafka, SlowKafka)

    async def on_assigned(partitions: Sequence[Partition]) -> None:
        is_assigned.set()

    async def on_revoked(partitions: Sequence[Partition]) -> None:
        while len(heard) < 2:
            await anyio.lowlevel.checkpoint()
        assert await pump.commit(1, [TopicPartition(*FIRST, 7)]) is None
        # A transaction that ends here would be taken back by it.
        assert pump.has_unanswered_commit(FIRST)
        assert not pump.has_unanswered_commit(SECOND)
        is_over.set()

    async def commit(offset: int) -> None:
        heard.append(await pump.commit(1, [TopicPartition(*FIRST, offset)]))

    pump.begin(on_revoked, on_assigned)
    with anyio.fail_after(HAPPENS_WITHIN_S):
        await is_assigned.wait()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(commit, 5)
            while not kafka.committed:
                await anyio.lowlevel.checkpoint()
            tasks.start_soon(commit, 6)
            await anyio.lowlevel.checkpoint()
            await pump.ask(lambda _: None)
            kafka.revoke()
        await is_over.wait()
        assert kafka.committed == [5, 7]
        is_assigned = anyio.Event()
        kafka.give()
        await is_assigned.wait()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(commit, 9)
            await anyio.lowlevel.checkpoint()
            await pump.ask(lambda _: None)
            assert kafka.committed == [5, 7]
            kafka.answer(None)
            kafka.answer(None)
        await pump.stop()
    assert kafka.committed == [5, 7, 9]
    assert heard == [KafkaError(KafkaError._IN_PROGRESS)] * 2 + [None]
    assert not pump.has_unanswered_commit(FIRST)

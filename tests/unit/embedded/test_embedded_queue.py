"""The embedded queue: what it adds to the store's queues. Virtual time, memory store.

Source: design §3 (hop 7), Lambda semantics §3.2.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from eventcore.clock import LoopClock
from eventcore.embedded.deletes import CARRIED_RECEIPTS_MAX
from eventcore.embedded.queue import COMMIT_SHIELD_S, DELETE_WAIT_S, RECEIVE_MAX, EmbeddedQueue
from eventcore.embedded.sending import send_messages
from eventcore.errors import CommandError, SourceClosed, SourceUnavailable, StoreCorrupt, StoreUnavailable
from eventcore.ids import SeededIds
from eventcore.model import Record
from eventcore.ports.connectors import OutgoingRecord
from eventcore.ports.store import BODY_BYTES_MAX, DefineQueue, Operation, QueueSettings
from eventcore.store.memory import MemoryStore
from eventcore.testing.virtual_loop import run_virtual

VISIBILITY_S = 30


class FaultyStore(MemoryStore):
    """A memory store that can fail, or never answer."""

    failure: Exception | None = None
    is_stuck = False
    answer: anyio.Event | None = None  #: what is written is told when this is set, as another thread may take its time

    async def commit(self, operations: Sequence[Operation]) -> list[Any]:
        if self.failure is not None:
            raise self.failure
        if self.is_stuck:
            await anyio.sleep_forever()
        results = await super().commit(operations)
        if self.answer is not None:
            await self.answer.wait()
        return results


class Case:
    """A queue, its store, and messages in it."""

    def __init__(self) -> None:
        self.store = FaultyStore()
        self.clock = LoopClock()
        self.ids = SeededIds(1)
        self.queue = EmbeddedQueue(
            "orders", store=self.store, clock=self.clock, region="us-east-1", account_id="000000000000"
        )

    async def define(self, **settings: Any) -> None:
        settings = {"visibility_timeout": VISIBILITY_S, **settings}
        await self.store.commit([DefineQueue(queue="orders", settings=QueueSettings(**settings))])

    async def send(self, count: int) -> list[str]:
        records = [OutgoingRecord(body=b"%d" % number) for number in range(count)]
        return await send_messages(self.store, "orders", records, clock=self.clock, ids=self.ids)

    async def received(self, count: int) -> Sequence[Record]:
        await self.send(count)
        return (await self.queue.receive(count, wait_s=0)).records

    @property
    def commits(self) -> int:
        return self.store.statistics().commits


def virtually(scenario: Callable[[Case], Awaitable[None]], *, seed: int = 0) -> None:
    async def body() -> None:
        case = Case()
        await case.define()
        await scenario(case)

    run_virtual(body, seed=seed)


# -- deletes that share a transaction ----------------------------------------------------------------------------------


def test_a_delete_alone_is_committed_within_its_wait() -> None:
    """5 ms after the call, when nothing else of the queue is committed."""

    async def scenario(case: Case) -> None:
        (record,) = await case.received(1)
        began = anyio.current_time()
        assert not await case.queue.delete([record.receipt])
        assert anyio.current_time() - began == pytest.approx(DELETE_WAIT_S, abs=1e-6)

    virtually(scenario)


def test_deletes_ride_in_the_next_receive() -> None:
    """A receive that comes within the wait carries them: one transaction, and they return with it."""

    async def scenario(case: Case) -> None:
        records = await case.received(3)
        await case.send(1)
        before, began = case.commits, anyio.current_time()
        async with anyio.create_task_group() as tasks:
            for record in records:
                tasks.start_soon(case.queue.delete, [record.receipt])
            await anyio.sleep(DELETE_WAIT_S / 2)
            received = await case.queue.receive(1, wait_s=0)
        assert len(received.records) == 1
        assert case.commits - before == 1
        assert anyio.current_time() - began == pytest.approx(DELETE_WAIT_S / 2, abs=1e-6)

    virtually(scenario)


def test_deletes_of_one_moment_are_one_transaction() -> None:
    async def scenario(case: Case) -> None:
        records = await case.received(50)
        before = case.commits
        async with anyio.create_task_group() as tasks:
            for record in records:
                tasks.start_soon(case.queue.delete, [record.receipt])
        assert case.commits - before == 1
        (depth,) = await case.store.queue_depths()
        assert (depth.visible, depth.hidden) == (0, 0)

    virtually(scenario)


def test_a_receive_that_is_cancelled_takes_no_delete_with_it() -> None:
    """The commit that carries others' deletes goes on when the receive that began it is given up."""

    async def scenario(case: Case) -> None:
        (record,) = await case.received(1)
        spent: list[Sequence[str]] = []

        async def delete() -> None:
            spent.append(await case.queue.delete([record.receipt]))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(delete)
            await anyio.sleep(DELETE_WAIT_S / 2)
            with anyio.CancelScope() as scope:
                scope.cancel()
                await case.queue.receive(1, wait_s=10)
        assert spent in ([[]], [()])
        await anyio.sleep(VISIBILITY_S)
        assert not (await case.queue.receive(1, wait_s=0)).records

    virtually(scenario)


def test_a_receive_that_is_cancelled_while_the_store_works_returns_what_it_hid() -> None:
    """Nobody would have those messages until their visibility timeout ends, and a receive of each would be burnt."""

    async def scenario(case: Case) -> None:
        await case.define()
        sent = await case.send(2)
        case.store.answer = anyio.Event()
        received: list[Record] = []
        async with anyio.create_task_group() as tasks:

            async def receive() -> None:
                with scope:
                    received.extend((await case.queue.receive(10, wait_s=10)).records)

            scope = anyio.CancelScope()
            tasks.start_soon(receive)
            await anyio.sleep(1)
            scope.cancel()
            await anyio.sleep(1)
            case.store.answer.set()
        assert [record.id for record in received] == sent
        with anyio.CancelScope() as scope:
            scope.cancel()
            await case.queue.receive(10, wait_s=10)
        assert scope.cancelled_caught

    virtually(scenario)


def test_a_delete_that_is_cancelled_takes_no_other_with_it() -> None:
    async def scenario(case: Case) -> None:
        first, second = await case.received(2)
        async with anyio.create_task_group() as tasks:

            async def give_up() -> None:
                with anyio.move_on_after(DELETE_WAIT_S / 2):
                    await case.queue.delete([first.receipt])

            tasks.start_soon(give_up)
            tasks.start_soon(case.queue.delete, [second.receipt])
        await anyio.sleep(VISIBILITY_S)
        (left,) = (await case.queue.receive(10, wait_s=0)).records
        assert left.id == first.id

    virtually(scenario)


@pytest.mark.parametrize("seed", range(6))
def test_more_receipts_than_one_commit_carries_are_deleted_all_the_same(seed: int) -> None:
    """Each commit carries a bounded number; nobody waits for a commit that does not come, whoever wakes up first."""

    async def scenario(case: Case) -> None:
        records = await case.received(3)
        filler = [f"stale-{number}" for number in range(CARRIED_RECEIPTS_MAX - 1)]
        spent: list[int] = []
        before = case.commits

        async def delete(record: Record) -> None:
            spent.append(len(await case.queue.delete([record.receipt, *filler])))

        with anyio.fail_after(1):
            async with anyio.create_task_group() as tasks:
                for record in records:
                    tasks.start_soon(delete, record)
        assert spent == [len(filler)] * 3
        assert case.commits - before == 3
        assert (await case.store.queue_depths())[0].hidden == 0

    virtually(scenario, seed=seed)


def test_nothing_to_delete_or_change_asks_the_store_nothing() -> None:
    async def scenario(case: Case) -> None:
        before = case.commits
        assert not await case.queue.delete([])
        assert not await case.queue.change_visibility([], 10)
        assert case.commits == before

    virtually(scenario)


# -- a store that fails ------------------------------------------------------------------------------------------------


def test_a_store_that_can_not_write_is_a_source_that_is_away() -> None:
    """Whoever shares the transaction learns it, and may try again."""

    async def scenario(case: Case) -> None:
        first, second = await case.received(2)
        case.store.failure = StoreUnavailable("disk full")
        raised: list[str] = []

        async def expect(call: Callable[[], Awaitable[object]]) -> None:
            with pytest.raises(SourceUnavailable, match="disk full") as caught:
                await call()
            raised.append(caught.value.source)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(expect, lambda: case.queue.delete([first.receipt]))
            tasks.start_soon(expect, lambda: case.queue.delete([second.receipt]))
            await anyio.sleep(DELETE_WAIT_S / 2)
            await expect(lambda: case.queue.receive(1, wait_s=0))
        await expect(lambda: case.queue.change_visibility([first.receipt], 10))
        assert raised == ["orders"] * 4
        case.store.failure = None
        assert not await case.queue.delete([first.receipt, second.receipt])

    virtually(scenario)


def test_a_damaged_store_is_told_to_everyone_as_it_is() -> None:
    async def scenario(case: Case) -> None:
        first, second = await case.received(2)
        case.store.failure = StoreCorrupt("page 7")
        raised: list[str] = []

        async def delete(record: Record) -> None:
            with pytest.raises(StoreCorrupt, match="page 7") as caught:
                await case.queue.delete([record.receipt])
            raised.append(str(caught.value))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(delete, first)
            tasks.start_soon(delete, second)
        assert len(raised) == 2

    virtually(scenario)


def test_a_store_that_does_not_answer_keeps_nobody() -> None:
    """The shielded commit ends by itself, with an error for everyone in it."""

    async def scenario(case: Case) -> None:
        (record,) = await case.received(1)
        case.store.is_stuck = True
        began = anyio.current_time()
        with pytest.raises(SourceUnavailable, match="does not answer"):
            await case.queue.delete([record.receipt])
        assert anyio.current_time() - began == pytest.approx(COMMIT_SHIELD_S + DELETE_WAIT_S, abs=0.01)

    virtually(scenario)


def test_a_queue_that_is_not_there_is_closed() -> None:
    async def scenario(case: Case) -> None:
        gone = EmbeddedQueue("gone", store=case.store, clock=case.clock, region="r", account_id="a")
        for call in (
            lambda: gone.receive(1, wait_s=10),
            lambda: gone.delete(["r"]),
            lambda: gone.change_visibility(["r"], 1),
        ):
            with pytest.raises(SourceClosed, match="there is no queue gone"):
                await call()

    virtually(scenario)


# -- receiving ---------------------------------------------------------------------------------------------------------


def test_a_receive_takes_between_one_message_and_its_bound() -> None:
    async def scenario(case: Case) -> None:
        await case.send(RECEIVE_MAX + 2)
        assert len((await case.queue.receive(0, wait_s=0)).records) == 1
        assert len((await case.queue.receive(10**9, wait_s=0)).records) == RECEIVE_MAX
        assert case.queue.capabilities.receive_max == RECEIVE_MAX

    virtually(scenario)


def test_a_redriven_message_is_told_at_once() -> None:
    """Without waiting for another one: its failure is final."""

    async def scenario(case: Case) -> None:
        await case.store.commit([DefineQueue(queue="dead", settings=QueueSettings())])
        await case.define(dead_letter_queue="dead", max_receive_count=1)
        (sent,) = await case.send(1)
        assert (await case.queue.receive(1, wait_s=0)).records
        received = await case.queue.receive(1, wait_s=1000)
        assert anyio.current_time() == pytest.approx(VISIBILITY_S, abs=0.002)
        assert [(moved.id, moved.target) for moved in received.redriven] == [(sent, "dead")]
        assert (received.records, received.hidden_until_ms) == ([], 0)

    virtually(scenario)


# -- long polls --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("received_at_s", [0.0, 0.0004, 0.1 + 0.2, 7.7777])
def test_a_long_poll_returns_when_a_visibility_timeout_ends(received_at_s: float) -> None:
    """To the millisecond, whatever fraction of one the clock began at."""

    async def scenario(case: Case) -> None:
        await anyio.sleep(received_at_s)
        await case.send(1)
        first = await case.queue.receive(1, wait_s=0)
        again = await case.queue.receive(1, wait_s=100)
        assert again.records
        late_ms = case.clock.now_ms() - first.hidden_until_ms
        assert 0 <= late_ms <= 2

    virtually(scenario)


def test_an_idle_long_poll_leaves_the_store_alone() -> None:
    """A queue without messages is asked once and not again until something is sent."""

    async def scenario(case: Case) -> None:
        before = case.commits
        assert not (await case.queue.receive(1, wait_s=20)).records
        assert case.commits - before <= 2

    virtually(scenario)


def test_closing_while_the_store_works_ends_the_receive() -> None:
    """Closed between the commit and the wait, a receive does not begin to wait."""

    async def scenario(case: Case) -> None:
        began = anyio.current_time()
        async with anyio.create_task_group() as tasks:

            async def receive() -> None:
                with pytest.raises(SourceClosed):
                    await case.queue.receive(1, wait_s=1000)

            tasks.start_soon(receive)
            # One step: the receive waits in its commit.
            await anyio.lowlevel.checkpoint()
            await case.queue.aclose()
        assert anyio.current_time() == began

    virtually(scenario)


# -- sending -----------------------------------------------------------------------------------------------------------


def test_sent_messages_are_received_as_they_were_sent() -> None:
    async def scenario(case: Case) -> None:
        record = OutgoingRecord(body=b"b", key="größe".encode(), headers=(("h", b"1"),))
        (sent,) = await send_messages(case.store, "orders", [record], clock=case.clock, ids=case.ids)
        (received,) = (await case.queue.receive(1, wait_s=0)).records
        assert (received.id, received.body, received.key) == (sent, b"b", "größe".encode())
        assert received.headers == (("h", b"1"),)
        assert received.arrived_ms == LoopClock.START_MS
        assert received.attributes == {
            "ApproximateReceiveCount": "1",
            "SentTimestamp": str(LoopClock.START_MS),
            "SenderId": "000000000000",
            "ApproximateFirstReceiveTimestamp": str(LoopClock.START_MS),
            "MessageGroupId": "größe",
        }

    virtually(scenario)


def test_each_message_of_a_receive_is_told_of_itself() -> None:
    """Those that were sent and received alike, and those that were not."""

    async def scenario(case: Case) -> None:
        first, second, third = await case.send(3)
        await case.queue.receive(3, wait_s=0, visibility_timeout_s=1)
        await anyio.sleep(1)
        again = await case.queue.receive(1, wait_s=0, visibility_timeout_s=1)
        await anyio.sleep(1)
        later = [OutgoingRecord(body=b"", key=b"x"), OutgoingRecord(body=b"", key=b"y")]
        fourth, fifth = await send_messages(case.store, "orders", later, clock=case.clock, ids=case.ids)
        found = {
            record.id: (
                record.attributes["ApproximateReceiveCount"],
                int(record.attributes["SentTimestamp"]) - LoopClock.START_MS,
                int(record.attributes["ApproximateFirstReceiveTimestamp"]) - LoopClock.START_MS,
                record.attributes.get("MessageGroupId"),
            )
            for record in (await case.queue.receive(10, wait_s=0)).records
        }
        assert again.records[0].id == first
        assert found == {
            first: ("3", 0, 0, None),
            second: ("2", 0, 0, None),
            third: ("2", 0, 0, None),
            fourth: ("1", 2000, 2000, "x"),
            fifth: ("1", 2000, 2000, "y"),
        }

    virtually(scenario)


def test_messages_that_were_first_received_one_after_the_other_say_so() -> None:
    async def scenario(case: Case) -> None:
        await case.send(2)
        await case.queue.receive(1, wait_s=0, visibility_timeout_s=2)
        await anyio.sleep(1)
        await case.queue.receive(1, wait_s=0, visibility_timeout_s=1)
        await anyio.sleep(1)
        records = (await case.queue.receive(2, wait_s=0)).records
        times = [int(record.attributes["ApproximateFirstReceiveTimestamp"]) for record in records]
        assert sorted(times) == [LoopClock.START_MS, LoopClock.START_MS + 1000]

    virtually(scenario)


def test_a_delay_can_be_given_for_a_send() -> None:
    async def scenario(case: Case) -> None:
        record = OutgoingRecord(body=b"b")
        await send_messages(case.store, "orders", [record], clock=case.clock, ids=case.ids, delay_s=900)
        assert not (await case.queue.receive(1, wait_s=899)).records
        assert (await case.queue.receive(1, wait_s=2)).records

    virtually(scenario)


@pytest.mark.parametrize("delay_s", [-1, 901])
def test_a_delay_out_of_range_is_refused(delay_s: int) -> None:
    async def scenario(case: Case) -> None:
        record = OutgoingRecord(body=b"b")
        with pytest.raises(CommandError, match=f"0-900 seconds, not {delay_s}"):
            await send_messages(case.store, "orders", [record], clock=case.clock, ids=case.ids, delay_s=delay_s)

    virtually(scenario)


@pytest.mark.parametrize("limit", [1024, BODY_BYTES_MAX])
def test_a_message_that_is_too_long_is_refused_in_the_words_of_sqs(limit: int) -> None:
    """All or none: the short one beside it is not sent. Source: Lambda semantics §3.2 "Oversize"."""

    async def scenario(case: Case) -> None:
        await case.define(maximum_message_size=limit)
        text = f"One or more parameters are invalid. Reason: Message must be shorter than {limit} bytes."
        for long in (
            OutgoingRecord(body=b"x" * (limit + 1)),
            OutgoingRecord(body=b"x" * (limit - 3), headers=(("ü", b"12"),)),
        ):
            records = [OutgoingRecord(body=b"short"), long]
            with pytest.raises(CommandError) as caught:
                await send_messages(case.store, "orders", records, clock=case.clock, ids=case.ids)
            assert str(caught.value) == text
        assert (await case.store.queue_depths())[0].visible == 0
        exact = OutgoingRecord(body=b"x" * (limit - 4), headers=(("ü", b"12"),))
        assert await send_messages(case.store, "orders", [exact], clock=case.clock, ids=case.ids)

    virtually(scenario)


def test_a_queue_that_is_not_there_takes_nothing() -> None:
    async def scenario(case: Case) -> None:
        with pytest.raises(CommandError, match="there is no queue elsewhere"):
            await send_messages(case.store, "elsewhere", [OutgoingRecord(body=b"")], clock=case.clock, ids=case.ids)

    virtually(scenario)


def test_too_many_at_once_are_refused() -> None:
    async def scenario(case: Case) -> None:
        records = [OutgoingRecord(body=b"")] * 10_001
        with pytest.raises(CommandError, match="at most 10000"):
            await send_messages(case.store, "orders", records, clock=case.clock, ids=case.ids)
        assert await send_messages(case.store, "orders", [], clock=case.clock, ids=case.ids) == []

    virtually(scenario)

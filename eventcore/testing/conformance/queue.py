"""The kit for `QueueSource`: leases, counts, delays, redrive, long polls.

Subclass `QueueConformance` as a class whose name begins with `Test` and say how a queue is opened. The tests are plain
functions that hand a coroutine to `QueueConformance.run`: override it to run them in virtual time. Nothing here
depends on how fast anything is; `HAPPENS_WITHIN_S` bounds what has to happen at all.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import anyio
import anyio.lowlevel
import msgspec
import pytest

from eventcore.errors import SourceClosed
from eventcore.model import Record
from eventcore.ports.sources import QueueSource, Received, Redrive

#: Whatever a test waits for has happened by then, seconds.
HAPPENS_WITHIN_S = 30.0
#: Visibility timeout of most queues under test, seconds: longer than any machine pauses within a test.
VISIBILITY_S = 300
#: Retention of the queue whose messages expire, seconds: SQS's least.
RETENTION_S = 60


class QueueUnderTest(Protocol):
    """One queue, made for one test."""

    source: QueueSource

    async def send(
        self,
        bodies: Sequence[bytes],
        *,
        delay_s: int | None = None,
        headers: tuple[tuple[str, bytes], ...] = (),
        group: str = "",
    ) -> Sequence[str]:
        """Send messages in order, and return their ids."""
        ...

    async def pass_time(self, seconds: float) -> None:
        """Let the queue's wall time pass, by at least that long, and by less than a second longer."""
        ...

    async def dead_letters(self) -> Sequence[str]:
        """Return the ids of the messages in the queue's dead-letter queue, in order."""
        ...

    async def restart(self) -> None:
        """Restart what holds the queue, and replace `source`; asked for where `survives_restart` is claimed."""
        ...


class QueueRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What queue a test wants."""

    visibility_timeout_s: int = VISIBILITY_S
    message_retention_period_s: int = 345_600
    max_receive_count: int = 0  #: with a dead-letter queue behind it; 0: without one
    is_fifo: bool = False  #: a FIFO queue, its dead-letter queue too, that knows messages by their content


Scenario = Callable[[QueueUnderTest], Awaitable[None]]


class QueueConformance:
    """What every queue source keeps."""

    def open_queue(self, request: QueueRequest) -> AbstractAsyncContextManager[QueueUnderTest]:
        """Make an empty queue; override."""
        raise NotImplementedError

    def run(self, body: Callable[[], Awaitable[None]]) -> None:
        """Run a coroutine to its end; override for another kind of loop."""
        anyio.run(body)

    def check(self, scenario: Scenario, request: QueueRequest | None = None) -> None:
        """Run a scenario on a new queue, and close its source."""

        async def body() -> None:
            async with self.open_queue(request or QueueRequest()) as queue:
                await scenario(queue)
                await queue.source.aclose()

        self.run(body)

    # -- receiving -----------------------------------------------------------------------------------------------------

    def test_a_receive_returns_at_most_what_was_asked_for(self) -> None:
        """Never more than ``records_max``, never more than `receive_max`, and each message once."""

        async def scenario(queue: QueueUnderTest) -> None:
            sent = await queue.send([b"%d" % number for number in range(25)])
            first = await queue.source.receive(7, wait_s=0)
            assert 1 <= len(first.records) <= 7
            most = await queue.source.receive(10**9, wait_s=0)
            assert len(most.records) <= queue.source.capabilities.receive_max
            rest = await _receive_all(queue, len(sent) - len(first.records) - len(most.records))
            ids = [record.id for record in (*first.records, *most.records, *rest)]
            assert sorted(ids) == sorted(sent)

        self.check(scenario)

    def test_a_message_keeps_all_that_was_sent(self) -> None:
        """Body, headers with repeated names, and group arrive as they were sent."""
        headers = (("trace", b"\x00\xff"), ("n", b"1"), ("n", b"2"))

        async def scenario(queue: QueueUnderTest) -> None:
            (sent,) = await queue.send(["grüße\n".encode()], headers=headers, group="g1")
            (record,) = (await queue.source.receive(1, wait_s=HAPPENS_WITHIN_S)).records
            assert (record.id, record.body, record.headers, record.key) == (sent, "grüße\n".encode(), headers, b"g1")
            assert record.receipt
            assert record.arrived_ms > 0
            assert record.size_bytes >= len("grüße\n".encode()) + sum(len(value) for _, value in headers)

        self.check(scenario)

    def test_messages_come_in_the_order_they_were_sent(self) -> None:
        """Without failures the oldest come first, at positions that rise."""

        async def scenario(queue: QueueUnderTest) -> None:
            sent = [*await queue.send([b"a", b"b", b"c"]), *await queue.send([b"d", b"e"])]
            records = await _receive_all(queue, 5, at_once=2)
            assert [record.id for record in records] == sent
            positions = [record.position for record in records]
            assert positions == sorted(set(positions))

        self.check(scenario)

    def test_two_receives_at_once_share_nothing(self) -> None:
        """A message is handed to one of many receivers."""

        async def scenario(queue: QueueUnderTest) -> None:
            sent = await queue.send([b"%d" % number for number in range(40)])
            received: list[str] = []

            async def receive() -> None:
                received.extend([record.id for record in (await queue.source.receive(5, wait_s=0)).records])

            async with anyio.create_task_group() as tasks:
                for _ in range(12):
                    tasks.start_soon(receive)
            assert len(received) == len(set(received))
            assert set(received) <= set(sent)
            assert received

        self.check(scenario)

    # -- leases --------------------------------------------------------------------------------------------------------

    def test_a_received_message_is_hidden(self) -> None:
        """What one receive returned no other returns, until its visibility timeout."""

        async def scenario(queue: QueueUnderTest) -> None:
            await queue.send([b"a"])
            assert len((await queue.source.receive(10, wait_s=HAPPENS_WITHIN_S)).records) == 1
            assert not (await queue.source.receive(10, wait_s=0)).records

        self.check(scenario)

    def test_a_message_reappears_at_its_visibility_timeout(self) -> None:
        """Not a second before, and then at once. Source: Lambda semantics §3.2."""

        async def scenario(queue: QueueUnderTest) -> None:
            sent = await queue.send([b"a"])
            received = await queue.source.receive(1, wait_s=HAPPENS_WITHIN_S)
            await queue.pass_time(VISIBILITY_S - 2)
            assert not (await queue.source.receive(1, wait_s=0)).records
            await queue.pass_time(2)
            again = await queue.source.receive(1, wait_s=0)
            assert [record.id for record in again.records] == sent
            assert again.records[0].receipt != received.records[0].receipt
            assert again.hidden_until_ms - received.hidden_until_ms >= VISIBILITY_S * 1000

        self.check(scenario)

    def test_a_waiting_receive_gets_a_message_when_it_reappears(self) -> None:
        """A long poll does not miss the end of a visibility timeout."""

        async def scenario(queue: QueueUnderTest) -> None:
            sent = await queue.send([b"a"])
            assert (await queue.source.receive(1, wait_s=HAPPENS_WITHIN_S)).records
            began = anyio.current_time()
            again = await queue.source.receive(1, wait_s=HAPPENS_WITHIN_S)
            assert [record.id for record in again.records] == sent
            assert anyio.current_time() - began < HAPPENS_WITHIN_S

        self.check(scenario, QueueRequest(visibility_timeout_s=1))

    def test_a_receive_may_have_its_own_visibility_timeout(self) -> None:
        """``visibility_timeout_s`` wins over the queue's; 0 hides nothing."""

        async def scenario(queue: QueueUnderTest) -> None:
            await queue.send([b"a"])
            for _ in range(2):
                assert (await queue.source.receive(1, wait_s=HAPPENS_WITHIN_S, visibility_timeout_s=0)).records
            assert (await queue.source.receive(1, wait_s=HAPPENS_WITHIN_S, visibility_timeout_s=10)).records
            await queue.pass_time(8)
            assert not (await queue.source.receive(1, wait_s=0)).records
            await queue.pass_time(2)
            assert (await queue.source.receive(1, wait_s=0)).records

        self.check(scenario)

    def test_the_receive_count_rises_with_each_receive(self) -> None:
        """1, 2, 3: as `ApproximateReceiveCount`, with the time of the first receive unchanged."""

        async def scenario(queue: QueueUnderTest) -> None:
            if not queue.source.capabilities.has_receive_count:
                pytest.skip("QueueCapabilities.has_receive_count is not claimed")
            await queue.send([b"a"])
            seen = []
            for _ in range(3):
                (record,) = (await queue.source.receive(1, wait_s=HAPPENS_WITHIN_S)).records
                seen.append(record.attributes)
                await queue.pass_time(VISIBILITY_S)
            assert [attributes["ApproximateReceiveCount"] for attributes in seen] == ["1", "2", "3"]
            assert len({attributes["ApproximateFirstReceiveTimestamp"] for attributes in seen}) == 1
            assert len({attributes["SentTimestamp"] for attributes in seen}) == 1

        self.check(scenario)

    def test_a_lease_can_be_extended(self) -> None:
        """The time counts from the call; the new receipt deletes."""

        async def scenario(queue: QueueUnderTest) -> None:
            _need_extension(queue)
            await queue.send([b"a"])
            (record,) = (await queue.source.receive(1, wait_s=HAPPENS_WITHIN_S)).records
            await queue.pass_time(VISIBILITY_S - 5)
            renewed = await queue.source.change_visibility([record.receipt], 20)
            assert list(renewed) == [record.receipt]
            await queue.pass_time(18)
            assert not (await queue.source.receive(1, wait_s=0)).records
            assert await queue.source.delete([renewed[record.receipt]]) in ([], ())
            await queue.pass_time(VISIBILITY_S)
            assert not (await queue.source.receive(1, wait_s=0)).records

        self.check(scenario)

    def test_an_extension_replaces_what_was_left(self) -> None:
        """It does not add: a shorter time than what was left shows the message sooner."""

        async def scenario(queue: QueueUnderTest) -> None:
            _need_extension(queue)
            await queue.send([b"a"])
            (record,) = (await queue.source.receive(1, wait_s=HAPPENS_WITHIN_S)).records
            assert await queue.source.change_visibility([record.receipt], 10)
            await queue.pass_time(10)
            assert (await queue.source.receive(1, wait_s=0)).records

        self.check(scenario)

    def test_a_released_message_shows_at_once_and_wakes_a_receive(self) -> None:
        """A visibility timeout of 0 gives the message to whoever waits."""

        async def scenario(queue: QueueUnderTest) -> None:
            _need_extension(queue)
            sent = await queue.send([b"a"])
            (record,) = (await queue.source.receive(1, wait_s=HAPPENS_WITHIN_S)).records
            async with _receiving(queue) as received:
                assert record.receipt in await queue.source.change_visibility([record.receipt], 0)
            assert [record.id for record in received[0].records] == sent

        self.check(scenario)

    def test_a_message_that_is_handed_back_was_not_received(self) -> None:
        """It shows at once, its receive does not count, and the receipt is spent."""

        async def scenario(queue: QueueUnderTest) -> None:
            _need_extension(queue)
            await queue.send([b"a"])
            (first,) = (await queue.source.receive(1, wait_s=HAPPENS_WITHIN_S)).records
            await queue.source.hand_back([first.receipt])
            (second,) = (await queue.source.receive(1, wait_s=HAPPENS_WITHIN_S)).records
            assert second.attributes["ApproximateReceiveCount"] == "1"
            await queue.pass_time(VISIBILITY_S)
            (third,) = (await queue.source.receive(1, wait_s=0)).records
            await queue.source.hand_back([second.receipt])
            assert not (await queue.source.receive(1, wait_s=0)).records
            await queue.source.hand_back([third.receipt])
            (fourth,) = (await queue.source.receive(1, wait_s=0)).records
            assert fourth.attributes["ApproximateReceiveCount"] == "2"
            assert await queue.source.delete([fourth.receipt]) in ([], ())

        self.check(scenario)

    def test_a_message_that_is_handed_back_hidden_was_not_received(self) -> None:
        """It shows after its time, and its receive does not count."""

        async def scenario(queue: QueueUnderTest) -> None:
            _need_extension(queue)
            await queue.send([b"a"])
            for _ in range(3):
                (message,) = (await queue.source.receive(1, wait_s=HAPPENS_WITHIN_S)).records
                assert message.attributes["ApproximateReceiveCount"] == "1"
                await queue.source.hand_back([message.receipt], hidden_s=VISIBILITY_S)
                assert not (await queue.source.receive(1, wait_s=0)).records
                await queue.pass_time(VISIBILITY_S)

        self.check(scenario)

    def test_a_stale_receipt_changes_nothing(self) -> None:
        """The receipt of an earlier receive is not returned, and leaves the message to its owner."""

        async def scenario(queue: QueueUnderTest) -> None:
            _need_extension(queue)
            await queue.send([b"a"])
            (first,) = (await queue.source.receive(1, wait_s=HAPPENS_WITHIN_S)).records
            await queue.pass_time(VISIBILITY_S)
            (second,) = (await queue.source.receive(1, wait_s=0)).records
            assert not await queue.source.change_visibility([first.receipt], 0)
            assert not (await queue.source.receive(1, wait_s=0)).records
            assert second.receipt in await queue.source.change_visibility([second.receipt], VISIBILITY_S)

        self.check(scenario)

    def test_a_visibility_timeout_out_of_range_is_refused(self) -> None:
        """0-43,200 seconds. Source: Lambda semantics §3.2."""

        async def scenario(queue: QueueUnderTest) -> None:
            _need_extension(queue)
            await queue.send([b"a"])
            (record,) = (await queue.source.receive(1, wait_s=HAPPENS_WITHIN_S)).records
            for timeout_s in (-1, 43_201):
                with pytest.raises(ValueError, match=str(timeout_s)):
                    await queue.source.change_visibility([record.receipt], timeout_s)

        self.check(scenario)

    # -- deleting ------------------------------------------------------------------------------------------------------

    def test_a_deleted_message_is_gone(self) -> None:
        """It does not come back at its visibility timeout; to delete it again changes nothing."""

        async def scenario(queue: QueueUnderTest) -> None:
            await queue.send([b"a"])
            (record,) = (await queue.source.receive(1, wait_s=HAPPENS_WITHIN_S)).records
            assert not await queue.source.delete([record.receipt])
            await queue.source.delete([record.receipt])
            await queue.pass_time(VISIBILITY_S)
            assert not (await queue.source.receive(1, wait_s=0)).records

        self.check(scenario)

    def test_a_stale_receipt_deletes_nothing(self) -> None:
        """A receipt from before the timeout is returned as spent; the message stays with its new owner."""

        async def scenario(queue: QueueUnderTest) -> None:
            await queue.send([b"a"])
            (first,) = (await queue.source.receive(1, wait_s=HAPPENS_WITHIN_S)).records
            await queue.pass_time(VISIBILITY_S)
            (second,) = (await queue.source.receive(1, wait_s=0)).records
            assert list(await queue.source.delete([first.receipt])) == [first.receipt]
            await queue.pass_time(VISIBILITY_S)
            (third,) = (await queue.source.receive(1, wait_s=0)).records
            assert third.id == second.id
            assert not await queue.source.delete([third.receipt])

        self.check(scenario)

    def test_part_of_a_batch_can_be_deleted(self) -> None:
        """The others come back, each once."""

        async def scenario(queue: QueueUnderTest) -> None:
            sent = await queue.send([b"%d" % number for number in range(10)])
            records = await _receive_all(queue, 10)
            kept = {record.id for record in records[::3]}
            assert not await queue.source.delete([record.receipt for record in records if record.id not in kept])
            await queue.pass_time(VISIBILITY_S)
            again = await _receive_all(queue, len(kept))
            assert [record.id for record in again] == [message for message in sent if message in kept]
            assert not (await queue.source.receive(1, wait_s=0)).records

        self.check(scenario)

    def test_many_deletes_at_once_each_learn_their_own(self) -> None:
        """Concurrent deletes and a receive beside them do not mix up what was spent."""

        async def scenario(queue: QueueUnderTest) -> None:
            await queue.send([b"%d" % number for number in range(20)])
            stale = await _receive_all(queue, 20)
            await queue.pass_time(VISIBILITY_S)
            owned = await _receive_all(queue, 20)
            spent: dict[int, list[str]] = {}

            async def delete(number: int) -> None:
                receipts = [stale[number].receipt, owned[number].receipt]
                spent[number] = list(await queue.source.delete(receipts))

            async with anyio.create_task_group() as tasks:
                for number in range(20):
                    tasks.start_soon(delete, number)
                    if number == 10:
                        tasks.start_soon(lambda: queue.source.receive(1, wait_s=0))
            assert spent == {number: [stale[number].receipt] for number in range(20)}
            await queue.pass_time(VISIBILITY_S)
            assert not (await queue.source.receive(1, wait_s=0)).records

        self.check(scenario)

    # -- waiting -------------------------------------------------------------------------------------------------------

    def test_an_empty_receive_comes_back(self) -> None:
        """Empty after its wait, and not before."""

        async def scenario(queue: QueueUnderTest) -> None:
            began = anyio.current_time()
            with anyio.fail_after(1.0 + HAPPENS_WITHIN_S):
                received = await queue.source.receive(1, wait_s=1.0)
            assert not received.records
            assert anyio.current_time() - began >= 0.99

        self.check(scenario)

    def test_a_waiting_receive_gets_what_is_sent(self) -> None:
        """A long poll returns as soon as there is a message, not when its wait is over."""

        async def scenario(queue: QueueUnderTest) -> None:
            async with _receiving(queue) as received:
                sent = await queue.send([b"a"])
            assert [record.id for record in received[0].records] == sent

        self.check(scenario)

    def test_cancelling_a_receive_loses_nothing(self) -> None:
        """However a receive is cancelled, every message can be received and deleted once."""

        async def scenario(queue: QueueUnderTest) -> None:
            sent: list[str] = []
            deleted: list[str] = []

            async def receive(scope: anyio.CancelScope) -> None:
                with scope:
                    received = await queue.source.receive(3, wait_s=HAPPENS_WITHIN_S)
                    with anyio.CancelScope(shield=True):
                        await _delete(queue, received.records, deleted)

            for number in range(30):
                sent += await queue.send([b"%d" % number])
                scope = anyio.CancelScope()
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(receive, scope)
                    # Cancelled after no, one, two, ... steps of the loop: at every point where a receive can wait.
                    for _ in range(number % 10):
                        await anyio.lowlevel.checkpoint()
                    scope.cancel()
            await queue.pass_time(VISIBILITY_S)
            while records := (await queue.source.receive(10, wait_s=0)).records:
                await _delete(queue, records, deleted)
            assert sorted(deleted) == sorted(sent)

        self.check(scenario)

    def test_closing_ends_a_waiting_receive(self) -> None:
        """A receive that waits when the source is closed raises SourceClosed, and so does every later one."""

        async def scenario(queue: QueueUnderTest) -> None:
            raised: list[type[BaseException]] = []

            async def receive() -> None:
                with pytest.raises(SourceClosed) as caught:
                    await queue.source.receive(1, wait_s=HAPPENS_WITHIN_S * 10)
                raised.append(caught.type)

            with anyio.fail_after(HAPPENS_WITHIN_S):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(receive)
                    await anyio.wait_all_tasks_blocked()
                    await queue.source.aclose()
                await receive()
            assert raised == [SourceClosed, SourceClosed]

        self.check(scenario)

    # -- delay, retention, redrive -------------------------------------------------------------------------------------

    def test_a_delayed_message_shows_after_its_delay(self) -> None:
        """Not before, and others pass it."""

        async def scenario(queue: QueueUnderTest) -> None:
            delay_s = queue.source.capabilities.delay_s_max
            if not delay_s:
                pytest.skip("QueueCapabilities.delay_s_max is 0")
            late = await queue.send([b"late"], delay_s=min(delay_s, 20))
            soon = await queue.send([b"soon"])
            records = (await queue.source.receive(10, wait_s=HAPPENS_WITHIN_S)).records
            assert [record.id for record in records] == soon
            await queue.pass_time(min(delay_s, 20) - 2)
            assert not (await queue.source.receive(10, wait_s=0)).records
            await queue.pass_time(2)
            assert [record.id for record in (await queue.source.receive(10, wait_s=0)).records] == late

        self.check(scenario)

    def test_a_message_past_its_retention_is_dropped_and_counted(self) -> None:
        """Retention counts from the send, hidden or not; `Received.expired` tells of it once."""

        async def scenario(queue: QueueUnderTest) -> None:
            await queue.send([b"hidden", b"visible"])
            assert len((await queue.source.receive(1, wait_s=HAPPENS_WITHIN_S)).records) == 1
            await queue.pass_time(RETENTION_S + 1)
            fresh = await queue.send([b"fresh"])
            counted = 0
            seen: list[str] = []
            for _ in range(5):
                received = await queue.source.receive(10, wait_s=0)
                counted += len(received.expired)
                seen += [record.id for record in received.records]
            assert seen == fresh
            assert counted == 2

        self.check(scenario, QueueRequest(visibility_timeout_s=10, message_retention_period_s=RETENTION_S))

    def test_a_message_received_too_often_goes_to_the_dead_letter_queue(self) -> None:
        """At the receive after ``max_receive_count``, with its id, and reported. Source: §3.2, trap 16."""

        async def scenario(queue: QueueUnderTest) -> None:
            (sent,) = await queue.send([b"a"])
            for _ in range(2):
                assert (await queue.source.receive(1, wait_s=HAPPENS_WITHIN_S)).records
                await queue.pass_time(VISIBILITY_S)
                assert await queue.dead_letters() == []
            received = await queue.source.receive(1, wait_s=HAPPENS_WITHIN_S)
            assert not received.records
            (redriven,) = received.redriven
            assert isinstance(redriven, Redrive)
            assert redriven.id == sent
            assert redriven.target
            assert list(await queue.dead_letters()) == [sent]
            assert not (await queue.source.receive(1, wait_s=0)).redriven

        self.check(scenario, QueueRequest(max_receive_count=2))

    # -- durability ----------------------------------------------------------------------------------------------------

    def test_messages_and_leases_survive_a_restart(self) -> None:
        """What was sent is there, what was deleted is not, what was hidden stays hidden with its count."""

        async def scenario(queue: QueueUnderTest) -> None:
            if not queue.source.capabilities.survives_restart:
                pytest.skip("QueueCapabilities.survives_restart is not claimed")
            sent = await queue.send([b"deleted", b"hidden", b"visible"])
            deleted, hidden = (await queue.source.receive(2, wait_s=HAPPENS_WITHIN_S)).records
            assert not await queue.source.delete([deleted.receipt])
            await queue.restart()
            (visible,) = (await queue.source.receive(10, wait_s=HAPPENS_WITHIN_S)).records
            assert visible.id == sent[2]
            assert not await queue.source.delete([visible.receipt])
            await queue.pass_time(VISIBILITY_S)
            (again,) = (await queue.source.receive(10, wait_s=0)).records
            assert again.id == hidden.id
            assert again.attributes.get("ApproximateReceiveCount", "2") == "2"

        self.check(scenario)

    # -- the event -----------------------------------------------------------------------------------------------------

    def test_the_shape_names_every_message(self) -> None:
        """Events are JSON within the size that records say, and identifiers are unique within a batch."""

        async def scenario(queue: QueueUnderTest) -> None:
            bodies = [b"plain", b'{"quoted": "\\"yes\\""}', "grüße\n\t".encode(), b""]
            headers = (("h", b"text"), ("b", b"\xff\x00"))
            await queue.send(bodies, headers=headers)
            records = await _receive_all(queue, len(bodies))
            shape = queue.source.shape
            for record in records:
                size = len(msgspec.json.encode(shape.event([record], "")))
                assert size <= record.size_bytes + shape.record_overhead_bytes
            event = shape.event(records, "")
            assert [entry["body"] for entry in event["Records"]] == [body.decode() for body in bodies]
            identifiers = [shape.identifier(record, "") for record in records]
            assert len(set(identifiers)) == len(bodies)
            assert [shape.read_identifier(record.id) for record in records] == identifiers
            for value in (None, 1.5, [], [1], {}, {"a": 1}, True, ""):
                assert shape.read_identifier(value) not in identifiers

        self.check(scenario)


def _need_extension(queue: QueueUnderTest) -> None:
    if not queue.source.capabilities.is_visibility_extendable:
        pytest.skip("QueueCapabilities.is_visibility_extendable is not claimed")


async def _receive_all(queue: QueueUnderTest, count: int, *, at_once: int = 10) -> list[Record]:
    """Receive until there are ``count`` messages."""
    records: list[Record] = []
    with anyio.fail_after(HAPPENS_WITHIN_S):
        while len(records) < count:
            records += (await queue.source.receive(at_once, wait_s=HAPPENS_WITHIN_S)).records
    return records


async def _delete(queue: QueueUnderTest, records: Sequence[Record], deleted: list[str]) -> None:
    """Delete messages, and note the ids of those that were still owned."""
    spent = set(await queue.source.delete([record.receipt for record in records]))
    deleted.extend([record.id for record in records if record.receipt not in spent])


@asynccontextmanager
async def _receiving(queue: QueueUnderTest) -> AsyncIterator[list[Received]]:
    """Let a receive wait during the block; it has returned, early, after it."""
    received: list[Received] = []

    async def receive() -> None:
        received.append(await queue.source.receive(1, wait_s=HAPPENS_WITHIN_S * 10))

    with anyio.fail_after(HAPPENS_WITHIN_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            await anyio.wait_all_tasks_blocked()
            yield received

"""The kit for a `QueueSource` that claims `QueueCapabilities.keeps_groups`. Source: Lambda semantics §3.2 "FIFO".

Subclass `FifoQueueConformance` as a class whose name begins with `Test` and say how a queue is opened: as for
`QueueConformance`, where `QueueRequest.is_fifo` asks for a FIFO queue that knows messages by their content.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager

import anyio
import pytest

from eventcore.model import Record
from eventcore.ports.sources import Received
from eventcore.testing.conformance.queue import (
    HAPPENS_WITHIN_S,
    VISIBILITY_S,
    QueueRequest,
    QueueUnderTest,
    Scenario,
)


async def _receive(queue: QueueUnderTest, count: int = 10, *, wait_s: float = HAPPENS_WITHIN_S) -> Sequence[Record]:
    return (await queue.source.receive(count, wait_s=wait_s)).records


def _bodies(records: Sequence[Record]) -> list[bytes | None]:
    return [record.body for record in records]


class FifoQueueConformance:
    """What every FIFO queue source keeps."""

    def open_queue(self, request: QueueRequest) -> AbstractAsyncContextManager[QueueUnderTest]:
        """Make an empty queue; override."""
        raise NotImplementedError

    def run(self, body: Callable[[], Awaitable[None]]) -> None:
        """Run a coroutine to its end; override for another kind of loop."""
        anyio.run(body)

    def check(self, scenario: Scenario, *, max_receive_count: int = 0) -> None:
        """Run a scenario on a new queue, and close its source."""

        async def body() -> None:
            request = QueueRequest(is_fifo=True, max_receive_count=max_receive_count)
            async with self.open_queue(request) as queue:
                assert queue.source.capabilities.keeps_groups
                await scenario(queue)
                await queue.source.aclose()

        self.run(body)

    def test_a_group_comes_in_order_and_is_locked_while_one_of_it_is_hidden(self) -> None:
        """Other groups are free meanwhile."""

        async def scenario(queue: QueueUnderTest) -> None:
            await queue.send([b"1", b"2", b"3"], group="g")
            first = await _receive(queue, 2)
            assert _bodies(first) == [b"1", b"2"]
            await queue.send([b"4"], group="h")
            assert _bodies(await _receive(queue)) == [b"4"]
            assert _bodies(await _receive(queue, wait_s=0)) == []
            assert await queue.source.delete([first[0].receipt]) == []
            assert _bodies(await _receive(queue, wait_s=0)) == []
            assert await queue.source.delete([first[1].receipt]) == []
            assert _bodies(await _receive(queue)) == [b"3"]

        self.check(scenario)

    def test_a_waiting_receive_gets_what_a_deletion_sets_free(self) -> None:
        """Without waiting for the end of its patience."""

        async def scenario(queue: QueueUnderTest) -> None:
            await queue.send([b"1", b"2"], group="g")
            (first,) = await _receive(queue, 1)
            received: list[Received] = []

            async def wait() -> None:
                received.append(await queue.source.receive(10, wait_s=VISIBILITY_S))

            with anyio.fail_after(HAPPENS_WITHIN_S):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(wait)
                    await anyio.lowlevel.checkpoint()
                    await queue.source.delete([first.receipt])
            assert _bodies(received[0].records) == [b"2"]

        self.check(scenario)

    @pytest.mark.parametrize("is_released", [False, True])
    def test_what_comes_back_stands_before_what_came_later(self, is_released: bool) -> None:
        """Released, or after its visibility timeout."""

        async def scenario(queue: QueueUnderTest) -> None:
            await queue.send([b"1"], group="g")
            (first,) = await _receive(queue)
            await queue.send([b"2"], group="g")
            if is_released:
                await queue.source.change_visibility([first.receipt], 0)
            else:
                await queue.pass_time(VISIBILITY_S)
            assert _bodies(await _receive(queue)) == [b"1", b"2"]

        self.check(scenario)

    def test_a_receipt_is_spent_when_its_visibility_timeout_has_ended(self) -> None:
        """Even if nobody has received the message since."""

        async def scenario(queue: QueueUnderTest) -> None:
            await queue.send([b"1"], group="g")
            (first,) = await _receive(queue)
            await queue.pass_time(VISIBILITY_S)
            assert await queue.source.delete([first.receipt]) == [first.receipt]
            assert await queue.source.change_visibility([first.receipt], 10) == {}
            assert _bodies(await _receive(queue)) == [b"1"]

        self.check(scenario)

    def test_a_message_says_where_it_stands(self) -> None:
        """Its group, its deduplication id, and a number of 20 digits that rises (§3.1 "Event shape")."""

        async def scenario(queue: QueueUnderTest) -> None:
            await queue.send([b"1", b"2"], group="g")
            records = await _receive(queue)
            assert [record.key for record in records] == [b"g", b"g"]
            assert {record.attributes["MessageGroupId"] for record in records} == {"g"}
            assert len({record.attributes["MessageDeduplicationId"] for record in records}) == 2
            numbers = [record.attributes["SequenceNumber"] for record in records]
            assert numbers == sorted(set(numbers))
            assert {len(number) for number in numbers} == {20}

        self.check(scenario)

    def test_content_that_was_sent_lately_is_not_delivered_again(self) -> None:
        """Its sender is given the id of the first."""

        async def scenario(queue: QueueUnderTest) -> None:
            assert await queue.send([b"1"], group="g") == await queue.send([b"1"], group="g")
            assert len(await _receive(queue)) == 1

        self.check(scenario)

    def test_a_dead_letter_sets_its_group_free(self) -> None:
        """At the receive that would be one too many."""

        async def scenario(queue: QueueUnderTest) -> None:
            (sent,) = await queue.send([b"1"], group="g")
            await _receive(queue)
            await queue.send([b"2"], group="g")
            await queue.pass_time(VISIBILITY_S)
            received = await queue.source.receive(10, wait_s=HAPPENS_WITHIN_S)
            assert [moved.id for moved in received.redriven] == [sent]
            assert _bodies(received.records or await _receive(queue)) == [b"2"]
            assert await queue.dead_letters() == [sent]

        self.check(scenario, max_receive_count=1)

    def test_locks_survive_a_restart(self) -> None:
        """And the order of what waits."""

        async def scenario(queue: QueueUnderTest) -> None:
            if not queue.source.capabilities.survives_restart:
                pytest.skip("QueueCapabilities.survives_restart is not claimed")
            await queue.send([b"1", b"2"], group="g")
            (first,) = await _receive(queue, 1)
            await queue.restart()
            assert _bodies(await _receive(queue, wait_s=0)) == []
            assert await queue.source.delete([first.receipt]) == []
            assert _bodies(await _receive(queue)) == [b"2"]

        self.check(scenario)

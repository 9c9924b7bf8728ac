"""Queues: visibility timeout, receive count, redrive, partial batches (Lambda semantics §3)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from eventcore.engine import queue_intake
from eventcore.errors import StoreUnavailable
from eventcore.model import DiscardReason
from eventcore.ports.store import DeleteMessages, Operation, ReceiveMessages, SealFailures, Store
from eventcore.telemetry.events import BatchInvoked, BatchSettled
from eventcore.testing.harness import Harness
from eventcore.testing.virtual_loop import VirtualTimeLoop
from tests.behaviours.orders import numbers, play, queue_app, send_numbers
from tests.behaviours.scripted_source import play_scripted


async def _send_one(harness: Harness) -> None:
    await send_numbers(harness, 1, source="queue:orders")
    await harness.run_until_idle()


def test_a_failed_message_comes_back_exactly_at_its_visibility_timeout() -> None:
    """sqs/failed-invocation-is-retried-after-visibility-timeout; trap 9: there is no early reset."""
    seen: list[tuple[str, str, str]] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        (record,) = event["Records"]
        count = record["attributes"]["ApproximateReceiveCount"]
        seen.append((record["messageId"], record["receiptHandle"], count))
        if count == "1":
            raise ValueError("first time")

    harness = play(queue_app(work, queue={"visibility_timeout": 5}, batch_size=1), _send_one)
    first, second = harness.times(BatchInvoked)
    assert 5.0 <= second - first < 5.05
    assert seen[0][0] == seen[1][0]
    assert seen[0][1] != seen[1][1]
    assert [count for _, _, count in seen] == ["1", "2"]


def test_a_message_that_failed_and_then_succeeds_behind_a_new_one_is_no_failure_any_more() -> None:
    batches: list[list[int]] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        batches.append(numbers(event))
        if len(batches) == 1:
            raise ValueError("first time")

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 1, source="queue:orders")
        await harness.advance(3.5)
        assert len(await harness.failures()) == 1
        await send_numbers(harness, 1, source="queue:orders", first=2)
        await harness.run_until_idle()
        assert await harness.failures() == []

    app = queue_app(work, queue={"visibility_timeout": 4}, maximum_batching_window_in_seconds=1)
    attempts = [event.attempt for event in play(app, scenario).invocations]
    assert batches == [[1], [2, 1]]
    assert attempts == [1, 2]


def test_a_message_goes_to_the_dead_letter_queue_at_the_receive_after_its_last() -> None:
    """sqs/redrive-policy-moves-message-after-max-receive-count; trap 16."""
    calls: list[int] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        calls.append(1)
        raise ValueError("always")

    found: list[str] = []
    sent: list[str] = []

    async def scenario(harness: Harness) -> None:
        sent.extend(await harness.send("queue:orders", ["1"]))
        await harness.advance(7)
        assert await harness.messages("dead") == []
        await harness.run_until_idle()
        found.extend([message.id for message in await harness.messages("dead")])
        (failure,) = await harness.failures()
        assert (failure.reason, failure.is_final, failure.attempts) == ("ReceivesExhausted", True, 2)

    policy = {"dead_letter_queue": "dead", "max_receive_count": 2}
    harness = play(queue_app(work, queue={"visibility_timeout": 5, "redrive_policy": policy}), scenario)
    assert len(calls) == 2
    assert found == sent
    assert harness.lost[0].destination == "queue:dead"


def test_a_report_keeps_what_failed_and_deletes_the_rest() -> None:
    """§3.1: listed ids are kept, all others deleted."""
    calls: list[list[int]] = []

    async def work(event: dict[str, Any], context: Any) -> dict[str, Any]:
        calls.append(numbers(event))
        failed = [
            record["messageId"]
            for record in event["Records"]
            if record["body"] == "3" and record["attributes"]["ApproximateReceiveCount"] == "1"
        ]
        return {"batchItemFailures": [{"itemIdentifier": identifier} for identifier in failed]}

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 5, source="queue:orders")
        await harness.run_until_idle()
        assert await harness.failures() == []

    app = queue_app(work, batch_size=10, function_response_types=["ReportBatchItemFailures"])
    play(app, scenario)
    assert calls == [[1, 2, 3, 4, 5], [3]]


def test_a_message_that_succeeds_in_the_end_leaves_no_failure() -> None:
    """Failures of queue messages are kept while they may still succeed, and forgotten when they do (design §12)."""
    kept: list[int] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        if event["Records"][0]["attributes"]["ApproximateReceiveCount"] == "1":
            raise ValueError("first time")

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 1, source="queue:orders")
        await harness.advance(1)
        kept.append(len(await harness.failures()))
        await harness.run_until_idle()
        kept.append(len(await harness.failures()))

    play(queue_app(work), scenario)
    assert kept == [1, 0]


def test_the_failure_of_a_message_that_retention_takes_becomes_final() -> None:
    """It can't be tried again: what is kept of it says so."""

    async def work(event: dict[str, Any], context: Any) -> None:
        raise ValueError("always")

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 1, source="queue:orders")
        await harness.advance(5)
        (failure,) = await harness.failures()
        assert (failure.reason, failure.is_final) == ("Failing", False)
        await harness.advance(200)
        (failure,) = await harness.failures()
        assert (failure.reason, failure.is_final) == ("RecordExpired", True)

    queue = {"visibility_timeout": 50, "message_retention_period": 60}
    harness = play(queue_app(work, queue=queue), scenario)
    assert [(lost.reason, lost.count) for lost in harness.lost] == [(DiscardReason.RECORD_EXPIRED, 1)]


def test_a_delay_hides_a_new_message() -> None:
    """§3.2 DelaySeconds."""

    async def work(event: dict[str, Any], context: Any) -> None:
        return None

    async def scenario(harness: Harness) -> None:
        await harness.send("queue:orders", ["1"], delay_s=30)
        await harness.run_until_idle()

    harness = play(queue_app(work), scenario)
    assert 30.0 <= harness.times(BatchInvoked)[0] < 30.1


def test_batches_of_a_queue_run_at_the_same_time_up_to_its_maximum_concurrency() -> None:
    """§3.1 ScalingConfig."""
    import anyio

    running = 0
    most = 0

    async def work(event: dict[str, Any], context: Any) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.sleep(1)
        running -= 1

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 12, source="queue:orders")
        await harness.run_until_idle()

    play(queue_app(work, batch_size=1, maximum_concurrency=3), scenario)
    assert most == 3


def test_retention_holds_for_a_queue_that_nobody_receives_from() -> None:
    """§3.2 MessageRetentionPeriod; `queue:discards` is such a queue."""

    async def work(event: dict[str, Any], context: Any) -> None:
        return None

    async def scenario(harness: Harness) -> None:
        await harness.send("queue:dead", ["1"])
        await harness.advance(350_000)
        (depth,) = [depth for depth in await harness.store.queue_depths() if depth.queue == "dead"]
        assert (depth.visible, depth.hidden, depth.delayed) == (0, 0, 0)

    play(queue_app(work), scenario)


def test_the_next_batch_does_not_wait_for_the_last_ones_deletion() -> None:
    """Concurrency bounds what runs; what only waits for the disk runs no more."""

    async def work(event: dict[str, Any], context: Any) -> None:
        return None

    async def commit(store: Store, operations: Sequence[Operation]) -> list[Any]:
        if any(isinstance(operation, DeleteMessages) for operation in operations):
            await anyio.sleep(3)
        return await store.commit(operations)

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 3, source="queue:orders")
        await harness.run_until_idle()
        assert await harness.messages("orders") == []

    app = queue_app(work, batch_size=1, maximum_concurrency=2)
    first, _, third = play_scripted(app, scenario, commit=commit).times(BatchInvoked)
    assert third - first < 1


def test_batches_that_end_meanwhile_are_deleted_together() -> None:
    """What one deletion takes, others gather: a batch costs no transaction of its own."""
    deleted: list[int] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        await anyio.sleep(0.1)

    async def commit(store: Store, operations: Sequence[Operation]) -> list[Any]:
        receipts = [len(each.receipts) for each in operations if isinstance(each, DeleteMessages)]
        if receipts:
            deleted.append(sum(receipts))
            await anyio.sleep(1)
        return await store.commit(operations)

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 20, source="queue:orders")
        await harness.run_until_idle()
        assert await harness.messages("orders") == []

    app = queue_app(work, batch_size=1, maximum_concurrency=2)
    settled = play_scripted(app, scenario, commit=commit).times(BatchSettled)
    assert sum(deleted) == 20
    assert len(deleted) <= 4
    assert len(settled) == 20


def test_deletions_make_room_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for its deletion is bounded; that holds a mapping up, and does not stop it."""
    monkeypatch.setattr(queue_intake, "UNSETTLED_MAX", 10)

    async def work(event: dict[str, Any], context: Any) -> None:
        return None

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 50, source="queue:orders")
        await harness.run_until_idle()
        assert await harness.messages("orders") == []

    play(queue_app(work, batch_size=1, maximum_concurrency=2), scenario)


def test_handlers_that_never_wait_leave_the_loop_to_others() -> None:
    """One mapping's backlog must not keep heartbeats, and other functions, from their turn."""
    gaps: list[float] = []

    def work(event: dict[str, Any], context: Any) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        loop.pass_time(0.01)

    async def beat() -> None:
        while True:
            before = anyio.current_time()
            await anyio.sleep(0.01)
            gaps.append(anyio.current_time() - before)

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 100, source="queue:orders")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(beat)
            await harness.run_until_idle()
            tasks.cancel_scope.cancel()

    play(queue_app(work, batch_size=1, maximum_concurrency=2), scenario)
    assert max(gaps) < 0.1


@pytest.mark.parametrize(("work_s", "least", "most"), [(0.01, 30, 100), (10.0, 1, 3)])
def test_messages_are_received_ahead_at_the_pace_of_the_function(work_s: float, least: int, most: int) -> None:
    """A quarter of a second's worth, at least a batch: a slow function leaves messages to others.

    In few receives: at a hundredth of a second a message, 200 are worked off.
    """
    asked: list[int] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        await anyio.sleep(work_s)

    async def commit(store: Store, operations: Sequence[Operation]) -> list[Any]:
        asked.extend([operation.count_max for operation in operations if isinstance(operation, ReceiveMessages)])
        return await store.commit(operations)

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 300, source="queue:orders")
        await harness.advance(100 * work_s)

    app = queue_app(work, batch_size=1, maximum_concurrency=2, timeout=30)
    play_scripted(app, scenario, commit=commit)
    assert least <= max(asked) <= most
    assert work_s > 1 or len(asked) < 40


def test_a_fast_function_is_given_large_receives_late() -> None:
    """At ten thousand a second the store is asked when 400 wait, and then for what is missing of 1,000."""
    asked: list[int] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        await anyio.sleep(0.002)

    async def commit(store: Store, operations: Sequence[Operation]) -> list[Any]:
        asked.extend([operation.count_max for operation in operations if isinstance(operation, ReceiveMessages)])
        return await store.commit(operations)

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 8_000, source="queue:orders")
        await harness.run_until_idle()

    play_scripted(queue_app(work, batch_size=10, maximum_concurrency=2), scenario, commit=commit)
    _while_it_finds_its_pace, *at_speed = [count for count in asked if count >= 500]
    assert len(at_speed) > 5
    assert 600 <= min(at_speed) <= max(at_speed) < 700


@pytest.mark.parametrize("batch_size", [2, 3, 5, 10])
def test_a_batch_that_waits_for_its_window_fills_up_while_others_run(batch_size: int) -> None:
    begun: list[list[int]] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        begun.append(numbers(event))
        await anyio.sleep(100)

    async def scenario(harness: Harness) -> None:
        for number in range(1, 2 * batch_size + 1):
            await send_numbers(harness, 1, source="queue:orders", first=number)
            await harness.advance(1)
        await harness.advance(1)
        assert [len(batch) for batch in begun] == [batch_size, batch_size]
        await harness.run_until_idle()

    settings = {"batch_size": batch_size, "maximum_batching_window_in_seconds": 60, "maximum_concurrency": 2}
    play(queue_app(work, timeout=120, queue={"visibility_timeout": 900}, **settings), scenario)


def test_a_header_that_anybody_may_send_keeps_no_message_from_its_dead_letter_queue() -> None:
    """It says how often a dead letter was received before it came: never more often than in all."""

    async def work(event: dict[str, Any], context: Any) -> None:
        raise ValueError("always")

    async def scenario(harness: Harness) -> None:
        await harness.send("queue:orders", ["1"], headers={"eventcore-dead-letter-receives": "1000000"})
        await harness.advance(60)
        assert [message.receive_count for message in await harness.messages("dead")] == [2]

    policy = {"dead_letter_queue": "dead", "max_receive_count": 2}
    play(queue_app(work, queue={"visibility_timeout": 5, "redrive_policy": policy}), scenario)


def test_a_header_that_is_no_text_ends_no_mapping() -> None:
    bodies: list[str] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        bodies.extend(record["body"] for record in event["Records"])

    async def scenario(harness: Harness) -> None:
        await harness.send("queue:orders", ["1"], headers={"eventcore-dead-letter-source": b"\xff"})
        await harness.run_until_idle(within_s=600)

    play(queue_app(work), scenario)
    assert bodies == ["1"]


def test_messages_that_came_with_a_dead_one_are_given_back_when_its_failure_can_not_be_written() -> None:
    refused: list[Operation] = []
    seen: list[tuple[str, str]] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        (record,) = event["Records"]
        seen.append((record["body"], record["attributes"]["ApproximateReceiveCount"]))
        if record["body"] == "1":
            raise ValueError("always")

    async def commit(store: Store, operations: Sequence[Operation]) -> list[Any]:
        if not refused and isinstance(operations[0], SealFailures):
            refused.append(operations[0])
            raise StoreUnavailable("the disk is full for a moment")
        return await store.commit(operations)

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 1, source="queue:orders")
        # Both show at the same moment.
        await harness.send("queue:orders", ["2"], delay_s=600)
        await harness.advance(700)
        assert seen == [("1", "1"), ("2", "1")]

    policy = {"dead_letter_queue": "dead", "max_receive_count": 1}
    app = queue_app(work, batch_size=1, queue={"visibility_timeout": 600, "redrive_policy": policy})
    play_scripted(app, scenario, commit=commit)
    assert refused

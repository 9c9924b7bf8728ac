"""Message-move tasks: a dead-letter queue is redriven at a rate, is cancelled, goes on after a restart (§3.2)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import eventcore
from eventcore.engine.move_task import MoveState, MoveTask
from eventcore.errors import CommandError
from eventcore.http.contract import PlanRedrive, RedrivePlan
from eventcore.http.queues import QueueOperations
from eventcore.store.memory import open_memory_store
from eventcore.testing.harness import Harness, open_harness
from eventcore.testing.virtual_loop import run_virtual
from tests.behaviours.orders import numbers, play


def redrive_app(handler: Callable[..., Any] | None = None, **queue: Any) -> eventcore.App:
    """A queue with a dead-letter queue; without a handler, nothing reads it."""
    app = eventcore.App()
    app.queue("dead", fifo_queue=queue.get("fifo_queue", False))
    app.queue("other", fifo_queue=not queue.get("fifo_queue", False))
    policy = {"dead_letter_queue": "dead", "max_receive_count": 1}
    app.queue("orders", visibility_timeout=20, redrive_policy=policy, **queue)
    if handler is not None:
        app.function("work", runtime="inline")(handler)
        app.mapping("orders", source="queue:orders", function="work", batch_size=1)
    return app


async def start(harness: Harness, source: str = "dead", target: str = "orders", *, rate: int = 0) -> MoveTask:
    depths = {depth.queue: depth for depth in await harness.store.queue_depths()}
    return await harness.engine.moves.start(depths[source], depths[target], rate=rate)


async def plan(harness: Harness, target: str) -> RedrivePlan:
    queues = QueueOperations(harness.store, harness.clock, harness.engine.moves, is_engine_running=True)
    return await queues.plan_redrive(PlanRedrive(queue="dead", target=target))


async def send(harness: Harness, count: int, **options: Any) -> list[str]:
    return await harness.send("queue:dead", [str(number) for number in range(1, count + 1)], **options)


async def visible(harness: Harness) -> tuple[int, int]:
    """Messages of the dead-letter queue, and of the other one."""
    depths = {depth.queue: depth.visible for depth in await harness.store.queue_depths()}
    return depths["dead"], depths["orders"]


def test_a_task_moves_all_at_its_rate_as_new_messages() -> None:
    """sqs-core/redrive-makes-new-message: new ids, sent now, receive count 1 at the first receive."""

    async def scenario(harness: Harness) -> None:
        sent = await send(harness, 100)
        await harness.advance(100)
        begun = await start(harness, rate=10)
        assert (begun.state, begun.expected) == (MoveState.RUNNING, 100)
        await harness.advance(4.95)
        assert await visible(harness) == (50, 50)
        await harness.advance(10)
        ended = await harness.engine.moves.find(begun.id)
        assert (ended.state, ended.moved) == (MoveState.COMPLETED, 100)
        assert 9_900 <= ended.ended_ms - begun.started_ms <= 10_100
        moved = await harness.messages("orders")
        assert [message.body for message in moved] == [b"%d" % number for number in range(1, 101)]
        assert not {message.id for message in moved} & set(sent)
        assert {message.receive_count for message in moved} == {0}
        assert min(message.sent_ms for message in moved) >= begun.started_ms

    play(redrive_app(), scenario)


def test_a_message_that_fails_again_goes_round_once() -> None:
    """The loop guard: what comes to the queue after the task has begun stays there."""
    calls: list[int] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        calls.extend(numbers(event))
        raise ValueError("always")

    async def scenario(harness: Harness) -> None:
        await send(harness, 30)
        # Slow enough that the first ones are back before the last ones go.
        task = await start(harness, rate=1)
        await harness.advance(200)
        assert (await harness.engine.moves.find(task.id)).state is MoveState.COMPLETED
        assert await visible(harness) == (30, 0)

    play(redrive_app(work), scenario)
    assert sorted(calls) == [*range(1, 31)]


def test_a_cancelled_task_ends_before_its_next_step() -> None:
    """sqs-core/move-task-cancel-settles-later: CANCELLING first, then CANCELLED."""

    async def scenario(harness: Harness) -> None:
        await send(harness, 100)
        task = await start(harness, rate=10)
        await harness.advance(2.05)
        cancelling = await harness.engine.moves.cancel("dead")
        assert (cancelling.state, cancelling.is_over) == (MoveState.CANCELLING, False)
        await harness.advance(1)
        ended = await harness.engine.moves.find(task.id)
        assert (ended.state, ended.moved) == (MoveState.CANCELLED, cancelling.moved)
        assert await visible(harness) == (100 - ended.moved, ended.moved)
        with pytest.raises(CommandError, match="no messages of `dead`"):
            await harness.engine.moves.cancel("dead")
        again = await start(harness)
        await harness.advance(1)
        assert (await harness.engine.moves.find(again.id)).moved == 100 - ended.moved
        assert [each.id for each in await harness.engine.moves.all()] == [again.id, task.id]

    play(redrive_app(), scenario)


def test_one_task_a_queue() -> None:
    async def scenario(harness: Harness) -> None:
        await send(harness, 10)
        await start(harness, rate=1)
        with pytest.raises(CommandError, match="being moved already"):
            await start(harness)
        with pytest.raises(CommandError, match="being moved already"):
            await plan(harness, "orders")

    play(redrive_app(), scenario)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"target": "dead"}, "redriven into itself"),
        ({"target": "other"}, "not of one type"),
        ({"rate": 501}, "1-500 messages a second"),
        ({"rate": -1}, "1-500 messages a second"),
    ],
)
def test_a_task_that_can_not_be_is_refused(arguments: dict[str, Any], why: str) -> None:
    async def scenario(harness: Harness) -> None:
        with pytest.raises(CommandError, match=why):
            await start(harness, **arguments)
        assert await harness.engine.moves.all() == []

    play(redrive_app(), scenario)


@pytest.mark.parametrize(
    ("target", "why"), [("dead", "redriven into itself"), ("other", "not of one type"), ("nix", "no queue")]
)
def test_a_dry_run_promises_nothing_that_would_be_refused(target: str, why: str) -> None:
    async def scenario(harness: Harness) -> None:
        assert (await plan(harness, "")).target == "orders"
        with pytest.raises(CommandError, match=why):
            await plan(harness, target)

    play(redrive_app(), scenario)


def test_the_next_engine_goes_on_with_a_task() -> None:
    async def two_engines() -> None:
        async with open_memory_store() as store:
            await _in_harness(store, _begin)
            await _in_harness(store, _end)

    async def _in_harness(store: Any, scenario: Callable[[Harness], Awaitable[None]]) -> None:
        async with open_harness(redrive_app(), store=store) as harness:
            await scenario(harness)

    async def _begin(harness: Harness) -> None:
        await send(harness, 100)
        await start(harness, rate=10)
        await harness.advance(3.05)

    async def _end(harness: Harness) -> None:
        await harness.advance(20)
        (task,) = await harness.engine.moves.all()
        assert (task.state, task.moved) == (MoveState.COMPLETED, 100)
        assert await visible(harness) == (0, 100)

    run_virtual(two_engines)


def test_a_fifo_target_that_knows_a_message_drops_it() -> None:
    """sqs-core/move-task-hits-dedup."""
    calls: list[int] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        calls.extend(numbers(event))
        raise ValueError("always")

    async def scenario(harness: Harness) -> None:
        (sent,) = await harness.send("queue:orders", ["1"], key="g", deduplication_id="d")
        await harness.advance(60)
        assert await visible(harness) == (1, 0)
        await harness.send("queue:orders", ["2"], key="g", deduplication_id=sent)
        await harness.advance(60)
        task = await start(harness)
        await harness.advance(1)
        ended = await harness.engine.moves.find(task.id)
        assert (ended.state, ended.taken, ended.moved) == (MoveState.COMPLETED, 2, 1)

    play(redrive_app(work, fifo_queue=True), scenario)
    assert calls == [1, 2, 2]

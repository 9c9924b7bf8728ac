"""A stop ends at once whatever a mapping waits for, and what it was working on comes again (design §6; issue 3, §2)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

import eventcore
from eventcore.engine.status import MappingState
from eventcore.store.memory import open_memory_store
from eventcore.telemetry.events import EngineEvent, MappingStateChanged
from eventcore.testing.harness import Harness, open_harness
from eventcore.testing.virtual_loop import run_virtual
from tests.behaviours.orders import queue_app, send_numbers, stream_app
from tests.behaviours.scripted_source import ScriptedStream, Settled, play_scripted, record, scripted_app

#: An orderly stop needs no more than a few turns of the loop when nothing runs, seconds.
AT_ONCE_S = 0.5


async def _fail(event: dict[str, Any], context: Any) -> None:
    raise ValueError("always")


async def _work_a_minute(event: dict[str, Any], context: Any) -> None:
    await anyio.sleep(60)


async def _stop(harness: Harness, stop: Callable[[], None]) -> float:
    """Stop the engine; return after how many seconds its mapping had ended."""
    ended = anyio.Event()

    def hear(event: EngineEvent) -> None:
        if isinstance(event, MappingStateChanged) and event.state == MappingState.STOPPED:
            ended.set()

    harness.engine.events.subscribe(hear)
    began_s = anyio.current_time()
    stop()
    with anyio.fail_after(200):
        await ended.wait()
    return anyio.current_time() - began_s


def _play(app: eventcore.App, scenario: Callable[[Harness], Awaitable[None]], **harness: Any) -> None:
    async def run() -> None:
        async with open_harness(app, **harness) as opened:
            await scenario(opened)

    run_virtual(run)


@pytest.mark.parametrize("word", ["drain", "abort"])
def test_a_stop_does_not_wait_for_a_batch_that_backs_off(word: str) -> None:
    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 1)
        await harness.advance(50)  # the pause before the next try is half a minute by now
        assert await _stop(harness, getattr(harness.engine, word)) < AT_ONCE_S

    _play(stream_app(_fail), scenario)


@pytest.mark.parametrize("word", ["drain", "abort"])
def test_a_stop_does_not_wait_for_the_window_of_a_batch(word: str) -> None:
    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 1)
        await harness.advance(1)
        assert await _stop(harness, getattr(harness.engine, word)) < AT_ONCE_S
        assert harness.invocations == []

    _play(stream_app(_fail, maximum_batching_window_in_seconds=300), scenario)


def test_an_abort_does_not_wait_for_a_batch_that_waits_for_a_slot() -> None:
    """Two shards, one slot: one runs, one waits; neither loses a record."""

    def app(handler: Callable[..., Any]) -> eventcore.App:
        made = eventcore.App()
        made.stream("orders", shards=2)
        made.function("work", runtime="inline", timeout=120, concurrency=1)(handler)
        made.mapping("orders", source="stream:orders", function="work", starting_position="TRIM_HORIZON")
        return made

    seen: list[int] = []

    async def note(event: dict[str, Any], context: Any) -> None:
        seen.append(len(event["Records"]))

    async def run() -> None:
        async with open_memory_store() as store:
            async with open_harness(app(_work_a_minute), store=store) as harness:
                for number in range(8):
                    await harness.send("stream:orders", [str(number)], key=str(number))
                await harness.advance(1)
                assert len(harness.invocations) == 1
                assert await _stop(harness, harness.engine.abort) < AT_ONCE_S
                assert harness.settled == []
            async with open_harness(app(note), store=store) as harness:
                await harness.run_until_idle()

    run_virtual(run)
    assert sum(seen) == 8


def test_a_drain_settles_the_batch_that_runs_and_leaves_the_rest() -> None:
    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 4)
        await harness.advance(1)
        assert 10 < await _stop(harness, harness.engine.drain) < 20
        assert sum(run.count for run in harness.settled) == 2

    async def work(event: dict[str, Any], context: Any) -> None:
        await anyio.sleep(15)

    _play(stream_app(work, timeout=20, batch_size=2), scenario)


def test_checkpoints_are_written_behind_until_the_last_batch_of_a_drain_is_settled() -> None:
    """A shard that is done does not wait for the others with its progress; and shards that come later are not begun."""
    stream = ScriptedStream({"orders-0": [record(0)]})
    behind: list[tuple[str, bool]] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        await anyio.sleep(15)
        behind.append(("handler", stream.is_written_behind))

    async def note(settled: Settled) -> None:
        behind.append(("settle", stream.is_written_behind))

    async def assign_once_more() -> None:
        await stream.source.take()
        behind.append(("close", stream.is_written_behind))

    async def scenario(harness: Harness) -> None:
        await harness.advance(1)
        stream.on_settle, stream.on_close = note, assign_once_more
        await _stop(harness, harness.engine.drain)

    harness = play_scripted(scripted_app(work, timeout=20, batch_size=2), scenario, stream)
    assert behind == [("handler", True), ("settle", True), ("close", False)]
    assert len(harness.invocations) == 1


def test_a_drain_that_takes_longer_than_its_time_becomes_an_abort() -> None:
    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 1)
        await harness.advance(1)
        assert 25 <= await _stop(harness, harness.engine.drain) < 25 + AT_ONCE_S
        assert harness.settled == []

    _play(stream_app(_work_a_minute, timeout=120), scenario)


def test_messages_that_wait_at_a_drain_are_shown_to_others_at_once() -> None:
    """Those that no function has seen need not wait for their visibility timeout."""

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 5, source="queue:orders")
        await harness.advance(1)
        await _stop(harness, harness.engine.drain)
        (depth,) = [depth for depth in await harness.store.queue_depths() if depth.queue == "orders"]
        assert (depth.visible, depth.hidden) == (5, 0)
        assert harness.invocations == []

    _play(queue_app(_fail, batch_size=10, maximum_batching_window_in_seconds=20), scenario)

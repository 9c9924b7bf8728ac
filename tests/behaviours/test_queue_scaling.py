"""Concurrent batches of a queue: how they rise, fall, and are cut (Lambda semantics §3.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

import eventcore
from eventcore.testing.harness import Harness
from tests.behaviours.orders import numbers, play, send_numbers


def scaled_app(handler: Callable[..., Any], *, concurrency: int = 1000, **mapping: Any) -> eventcore.App:
    app = eventcore.App()
    app.queue("orders", visibility_timeout=600)
    app.function("work", runtime="inline", timeout=100, concurrency=concurrency)(handler)
    app.mapping("orders", source="queue:orders", function="work", batch_size=1, **mapping)
    return app


class Running:
    """A handler that takes its time, and how many of it run."""

    def __init__(self, work_s: float) -> None:
        self.count = 0
        self._work_s = work_s

    async def __call__(self, event: dict[str, Any], context: Any) -> None:
        self.count += 1
        try:
            await anyio.sleep(self._work_s)
        finally:
            self.count -= 1


async def watch(harness: Harness, running: Running, *seconds: float) -> list[int]:
    """Return how many run at each time, seconds after the beginning."""
    seen = []
    passed = 0.0
    for at in seconds:
        await harness.advance(at - passed)
        passed = at
        seen.append(running.count)
    return seen


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [5, 10, 15, 55]),
        ({"maximum_concurrency": 12}, [5, 10, 12, 12]),
        ({"maximum_concurrency": 3}, [3, 3, 3, 3]),
        ({"concurrency": 7}, [5, 7, 7, 7]),
    ],
)
def test_five_batches_run_at_first_and_five_more_a_second_while_messages_wait(
    settings: dict[str, Any], expected: list[int]
) -> None:
    running = Running(60)
    seen: list[int] = []

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 500, source="queue:orders")
        seen.extend(await watch(harness, running, 0.5, 1.5, 2.5, 10.5))
        harness.engine.abort()

    play(scaled_app(running, **settings), scenario)
    assert seen == expected


def test_a_mapping_with_enough_slots_does_not_grow() -> None:
    running = Running(10)
    seen: list[int] = []

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 4, source="queue:orders")
        await harness.advance(9)
        await send_numbers(harness, 30, source="queue:orders")
        await harness.advance(0.5)
        seen.append(running.count)
        await harness.run_until_idle()

    play(scaled_app(running), scenario)
    assert seen == [5]


def test_an_idle_mapping_starts_with_five_again() -> None:
    running = Running(30)
    seen: list[int] = []

    async def scenario(harness: Harness) -> None:
        for _ in range(2):
            await send_numbers(harness, 60, source="queue:orders")
            seen.extend(await watch(harness, running, 0.5, 5.5))
            await harness.run_until_idle()
            await harness.advance(60)

    play(scaled_app(running), scenario)
    assert seen == [5, 30, 5, 30]


def _fail_then_watch(**settings: Any) -> tuple[list[int], list[int]]:
    running = Running(10)
    failing: list[int] = []
    seen: list[int] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        if numbers(event)[0] <= 30:
            failing.append(numbers(event)[0])
            raise ValueError("always")
        await running(event, context)

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 130, source="queue:orders")
        seen.extend(await watch(harness, running, 0.5, 25.5))
        harness.engine.abort()

    play(scaled_app(work, maximum_concurrency=5, **settings), scenario)
    return failing, seen


def test_repeated_errors_cut_the_batches_that_run_and_successes_bring_them_back() -> None:
    """§3.1: repeated function errors make the mapping cut its concurrency."""
    failing, seen = _fail_then_watch()
    assert sorted(failing) == [*range(1, 31)]
    assert seen[0] == 2
    assert seen[1] > 2


def test_errors_cut_nothing_where_failed_messages_are_reported() -> None:
    """§3.1: but not when ReportBatchItemFailures is on."""
    _, seen = _fail_then_watch(function_response_types=["ReportBatchItemFailures"])
    assert seen[0] == 5


def test_a_cut_lasts_for_as_long_as_the_function_fails() -> None:
    """A minute of failures would bring 300 batches more, if it counted like one of work."""
    running = Running(2)
    seen: list[int] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        await running(event, context)
        raise ValueError("always")

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 500, source="queue:orders")
        seen.extend(await watch(harness, running, 1.5, 5.5, 31.5, 61.5))
        harness.engine.abort()

    play(scaled_app(work), scenario)
    assert seen == [10, 2, 2, 2]


def test_time_in_which_no_message_waits_brings_no_batches_more() -> None:
    """Two of five batches end at once, and one message waits: there is a slot too many from then on."""
    running = Running(0.5)
    seen: list[int] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        await running(event, context)
        if numbers(event)[0] <= 2:
            raise ValueError("always")

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 6, source="queue:orders")
        await harness.advance(15)
        await send_numbers(harness, 60, first=7, source="queue:orders")
        await harness.advance(0.4)
        seen.append(running.count)
        harness.engine.abort()

    play(scaled_app(work, function_response_types=["ReportBatchItemFailures"]), scenario)
    assert seen == [5]


def test_a_cut_ends_batches_as_they_are_done() -> None:
    """Forty run; one that is done makes room for two that fail; so those that are done next have no successor."""
    running = 0
    began: list[float] = []
    seen: list[int] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        nonlocal running
        (number,) = numbers(event)
        began.append(anyio.current_time())
        if number in {41, 42}:
            raise ValueError("always")
        running += 1
        await anyio.sleep_until(began[0] + (20 + number / 20 if number <= 40 else 80))
        running -= 1

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 200, source="queue:orders")
        await harness.advance(19.9)
        seen.append(running)
        await harness.advance(1.7)
        seen.append(running)
        harness.engine.abort()

    play(scaled_app(work, maximum_concurrency=40), scenario)
    assert seen[0] == 40
    assert 20 <= seen[1] <= 30

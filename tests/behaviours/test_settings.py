"""Settings of the whole pipeline, and the function's concurrency: each acts."""

from __future__ import annotations

from typing import Any

import anyio

import eventcore
from eventcore.testing.harness import Harness, open_harness
from eventcore.testing.virtual_loop import run_virtual
from tests.behaviours.orders import play, send_numbers, stream_app


def test_region_and_account_stand_in_every_arn() -> None:
    seen: list[str] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        (record,) = event["Records"]
        seen.extend([record["eventSourceARN"], record["awsRegion"], context.invoked_function_arn])

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 1)
        await harness.run_until_idle()

    app = stream_app(work)
    app.settings(region="eu-central-1", account_id="123456789012")
    play(app, scenario)
    assert seen == [
        "arn:aws:kinesis:eu-central-1:123456789012:stream/orders",
        "eu-central-1",
        "arn:aws:lambda:eu-central-1:123456789012:function:work",
    ]


def test_a_drain_that_takes_too_long_becomes_an_abort() -> None:
    """What is aborted comes back with the next engine: released, not failed."""
    began: list[float] = []
    ended: list[float] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        began.append(anyio.current_time())
        await anyio.sleep(100)
        ended.append(anyio.current_time())

    app = stream_app(work, timeout=900)
    app.settings(drain_timeout=7)

    async def scenario() -> float:
        async with open_harness(app) as harness:
            await send_numbers(harness, 1)
            await harness.advance(1)
            drained_s = anyio.current_time()
        return anyio.current_time() - drained_s

    took_s = run_virtual(scenario)
    assert len(began) == 1
    assert ended == []
    assert 7.0 <= took_s < 8.0


def test_a_drain_lets_what_runs_finish() -> None:
    ended: list[int] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        await anyio.sleep(5)
        ended.append(len(event["Records"]))

    async def scenario() -> None:
        async with open_harness(stream_app(work, timeout=900)) as harness:
            await send_numbers(harness, 3)
            await harness.advance(1)
        assert [settled.count for settled in harness.settled] == [3]

    run_virtual(scenario)
    assert ended == [3]


def _failing_app(**settings: Any) -> eventcore.App:
    async def work(event: dict[str, Any], context: Any) -> None:
        raise ValueError("always")

    app = stream_app(work, batch_size=1, maximum_retry_attempts=0)
    app.settings(**settings)
    return app


def test_failures_are_forgotten_after_their_time() -> None:
    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 2)
        await harness.run_until_idle()
        assert len(await harness.failures()) == 2
        await harness.advance(3700)
        assert await harness.failures() == []

    play(_failing_app(failures_retention_period=3600), scenario)


def test_the_oldest_failures_go_when_they_are_too_many() -> None:
    """`failures_maximum_bytes` counts what is kept of them, events included."""

    async def scenario(harness: Harness) -> None:
        for number in range(6):
            await harness.send("stream:orders", [f"{number}" + "x" * 300_000], key="k")
            await harness.run_until_idle()
        await harness.advance(61)
        kept = await harness.failures()
        assert 1 <= len(kept) < 6
        newest = {discarded.failure_id for discarded in harness.discarded[-len(kept) :]}
        assert {failure.id for failure in kept} == newest

    play(_failing_app(failures_maximum_bytes=2_000_000), scenario)


def test_no_more_invocations_run_at_once_than_the_function_allows() -> None:
    """Two mappings share the function's environments."""
    running = 0
    most = 0

    async def work(event: dict[str, Any], context: Any) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.sleep(1)
        running -= 1

    app = eventcore.App()
    app.function("work", runtime="inline", timeout=10, concurrency=3)(work)
    for name in ("first", "second"):
        app.queue(name, visibility_timeout=60)
        app.mapping(name, source=f"queue:{name}", function="work", batch_size=1)

    async def scenario(harness: Harness) -> None:
        for name in ("first", "second"):
            await send_numbers(harness, 6, source=f"queue:{name}")
        await harness.run_until_idle()

    play(app, scenario)
    assert most == 3

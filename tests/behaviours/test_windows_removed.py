"""A mapping that is begun without the windows that it had: the open one is given up aloud, and nothing else changes."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest

from eventcore.store.memory import open_memory_store
from eventcore.testing import open_pipeline
from eventcore.testing.harness import open_harness
from eventcore.testing.virtual_loop import run_virtual
from tests.behaviours.orders import numbers, send_numbers, stream_app

WINDOW = {"tumbling_window_in_seconds": 10, "batch_size": 1}


class Summing:
    """A function that adds its records up in the state of a window, where there is one."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[int], Any]] = []  #: records, and the state; None without a window

    async def __call__(self, event: dict[str, Any], context: Any) -> Any:
        self.calls.append((numbers(event), event.get("state")))
        return {"state": {"sum": event.get("state", {}).get("sum", 0) + sum(numbers(event))}}


@pytest.mark.parametrize("settings", [{}, {"lanes": 2}, {"parallelization_factor": 2}], ids=["one", "lanes", "factor"])
def test_a_window_that_is_open_when_the_windows_are_removed_is_given_up_aloud(settings: dict[str, Any]) -> None:
    work = Summing()
    windowed, plain = stream_app(work, **WINDOW), stream_app(work, batch_size=1, **settings)

    async def run() -> None:
        async with open_memory_store() as store:
            async with open_harness(windowed, store=store) as harness:
                await send_numbers(harness, 2)
                await harness.run_until_idle()
                assert harness.discarded == []
            async with open_harness(plain, store=store) as harness:
                await harness.run_until_idle()
                (entry,) = harness.discarded
                assert (entry.count, entry.reason, entry.destination) == (0, "WindowsRemoved", "queue:failed")
                assert entry.first == "window 2026-01-01T00:00:00Z"
                (message,) = await harness.messages("failed")
                told = json.loads(message.body)
                assert told["requestContext"]["condition"] == "WindowsRemoved"
                assert told["requestContext"]["approximateInvokeCount"] == 0
                assert told["timeWindowInfo"]["isFinalInvokeForWindow"]
                (kept,) = await harness.failures()
                failure = await harness.store.failure(kept.id)
                assert failure is not None
                # The final call as it would have been made: a person can have it run.
                assert json.loads(failure.event)["state"] == {"sum": 3}
                assert json.loads(failure.event)["isFinalInvokeForWindow"]
            async with open_harness(plain, store=store) as harness:
                await harness.run_until_idle()
                assert harness.discarded == []
                await send_numbers(harness, 1, first=3)
                await harness.run_until_idle()
            for app in (plain, windowed):
                # It is given up once, and a later window begins with nothing of it.
                async with open_harness(app, store=store) as harness:
                    await send_numbers(harness, 1, first=4)
                    await harness.run_until_idle()
                    assert harness.discarded == []

    run_virtual(run)
    assert work.calls == [([1], {}), ([2], {"sum": 1}), ([3], None), ([4], None), ([4], {})]


def test_a_failing_batch_keeps_its_attempts_when_the_windows_are_removed() -> None:
    calls: list[tuple[list[int], bool]] = []

    async def work(event: dict[str, Any], context: Any) -> Any:
        calls.append((numbers(event), "state" in event))
        if numbers(event) == [2]:
            raise ValueError("poison")
        return {"state": {}}

    async def run() -> None:
        async with open_memory_store() as store:
            async with open_harness(stream_app(work, maximum_retry_attempts=4, **WINDOW), store=store) as harness:
                await send_numbers(harness, 2)
                await harness.advance(0.2)
                attempts = len([call for call in calls if call[0] == [2]])
                assert 0 < attempts < 5
            plain = stream_app(work, maximum_retry_attempts=4, batch_size=1)
            async with open_harness(plain, store=store) as harness:
                await harness.advance(0.1)
                assert attempts < len(calls) - 1 < 5
                assert [entry.reason for entry in harness.discarded] == ["WindowsRemoved"]
            async with open_harness(plain, store=store) as harness:
                await harness.run_until_idle()
                assert [entry.reason for entry in harness.discarded] == ["RetryAttemptsExhausted"]

    run_virtual(run)
    assert [called for called, _ in calls] == [[1], *[[2]] * 5]
    assert calls[1] == ([2], True)
    assert calls[-1] == ([2], False)


def test_a_window_that_was_given_up_does_not_come_back_with_a_mark() -> None:
    """A batch that was tried before is marked as soon as the windows are gone, and an engine dies in it."""
    calls: list[list[int]] = []

    async def work(event: dict[str, Any], context: Any) -> Any:
        calls.append(numbers(event))
        if numbers(event) == [2]:
            await anyio.sleep(1)
            if len(calls) < 4:
                raise ValueError("not yet")
        return {"state": {}}

    with open_pipeline(stream_app(work, **WINDOW)) as pipeline:
        pipeline.send("stream:orders", [1, 2], key="k")
        pipeline.advance(1.1)
        pipeline.restart(stream_app(work, batch_size=1))
        pipeline.advance(0.5)
        assert calls == [[1], [2], [2]]
        pipeline.crash()
        pipeline.run_until_idle()
        assert calls == [[1], [2], [2], [2]]
        assert [discard.reason for discard in pipeline.discards] == ["WindowsRemoved"]

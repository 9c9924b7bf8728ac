"""Loops are ended: after 16 invocations of a function in one chain its event is given up (Lambda semantics §2.3)."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import eventcore
from eventcore.delivery.lineage import CHAIN_MAX
from eventcore.model import DiscardReason
from eventcore.telemetry.events import EventDiscarded
from eventcore.testing.harness import Harness
from tests.behaviours.orders import play


def _circle(calls: Counter[str], *, fails: bool = False, ends_after: int = 10**9, **settings: Any) -> eventcore.App:
    """Two functions, each the other's destination."""
    app = eventcore.App()
    app.queue("failed")

    async def work(event: Any, context: Any) -> str:
        calls[context.function_name] += 1
        if fails or calls.total() > ends_after:
            raise ValueError("fails")
        return "done"

    way = "on_failure" if fails else "on_success"
    shared = {"runtime": "inline", "maximum_retry_attempts": 0, **({} if fails else {"on_failure": "queue:failed"})}
    app.function("there", **{**shared, way: "function:back", **settings})(work)
    app.function("back", **{**shared, way: "function:there", **settings})(work)
    return app


async def _begin(harness: Harness) -> None:
    await harness.invoke_async("there", {"id": 1})
    await harness.run_until_idle()


def test_a_chain_through_functions_ends_and_the_event_goes_to_its_destination() -> None:
    calls: Counter[str] = Counter()

    async def scenario(harness: Harness) -> None:
        await _begin(harness)
        (message,) = await harness.messages("failed")
        record = json.loads(message.body)
        assert record["requestContext"]["condition"] == "Recursion"
        assert record["requestContext"]["approximateInvokeCount"] == 0
        assert "responseContext" not in record

    harness = play(_circle(calls), scenario)
    assert calls == {"there": CHAIN_MAX, "back": CHAIN_MAX}
    (discarded,) = harness.events(EventDiscarded)
    assert discarded.reason is DiscardReason.RECURSION


def test_a_loop_of_destinations_for_failures_ends_in_the_built_in_queue() -> None:
    """A function that is told of the end of a loop might be a part of it."""
    calls: Counter[str] = Counter()

    async def scenario(harness: Harness) -> None:
        await _begin(harness)
        (message,) = await harness.messages("discards")
        assert json.loads(message.body)["requestContext"]["condition"] == "Recursion"

    play(_circle(calls, fails=True), scenario)
    assert calls == {"there": CHAIN_MAX, "back": CHAIN_MAX}


def test_recursive_loop_allows_a_loop() -> None:
    calls: Counter[str] = Counter()
    harness = play(_circle(calls, recursive_loop="Allow", ends_after=100), _begin)
    assert calls.total() == 101
    assert DiscardReason.RECURSION not in {event.reason for event in harness.events(EventDiscarded)}

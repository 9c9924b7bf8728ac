"""A message that is being worked on is nobody else's; what waits is bounded (Lambda semantics §3.2; design §12)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
import pytest

import eventcore
from eventcore import signals
from eventcore.ports.store import ChangeVisibility, Operation, Store
from eventcore.testing.harness import Harness
from tests.behaviours.orders import numbers, queue_app, send_numbers
from tests.behaviours.scripted_source import ScriptedStream, play_scripted, record, scripted_app

MEGABYTE = 1_000_000


def _one_at_a_time(handler: Any, *, timeout: int, visibility_timeout: int) -> eventcore.App:
    """Two messages are received at once, and one function instance works on them one after the other."""
    app = eventcore.App()
    app.queue("orders", visibility_timeout=visibility_timeout)
    app.function("work", runtime="inline", timeout=timeout, concurrency=1)(handler)
    app.mapping("orders", source="queue:orders", function="work", batch_size=1)
    return app


async def _two_messages(harness: Harness) -> None:
    await send_numbers(harness, 2, source="queue:orders")
    await harness.advance(300)
    assert sum(depth.visible + depth.hidden for depth in await harness.store.queue_depths()) == 0


def test_what_succeeds_while_its_lease_is_extended_is_not_delivered_again() -> None:
    """The extension replaces the receipt; the delete must use the one that holds when its answer is there."""
    seen: list[int] = []
    extended: list[float] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        seen.extend(numbers(event))
        await anyio.sleep(2.6 if len(seen) == 1 else 0.1)

    async def commit(store: Store, operations: Sequence[Operation]) -> list[Any]:
        results = await store.commit(operations)
        if any(isinstance(operation, ChangeVisibility) and operation.timeout_s for operation in operations):
            extended.append(anyio.current_time())
            await anyio.sleep(0.5)
        return results

    play_scripted(_one_at_a_time(work, timeout=3, visibility_timeout=3), _two_messages, commit=commit)
    assert extended
    assert seen == [1, 2]


def test_a_lease_is_extended_though_the_environment_starts_late() -> None:
    """When the lease is due, the environment is not alive yet: that says nothing of what it will do."""
    seen: list[int] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        seen.extend(numbers(event))
        await anyio.sleep(4)

    async def start_late() -> None:
        await anyio.sleep(0.3)

    signals.set_hook("dispatcher.before_invoke", start_late)
    play_scripted(_one_at_a_time(work, timeout=6, visibility_timeout=6), _two_messages)
    assert seen == [1, 2]


def test_messages_that_wait_are_bounded_in_bytes() -> None:
    """A batch of 1,000 does not let the engine hold 1,000 messages of a megabyte each: 64 MiB wait, and what runs."""
    held: list[int] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        await anyio.sleep(2)

    async def scenario(harness: Harness) -> None:
        await harness.send("queue:orders", [b"x" * MEGABYTE] * 200)
        for _ in range(10):
            await harness.advance(0.2)
            depths = {depth.queue: depth.hidden for depth in await harness.store.queue_depths()}
            held.append(depths["orders"])

    app = queue_app(
        work,
        batch_size=1000,
        maximum_batching_window_in_seconds=1,
        maximum_concurrency=2,
        queue={"visibility_timeout": 100},
    )
    play_scripted(app, scenario)
    assert 20 < max(held) < 100


@pytest.mark.parametrize("receive_max", [60, 10_000])
def test_a_shard_that_holds_few_bytes_does_not_wait_out_its_window(receive_max: int) -> None:
    """Of 64 shards each holds a megabyte: what fills it is a batch, and what was paused by it comes before a window."""
    seen: list[int] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        seen.append(len(event["Records"]))

    def records(first: int, end: int) -> list[Any]:
        return [record(position, size_bytes=20_000) for position in range(first, end)]

    async def scenario(harness: Harness) -> None:
        await harness.advance(1)
        assert 450 < sum(seen) < 520  # the last ones wait for their window
        stream.shards["orders-0"].extend(records(520, 3500))
        stream.source.wake()
        await harness.advance(20)
        assert sum(seen) > 3400

    shards: dict[str, Any] = {f"orders-{number}": [] for number in range(64)}
    stream = ScriptedStream({**shards, "orders-0": records(0, 520)}, receive_max=receive_max)
    play_scripted(scripted_app(work, batch_size=100, maximum_batching_window_in_seconds=300), scenario, stream)

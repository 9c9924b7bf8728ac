"""The books balance through lost shards, restarts, aborts and releases (issue 4; OBS-8)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
import pytest

import eventcore
from eventcore.engine.engine import Engine
from eventcore.errors import SourceUnavailable, StoreUnavailable
from eventcore.ports.store import DeleteMessages, KeepFailure, Operation, ReceiveMessages, Store
from eventcore.testing.harness import Harness
from tests.behaviours.orders import numbers, queue_app, send_numbers
from tests.behaviours.scripted_source import ScriptedStream, Settled, books, play_scripted, record, scripted_app


def _sleep(seconds: float) -> Any:
    async def work(event: dict[str, Any], context: Any) -> None:
        await anyio.sleep(seconds)

    return work


async def _fail(event: dict[str, Any], context: Any) -> None:
    raise ValueError("always")


def test_of_a_lost_shard() -> None:
    """What was held goes back to whoever has the shard now."""

    async def scenario(harness: Harness) -> None:
        await harness.advance(1)
        await stream.lose()
        await harness.advance(1)
        counters = await books(harness)
        assert (counters.received, counters.in_flight, counters.returned) == (10, 0, 10)

    stream = ScriptedStream({"orders-0": [record(position) for position in range(10)]})
    play_scripted(scripted_app(_sleep(5), timeout=10, batch_size=2), scenario, stream)


def test_of_a_shard_that_is_lost_and_taken_again_at_once() -> None:
    """Its records are received twice, returned once and settled once."""

    async def scenario(harness: Harness) -> None:
        await harness.advance(1)
        await stream.lose()
        await stream.source.take()
        await harness.advance(1)
        counters = await books(harness)
        assert counters.received == 20
        await harness.run_until_idle(within_s=300)
        counters = await books(harness)
        assert (counters.settled, counters.returned, counters.in_flight) == (10, 10, 0)

    stream = ScriptedStream({"orders-0": [record(position) for position in range(10)]})
    play_scripted(scripted_app(_sleep(5), timeout=10, batch_size=2), scenario, stream)


def test_of_a_shard_that_is_revoked_while_its_discard_waits_for_the_destination() -> None:
    async def scenario(harness: Harness) -> None:
        await harness.advance(10)
        await stream.revoke()
        counters = await books(harness)
        assert (sum(counters.discarded.values()), counters.in_flight, counters.retrying) == (1, 0, 0)

    stream = ScriptedStream({"orders-0": [record(0)]})
    play_scripted(scripted_app(_fail, sink=_fail, maximum_retry_attempts=0), scenario, stream)


@pytest.mark.parametrize("handler", [_fail, _sleep(100)], ids=["backing off", "running"])
def test_of_a_shard_that_an_abort_finds_at_work(handler: Any) -> None:
    """Nothing is in flight in an engine that has ended."""

    async def scenario(harness: Harness) -> None:
        await harness.advance(5)
        harness.engine.abort()
        await harness.advance(5)
        counters = await books(harness)
        assert (counters.returned, counters.in_flight, counters.retrying) == (10, 0, 0)

    stream = ScriptedStream({"orders-0": [record(position) for position in range(10)]})
    play_scripted(scripted_app(handler, timeout=200, batch_size=2), scenario, stream)


def test_between_a_discard_and_its_ack() -> None:
    """The discard is durable, the checkpoint is refused once: the record comes again, and is not invoked again."""
    refused: list[Settled] = []

    async def refuse_once(settled: Settled) -> None:
        if settled.checkpoint == 1 and not refused:
            refused.append(settled)
            raise SourceUnavailable("away")

    async def scenario(harness: Harness) -> None:
        for _ in range(400):
            await harness.advance(0.05)
            await books(harness)
        assert refused
        assert len(harness.invocations) == 1
        assert len(await harness.messages("failed")) == 1

    stream = ScriptedStream({"orders-0": [record(0)]}, is_settle_durable=True)
    stream.on_settle = refuse_once
    play_scripted(scripted_app(_fail, maximum_retry_attempts=0), scenario, stream)


def test_of_messages_that_are_worked_on_while_the_store_fails() -> None:
    """The mapping starts anew; its messages come back after their visibility timeout."""
    failures = 0

    async def fail_while_they_run(store: Store, operations: Sequence[Operation]) -> list[Any]:
        nonlocal failures
        is_receive = any(isinstance(operation, ReceiveMessages) for operation in operations)
        if is_receive and not failures and anyio.current_time() >= 1:
            failures += 1
            raise StoreUnavailable("busy")
        return await store.commit(operations)

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 3, source="queue:orders")
        await harness.advance(1)
        assert len(harness.invocations) == 3
        await send_numbers(harness, 1, source="queue:orders", first=4)
        await harness.advance(200)
        counters = await books(harness)
        assert (counters.in_flight, counters.settled) == (0, 4)
        assert counters.returned == counters.received - 4
        assert counters.returned >= 3

    app = queue_app(_sleep(2), queue={"visibility_timeout": 10}, batch_size=1)
    play_scripted(app, scenario, commit=fail_while_they_run)
    assert failures == 1


@pytest.mark.parametrize("waits_s", [0.0, 1.0])
def test_of_messages_whose_deletion_fails(waits_s: float) -> None:
    """Those of that deletion, and those that wait for the next: they come back after their visibility timeout."""
    is_down = True

    async def fail_to_delete(store: Store, operations: Sequence[Operation]) -> list[Any]:
        if is_down and any(isinstance(operation, DeleteMessages) for operation in operations):
            await anyio.sleep(waits_s)
            raise StoreUnavailable("busy")
        return await store.commit(operations)

    async def scenario(harness: Harness) -> None:
        nonlocal is_down
        await send_numbers(harness, 6, source="queue:orders")
        await harness.advance(5)
        is_down = False
        counters = await books(harness)
        assert (counters.received, counters.settled, counters.returned) == (6, 0, 6)
        await harness.advance(200)
        counters = await books(harness)
        assert (counters.in_flight, counters.settled) == (0, 6)

    app = queue_app(_sleep(0.1), queue={"visibility_timeout": 10}, batch_size=1, maximum_concurrency=2)
    play_scripted(app, scenario, commit=fail_to_delete)


def test_of_messages_whose_failure_cannot_be_written() -> None:
    failures = 0

    async def fail_to_keep(store: Store, operations: Sequence[Operation]) -> list[Any]:
        nonlocal failures
        if not failures and any(isinstance(operation, KeepFailure) for operation in operations):
            failures += 1
            raise StoreUnavailable("busy")
        return await store.commit(operations)

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 2, source="queue:orders")
        await harness.advance(5)
        counters = await books(harness)
        assert (counters.received, counters.returned) == (2, 2)

    play_scripted(queue_app(_fail, queue={"visibility_timeout": 10}), scenario, commit=fail_to_keep)
    assert failures == 1


def test_of_an_abort_by_a_handler_that_never_waits() -> None:
    """What was about to begin in the same moment does not."""
    seen: list[int] = []
    engines: list[Engine] = []

    def work(event: dict[str, Any], context: Any) -> None:
        seen.extend(numbers(event))
        engines[0].abort()

    async def scenario(harness: Harness) -> None:
        engines.append(harness.engine)
        await send_numbers(harness, 8, source="queue:orders")
        await harness.advance(1)
        assert seen == [1]
        counters = await books(harness)
        assert (counters.in_flight, counters.settled) == (0, 1)
        assert counters.returned == counters.received - 1 > 0

    play_scripted(queue_app(work, batch_size=1, maximum_concurrency=3), scenario)


def test_of_an_abort_while_batches_wait_for_a_slot() -> None:
    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 8, source="queue:orders")
        await harness.advance(0.5)
        harness.engine.abort()
        await harness.advance(1)
        counters = await books(harness)
        assert (counters.in_flight, counters.settled) == (0, 0)
        assert counters.returned == counters.received

    app = eventcore.App()
    app.queue("orders", visibility_timeout=10)
    app.function("work", runtime="inline", concurrency=1)(_sleep(2))
    app.mapping("orders", source="queue:orders", function="work", batch_size=1)
    play_scripted(app, scenario)


def test_of_an_invocation_that_is_killed_from_outside() -> None:
    """`kill` of the runtime releases the batch: its message comes back, and is settled then."""

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 1, source="queue:orders")
        await harness.advance(0.5)
        function = harness.engine.registry.get("work")
        assert function is not None
        assert function.runtime.kill(harness.invocations[0].request_id)
        await harness.advance(30)
        counters = await books(harness)
        assert (counters.received, counters.returned, counters.settled) == (2, 1, 1)

    play_scripted(queue_app(_sleep(2), queue={"visibility_timeout": 10}, batch_size=1), scenario)

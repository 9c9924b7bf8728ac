"""Events that were in hand when engines died: which of them it was is found out one at a time."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import anyio

import eventcore
from eventcore.clock import LoopClock
from eventcore.delivery.asynchronous import BEGUN_MAX
from eventcore.embedded.events import accept_event, event_queue
from eventcore.errors import StoreUnavailable
from eventcore.ids import SeededIds
from eventcore.ports.store import ChangeVisibility, Operation, ReceiveMessages, Store
from eventcore.store.memory import open_memory_store
from eventcore.telemetry.events import EventInvoked
from eventcore.testing.harness import Harness, open_harness
from eventcore.testing.virtual_loop import run_virtual
from tests.behaviours.scripted_source import ScriptedStore

FUNCTIONS = ("one", "two")


async def _sleep(event: Any, context: Any) -> None:
    await anyio.sleep(1)


async def _leave_behind(store: Store, function: str, *, count: int, deaths: int) -> None:
    """Accept events, and let engines die that have all of them in hand."""
    clock, ids = LoopClock(), SeededIds(FUNCTIONS.index(function))
    for number in range(count):
        await accept_event(store, function, b"%d" % number, clock=clock, ids=ids)
    for _ in range(deaths):
        receive = ReceiveMessages(
            queue=event_queue(function), count_max=10, now_ms=clock.now_ms(), visibility_timeout_s=1
        )
        (result,) = await store.commit([receive])
        assert len(result.messages) == count
        await anyio.sleep(2)


def _begin_s(deaths: int) -> list[float]:
    """Return when events of two functions are invoked after so many deaths; each invocation takes a second."""
    begun_s: list[float] = []

    async def run() -> None:
        app = eventcore.App()
        for function in FUNCTIONS:
            app.function(function, runtime="inline")(_sleep)
        async with open_memory_store() as store:
            for function in FUNCTIONS:
                await _leave_behind(store, function, count=3, deaths=deaths)
            async with open_harness(app, store=store) as harness:
                await harness.run_until_idle()
                happened = [each for each in harness.happened if isinstance(each.event, EventInvoked)]
                begun_s.extend(each.at_s for each in happened)
                assert await harness.failures() == []

    run_virtual(run)
    assert len(begun_s) == 3 * len(FUNCTIONS)
    return begun_s


def test_events_whose_next_death_would_be_their_last_are_invoked_one_at_a_time() -> None:
    """Of all functions of the engine: alone, each answers for itself, and none is given up for its neighbour."""
    begun_s = _begin_s(BEGUN_MAX - 1)
    assert all(later - earlier >= 1 for earlier, later in itertools.pairwise(begun_s))


def test_events_that_an_engine_has_died_with_once_are_invoked_as_all_others() -> None:
    assert max(_begin_s(1)) < 0.5


def test_suspects_that_are_received_while_the_engine_stops_have_not_died_once_more() -> None:
    """They were never invoked: whoever has them next must not give them up."""
    engines: list[Harness] = []
    has_engine = anyio.Event()

    async def commit(store: Store, operations: Sequence[Operation]) -> list[Any]:
        if not isinstance(operations[-1], ReceiveMessages):
            return await store.commit(operations)
        await has_engine.wait()
        done = await store.commit(operations)
        if engines and done[-1].messages:
            engines.pop().engine.drain()
        return done

    async def run() -> None:
        app = eventcore.App()
        app.function("one", runtime="inline")(_sleep)
        async with open_memory_store() as memory:
            await _leave_behind(memory, "one", count=3, deaths=BEGUN_MAX - 1)
            async with open_harness(app, store=ScriptedStore(memory, commit)) as harness:  # type: ignore[arg-type]
                engines.append(harness)
                has_engine.set()
                await harness.advance(5)
            assert not engines
            async with open_harness(app, store=memory) as harness:
                await harness.run_until_idle()
                assert await harness.failures() == []
                assert len(harness.events(EventInvoked)) == 3

    run_virtual(run)


def test_a_suspect_that_can_not_be_handed_back_for_a_moment_has_not_died_once_more() -> None:
    refused: list[Operation] = []

    async def commit(store: Store, operations: Sequence[Operation]) -> list[Any]:
        if len(refused) < 3 and isinstance(operations[-1], ChangeVisibility):
            refused.append(operations[-1])
            raise StoreUnavailable("the disk is full for a moment")
        return await store.commit(operations)

    async def run() -> None:
        app = eventcore.App()
        app.function("one", runtime="inline")(_sleep)
        async with open_memory_store() as memory:
            await _leave_behind(memory, "one", count=3, deaths=BEGUN_MAX - 1)
            async with open_harness(app, store=ScriptedStore(memory, commit)) as harness:  # type: ignore[arg-type]
                await harness.run_until_idle()
                assert await harness.failures() == []
                assert len(harness.events(EventInvoked)) == 3

    run_virtual(run)
    assert len(refused) == 3

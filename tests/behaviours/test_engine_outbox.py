"""Results wait for their destination, in order per lane, and no destination takes anything else down (design §3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio

import eventcore
from eventcore.errors import DestinationUnavailable, StoreUnavailable
from eventcore.ports.store import MarkSent, Operation, OutboxRow, PutOutbox, Store
from eventcore.store.memory import open_memory_store
from eventcore.testing.harness import LOOK_MAX_S, Harness, open_harness
from eventcore.testing.virtual_loop import run_virtual
from tests.behaviours.scripted_source import (
    ScriptedDestination,
    ScriptedStream,
    Settled,
    books,
    play_scripted,
    record,
    scripted_app,
)


async def _fail(event: dict[str, Any], context: Any) -> None:
    raise ValueError("always")


def _http_app(**mapping: Any) -> eventcore.App:
    """Every record is discarded into `http:sink`."""
    app = scripted_app(_fail, maximum_retry_attempts=0, batch_size=1, on_failure="http:sink", **mapping)
    app.http("sink", url="http://127.0.0.1:9/")
    return app


def _two_shards() -> ScriptedStream:
    return ScriptedStream({"orders-0": [record(0)], "orders-1": [record(0)]}, is_settle_durable=True)


def _start(event: dict[str, Any]) -> str:
    """The position that a failure record begins at."""
    return str(event["KinesisBatchInfo"]["startSequenceNumber"])


async def _rows(harness: Harness) -> int:
    return sum(destination.rows for destination in (await harness.status()).destinations)


def test_a_lane_that_fails_does_not_starve_another() -> None:
    """Order holds per lane only: the others pass the one that is stuck."""
    taken: list[str] = []

    async def take(rows: Sequence[OutboxRow]) -> None:
        if rows[0].lane == "orders/orders-0":
            raise DestinationUnavailable("500", retry_after_s=0.2)
        taken.extend(row.lane for row in rows)

    async def scenario(harness: Harness) -> None:
        await harness.advance(60)
        assert await _rows(harness) == 1

    play_scripted(_http_app(), scenario, _two_shards(), ScriptedDestination(take))
    assert taken == ["orders/orders-1"]


def test_a_destination_that_asks_to_come_again_at_once_is_not_called_without_pause() -> None:
    """`Retry-After: 0` must not become a loop that takes the whole processor."""

    async def take(rows: Sequence[OutboxRow]) -> None:
        raise DestinationUnavailable("503", retry_after_s=0.0)

    async def scenario(harness: Harness) -> None:
        await harness.advance(10)

    sink = ScriptedDestination(take)
    play_scripted(_http_app(), scenario, _two_shards(), sink)
    assert 5 <= len(sink.calls) <= 40


def test_a_connector_that_breaks_the_port_is_tried_again_and_shown() -> None:
    """It says that it took all rows, and fails; it raises what the port does not name. Neither ends the engine."""
    errors: list[Exception] = [
        DestinationUnavailable("taken, said too late", taken_count=1),
        RuntimeError("a defect of the connector"),
    ]
    taken: list[str] = []

    async def take(rows: Sequence[OutboxRow]) -> None:
        if errors:
            raise errors.pop()
        taken.extend(row.lane for row in rows)

    async def scenario(harness: Harness) -> None:
        await harness.advance(0.1)
        (destination,) = (await harness.status()).destinations
        assert "a defect of the connector" in destination.last_error
        await harness.advance(60)
        assert await _rows(harness) == 0
        await books(harness)

    stream = ScriptedStream({"orders-0": [record(0)]})
    play_scripted(_http_app(), scenario, stream, ScriptedDestination(take))
    assert taken == ["orders/orders-0"]


def test_a_pipeline_is_idle_soon_after_its_destination_took_everything() -> None:
    """No event tells of it: looks stay frequent while rows wait, as they may be taken at any moment."""
    taken_s: list[float] = []

    async def take(rows: Sequence[OutboxRow]) -> None:
        taken_s.append(anyio.current_time())
        if len(taken_s) < 6:
            raise DestinationUnavailable("away", retry_after_s=3.0)

    async def scenario(harness: Harness) -> None:
        await harness.run_until_idle()
        assert anyio.current_time() - taken_s[-1] <= LOOK_MAX_S

    stream = ScriptedStream({"orders-0": [record(0)]})
    play_scripted(_http_app(), scenario, stream, ScriptedDestination(take))
    assert len(taken_s) == 6


def test_rows_of_a_destination_that_left_the_pipeline_are_shown() -> None:
    """Nothing is dropped: what no mapping serves any more still waits, and `status` says so."""

    async def take(rows: Sequence[OutboxRow]) -> None:
        raise DestinationUnavailable("down")

    async def run() -> None:
        async with open_memory_store() as store:
            connectors: dict[str, Any] = {"kafka": _two_shards(), "http": ScriptedDestination(take)}
            async with open_harness(_http_app(), store=store, connectors=connectors) as harness:
                await harness.advance(30)
                assert await _rows(harness) == 2
            connectors = {"kafka": ScriptedStream({"orders-0": []})}
            async with open_harness(scripted_app(_fail), store=store, connectors=connectors) as harness:
                await harness.advance(30)
                (left,) = (await harness.status()).destinations
                assert (left.destination, left.rows) == ("http:sink", 2)
                assert "name it again" in left.last_error

    run_virtual(run)


# -- a store that is away or slow --------------------------------------------------------------------------------------


def test_a_store_that_is_away_for_a_moment_does_not_end_the_outbox() -> None:
    """The hand-over can't be marked once: the row is sent again, with the same key, and mappings go on."""
    sent: list[str] = []
    refused: list[Operation] = []

    async def take(rows: Sequence[OutboxRow]) -> None:
        sent.extend(row.key for row in rows)

    async def commit(store: Store, operations: Sequence[Operation]) -> list[Any]:
        marks = [operation for operation in operations if isinstance(operation, MarkSent)]
        if marks and not refused:
            refused.extend(marks)
            raise StoreUnavailable("the disk is full for a moment")
        return await store.commit(operations)

    async def scenario(harness: Harness) -> None:
        await harness.advance(120)
        assert [mapping.state for mapping in (await harness.status()).mappings] == ["Enabled"]
        assert await _rows(harness) == 0

    stream = ScriptedStream({"orders-0": [record(0)]})
    play_scripted(_http_app(), scenario, stream, ScriptedDestination(take), commit=commit)
    assert len(refused) == 1
    assert len(sent) == 2
    assert len(set(sent)) == 1


def test_a_commit_that_answers_too_late_leaves_no_lane_waiting() -> None:
    """It was durable: its row is handed over, counted once, and only then does the checkpoint pass the discard."""
    late: list[Operation] = []
    taken: list[str] = []
    too_early: list[Settled] = []

    async def take(rows: Sequence[OutboxRow]) -> None:
        tries.append(rows[0].key)
        if len(tries) == 1:
            raise DestinationUnavailable("away at first", retry_after_s=60.0)
        taken.extend(row.key for row in rows)

    async def watch(settled: Settled) -> None:
        if settled.checkpoint > len(set(taken)):
            too_early.append(settled)

    async def commit(store: Store, operations: Sequence[Operation]) -> list[Any]:
        results = await store.commit(operations)
        if not late and any(isinstance(operation, PutOutbox) for operation in operations):
            late.extend(operations)
            await anyio.sleep(11)
        return results

    async def scenario(harness: Harness) -> None:
        await harness.advance(600)
        assert await _rows(harness) == 0

    tries: list[str] = []
    stream = ScriptedStream({"orders-0": [record(0), record(1)]})
    stream.on_settle = watch
    play_scripted(_http_app(), scenario, stream, ScriptedDestination(take), commit=commit)
    assert late
    assert too_early == []
    assert len(taken) == 2
    assert stream.kept["orders-0"][0] == 2

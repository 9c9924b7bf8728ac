"""A batch that an engine may have died of runs as the only such one, and nothing else is blamed for it (design §3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import anyio
import pytest

import eventcore
from eventcore.delivery.ordering import Part, ShardState
from eventcore.engine.lane_invoker import MARKED_LANES_MAX
from eventcore.errors import DestinationUnavailable
from eventcore.model import Record
from eventcore.ports.connectors import StreamRequest
from eventcore.ports.store import OutboxRow
from eventcore.testing import open_pipeline
from eventcore.testing.harness import Harness
from tests.behaviours.scripted_source import (
    ScriptedDestination,
    ScriptedSource,
    ScriptedStream,
    Settled,
    play_scripted,
    record,
    scripted_app,
)

#: A shard as the owner after a death finds it, with one record.
DIED_OF = (0, ShardState(parts=(Part(last=0, marks=1),)))


class ByMapping(ScriptedStream):
    """A stream for each mapping."""

    def __init__(self, streams: Mapping[str, ScriptedStream]) -> None:
        super().__init__({})
        self.streams = streams

    def open_stream(self, request: StreamRequest) -> ScriptedSource:
        return self.streams[request.mapping].open_stream(request)


def with_other(app: eventcore.App) -> eventcore.App:
    """Add a mapping with a shard of its own."""
    app.mapping(
        "other",
        source="kafka:local/other",
        function="work",
        starting_position="TRIM_HORIZON",
        maximum_batching_window_in_seconds=0,
    )
    return app


@pytest.mark.parametrize("bisects", [True, False])
def test_halves_of_what_an_engine_has_died_of_are_marked_and_run_alone(bisects: bool) -> None:
    running: list[int] = []
    most = 0

    async def work(event: dict[str, Any], context: Any) -> None:
        nonlocal most
        running.append(1)
        most = max(most, len(running))
        await anyio.sleep(1)
        running.pop()

    async def scenario(harness: Harness) -> None:
        await harness.advance(10)
        assert len(harness.invocations) == 3

    stream = ScriptedStream({"orders-0": [record(0), record(1)], "orders-1": [record(0)]})
    # Halved before anything is invoked: each half is new, and as suspect as the batch was.
    halved = ShardState(parts=(Part(last=1, marks=0 if bisects else 2),), marked=True)
    stream.kept = {"orders-0": (0, halved), "orders-1": DIED_OF}
    app = scripted_app(work, maximum_retry_attempts=1, bisect_batch_on_function_error=bisects)
    play_scripted(app, scenario, stream)
    assert most == 1
    marked = [(settled.shard, settled.state.parts[0].last) for settled in stream.settled if settled.state.marked]
    assert sorted(marked) == [("orders-0", 0), ("orders-0", 1), ("orders-1", 0)]


def test_a_half_that_is_released_stays_a_suspect() -> None:
    """It has not come back: joined with what stands behind it, it would be a batch of which nothing is known."""

    async def work(event: dict[str, Any], context: Any) -> None:
        await anyio.sleep(500)

    async def scenario(harness: Harness) -> None:
        await harness.advance(1)
        await stream.revoke()

    stream = ScriptedStream({"orders-0": [record(0), record(1)]})
    stream.kept = {"orders-0": (0, ShardState(parts=(Part(last=0, is_cut=True),)))}
    play_scripted(scripted_app(work, timeout=600), scenario, stream)
    (part,) = stream.kept["orders-0"][1].parts
    assert part.is_cut


def test_a_suspect_that_has_succeeded_is_settled_before_the_next_one_runs() -> None:
    """However long its source takes to write that: until then it has a mark, and would be blamed for a death."""
    kept_meanwhile: list[bool] = []

    async def settle(settled: Settled) -> None:
        if not settled.state.marked:
            await anyio.sleep(0.05)

    async def work(event: dict[str, Any], context: Any) -> None:
        kept_meanwhile.append(all(state.marked for _, state in stream.kept.values()))

    async def scenario(harness: Harness) -> None:
        await harness.advance(5)

    stream = ScriptedStream({"orders-0": [record(0)], "orders-1": [record(0)]})
    stream.kept = dict.fromkeys(stream.shards, DIED_OF)
    stream.on_settle = settle
    play_scripted(scripted_app(work), scenario, stream)
    assert kept_meanwhile == [False, False]


def test_a_suspect_that_is_given_up_lets_others_run_while_its_destination_is_away() -> None:
    """A checkpoint outside the store passes a discard only once the destination has it, whenever that is."""

    async def work(batch: eventcore.Batch) -> None:
        if batch.shard == "orders-0":
            raise ValueError("always")

    async def refuse(rows: Sequence[OutboxRow]) -> None:
        raise DestinationUnavailable("503")

    async def scenario(harness: Harness) -> None:
        await harness.advance(60)
        assert stream.kept["orders-0"][0] == 0
        assert stream.kept["orders-1"] == (1, ShardState())

    stream = ScriptedStream({"orders-0": [record(0)], "orders-1": [record(0)]})
    stream.kept = dict.fromkeys(stream.shards, DIED_OF)
    app = scripted_app(work, maximum_retry_attempts=0, on_failure="http:sink")
    app.http("sink", url="http://127.0.0.1:9/")
    play_scripted(app, scenario, stream, ScriptedDestination(refuse))


def test_a_suspect_that_waits_for_its_mappings_rate_lets_those_of_others_run() -> None:
    ran_at_s: dict[str, list[float]] = {"orders": [], "other": []}

    async def work(batch: eventcore.Batch) -> None:
        ran_at_s[batch.mapping].append(anyio.current_time())

    async def open_later() -> None:
        await anyio.sleep(5)

    async def scenario(harness: Harness) -> None:
        began_s = anyio.current_time()
        await harness.advance(10_000)
        first, second = (moment_s - began_s for moment_s in ran_at_s["orders"])
        (other,) = (moment_s - began_s for moment_s in ran_at_s["other"])
        assert first < other < 10 < second

    orders, other = ScriptedStream({"orders-0": [record(0), record(1)]}), ScriptedStream({"other-0": [record(0)]})
    orders.kept = {"orders-0": (0, ShardState(parts=(Part(last=0, is_cut=True), Part(last=1, is_cut=True))))}
    other.kept, other.on_open = {"other-0": DIED_OF}, open_later
    app = with_other(scripted_app(work, maximum_records_per_second=0.001))
    play_scripted(app, scenario, ByMapping({"orders": orders, "other": other}))


@pytest.mark.parametrize(("lanes", "is_marked"), [(MARKED_LANES_MAX, True), (MARKED_LANES_MAX + 1, False)])
def test_only_a_few_lanes_are_marked_because_a_suspect_runs_beside_them(lanes: int, is_marked: bool) -> None:
    """Each mark writes what is kept of all lanes: a thousand of them would keep the engine from anything else."""
    count = 10 * lanes

    async def work(batch: eventcore.Batch) -> None:
        await anyio.sleep(60 if batch.mapping == "other" else 1)

    async def scenario(harness: Harness) -> None:
        await harness.advance(50)
        assert sum(run.count for run in harness.settled) == count

    keyed = [Record(position=number, body=b"", key=str(number).encode(), size_bytes=10) for number in range(count)]
    orders, other = ScriptedStream({"orders-0": [*keyed]}), ScriptedStream({"other-0": [record(0)]})
    other.kept = {"other-0": DIED_OF}
    app = with_other(scripted_app(work, timeout=100, concurrency=20, lanes=lanes, batch_size=1))
    play_scripted(app, scenario, ByMapping({"orders": orders, "other": other}))
    marked = {lane.name for settled in orders.settled for lane in settled.state.lanes if lane.marked}
    # The first of a shard always is.
    assert len(marked) == count if is_marked else len(marked) <= lanes


def test_what_runs_beside_a_suspect_is_marked_so_that_a_killer_among_it_is_known() -> None:
    """Else the suspect, which is slow and nothing else, collects a mark with each death."""
    is_killed = False

    async def work(batch: eventcore.Batch) -> None:
        nonlocal is_killed
        if batch.records[0].key == b"killer":
            is_killed = True
            await anyio.sleep(500)
        await anyio.sleep(1)

    async def be_slow(batch: eventcore.Batch) -> None:
        await anyio.sleep(30)

    app = eventcore.App()
    app.function("work", runtime="inline", timeout=600)(work)
    app.function("be_slow", runtime="inline", timeout=60)(be_slow)
    for name in ("failed", "parked"):
        app.queue(name)
    for stream, function in (("orders", "work"), ("slow", "be_slow")):
        app.stream(stream, shards=1)
        lanes: dict[str, Any] = {"lanes": 4, "parking": "queue:parked"} if stream == "orders" else {}
        app.mapping(
            stream,
            source=f"stream:{stream}",
            function=function,
            starting_position="TRIM_HORIZON",
            batch_size=1,
            on_failure="queue:failed",
            **lanes,
        )
    deaths = 0
    with open_pipeline(app) as pipeline:
        pipeline.send("stream:slow", [0])
        # Each engine gets one key further before its first batch is back.
        for key in ("a", "b", "c", "killer"):
            pipeline.send("stream:orders", [0], key=key)
        while not pipeline.discards:
            pipeline.advance(0.05)
            if is_killed:
                is_killed = False
                deaths += 1
                pipeline.crash()
        pipeline.run_until_idle()
        assert [(discard.mapping, discard.reason) for discard in pipeline.discards] == [("orders", "EngineCrash")]
    assert deaths >= 3

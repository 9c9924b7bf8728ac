"""A mark means that an engine died in an invocation: one that lives takes it back (design §3)."""

from __future__ import annotations

from typing import Any

import anyio
import msgspec
import pytest

from eventcore.delivery.lanes import lane_key, lane_name
from eventcore.delivery.ordering import LaneState, Part, ShardState
from eventcore.engine.checkpoint import WRITE_PATIENCE_S
from eventcore.errors import ShardLost, SourceUnavailable
from eventcore.testing import Fate, Faults, Scripted, open_pipeline
from eventcore.testing.harness import Harness
from tests.behaviours.scripted_source import ScriptedStream, Settled, play_scripted, record, scripted_app

#: Restarts of the mapping in a row: past the marks at which a record is given up as `EngineCrash`.
RESTARTS = 3


def test_a_source_that_fails_while_a_handler_runs_leaves_no_mark() -> None:
    """The mapping starts anew, the engine has not died: nothing may be given up as `EngineCrash`."""

    async def work(event: dict[str, Any], context: Any) -> None:
        await anyio.sleep(2)

    async def fail_after_the_first_record() -> None:
        if stream.opened_count <= RESTARTS and stream.source.owned.get("orders-0"):
            await anyio.sleep(1)
            raise SourceUnavailable("away")

    async def scenario(harness: Harness) -> None:
        await harness.advance(120)
        assert harness.discarded == []
        assert sum(run.count for run in harness.settled) == 1

    stream = ScriptedStream({"orders-0": [record(0)]})
    stream.on_receive = fail_after_the_first_record
    play_scripted(scripted_app(work, timeout=10, maximum_retry_attempts=2), scenario, stream)
    assert stream.opened_count == RESTARTS + 1


def test_a_checkpoint_that_can_not_be_written_leaves_no_mark() -> None:
    """The batch is invoked again after each restart, and settled once its source is back."""

    async def work(event: dict[str, Any], context: Any) -> None:
        return None

    async def refuse(settled: Settled) -> None:
        if settled.checkpoint == 1 and stream.opened_count <= RESTARTS:
            raise SourceUnavailable("the store is busy")

    async def scenario(harness: Harness) -> None:
        await harness.advance(120)
        assert harness.discarded == []
        assert len(harness.invocations) == RESTARTS + 1

    stream = ScriptedStream({"orders-0": [record(0)]}, is_settle_durable=True)
    stream.on_settle = refuse
    play_scripted(scripted_app(work, maximum_retry_attempts=2), scenario, stream)
    assert stream.kept["orders-0"][0] == 1


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("is_told", [True, False])
def test_a_shard_that_is_lost_amid_its_batch_and_taken_again_blames_no_death(lanes: int, *, is_told: bool) -> None:
    """As when a session or a transaction ends: the mark can't be taken back, and the engine that wrote it lives."""
    left = 10

    async def work(event: dict[str, Any], context: Any) -> None:
        await anyio.sleep(1)

    async def lose_it(settled: Settled) -> None:
        nonlocal left
        if settled.checkpoint == 1 and left:
            left -= 1
            if is_told:
                await stream.lose()
                await stream.source.take()
            else:
                stream.on_receive = fail_once
                stream.source.wake()
            raise ShardLost(source="scripted", shard="orders-0")

    async def fail_once() -> None:
        stream.on_receive = nothing
        raise SourceUnavailable("the session is over")

    async def nothing() -> None:
        """Receive."""

    async def scenario(harness: Harness) -> None:
        await harness.advance(1000)
        assert harness.discarded == []
        assert len(harness.invocations) > 5

    stream = ScriptedStream({"orders-0": [record(0)]})
    stream.on_settle = lose_it
    play_scripted(scripted_app(work, timeout=10, lanes=lanes, maximum_retry_attempts=2), scenario, stream)
    assert stream.kept["orders-0"][0] == 1


def test_the_mark_of_an_engine_that_died_is_counted_also_when_it_was_written_beside_ours() -> None:
    """Another key runs first, and its mark is written with the one that was found: that stays the dead engine's."""
    records = [msgspec.structs.replace(record(number), key=key) for number, key in enumerate((b"a", b"died"))]
    part = Part(last=1, request_id="r")
    lane = LaneState(lane_name(lane_key(records[1], 1)), (part,), marked=True, first=1)

    async def work(event: dict[str, Any], context: Any) -> None:
        await anyio.sleep(5)

    async def scenario(harness: Harness) -> None:
        await harness.advance(1)
        assert [entry.marked for entry in stream.kept["orders-0"][1].lanes] == [True, True]
        await stream.lose()
        await stream.source.take()
        await harness.advance(60)

    stream = ScriptedStream({"orders-0": [*records]})
    stream.kept["orders-0"] = (0, ShardState(lanes=(lane,)))
    play_scripted(scripted_app(work, timeout=10, lanes=2, batch_size=1), scenario, stream)
    assert max(_marks(settled.state) for settled in stream.settled) == 1


def test_a_mark_whose_answer_was_lost_is_taken_back() -> None:
    """The source has it, and says that it is away: the next owner must not find it."""
    found: list[bool] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        return None

    async def lose_the_answer(settled: Settled) -> None:
        if settled.state.marked and stream.opened_count <= RESTARTS:
            stream.kept[settled.shard] = (settled.checkpoint, settled.state)
            raise SourceUnavailable("the answer was lost")

    async def look() -> None:
        found.extend(state.marked for _, state in stream.kept.values())

    async def scenario(harness: Harness) -> None:
        await harness.advance(120)
        assert harness.discarded == []
        assert len(harness.invocations) == 1

    stream = ScriptedStream({"orders-0": [record(0)]}, is_settle_durable=True)
    stream.on_settle = lose_the_answer
    stream.on_open = look
    play_scripted(scripted_app(work, maximum_retry_attempts=2), scenario, stream)
    assert found == [False] * RESTARTS
    assert stream.kept["orders-0"] == (1, ShardState())


def test_only_a_batch_that_runs_is_marked() -> None:
    """One slot, two shards: the one that waits would be blamed for the death of its neighbour."""
    running: list[str] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        running.append(event["Records"][0]["eventID"].split(":")[0])
        await anyio.sleep(100)

    async def scenario(harness: Harness) -> None:
        await harness.advance(5)
        marked = {settled.shard for settled in stream.settled if settled.state.marked}
        assert (len(marked), len(running)) == (1, 1)
        harness.engine.abort()

    stream = ScriptedStream({"orders-0": [record(0)], "orders-1": [record(0)]})
    play_scripted(scripted_app(work, timeout=200, concurrency=1), scenario, stream)
    assert not any(state.marked for _, state in stream.kept.values())


def test_an_abort_while_the_mark_is_written_invokes_nothing() -> None:
    """An invocation that began after the abort would hold the stop for its whole timeout."""
    calls: list[str] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        calls.append(context.aws_request_id)
        await anyio.sleep(800)

    async def take_a_second(settled: Settled) -> None:
        if settled.state.marked:
            await anyio.sleep(1)

    async def scenario(harness: Harness) -> None:
        await harness.advance(0.5)
        harness.engine.abort()
        await harness.advance(10)
        assert [mapping.state for mapping in (await harness.status()).mappings] == ["Stopped"]

    stream = ScriptedStream({"orders-0": [record(0)]})
    stream.on_settle = take_a_second
    play_scripted(scripted_app(work, timeout=840), scenario, stream)
    assert calls == []
    assert not stream.kept["orders-0"][1].marked


def test_a_mark_whose_answer_got_lost_is_taken_back_where_it_stands() -> None:
    """Nothing was ever settled: the checkpoint that is written with it is the batch's first position, not "never".

    The source is asked again for a while; then the mapping shows its problem, takes the mark back and starts anew.
    """
    checkpoints: list[int] = []

    class LostAnswer(Faults):
        def fate_of_settle(self, shard: str) -> Fate:
            return Fate.LOST if len(checkpoints) <= WRITE_PATIENCE_S else Fate.DONE

        def on_settled(self, source: str, shard: str, epoch: int, checkpoint: int, state: ShardState) -> None:
            checkpoints.append(checkpoint)

    app = scripted_app(Scripted().__call__)
    with open_pipeline(app, functions={"work": Scripted()}, faults=LostAnswer()) as pipeline:
        pipeline.send("kafka:local/orders", [1])
        pipeline.run_until_idle()
        assert len(pipeline.invocations) == 1
        assert pipeline.now_s > WRITE_PATIENCE_S
    assert set(checkpoints) == {0, 1}
    assert checkpoints[-1] == 1


def _died_in(lanes: int) -> ShardState:
    """What an engine leaves that died in the first record."""
    part = Part(last=0, request_id="r")
    if lanes == 1:
        return ShardState(parts=(part,), marked=True)
    return ShardState(lanes=(LaneState(lane_name(lane_key(record(0), 1)), (part,), marked=True),))


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_mark_that_was_found_outlives_a_restart_before_the_next_write(lanes: int) -> None:
    """The mapping starts anew while the batch waits for a slot: it still is the one in which an engine died."""
    died = _died_in(lanes)

    async def work(event: dict[str, Any], context: Any) -> None:
        if not event["Records"]:
            await anyio.sleep(60)

    async def fail_after_the_first_record() -> None:
        if stream.opened_count <= RESTARTS and stream.source.owned.get("orders-0"):
            await anyio.sleep(1)
            raise SourceUnavailable("away")

    async def scenario(harness: Harness) -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(lanes):
                tasks.start_soon(harness.engine.invoke, "work", {"Records": []})
            await harness.advance(1)
            stream.shards["orders-0"].append(record(0))
            stream.source.wake()
            await harness.advance(30)
            assert stream.opened_count == RESTARTS + 1
            assert stream.kept["orders-0"] == (0, died)
        await harness.advance(60)
        assert [settled.count for settled in harness.settled] == [1]

    stream = ScriptedStream({"orders-0": []}, is_settle_durable=True)
    stream.kept["orders-0"] = (0, died)
    stream.on_receive = fail_after_the_first_record
    app = scripted_app(work, timeout=90, concurrency=lanes, lanes=lanes, batch_size=1)
    play_scripted(app, scenario, stream)
    # Counted once, however often it was found.
    assert max(_marks(settled.state) for settled in stream.settled) == 1
    assert stream.kept["orders-0"] == (1, ShardState())


def _marks(state: ShardState) -> int:
    parts = [*state.parts, *(part for lane in state.lanes for part in lane.parts)]
    return max((part.marks for part in parts), default=0)

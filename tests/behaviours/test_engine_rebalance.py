"""A shard that changes hands keeps its order, its attempts and its one invocation at a time (design §3, §12)."""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import eventcore
from eventcore.delivery.ordering import Part, ShardState
from eventcore.testing.harness import Harness
from tests.behaviours.scripted_source import ScriptedStream, Settled, books, play_scripted, record, scripted_app

#: A revocation that waits for nothing needs a few turns of the loop, seconds.
AT_ONCE_S = 0.1


async def _work_and_die_slowly() -> None:
    """Work five seconds; on the way out wait a second more, as a handler does that closes its connections."""
    try:
        await anyio.sleep(5)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(1)


async def _fail(event: dict[str, Any], context: Any) -> None:
    raise ValueError("always")


# -- between an invocation and its settling ----------------------------------------------------------------------------


@pytest.mark.parametrize(("lanes", "last"), [(1, ["asked", "settled"]), (2, ["settled", "asked"])])
def test_the_source_is_asked_for_more_before_a_batch_is_settled(lanes: int, last: list[str]) -> None:
    """What a batch costs behind its function makes no later record late. With lanes, other keys may have some."""
    seen: list[str] = []

    async def ask() -> None:
        seen.append("asked")

    async def settle(settled: Settled) -> None:
        if settled.checkpoint == 2:
            # The first batch of a shard is marked besides.
            seen.append("settled")

    async def scenario(harness: Harness) -> None:
        await harness.advance(1)

    stream = ScriptedStream({"orders-0": [record(0), record(1)]}, receive_max=1)
    stream.on_receive, stream.on_settle = ask, settle
    play_scripted(scripted_app(lambda event, context: seen.append("handled"), lanes=lanes), scenario, stream)
    assert seen.count("handled") == 2
    assert seen[-2:] == last


def test_a_marked_batch_that_has_succeeded_is_settled_before_another_shard_goes_on() -> None:
    """Else it is blamed for the death that another shard's next batch may bring (design §3)."""
    kept_at_next: list[tuple[int, ShardState]] = []

    async def work(batch: eventcore.Batch) -> None:
        if batch.records[0].position:
            kept_at_next.append(stream.kept["orders-0"])
        await anyio.sleep(1)

    async def scenario(harness: Harness) -> None:
        await harness.advance(5)

    stream = ScriptedStream({"orders-0": [record(0)], "orders-1": [record(0), record(1)]})
    play_scripted(scripted_app(work, batch_size=1), scenario, stream)
    assert kept_at_next == [(1, ShardState())]


def test_a_shard_that_is_lost_between_an_invocation_and_its_settling_has_the_batch_again() -> None:
    """As when its engine dies there: at least once."""
    handled: list[int] = []

    async def lose() -> None:
        # The first batch of a shard is marked, and settled at once.
        if len(handled) == 2 and stream.epoch == 1:
            await stream.lose()
            await stream.source.take()

    def work(batch: eventcore.Batch) -> None:
        handled.extend(each.position for each in batch)

    async def scenario(harness: Harness) -> None:
        await harness.advance(1)
        assert (await books(harness)).settled == 2

    stream = ScriptedStream({"orders-0": [record(0), record(1)]}, receive_max=1)
    stream.on_receive = lose
    play_scripted(scripted_app(work), scenario, stream)
    assert handled == [0, 1, 1]
    assert stream.kept["orders-0"] == (2, ShardState())


# -- lost, and taken again at once -------------------------------------------------------------------------------------


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("losses", [1, 2, 3])
def test_a_shard_that_comes_back_at_once_has_one_invocation_at_a_time(losses: int, lanes: int) -> None:
    """Order per shard: the invocation of before must have ended when the new owner begins; whoever came between."""
    running = 0
    most = 0

    async def work(event: dict[str, Any], context: Any) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            await _work_and_die_slowly()
        finally:
            running -= 1

    async def scenario(harness: Harness) -> None:
        await harness.advance(1)
        for _ in range(losses):
            await stream.lose()
            await stream.source.take()
            await harness.advance(AT_ONCE_S)
        await harness.advance(30)
        assert len(harness.invocations) == 2

    stream = ScriptedStream({"orders-0": [record(0), record(1)]})
    play_scripted(scripted_app(work, timeout=10, batch_size=2, lanes=lanes), scenario, stream)
    assert most == 1


def test_a_retry_that_is_taken_again_while_it_is_killed_is_no_mapping_problem() -> None:
    """An unchanged retry keeps its request id (§12): the runtime must not be asked to run one id twice at a time."""
    ids: list[str] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        ids.append(context.aws_request_id)
        if len(ids) == 1:
            raise ValueError("once")
        await _work_and_die_slowly()

    async def scenario(harness: Harness) -> None:
        await harness.advance(2)
        await stream.lose()
        await stream.source.take()
        for _ in range(40):
            await harness.advance(1)
            (mapping,) = (await harness.status()).mappings
            assert mapping.state == "Enabled", mapping.reason
        assert sum(run.count for run in harness.settled) == 1

    stream = ScriptedStream({"orders-0": [record(0)]})
    play_scripted(scripted_app(work, timeout=10), scenario, stream)
    assert len(ids) == 3
    assert len(set(ids)) == 1


# -- revoked -----------------------------------------------------------------------------------------------------------


def test_a_shard_that_backs_off_is_handed_over_at_once_with_its_attempts() -> None:
    async def scenario(harness: Harness) -> None:
        await harness.advance(20)
        count = len(harness.invocations)
        assert count > 3
        assert await stream.revoke() < AT_ONCE_S
        (part,) = stream.kept["orders-0"][1].parts
        assert part.attempt == count
        await harness.advance(50)
        assert len(harness.invocations) == count
        await stream.source.take()
        await harness.advance(0.1)
        assert [run.attempt for run in harness.invocations[count:]] == [count + 1]

    stream = ScriptedStream({"orders-0": [record(0)]})
    play_scripted(scripted_app(_fail), scenario, stream)


def test_a_shard_that_waits_for_a_slot_is_handed_over_untried() -> None:
    """The one that runs is settled within the budget; the one that waits is neither invoked nor marked."""
    done: list[int] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        await anyio.sleep(5)
        done.append(1)

    async def scenario(harness: Harness) -> None:
        await harness.advance(1)
        assert await stream.revoke() < 5
        assert len(done) == len(harness.invocations) == 1
        assert list(stream.kept.values()) == [(1, ShardState())]
        await stream.source.take()
        await harness.advance(30)
        assert len(done) == 2

    stream = ScriptedStream({"orders-0": [record(0)], "orders-1": [record(0)]})
    play_scripted(scripted_app(work, timeout=10, concurrency=1), scenario, stream)
    assert sorted(stream.kept.values()) == [(1, ShardState()), (1, ShardState())]


def test_an_invocation_that_outlasts_the_budget_is_released_without_an_attempt() -> None:
    """A rebalance is not the function's fault: the next owner invokes it as if for the first time."""

    async def work(event: dict[str, Any], context: Any) -> None:
        await anyio.sleep(500)

    async def scenario(harness: Harness) -> None:
        await harness.advance(1)
        assert 1 < await stream.revoke() < 100
        assert stream.kept["orders-0"] == (0, ShardState())
        assert harness.retried == []

    stream = ScriptedStream({"orders-0": [record(0)]})
    play_scripted(scripted_app(work, timeout=600), scenario, stream)


def test_a_shard_that_looks_for_records_that_are_gone_is_handed_over_with_its_attempts() -> None:
    async def work(event: dict[str, Any], context: Any) -> None:
        return None

    async def scenario(harness: Harness) -> None:
        await harness.advance(3)
        assert await stream.revoke() < AT_ONCE_S
        assert stream.kept["orders-0"] == (0, left)

    left = ShardState(parts=(Part(last=5, attempt=1),))
    stream = ScriptedStream({"orders-0": []})
    stream.kept["orders-0"] = (0, left)
    play_scripted(scripted_app(work), scenario, stream)


def test_a_discard_that_waits_for_its_destination_is_handed_over_once() -> None:
    """Design §3: the key is the same after a redelivery, and the checkpoint passes it once the destination has it."""
    taken: list[str] = []
    calls = 0

    async def sink(event: dict[str, Any], context: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ValueError("away at first")
        taken.append(event["KinesisBatchInfo"]["startSequenceNumber"])

    async def scenario(harness: Harness) -> None:
        await harness.advance(10)
        assert await stream.revoke() < AT_ONCE_S
        await stream.source.take()
        await harness.advance(300)
        assert (await books(harness)).in_flight == 0

    stream = ScriptedStream({"orders-0": [record(0), record(1)]})
    play_scripted(scripted_app(_fail, sink=sink, maximum_retry_attempts=0, batch_size=1), scenario, stream)
    assert len(taken) == len(set(taken)) == 2
    assert stream.kept["orders-0"][0] == 2


def test_a_shard_that_is_lost_as_its_turn_comes_gives_its_turn_to_others() -> None:
    """A slot of the function that went to a shard which is cancelled in that moment must not be lost to everybody."""
    finished = anyio.Event()

    async def work(event: dict[str, Any], context: Any) -> None:
        await anyio.sleep(1)
        finished.set()

    async def lose_after(harness: Harness, stream: ScriptedStream, turns: int) -> None:
        await finished.wait()
        # The slot goes from one to the other within a few turns of the loop: each of them is tried.
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()
        await stream.lose()
        await stream.source.take()
        await harness.advance(30)
        assert {shard: position for shard, (position, _) in stream.kept.items()} == {"orders-0": 3, "orders-1": 3}

    for turns in range(20):
        finished = anyio.Event()
        stream = ScriptedStream({f"orders-{shard}": [record(position) for position in range(3)] for shard in range(2)})
        app = scripted_app(work, batch_size=1, concurrency=1)
        play_scripted(app, partial(lose_after, stream=stream, turns=turns), stream)

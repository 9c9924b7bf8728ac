"""Shards that are split and merged while mappings read them (Lambda semantics §4 "Resharding", §12: parents first).

A parent is read to its end, with its retries and discards, before its children begin.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from eventcore.delivery.hash_keys import share_of
from eventcore.embedded.resharding import list_shards
from eventcore.embedded.sharding import shard_name
from eventcore.errors import CommandError, SourceUnavailable, StoreUnavailable
from eventcore.ports.store import Operation, PutNote, SeekCheckpoint, Store
from eventcore.store.memory import open_memory_store
from eventcore.telemetry.events import BatchInvoked, ShardReleased, ShardTaken
from eventcore.testing.harness import Harness, open_harness
from eventcore.testing.virtual_loop import run_virtual
from tests.behaviours.control import Control
from tests.behaviours.orders import numbers, play, stream_app
from tests.behaviours.scripted_source import books, play_scripted

LOW, HIGH = (next(f"k{number}" for number in range(100) if share_of(b"k%d" % number, 2) == half) for half in (0, 1))


class Work:
    """Takes some seconds, fails for some numbers, and notes what began and ended when."""

    def __init__(self, *failing: int, seconds: float = 2.0) -> None:
        self.failing = set(failing)
        self.seconds = seconds
        self.began: dict[int, float] = {}
        self.ended: dict[int, float] = {}
        self.shards: dict[int, str] = {}
        self.order: dict[str, list[int]] = defaultdict(list)

    async def __call__(self, event: dict[str, Any], context: Any) -> None:
        for record, number in zip(event["Records"], numbers(event), strict=True):
            self.began.setdefault(number, anyio.current_time())
            self.shards[number] = record["eventID"].partition(":")[0]
        await anyio.sleep(self.seconds)
        if self.failing & set(numbers(event)):
            raise ValueError("poison")
        for record, number in zip(event["Records"], numbers(event), strict=True):
            self.ended[number] = anyio.current_time()
            self.order[record["kinesis"]["partitionKey"]].append(number)


async def send(harness: Harness, *entries: tuple[str, int]) -> list[str]:
    sent = []
    for key, number in entries:
        ((shard, _),) = await harness.send("stream:orders", [str(number)], key=key)
        sent.append(shard)
    return sent


def test_siblings_run_at_once_after_their_parent_and_a_merge_after_both() -> None:
    """kinesis/siblings-run-at-once-after-parent: parent, left, right and merged shard hold one record each."""
    work = Work()

    async def scenario(harness: Harness) -> None:
        parent = shard_name(0)
        assert await send(harness, (LOW, 1)) == [parent]
        left, right = await harness.split("orders", parent)
        assert await send(harness, (LOW, 2), (HIGH, 3)) == [left, right]
        merged = await harness.merge("orders", left, right)
        assert await send(harness, (LOW, 4)) == [merged]
        await harness.run_until_idle()
        assert work.shards == {1: parent, 2: left, 3: right, 4: merged}
        await books(harness)

    play(stream_app(work), scenario)
    assert work.began[2] >= work.ended[1]
    assert work.began[3] >= work.ended[1]
    assert work.began[2] < work.ended[3]
    assert work.began[3] < work.ended[2]
    assert work.began[4] >= max(work.ended[2], work.ended[3])


def test_a_failing_batch_of_the_parent_holds_its_children_back_and_no_other_shard() -> None:
    work = Work(1, seconds=0)

    async def scenario(harness: Harness) -> None:
        other = next(f"o{number}" for number in range(100) if share_of(b"o%d" % number, 4) == 3)
        key = next(f"p{number}" for number in range(100) if share_of(b"p%d" % number, 4) == 0)
        await send(harness, (key, 1))
        await harness.split("orders", shard_name(0))
        await send(harness, (key, 2), (other, 3))
        await harness.advance(30)
        assert set(work.ended) == {3}
        (mapping,) = (await harness.status()).mappings
        waiting = {shard.shard: shard.waits_for for shard in mapping.shards if shard.waits_for}
        assert waiting == {shard_name(4): shard_name(0), shard_name(5): shard_name(0)}
        assert sum(shard.lag for shard in mapping.shards if shard.waits_for) == 1
        work.failing.clear()
        await harness.run_until_idle()

    play(stream_app(work, shards=4), scenario)
    assert work.ended[2] >= work.ended[1] > work.ended[3]


def test_what_the_parent_gives_up_is_given_up_before_its_children_begin() -> None:
    work = Work(1, seconds=0)

    async def scenario(harness: Harness) -> None:
        await send(harness, (LOW, 1))
        await harness.split("orders", shard_name(0))
        await send(harness, (LOW, 2))
        await harness.run_until_idle()
        discarded = next(at for at in harness.happened if at.event in harness.discarded)
        invoked = [at for at in harness.happened if isinstance(at.event, BatchInvoked)]
        of_children = [at.at_s for at in invoked if at.event.shard != shard_name(0)]  # type: ignore[attr-defined]
        assert of_children
        assert min(of_children) >= discarded.at_s
        assert len(await harness.messages("failed")) == 1

    play(stream_app(work, maximum_retry_attempts=2), scenario)
    assert set(work.ended) == {2}


def test_an_idle_shard_that_is_split_makes_way_at_once() -> None:
    work = Work(seconds=0)

    async def scenario(harness: Harness) -> None:
        await send(harness, (LOW, 1))
        await harness.run_until_idle()
        await harness.split("orders", shard_name(0))
        await harness.advance(0.1)
        (mapping,) = (await harness.status()).mappings
        assert [(shard.shard, shard.waits_for) for shard in mapping.shards] == [
            (shard_name(1), ""),
            (shard_name(2), ""),
        ]
        await send(harness, (LOW, 2), (HIGH, 3))
        await harness.run_until_idle()

    play(stream_app(work), scenario)
    assert set(work.ended) == {1, 2, 3}


@pytest.mark.parametrize("position", ["TRIM_HORIZON", "LATEST"])
def test_children_that_come_while_a_mapping_is_there_are_read_from_their_beginning(position: str) -> None:
    """A mapping that began at the end has not to miss what its shards become."""
    work = Work(seconds=0)
    app = stream_app(work, starting_position=position)

    async def run() -> None:
        async with open_memory_store() as store:
            async with open_harness(app, store=store) as harness:
                await harness.advance(1)
                left, _ = await harness.split("orders", shard_name(0))
                await send(harness, (LOW, 1))
                await harness.run_until_idle()
                await harness.split("orders", left)
                await send(harness, (LOW, 2), (HIGH, 3))
            # Once more while nobody looks.
            async with open_harness(app, store=store) as harness:
                await harness.run_until_idle()

    run_virtual(run)
    assert set(work.ended) == {1, 2, 3}


def test_a_new_mapping_begins_where_it_is_told_in_every_shard() -> None:
    """TRIM_HORIZON: parents first; LATEST: nothing of what was there."""
    for position, expected in (("TRIM_HORIZON", {1, 2, 3}), ("LATEST", {3})):
        work = Work(seconds=1)
        app = stream_app(work, starting_position=position)

        async def run(app: Any = app, work: Work = work) -> None:
            async with open_memory_store() as store:
                idle = stream_app(work, enabled=False)
                async with open_harness(idle, store=store) as harness:
                    await send(harness, (LOW, 1))
                    await harness.split("orders", shard_name(0))
                    await send(harness, (LOW, 2))
                async with open_harness(app, store=store) as harness:
                    await harness.advance(0.5)
                    await send(harness, (LOW, 3))
                    await harness.run_until_idle()

        run_virtual(run)
        assert set(work.ended) == expected
        if position == "TRIM_HORIZON":
            assert work.began[2] >= work.ended[1]


def test_a_restart_in_the_middle_keeps_the_order_and_the_attempts() -> None:
    work = Work(1, seconds=0)
    app = stream_app(work, maximum_retry_attempts=50)

    async def run() -> None:
        async with open_memory_store() as store:
            async with open_harness(app, store=store) as harness:
                await send(harness, (LOW, 1))
                await harness.split("orders", shard_name(0))
                await send(harness, (LOW, 2))
                await harness.advance(5)
                assert harness.invocations[-1].attempt > 3
                before = harness.invocations[-1].attempt
            async with open_harness(app, store=store) as harness:
                await harness.advance(120)
                assert harness.invocations[0].attempt > before
                assert not work.ended
                work.failing.clear()
                await harness.run_until_idle()
            # What is drained is not taken again.
            async with open_harness(app, store=store) as harness:
                await harness.advance(1)
                assert {event.shard for event in harness.events(ShardTaken)} == {shard_name(1), shard_name(2)}

    run_virtual(run)
    assert work.order[LOW] == [1, 2]


@pytest.mark.parametrize("settings", [{}, {"lanes": 5}, {"parallelization_factor": 3}])
def test_every_key_keeps_its_order_over_splits_and_merges(settings: dict[str, Any]) -> None:
    work = Work(seconds=0.3)

    async def scenario(harness: Harness) -> None:
        entries = [(f"k{number % 12}", number) for number in range(240)]
        await send(harness, *entries[:60])
        left, right = await harness.split("orders", shard_name(0))
        await send(harness, *entries[60:120])
        first, second = await harness.split("orders", left)
        await send(harness, *entries[120:180])
        await harness.merge("orders", await harness.merge("orders", second, right), first)
        await send(harness, *entries[180:])
        await harness.run_until_idle()
        await books(harness)

    play(stream_app(work, batch_size=7, **settings), scenario)
    assert work.order == {f"k{key}": list(range(key, 240, 12)) for key in range(12)}


def test_a_window_ends_with_its_shard_and_the_children_begin_with_none() -> None:
    """§4 "Resharding": the tumbling window closes when a shard ends, and children start fresh."""
    seen: list[tuple[str, list[int], dict[str, Any], bool]] = []

    async def count(event: dict[str, Any], context: Any) -> Any:
        seen.append((event["shardId"], numbers(event), event["state"], event["isFinalInvokeForWindow"]))
        return {"state": {"count": event["state"].get("count", 0) + len(event["Records"])}}

    async def scenario(harness: Harness) -> None:
        await send(harness, (LOW, 1))
        await harness.run_until_idle()
        await harness.split("orders", shard_name(0))
        await send(harness, (LOW, 2))
        # At once: not when its window would have ended.
        await harness.advance(1)

    play(stream_app(count, tumbling_window_in_seconds=900), scenario)
    assert seen == [
        (shard_name(0), [1], {}, False),
        (shard_name(0), [], {"count": 1}, True),
        (shard_name(1), [2], {}, False),
    ]


def test_parked_keys_are_redriven_before_the_children_begin() -> None:
    """Their later records are the children's, and order holds per key."""
    work = Work(0, seconds=0)

    async def scenario(harness: Harness) -> None:
        await send(harness, ("k0", 0), ("k1", 0))
        await harness.advance(5)
        assert await harness.messages("parked")
        work.failing.clear()
        # The one that failed without being parked succeeds, and the shard's checkpoint stands at its end.
        await harness.advance(60)
        await harness.split("orders", shard_name(0))
        await send(harness, ("k0", 7), ("k1", 7))
        await harness.advance(60)
        assert 7 not in work.ended
        while (await harness.engine.redrive("orders", shard_name(0), count_max=100)).keys:
            await harness.advance(1)
        await harness.run_until_idle()

    play(stream_app(work, lanes=2), scenario)
    assert work.order == {"k0": [0, 7], "k1": [0, 7]}


def _released(harness: Harness) -> list[tuple[str, str]]:
    return [(event.shard, event.why) for event in harness.events(ShardReleased)]


def test_a_drained_parent_is_told_as_such() -> None:
    async def scenario(harness: Harness) -> None:
        await send(harness, (LOW, 1))
        await harness.run_until_idle()
        await harness.split("orders", shard_name(0))
        await harness.advance(0.1)
        assert _released(harness) == [(shard_name(0), "all of it is settled, and its children go on")]

    play(stream_app(Work(seconds=0)), scenario)


@pytest.mark.parametrize("settings", [{}, {"lanes": 5}, {"parallelization_factor": 3}])
def test_a_drained_parent_that_is_moved_back_runs_again_before_its_children(settings: dict[str, Any]) -> None:
    """What came before the split comes again first, whatever the children were doing, and each record once."""
    work = Work(seconds=0.5)
    app = stream_app(work, batch_size=2, **settings)

    async def scenario(harness: Harness) -> None:
        control = Control(app, harness)
        await send(harness, *[(LOW, number) for number in range(4)])
        left, right = await harness.split("orders", shard_name(0))
        await harness.run_until_idle()
        first, second = await harness.split("orders", left)
        await send(harness, (LOW, 4), (LOW, 5), (HIGH, 6))
        await harness.run_until_idle()
        assert work.order[LOW] == [0, 1, 2, 3, 4, 5]
        # A batch of a grandchild is running at that moment, and more of its records wait.
        await send(harness, *[(LOW, number) for number in range(7, 13)])
        await harness.advance(0.2)
        await control.seek(2, shard_name(0))
        (mapping,) = (await harness.status()).mappings
        assert {shard.shard: shard.waits_for for shard in mapping.shards} == {
            shard_name(0): "",
            left: shard_name(0),
            right: shard_name(0),
            first: left,
            second: left,
        }
        running = work.order[LOW][6:]
        assert running == [7]
        await harness.run_until_idle()
        rest = [number for number in range(7, 13) if number not in running]
        assert work.order[LOW] == [0, 1, 2, 3, 4, 5, *running, 2, 3, *rest]
        assert work.order[HIGH] == [6]
        assert (await control.log())[-1] == ("ann", "seek", shard_name(0), "from 4 to 2")
        (mapping,) = (await harness.status()).mappings
        assert {shard.shard for shard in mapping.shards} == {first, second, right}
        await books(harness)

    play(app, scenario)


def test_a_whole_family_that_is_moved_back_runs_again_parents_first() -> None:
    """Children that wait are moved as well, and a restart in the middle changes nothing."""
    work = Work(seconds=0.5)
    app = stream_app(work)

    async def run() -> None:
        async with open_memory_store() as store:
            async with open_harness(app, store=store) as harness:
                await send(harness, (LOW, 1))
                left, right = await harness.split("orders", shard_name(0))
                await send(harness, (LOW, 2), (HIGH, 3))
                merged = await harness.merge("orders", left, right)
                await send(harness, (LOW, 4))
                await harness.run_until_idle()
                control = Control(app, harness)
                for shard in (shard_name(0), left, right, merged):
                    await control.seek(0, shard)
                await harness.advance(0.1)
            async with open_harness(app, store=store) as harness:
                await harness.run_until_idle()
                await books(harness)
                # Forward, too: what waits for a parent never runs.
                control = Control(app, harness)
                await control.seek(0, shard_name(0))
                await control.seek(1, left)
                await harness.run_until_idle()

    run_virtual(run)
    assert work.order[LOW] == [1, 2, 4, 1, 2, 4, 1]
    assert work.order[HIGH] == [3, 3]


def test_children_that_begin_while_they_are_moved_are_moved_all_the_same() -> None:
    """Their parent is drained again at once, between the two halves of moving a child."""
    work = Work(seconds=0)
    app = stream_app(work)

    async def commit(store: Store, operations: Sequence[Operation]) -> list[Any]:
        if any(isinstance(operation, PutNote) and operation.name.startswith("moved/") for operation in operations):
            await anyio.sleep(1)
        return await store.commit(operations)

    async def scenario(harness: Harness) -> None:
        control = Control(app, harness)
        await send(harness, (LOW, 1))
        left, right = await harness.split("orders", shard_name(0))
        await send(harness, (LOW, 2), (HIGH, 3))
        await harness.run_until_idle()
        for shard in (shard_name(0), left, right):
            await control.seek(0, shard)
        await harness.run_until_idle()

    play_scripted(app, scenario, commit=commit)
    assert work.order[LOW] == [1, 2, 1, 2]
    assert work.order[HIGH] == [3, 3]


def test_a_drained_parent_that_could_not_be_moved_back_holds_nothing_up() -> None:
    """The store is away in the middle of it: the mapping starts anew where the store says."""
    work = Work(seconds=0)
    app = stream_app(work)
    away = False

    async def commit(store: Store, operations: Sequence[Operation]) -> list[Any]:
        if away and any(isinstance(operation, SeekCheckpoint) for operation in operations):
            raise StoreUnavailable("the disk is away")
        return await store.commit(operations)

    async def scenario(harness: Harness) -> None:
        nonlocal away
        await send(harness, (LOW, 1))
        await harness.split("orders", shard_name(0))
        await harness.run_until_idle()
        away = True
        with pytest.raises(SourceUnavailable):
            await Control(app, harness).seek(0, shard_name(0))
        away = False
        await send(harness, (LOW, 2))
        await harness.advance(60)
        assert work.order[LOW] == [1, 2]
        await Control(app, harness).seek(0, shard_name(0))
        await harness.run_until_idle()

    play_scripted(app, scenario, commit=commit)
    assert work.order[LOW] == [1, 2, 1]


def test_what_can_not_be_done_is_refused_in_a_sentence() -> None:
    async def work(event: dict[str, Any], context: Any) -> None:
        return None

    async def scenario(harness: Harness) -> None:
        await harness.split("orders", shard_name(0))
        for refused in (
            harness.split("orders", shard_name(0)),
            harness.split("orders", "nonsense"),
            harness.split("orders", shard_name(2), at=0),
            harness.split("nothing", shard_name(0)),
            harness.merge("orders", shard_name(1), shard_name(1)),
        ):
            with pytest.raises(CommandError):
                await refused
        shards = await list_shards(harness.store, "orders")
        assert [(shard.parents, shard.children) for shard in shards] == [
            ((), (shard_name(1), shard_name(2))),
            ((shard_name(0),), ()),
            ((shard_name(0),), ()),
        ]

    play(stream_app(work), scenario)

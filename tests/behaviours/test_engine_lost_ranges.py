"""Records that a source dropped unread are told once, and hide none that it still has (design §3; issue 3, §2)."""

from __future__ import annotations

from typing import Any

import anyio

import eventcore
from eventcore.delivery.ordering import Part, ShardState
from eventcore.ports.sources import LostRange
from eventcore.store.memory import open_memory_store
from eventcore.testing.harness import Harness, open_harness
from eventcore.testing.virtual_loop import run_virtual
from tests.behaviours.orders import numbers
from tests.behaviours.scripted_source import Log, ScriptedStream, Settled, play_scripted, record, scripted_app


def test_the_checkpoint_does_not_pass_records_in_front_of_a_lost_range() -> None:
    """All before the checkpoint is settled (design §4): a crash between would lose what is still being worked on."""
    seen: list[int] = []
    unseen: list[int] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        await anyio.sleep(1)
        seen.extend(numbers(event))

    async def watch(settled: Settled) -> None:
        unseen.extend(position for position in range(10) if position < settled.checkpoint and position not in seen)

    async def scenario(harness: Harness) -> None:
        await harness.advance(30)

    log: Log = [*map(record, range(10)), LostRange(shard="orders-0", first=10, last=19), record(20)]
    stream = ScriptedStream({"orders-0": log})
    stream.on_settle = watch
    harness = play_scripted(scripted_app(work, batch_size=2), scenario, stream)
    assert seen == [*range(10), 20]
    assert unseen == []
    assert [(lost.first, lost.last, lost.reason) for lost in harness.lost] == [(10, 19, "RecordExpired")]
    checkpoints = [settled.checkpoint for settled in stream.settled]
    assert checkpoints == sorted(checkpoints)
    assert checkpoints[-1] == 21


def test_failing_work_whose_records_are_gone_does_not_stop_the_engine() -> None:
    """Compaction took every record of the part that the owner before left; the shard goes on behind it."""
    seen: list[int] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        seen.extend(numbers(event))

    async def scenario(harness: Harness) -> None:
        await harness.advance(60)

    stream = ScriptedStream({"orders-0": [record(7), record(8)]})
    stream.kept["orders-0"] = (3, ShardState(parts=(Part(last=5, attempt=1),)))
    play_scripted(scripted_app(work), scenario, stream)
    assert seen == [7, 8]
    assert stream.kept["orders-0"] == (9, ShardState())


def test_what_retention_takes_behind_the_buffer_is_seen_or_told_also_across_a_stop() -> None:
    """Every record is either handed to the function or told as lost, though the engine stops between the two."""
    seen: set[int] = set()
    told: set[int] = set()

    def app(pause_s: float) -> eventcore.App:
        async def work(event: dict[str, Any], context: Any) -> None:
            await anyio.sleep(pause_s)
            seen.update(numbers(event))

        made = eventcore.App()
        made.stream("orders", shards=1, retention_period=3600)
        made.queue("failed")
        made.function("work", runtime="inline", timeout=900)(work)
        made.mapping(
            "orders",
            source="stream:orders",
            function="work",
            starting_position="TRIM_HORIZON",
            batch_size=100,
            on_failure="queue:failed",
        )
        return made

    def note(harness: Harness, first: int) -> None:
        told.update(number - first for lost in harness.lost for number in range(int(lost.first), int(lost.last) + 1))

    async def run() -> None:
        async with open_memory_store() as store:
            async with open_harness(app(800), store=store) as harness:
                sent = await harness.send("stream:orders", [str(number) for number in range(2000)], key="k")
                first = min(position for _, position in sent)
                with anyio.fail_after(20_000):
                    while not harness.lost:
                        await harness.advance(50)
                await harness.advance(1)
            note(harness, first)
            async with open_harness(app(0), store=store) as harness:
                await harness.advance(7200)
            note(harness, first)

    run_virtual(run)
    assert told
    assert seen | told == set(range(2000))

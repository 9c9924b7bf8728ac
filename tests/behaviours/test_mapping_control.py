"""What people do to mappings while they run: pause, resume, seek, skip, each written down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
import msgspec
import pytest

import eventcore
from eventcore.config.effective import resolve
from eventcore.embedded.sharding import shard_name
from eventcore.errors import CommandError, ShardLost, SourceUnavailable
from eventcore.http.contract import SeekMapping
from eventcore.http.mappings import MappingOperations
from eventcore.ports.store import Operation, PutNote, Store
from eventcore.store.memory import open_memory_store
from eventcore.telemetry.events import MappingControlled, RecordsReturned
from eventcore.testing.harness import Harness, open_harness
from eventcore.testing.virtual_loop import run_virtual
from tests.behaviours.control import SHARD, Control
from tests.behaviours.orders import numbers, play, queue_app, send_numbers, stream_app
from tests.behaviours.scripted_source import ScriptedStream, play_scripted, record, scripted_app


class Work:
    """Takes a second; fails for some numbers."""

    def __init__(self, *failing: int) -> None:
        self.done: list[int] = []
        self.calls = 0
        self.failing = set(failing)

    async def __call__(self, event: dict[str, Any], context: Any) -> None:
        self.calls += 1
        await anyio.sleep(1)
        if self.failing & set(numbers(event)):
            raise ValueError("as asked")
        self.done += numbers(event)


def test_a_pause_finishes_what_runs_and_begins_nothing() -> None:
    work = Work()
    app = stream_app(work, batch_size=2)

    async def scenario(harness: Harness) -> None:
        control = Control(app, harness)
        await send_numbers(harness, 6)
        await harness.advance(0.5)
        await control.pause()
        await harness.advance(60)
        assert work.done == [1, 2]
        (mapping,) = (await harness.status()).mappings
        assert mapping.pause is not None
        assert (mapping.pause.by, mapping.shards[0].pause) == ("ann", mapping.pause)
        await send_numbers(harness, 1, first=7)
        await harness.advance(60)
        assert work.done == [1, 2]
        await control.resume()
        await harness.run_until_idle()
        assert [event.action for event in harness.events(MappingControlled)] == ["pause", "resume"]
        assert await control.log() == [("ann", "pause", "", ""), ("ann", "resume", "", "")]

    play(app, scenario)
    assert work.done == [1, 2, 3, 4, 5, 6, 7]


def test_a_pause_survives_a_restart() -> None:
    work = Work()
    app = stream_app(work)

    async def run() -> None:
        async with open_memory_store() as store:
            async with open_harness(app, store=store) as harness:
                await harness.run_until_idle()
                await Control(app, harness).pause()
            async with open_harness(app, store=store) as harness:
                await send_numbers(harness, 3)
                await harness.advance(60)
                assert work.done == []
                await Control(app, harness).resume()
                await harness.run_until_idle()

    run_virtual(run)
    assert work.done == [1, 2, 3]


def test_one_shard_is_paused_and_the_others_go_on() -> None:
    work = Work()
    app = stream_app(work, shards=4)

    async def scenario(harness: Harness) -> None:
        control = Control(app, harness)
        places = [(await harness.send("stream:orders", ["7"], key=key))[0][0] for key in "abcdefgh"]
        await harness.run_until_idle()
        before = len(work.done)
        await control.pause(places[0])
        for key in "abcdefgh":
            await harness.send("stream:orders", ["8"], key=key)
        await harness.advance(60)
        assert len(work.done) - before == sum(place != places[0] for place in places)
        await control.resume(places[0])
        await harness.run_until_idle()

    play(app, scenario)
    assert work.done.count(8) == 8


def test_a_failing_batch_is_not_tried_while_its_shard_is_paused() -> None:
    work = Work(1)
    app = stream_app(work)

    async def scenario(harness: Harness) -> None:
        control = Control(app, harness)
        await send_numbers(harness, 1)
        await harness.advance(10)
        await control.pause()
        await harness.advance(5)
        calls = work.calls
        await harness.advance(3600)
        assert work.calls == calls
        work.failing.clear()
        await control.resume()
        await harness.run_until_idle()

    play(app, scenario)
    assert work.done == [1]


@pytest.mark.parametrize("lanes", [1, 2])
def test_what_waits_for_its_function_does_not_begin_when_it_is_paused(lanes: int) -> None:
    """The function serves few batches at a time, and the others wait in line for it."""
    work = Work()
    stream = ScriptedStream({f"orders-{shard}": [record(position) for position in range(3)] for shard in range(4)})

    async def scenario(harness: Harness) -> None:
        control = Control(app, harness)
        await harness.advance(0.5)
        await control.pause()
        await harness.advance(60)
        assert len(harness.invocations) == lanes
        await control.resume()
        await harness.advance(60)
        (mapping,) = (await harness.status()).mappings
        assert mapping.counters is not None
        assert mapping.counters.is_balanced, mapping.counters
        assert [invoked.attempt for invoked in harness.invocations] == [1] * 12

    app = scripted_app(work, batch_size=1, concurrency=lanes, lanes=lanes)
    play_scripted(app, scenario, stream)
    assert sorted(work.done) == sorted([0, 1, 2] * 4)


def test_what_failed_and_waits_for_its_function_keeps_its_error_when_it_is_paused() -> None:
    """A skip then is a discard with the error that people saw, not with none."""
    work = Work(0)
    stream = ScriptedStream({"orders-0": [record(0)], "orders-1": [record(position) for position in range(1, 60)]})

    async def scenario(harness: Harness) -> None:
        control = Control(app, harness)
        # It failed at 1 s, was due again at 1.2 s, and waits for the other shard's batch.
        await harness.advance(1.5)
        await control.pause()
        await harness.advance(10)
        (mapping,) = (await harness.status()).mappings
        blocked = mapping.shards[0].blocked
        assert blocked is not None
        assert (blocked.error_type, blocked.error_message) == ("ValueError", "as asked")
        calls = work.calls
        assert (await control.skip(shard="orders-0")).count == 1
        assert work.calls == calls
        (failure,) = await harness.failures()
        assert (failure.reason, failure.error_message) == ("Skipped", "as asked")

    app = scripted_app(work, batch_size=1, concurrency=1, maximum_retry_attempts=-1)
    play_scripted(app, scenario, stream)


def test_what_succeeds_while_it_is_to_be_skipped_is_not_given_up() -> None:
    work = Work(1)
    app = stream_app(work, batch_size=1)

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 2)
        while not harness.retried:
            await harness.advance(0.01)
        work.failing.clear()
        while len(harness.invocations) < 2:
            await harness.advance(0.01)
        # Its second attempt runs, and will succeed.
        assert (await Control(app, harness).skip()).count == 0
        await harness.run_until_idle()
        assert harness.discarded == []
        assert await Control(app, harness).log() == []

    play(app, scenario)
    assert work.done == [1, 2]


def test_a_paused_queue_begins_nothing_of_what_it_has_received() -> None:
    """Messages are received ahead; those wait, and are shown to others when their visibility timeout ends."""
    work = Work()
    app = queue_app(work, batch_size=1, maximum_concurrency=2, queue={"visibility_timeout": 30})

    async def scenario(harness: Harness) -> None:
        control = Control(app, harness)
        await send_numbers(harness, 12, source="queue:orders")
        await harness.advance(0.5)
        running = len(harness.invocations)
        await control.pause()
        await harness.advance(120)
        assert len(harness.invocations) == running == len(work.done)
        (depth,) = [each for each in await harness.store.queue_depths() if each.queue == "orders"]
        assert (depth.visible, depth.hidden) == (12 - running, 0)
        await control.resume()
        await harness.run_until_idle()

    play(app, scenario)
    assert sorted(work.done) == list(range(1, 13))


def test_a_paused_queue_stops_at_once_and_shows_what_it_had_received() -> None:
    work = Work()
    app = queue_app(work, batch_size=1, maximum_concurrency=2, queue={"visibility_timeout": 30})

    async def run() -> None:
        async with open_memory_store() as store:
            async with open_harness(app, store=store) as harness:
                await send_numbers(harness, 12, source="queue:orders")
                await harness.advance(0.5)
                await Control(app, harness).pause()
                await harness.advance(2)
            (depth,) = [each for each in await store.queue_depths() if each.queue == "orders"]
            assert (depth.visible, depth.hidden) == (12 - len(work.done), 0)
            # What was never invoked is no nearer to its dead-letter queue.
            assert {message.receive_count for message in await store.peek("orders", count_max=20)} == {0}

    run_virtual(run)
    assert len(work.done) < 12


def test_a_batch_that_waits_for_its_function_does_not_begin_when_its_queue_is_paused() -> None:
    work = Work()
    app = eventcore.App()
    app.queue("orders")
    app.function("work", runtime="inline", concurrency=1)(work)
    app.mapping("orders", source="queue:orders", function="work", batch_size=1)

    async def scenario(harness: Harness) -> None:
        control = Control(app, harness)
        await send_numbers(harness, 5, source="queue:orders")
        await harness.advance(0.5)
        await control.pause()
        await harness.advance(10)
        assert len(harness.invocations) == 1
        await control.resume()
        await harness.run_until_idle()

    play(app, scenario)
    assert sorted(work.done) == [1, 2, 3, 4, 5]


def test_a_paused_queue_receives_nothing() -> None:
    work = Work()
    app = queue_app(work)

    async def scenario(harness: Harness) -> None:
        control = Control(app, harness)
        await harness.advance(1)
        await control.pause()
        await send_numbers(harness, 3, source="queue:orders")
        await harness.advance(120)
        assert [message.receive_count for message in await harness.messages("orders")] == [0, 0, 0]
        with pytest.raises(CommandError, match="has no shards"):
            await control.pause("some")
        with pytest.raises(CommandError, match="has no positions"):
            await control.seek(0)
        with pytest.raises(CommandError, match="nothing holds up a queue"):
            await control.skip()
        await control.resume()
        await harness.run_until_idle()

    play(app, scenario)
    assert sorted(work.done) == [1, 2, 3]


def test_a_skip_gives_up_what_holds_up_the_shard_as_a_discard_with_its_reason() -> None:
    work = Work(2)
    app = stream_app(work, batch_size=2)

    async def scenario(harness: Harness) -> None:
        control = Control(app, harness)
        await send_numbers(harness, 5)
        await harness.advance(120)
        assert work.done == []
        skipped = await control.skip()
        assert (skipped.count, skipped.destination) == (2, "queue:failed")
        await harness.run_until_idle()
        (failure,) = await harness.failures()
        assert (failure.id,) == tuple(skipped.failure_ids)
        assert (failure.reason, failure.error_message, failure.count) == ("Skipped", "as asked", 2)
        assert len(await harness.messages("failed")) == 1
        assert await control.log() == [("ann", "skip", SHARD, "[0-1]")]

    harness = play(app, scenario)
    assert work.done == [3, 4, 5]
    assert [entry.reason for entry in harness.discarded] == ["Skipped"]


def test_a_skip_of_some_records_leaves_the_rest_of_the_batch() -> None:
    work = Work(2)
    app = stream_app(work, batch_size=4)

    async def scenario(harness: Harness) -> None:
        control = Control(app, harness)
        await send_numbers(harness, 4)
        await harness.advance(120)
        assert (await control.skip(2)).count == 2
        await harness.run_until_idle()

    play(app, scenario)
    assert work.done == [3, 4]


def test_a_skip_works_while_the_mapping_is_paused() -> None:
    """Which is when people have the time to look."""
    work = Work(1)
    app = stream_app(work, batch_size=1)

    async def scenario(harness: Harness) -> None:
        control = Control(app, harness)
        await send_numbers(harness, 2)
        await harness.advance(20)
        await control.pause()
        await harness.advance(120)
        assert (await control.skip()).count == 1
        await harness.advance(120)
        assert work.done == []
        await control.resume()
        await harness.run_until_idle()

    play(app, scenario)
    assert work.done == [2]


def test_with_lanes_the_failing_key_that_is_furthest_behind_is_skipped() -> None:
    work = Work(1, 3)
    app = stream_app(work, batch_size=1, lanes=10)

    async def scenario(harness: Harness) -> None:
        control = Control(app, harness)
        for number in range(1, 5):
            await harness.send("stream:orders", [str(number)], key=f"k{number}")
        await harness.advance(60)
        assert sorted(work.done) == [2, 4]
        assert (await control.skip()).count == 1
        await harness.advance(60)
        work.failing.clear()
        await harness.run_until_idle()

    play(app, scenario)
    assert sorted(work.done) == [2, 3, 4]


def test_nothing_is_skipped_of_a_shard_that_goes_on() -> None:
    app = stream_app(Work())

    async def scenario(harness: Harness) -> None:
        await harness.run_until_idle()
        with pytest.raises(CommandError, match="no batch of it keeps failing"):
            await Control(app, harness).skip()

    play(app, scenario)


def test_a_seek_back_runs_records_again_and_a_seek_forward_leaves_some_out() -> None:
    work = Work()
    app = stream_app(work)

    async def scenario(harness: Harness) -> None:
        control = Control(app, harness)
        await send_numbers(harness, 5)
        await harness.run_until_idle()
        await control.seek(3)
        await harness.run_until_idle()
        assert work.done == [1, 2, 3, 4, 5, 4, 5]
        await control.pause()
        await send_numbers(harness, 3, first=6)
        await control.seek(7)
        await control.resume()
        await harness.run_until_idle()
        assert await control.log() == [
            ("ann", "seek", SHARD, "from 5 to 3"),
            ("ann", "pause", "", ""),
            ("ann", "seek", SHARD, "from 5 to 7"),
            ("ann", "resume", "", ""),
        ]

    play(app, scenario)
    assert work.done == [1, 2, 3, 4, 5, 4, 5, 8]


def test_a_seek_forgets_the_attempts_of_what_failed() -> None:
    work = Work(2)
    app = stream_app(work, batch_size=1, maximum_retry_attempts=50)

    async def scenario(harness: Harness) -> None:
        control = Control(app, harness)
        await send_numbers(harness, 3)
        await harness.advance(300)
        await control.seek(0)
        await harness.advance(20)
        attempts = [invoked.attempt for invoked in harness.invocations]
        again = attempts[attempts.index(max(attempts)) + 1 :]
        # Record 1 once more, then record 2 from its first attempt on.
        assert again[:4] == [1, 1, 2, 3]

    play(app, scenario)


def test_a_record_that_was_given_up_runs_again_after_a_seek() -> None:
    """The note of what was given up must not hide it from a rewind."""
    work = Work(2)
    app = stream_app(work, batch_size=1, maximum_retry_attempts=0)

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 3)
        await harness.run_until_idle()
        work.failing.clear()
        await Control(app, harness).seek(1)
        await harness.run_until_idle()

    play(app, scenario)
    assert work.done == [1, 3, 2, 3]


@pytest.mark.parametrize("is_running", [True, False])
def test_a_record_that_is_given_up_again_after_a_seek_is_told_again(is_running: bool) -> None:
    """A redelivered batch writes its discard once; a person who runs records again wants to hear of them again."""
    work = Work(2)
    app = stream_app(work, batch_size=1, maximum_retry_attempts=0)

    async def run() -> None:
        async with open_memory_store() as store:
            async with open_harness(app, store=store) as harness:
                await send_numbers(harness, 3)
                await harness.run_until_idle()
                clock = harness.clock
                if is_running:
                    await Control(app, harness).seek(0)
                    await harness.run_until_idle()
            if not is_running:
                offline = MappingOperations(store, clock, resolve(app.loaded()).mappings, None)
                await offline.seek(SeekMapping(mapping="orders", positions={SHARD: 0}, by="ann"))
            async with open_harness(app, store=store) as harness:
                await harness.run_until_idle()
                assert len(await harness.messages("failed")) == 2
                assert await Control(app, harness).log() == [("ann", "seek", SHARD, "from 3 to 0")]

    run_virtual(run)
    assert work.done == [1, 3, 1, 3]


def test_what_was_redriven_of_a_parked_key_runs_again_after_a_seek() -> None:
    """Its later records are parked still: it is parked once more, in front of them, and the redrive has it again."""
    seen: list[int] = []
    failing = {1, 2, 3}

    async def work(batch: eventcore.Batch) -> None:
        for each in batch:
            if each.position in failing:
                raise ValueError("no")
            seen.append(each.position)

    keys = [b"x", b"a", b"b", b"b"]
    log = [msgspec.structs.replace(record(position), key=key) for position, key in enumerate(keys)]
    stream = ScriptedStream({"orders-0": list(log)})

    async def scenario(harness: Harness) -> None:
        async def redrive() -> int:
            return (await harness.engine.redrive("orders", "orders-0", count_max=10)).redriven

        await harness.advance(20)
        failing.remove(2)
        assert await redrive() == 1
        await Control(app, harness).seek(0, "orders-0")
        await harness.advance(20)
        failing.clear()
        assert await redrive() == 2
        await harness.advance(60)

    app = scripted_app(work, lanes=2, batch_size=1)
    play_scripted(app, scenario, stream)
    assert [position for position in seen if position in {2, 3}] == [2, 2, 3]
    assert seen.count(0) == 2


def test_a_shard_that_can_not_be_moved_is_worked_on_again() -> None:
    """The source is away in the middle of it: the mapping starts anew, and nothing stands still or is left out."""
    work = Work()
    stream = ScriptedStream({"orders-0": [record(position) for position in range(6)]})

    async def fail() -> None:
        stream.on_seek = succeed
        raise SourceUnavailable("the broker is away", source="scripted")

    async def succeed() -> None:
        """Let it be moved from now on."""

    async def scenario(harness: Harness) -> None:
        control = Control(app, harness)
        await harness.advance(1.5)
        stream.on_seek = fail
        with pytest.raises(SourceUnavailable):
            await control.seek(0, "orders-0")
        await harness.advance(0.1)
        (mapping,) = (await harness.status()).mappings
        assert (mapping.state, mapping.reason) == ("Problem", "the position of orders-0 could not be moved")
        await harness.advance(60)
        assert await control.log() == []
        await control.seek(4, "orders-0")
        await harness.advance(60)

    app = scripted_app(work, batch_size=1)
    play_scripted(app, scenario, stream)
    assert work.done == [0, 1, 2, 3, 4, 5, 4, 5]


def test_a_shard_that_changes_hands_while_it_is_moved_belongs_to_its_new_owner() -> None:
    """A rebalance in the middle of a seek: the one who has the shard now goes on undisturbed."""
    work = Work()
    stream = ScriptedStream({"orders-0": [record(position) for position in range(4)]})
    moving = False

    async def commit(store: Store, operations: Sequence[Operation]) -> list[Any]:
        nonlocal moving
        if moving and any(isinstance(each, PutNote) and each.name.startswith("covered/") for each in operations):
            moving = False
            await stream.revoke()
            await stream.source.take()
        return await store.commit(operations)

    async def scenario(harness: Harness) -> None:
        nonlocal moving
        await harness.advance(1.5)
        moving = True
        with pytest.raises(ShardLost):
            await Control(app, harness).seek(0, "orders-0")
        await harness.advance(60)
        (mapping,) = (await harness.status()).mappings
        assert mapping.state == "Enabled"

    app = scripted_app(work, batch_size=1)
    play_scripted(app, scenario, stream, commit=commit)
    assert work.done == [0, 1, 2, 3]


def test_a_shard_that_is_lost_while_a_seek_waits_for_its_batch_is_not_moved() -> None:
    """The rebalance has the first word: whoever has the shard then runs everything once, in order."""
    work = Work()
    stream = ScriptedStream({"orders-0": [record(position) for position in range(4)]})

    async def scenario(harness: Harness) -> None:
        async def seek() -> None:
            with pytest.raises(ShardLost):
                await Control(app, harness).seek(0, "orders-0")

        await harness.advance(1.5)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(seek)
            await harness.advance(0.1)
            await stream.revoke()
            await stream.source.take()
        await harness.advance(60)
        assert await Control(app, harness).log() == []
        (mapping,) = (await harness.status()).mappings
        assert mapping.state == "Enabled"

    app = scripted_app(work, batch_size=1)
    play_scripted(app, scenario, stream)
    assert work.done == [0, 1, 2, 3]


def test_a_skip_that_comes_while_the_shard_is_moved_does_not_wait_for_ever() -> None:
    stream = ScriptedStream({"orders-0": [record(position) for position in range(4)]})

    async def away() -> None:
        await anyio.sleep(5)

    async def scenario(harness: Harness) -> None:
        control = Control(app, harness)
        await harness.advance(10)
        stream.on_seek = away
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(control.seek, 2, "orders-0")
            await harness.advance(3)
            with anyio.fail_after(60):
                assert (await control.skip(shard="orders-0")).count == 0

    app = scripted_app(Work(0), batch_size=1, maximum_retry_attempts=-1)
    play_scripted(app, scenario, stream)


def test_a_pause_goes_with_the_shard_when_it_is_taken_again() -> None:
    work = Work()
    stream = ScriptedStream({"orders-0": [record(position) for position in range(4)]})

    async def scenario(harness: Harness) -> None:
        await harness.advance(1.5)
        await Control(app, harness).pause("orders-0")
        await harness.advance(10)
        await stream.revoke()
        await stream.source.take()
        await harness.advance(60)
        assert work.done == [0, 1]
        await Control(app, harness).resume("orders-0")
        await harness.advance(60)

    app = scripted_app(work, batch_size=1)
    play_scripted(app, scenario, stream)
    assert work.done == [0, 1, 2, 3]


def test_two_who_move_a_shard_at_once_do_so_one_after_the_other() -> None:
    work = Work()
    app = stream_app(work, batch_size=1)

    async def scenario(harness: Harness) -> None:
        control = Control(app, harness)
        await send_numbers(harness, 4)
        await harness.advance(2.5)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(control.seek, 0)
            tasks.start_soon(control.seek, 2)
        await harness.run_until_idle()
        moves = [detail for _, _, _, detail in await control.log()]
        assert moves in (["from 3 to 0", "from 0 to 2"], ["from 3 to 2", "from 2 to 0"])
        last = int(moves[-1][-1])
        assert work.done == [1, 2, 3, *range(last + 1, 5)]

    play(app, scenario)


def test_the_books_balance_when_records_come_while_a_shard_is_moved() -> None:
    work = Work()
    stream = ScriptedStream({"orders-0": [record(position) for position in range(4)]}, receive_max=1)

    async def meanwhile() -> None:
        stream.shards["orders-0"].append(record(4))
        stream.source.wake()
        await anyio.sleep(1)

    async def scenario(harness: Harness) -> None:
        await harness.advance(10)
        stream.on_seek = meanwhile
        await Control(app, harness).seek(2, "orders-0")
        await harness.advance(60)
        (mapping,) = (await harness.status()).mappings
        assert mapping.counters is not None
        assert mapping.counters.in_flight == 0
        assert sum(event.count for event in harness.events(RecordsReturned)) == 1
        assert mapping.counters.is_balanced, mapping.counters

    app = scripted_app(work, batch_size=1)
    play_scripted(app, scenario, stream)
    assert work.done == [0, 1, 2, 3, 2, 3, 4]


def test_two_people_at_once_lose_nothing_of_each_other() -> None:
    app = stream_app(Work(), shards=4)

    async def scenario(harness: Harness) -> None:
        control = Control(app, harness)
        await harness.run_until_idle()
        async with anyio.create_task_group() as tasks:
            for number in range(4):
                tasks.start_soon(control.pause, shard_name(number))
        (mapping,) = (await harness.status()).mappings
        assert [shard.pause is not None for shard in mapping.shards] == [True] * 4
        assert len(await control.log()) == 4
        await control.resume()

    play(app, scenario)


@pytest.mark.parametrize("first", ["", SHARD])
def test_what_makes_no_sense_is_refused_with_a_reason(first: str) -> None:
    app = stream_app(Work())

    async def scenario(harness: Harness) -> None:
        control = Control(app, harness)
        await harness.run_until_idle()
        with pytest.raises(CommandError, match="is not paused"):
            await control.resume(first)
        await control.pause(first)
        with pytest.raises(CommandError, match="is paused already, by ann"):
            await control.pause(SHARD)
        if not first:
            with pytest.raises(CommandError, match="the whole of `orders` is paused"):
                await control.resume(SHARD)
        for refused in (control.seek(0, "nix"), control.pause("nix")):
            with pytest.raises(CommandError, match="does not have the shard nix"):
                await refused
        await control.resume()

    play(app, scenario)

"""What people do to mappings while they run: pause, resume, seek, skip, each written down."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from eventcore.config.effective import resolve
from eventcore.config.pipeline import Pipeline
from eventcore.embedded.sharding import shard_name
from eventcore.errors import CommandError
from eventcore.http.contract import GetMappingLog, PauseMapping, ResumeMapping, SeekMapping, Skipped, SkipRecords
from eventcore.http.mappings import MappingOperations
from eventcore.store.memory import open_memory_store
from eventcore.telemetry.events import MappingControlled
from eventcore.testing.harness import Harness, open_harness
from eventcore.testing.virtual_loop import run_virtual
from tests.behaviours.orders import numbers, play, queue_app, send_numbers, stream_app

SHARD = shard_name(0)


class Control:
    """What Ann does to the mapping `orders`."""

    def __init__(self, app: Pipeline, harness: Harness) -> None:
        mappings = resolve(app.loaded()).mappings
        self._operations = MappingOperations(harness.store, harness.clock, mappings, harness.engine)

    async def pause(self, shard: str = "") -> None:
        await self._operations.pause(PauseMapping(mapping="orders", shard=shard, by="ann"))

    async def resume(self, shard: str = "") -> None:
        await self._operations.resume(ResumeMapping(mapping="orders", shard=shard, by="ann"))

    async def seek(self, position: int, shard: str = SHARD) -> None:
        await self._operations.seek(SeekMapping(mapping="orders", positions={shard: position}, by="ann"))

    async def skip(self, count: int = 0) -> Skipped:
        return await self._operations.skip(SkipRecords(mapping="orders", shard=SHARD, count=count, by="ann"))

    async def log(self) -> list[tuple[str, str, str, str]]:
        entries = await self._operations.log(GetMappingLog(mapping="orders"))
        return [(entry.by, entry.action, entry.shard, entry.detail) for entry in entries]


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
            ("ann", "seek", SHARD, "to 3"),
            ("ann", "pause", "", ""),
            ("ann", "seek", SHARD, "to 7"),
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
        with pytest.raises(CommandError, match="does not have the shard nix"):
            await control.seek(0, "nix")
        await control.resume()

    play(app, scenario)

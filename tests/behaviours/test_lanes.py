"""Lanes: keys of one shard side by side, each in order; one checkpoint; a key that holds the others up is parked."""

from __future__ import annotations

import gc
import json
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

import anyio
import pytest

import eventcore
from eventcore.delivery.lanes import SKEW_RECORDS_MIN
from eventcore.delivery.ordering import ShardState
from eventcore.engine.lane import Lane
from eventcore.engine.status import ParkedRedriven
from eventcore.errors import CommandError, StoreUnavailable
from eventcore.model import TimestampKind
from eventcore.ports.store import DropMessages, Operation
from eventcore.store.memory import open_memory_store
from eventcore.telemetry.events import BatchSettled
from eventcore.testing import Fate, Faults, open_pipeline
from eventcore.testing.harness import Harness, open_harness
from eventcore.testing.virtual_loop import run_virtual
from tests.behaviours.control import Control
from tests.behaviours.orders import numbers, play, stream_app
from tests.behaviours.scripted_source import ScriptedStream, books, play_scripted, record, scripted_app


def laned_app(handler: Any, *, lanes: int = 10, batch_size: int = 1, **mapping: Any) -> eventcore.App:
    return stream_app(handler, lanes=lanes, batch_size=batch_size, **mapping)


async def send(harness: Harness, *entries: tuple[str, int]) -> None:
    """Send (key, number) pairs in order."""
    for key, number in entries:
        await harness.send("stream:orders", [str(number)], key=key)


def key_of(event: dict[str, Any]) -> str:
    return str(event["Records"][0]["kinesis"]["partitionKey"])


class Work:
    """A handler that takes a second, and remembers what it was given and how many ran at once."""

    def __init__(self, *, failing: frozenset[str] = frozenset()) -> None:
        self.by_key: dict[str, list[int]] = defaultdict(list)
        self.running = 0
        self.running_max = 0
        self.failing = set(failing)

    async def __call__(self, event: dict[str, Any], context: Any) -> None:
        key = key_of(event)
        assert {record["kinesis"]["partitionKey"] for record in event["Records"]} == {key}
        self.running += 1
        self.running_max = max(self.running_max, self.running)
        try:
            await anyio.sleep(1)
            if key in self.failing:
                raise ValueError(f"{key} fails")
            self.by_key[key].extend(numbers(event))
        finally:
            self.running -= 1


def test_keys_run_side_by_side_and_each_in_order() -> None:
    """SEM-10 of what users ask for: K at a time on one shard, in order per key."""
    work = Work()

    async def scenario(harness: Harness) -> None:
        await send(harness, *[(f"k{number % 5}", number) for number in range(50)])
        await harness.run_until_idle()
        (mapping,) = (await harness.status()).mappings
        assert [shard.checkpoint for shard in mapping.shards] == [50]
        await books(harness)

    harness = play(laned_app(work), scenario)
    assert work.by_key == {f"k{key}": list(range(key, 50, 5)) for key in range(5)}
    assert work.running_max == 5
    # Ten a key, a second each, and the first one alone.
    assert max(each.at_s for each in harness.happened if isinstance(each.event, BatchSettled)) == 11


def test_no_more_than_the_lanes_run_at_a_time() -> None:
    work = Work()

    async def scenario(harness: Harness) -> None:
        await send(harness, *[(f"k{number}", number) for number in range(20)])
        await harness.run_until_idle()

    play(laned_app(work, lanes=3), scenario)
    assert work.running_max == 3
    assert sum(len(done) for done in work.by_key.values()) == 20


def test_a_lane_that_is_over_leaves_nothing_behind() -> None:
    """Lanes come and go with their keys: the collector looks too rarely for what refers to itself."""
    lanes: list[int] = []

    async def scenario(harness: Harness) -> None:
        gc.collect()
        gc.disable()
        try:
            await send(harness, *[(f"k{number}", number) for number in range(50)])
            await harness.advance(0.5)
            lanes.append(_lane_count())
            await harness.run_until_idle()
            lanes.append(_lane_count())
        finally:
            gc.enable()

    play(laned_app(Work()), scenario)
    during, after = lanes
    assert 0 < during <= 10
    assert after == 0


def _lane_count() -> int:
    return sum(isinstance(each, Lane) for each in gc.get_objects())


def test_without_lanes_one_batch_runs_at_a_time() -> None:
    work = Work()

    async def scenario(harness: Harness) -> None:
        await send(harness, *[(f"k{number}", number) for number in range(4)])
        await harness.run_until_idle()

    play(laned_app(work, lanes=1), scenario)
    assert work.running_max == 1


def test_a_batch_holds_records_of_one_key() -> None:
    """The handler itself asserts it."""
    work = Work()

    async def scenario(harness: Harness) -> None:
        await send(harness, *[(f"k{number % 3}", number) for number in range(300)])
        await harness.run_until_idle()

    harness = play(laned_app(work, batch_size=20), scenario)
    assert work.by_key == {f"k{key}": list(range(key, 300, 3)) for key in range(3)}
    assert max(invoked.count for invoked in harness.invocations) == 20


def test_a_failing_key_holds_up_no_other_one_but_the_checkpoint_waits_for_it() -> None:
    work = Work(failing=frozenset({"bad"}))
    checkpoints: list[int] = []

    async def scenario(harness: Harness) -> None:
        await send(harness, ("good", 1), ("bad", 2), ("good", 3), ("good", 4))
        await harness.advance(30)
        (mapping,) = (await harness.status()).mappings
        (shard,) = mapping.shards
        checkpoints.append(shard.checkpoint)
        assert shard.blocked is not None
        assert shard.blocked.error_message == "bad fails"
        assert work.by_key == {"good": [1, 3, 4]}
        work.failing.clear()
        await harness.run_until_idle()
        (mapping,) = (await harness.status()).mappings
        checkpoints.append(mapping.shards[0].checkpoint)
        await books(harness)

    play(laned_app(work), scenario)
    assert work.by_key == {"good": [1, 3, 4], "bad": [2]}
    assert checkpoints == [1, 4]


def test_a_key_that_has_used_up_its_retries_is_discarded_alone() -> None:
    work = Work(failing=frozenset({"bad"}))

    async def scenario(harness: Harness) -> None:
        await send(harness, ("good", 1), ("bad", 2), ("good", 3), ("bad", 4))
        await harness.run_until_idle()
        assert len(await harness.messages("failed")) == 2
        await books(harness)

    harness = play(laned_app(work, maximum_retry_attempts=1), scenario)
    assert work.by_key == {"good": [1, 3]}
    assert [(entry.first, entry.last, entry.reason) for entry in harness.discarded] == [
        (1, 1, "RetryAttemptsExhausted"),
        (3, 3, "RetryAttemptsExhausted"),
    ]


def test_one_failing_key_too_many_is_parked_with_its_later_records_and_the_rest_goes_on() -> None:
    """Design §12: half of the lanes may fail; the next failing key is parked."""
    work = Work(failing=frozenset({"a", "b"}))

    async def scenario(harness: Harness) -> None:
        await send(harness, ("x", 0), ("a", 1), ("a", 2))
        await harness.advance(20)
        await send(harness, ("b", 3), ("x", 4), ("b", 5))
        await harness.advance(20)
        await send(harness, ("b", 6), ("x", 7))
        await harness.advance(20)
        parked = await harness.messages("parked")
        assert [message.body for message in parked] == [b"3", b"5", b"6"]
        envelope = json.loads(dict(parked[0].headers)["eventcore-parked"])
        assert (envelope["mapping"], envelope["position"]) == ("orders", 3)
        (mapping,) = (await harness.status()).mappings
        (shard,) = mapping.shards
        assert shard.parked == 1
        assert (await books(harness)).parked == 3
        (failure,) = await harness.failures()
        assert (failure.reason, failure.first, failure.error_message) == ("Parked", "3", "b fails")
        work.failing.clear()
        await harness.run_until_idle()

    play(laned_app(work, lanes=2), scenario)
    assert work.by_key == {"x": [0, 4, 7], "a": [1, 2]}


def test_parking_says_where_the_records_of_a_parked_key_wait() -> None:
    work = Work(failing=frozenset({"a", "b"}))
    app = laned_app(work, lanes=2, parking="queue:aside")
    app.queue("aside")

    async def scenario(harness: Harness) -> None:
        await send(harness, ("x", 0), ("a", 1))
        await harness.advance(20)
        await send(harness, ("b", 2))
        await harness.advance(20)
        assert [message.body for message in await harness.messages("aside")] == [b"2"]
        assert await harness.messages("parked") == []

    play(app, scenario)


def test_the_key_at_the_bound_of_the_skew_is_parked_and_the_shard_goes_on() -> None:
    """SEM-10: bounded skew; the poison key is parked without blocking the shard."""
    total = SKEW_RECORDS_MIN + 2_000
    log: list[Any] = [
        _keyed(position, b"bad" if position in {1, 500, total - 1} else b"k%d" % (position % 50))
        for position in range(total)
    ]
    stream = ScriptedStream({"orders-0": log})
    done: dict[bytes, list[int]] = defaultdict(list)
    parked: list[bytes] = []

    async def work(batch: eventcore.Batch) -> None:
        key = batch.first.key
        assert key is not None
        if key == b"bad":
            raise ValueError("bad fails")
        done[key].extend(entry.position for entry in batch)

    async def scenario(harness: Harness) -> None:
        await harness.run_until_idle(within_s=600)
        parked.extend(message.body for message in await harness.messages("parked"))
        assert (await books(harness)).parked == 3

    play_scripted(scripted_app(work, lanes=10, batch_size=100), scenario, stream)
    assert parked == [b"1", b"500", str(total - 1).encode()]
    assert sum(len(positions) for positions in done.values()) == total - 3
    assert all(positions == sorted(positions) for positions in done.values())
    assert stream.kept["orders-0"][0] == total
    # No checkpoint passed a record that was neither settled nor parked, and the source was never read further ahead.
    assert len(stream.kept["orders-0"][1].parked) == 1


@pytest.mark.parametrize("is_running", [True, False])
@pytest.mark.parametrize("is_mended", [True, False])
def test_no_key_is_parked_for_a_pause(is_mended: bool, is_running: bool) -> None:
    """The shard comes to the bound of the skew while nobody may run; a key that failed before has one more try.

    So has one whose batch was running when the pause began.
    """
    log: list[Any] = [_keyed(0, b"x"), _keyed(1, b"bad")]
    log += [_keyed(position, b"k%d" % (position % 50)) for position in range(2, SKEW_RECORDS_MIN + 2_000)]
    stream = ScriptedStream({"orders-0": log[:3]})
    tries: list[float] = []
    ended: list[float] = []
    resumed_s = 0.0

    async def work(batch: eventcore.Batch) -> None:
        if batch.first.key == b"bad":
            tries.append(anyio.current_time())
            await anyio.sleep(2)
            ended.append(anyio.current_time())
            if not (resumed_s and is_mended):
                raise ValueError("bad fails")

    app = scripted_app(work, lanes=10, batch_size=100, maximum_retry_attempts=1000)

    async def scenario(harness: Harness) -> None:
        nonlocal resumed_s
        control = Control(app, harness)
        await harness.advance(100)
        while is_running != (len(tries) > len(ended)):
            await harness.advance(0.5)
        await control.pause()
        stream.shards["orders-0"] += log[3:]
        stream.source.wake()
        await harness.advance(100)
        assert stream.source.paused
        assert (await books(harness)).parked == 0
        resumed_s = anyio.current_time()
        await control.resume()
        await harness.run_until_idle(within_s=600)
        assert (await books(harness)).parked == (0 if is_mended else 1)

    play_scripted(app, scenario, stream)
    after = [at_s for at_s in tries if at_s >= resumed_s]
    assert len(after) == 1
    assert stream.kept["orders-0"][0] == len(log)


def _keyed(position: int, key: bytes | None) -> Any:
    made = record(position)
    return type(made)(position=position, body=made.body, key=key, size_bytes=made.size_bytes)


def test_records_without_a_key_fill_batches_that_run_side_by_side() -> None:
    stream = ScriptedStream({"orders-0": [_keyed(position, None) for position in range(100)]})
    running: list[int] = [0, 0]
    sizes: list[int] = []

    async def work(batch: eventcore.Batch) -> None:
        sizes.append(len(batch))
        running[0] += 1
        running[1] = max(running)
        await anyio.sleep(1)
        running[0] -= 1

    async def scenario(harness: Harness) -> None:
        await harness.run_until_idle()

    play_scripted(scripted_app(work, lanes=10, batch_size=20), scenario, stream)
    assert sizes == [20] * 5
    assert running[1] == 4


def test_whoever_takes_the_shard_goes_on_with_the_attempts_of_each_key_and_parks_what_is_parked() -> None:
    """Design §12: failing lanes and parked keys travel with the checkpoint."""
    calls: list[tuple[bytes, int]] = []
    parked: list[bytes] = []
    log: list[Any] = [_keyed(0, b"x"), _keyed(1, b"a"), _keyed(2, b"x"), _keyed(3, b"b"), _keyed(4, b"x")]
    stream = ScriptedStream({"orders-0": log})

    async def work(batch: eventcore.Batch) -> None:
        assert batch.first.key is not None
        calls.append((batch.first.key, batch.attempt))
        if batch.first.key != b"x":
            raise ValueError("no")

    async def scenario(harness: Harness) -> None:
        await harness.advance(20)
        before = len(calls)
        attempts = max(attempt for key, attempt in calls if key == b"a")
        await stream.revoke()
        log.append(_keyed(5, b"b"))
        await stream.source.take()
        await harness.advance(60)
        assert next(call for call in calls[before:] if call[0] == b"a") == (b"a", attempts + 1)
        assert b"b" not in {key for key, _ in calls[before:]}
        parked.extend(message.body for message in await harness.messages("parked"))

    play_scripted(scripted_app(work, lanes=2, batch_size=1), scenario, stream)
    assert parked == [b"3", b"5"]


def test_what_is_being_parked_when_the_engine_dies_is_parked_by_the_next_one() -> None:
    """The state goes before the rows: no later record of the key overtakes it."""
    log: list[Any] = [_keyed(0, b"x"), _keyed(1, b"a"), _keyed(2, b"x"), _keyed(3, b"b"), _keyed(4, b"b")]
    stream = ScriptedStream({"orders-0": log})
    died_at: list[int] = []

    async def work(batch: eventcore.Batch) -> None:
        if batch.first.key != b"x":
            raise ValueError("no")

    async def commit(store: Any, operations: Any) -> list[Any]:
        names = {type(operation).__name__ for operation in operations}
        if "SendMessages" in names and not died_at:
            died_at.append(stream.kept["orders-0"][0])
            raise StoreUnavailable("the disk is full")
        return list(await store.commit(operations))

    parked: list[bytes] = []

    async def scenario(harness: Harness) -> None:
        await harness.advance(90)
        assert died_at
        assert stream.opened_count == 2
        parked.extend(message.body for message in await harness.messages("parked"))

    play_scripted(scripted_app(work, lanes=2, batch_size=1), scenario, stream, commit=commit)
    assert parked == [b"3", b"4"]


def test_a_restart_runs_again_only_what_lies_behind_the_checkpoint() -> None:
    """The skew bounds what comes again after a crash; discards behind the checkpoint are not made twice."""
    from eventcore.store.memory import open_memory_store

    seen: list[int] = []
    blocked = True

    async def work(event: dict[str, Any], context: Any) -> None:
        (number,) = numbers(event)
        seen.append(number)
        if number == 2 and blocked:
            raise ValueError("held")
        if number == 3:
            raise RuntimeError("poison")

    async def run() -> None:
        nonlocal blocked
        async with open_memory_store() as store:
            app = laned_app(work, maximum_retry_attempts=20)
            async with open_harness(app, store=store) as harness:
                await send(harness, ("a", 1), ("b", 2), ("c", 3), ("d", 4))
                await harness.advance(1)
            app = laned_app(work, maximum_retry_attempts=0)
            async with open_harness(app, store=store) as harness:
                await harness.advance(5)
            blocked = False
            async with open_harness(app, store=store) as harness:
                await harness.run_until_idle()
                messages = await harness.messages("failed")
                assert len(messages) == 2

    run_virtual(run)
    assert seen.count(1) == 1


# -- redrive -----------------------------------------------------------------------------------------------------------


async def redrive(harness: Harness, **options: Any) -> ParkedRedriven:
    mapping = (await harness.status()).mappings[0]
    (shard,) = mapping.shards
    return await harness.engine.redrive("orders", shard.shard, **{"count_max": 500, **options})


async def park_b(harness: Harness, *, later: int = 0) -> None:
    """Let `a` fail, and `b` be the one too many of two lanes, with three records and more."""
    await send(harness, ("x", 0), ("a", 1))
    await harness.advance(20)
    await send(harness, ("b", 2), ("b", 3), ("x", 4), ("b", 5), *[("b", 100 + number) for number in range(later)])
    await harness.advance(20)
    mapping = (await harness.status()).mappings[0]
    assert mapping.shards[0].parked == 1


def test_a_redrive_gives_a_key_back_in_order_and_then_it_is_as_any_other() -> None:
    work = Work(failing=frozenset({"a", "b"}))

    async def scenario(harness: Harness) -> None:
        await park_b(harness)
        work.failing.clear()
        first = await redrive(harness)
        assert (first.redriven, first.failed, first.keys) == (3, (), 1)
        # Sent while it is parked: waits behind the others, though they are done by now.
        await send(harness, ("b", 6))
        await harness.advance(5)
        assert 6 not in work.by_key["b"]
        again = await redrive(harness)
        assert (again.redriven, again.keys) == (1, 1)
        last = await redrive(harness)
        assert (last.redriven, last.keys) == (0, 0)
        assert await harness.messages("parked") == []
        await send(harness, ("b", 7))
        await harness.run_until_idle()
        counters = await books(harness)
        assert (counters.parked, counters.settled) == (4, 8)

    play(laned_app(work, lanes=2), scenario)
    assert work.by_key["b"] == [2, 3, 5, 6, 7]


@pytest.mark.parametrize("envelope", [b"{}", b'{"mapping":"\xff"}', b"[" * 5_000])
def test_a_redrive_passes_over_what_others_have_sent_to_the_queue(envelope: bytes) -> None:
    work = Work(failing=frozenset({"a", "b"}))

    async def scenario(harness: Harness) -> None:
        await harness.send("queue:parked", ["foreign"], headers={"eventcore-parked": envelope})
        await park_b(harness)
        work.failing.clear()
        assert (await redrive(harness)).redriven == 3
        assert [message.body for message in await harness.messages("parked")] == [b"foreign"]
        await harness.run_until_idle()

    play(laned_app(work, lanes=2), scenario)
    assert work.by_key["b"] == [2, 3, 5]


def test_a_key_that_fails_again_stays_parked_at_the_record_that_failed() -> None:
    work = Work(failing=frozenset({"a", "b"}))

    async def fails_at_3(event: dict[str, Any], context: Any) -> None:
        if numbers(event) == [3]:
            raise LookupError("still no 3")
        await work(event, context)

    async def scenario(harness: Harness) -> None:
        await park_b(harness)
        work.failing.clear()
        step = await redrive(harness)
        assert (step.redriven, len(step.failed), step.keys) == (1, 1, 1)
        assert step.error == "LookupError: still no 3"
        assert step.location.startswith("test_lanes.py") or "test_lanes.py:" in step.location
        left_out = await redrive(harness, besides=step.failed)
        assert (left_out.redriven, left_out.failed) == (0, ())
        assert [message.body for message in await harness.messages("parked")] == [b"3", b"5"]
        await books(harness)

    play(laned_app(fails_at_3, lanes=2), scenario)
    assert work.by_key["b"] == [2]


def test_a_record_whose_idempotency_key_is_in_progress_elsewhere_stays_parked() -> None:
    work = Work(failing=frozenset({"a", "b"}))
    release = anyio.Event()

    async def waits_for_3(event: dict[str, Any], context: Any) -> None:
        if "kinesis" not in event["Records"][0]:
            await release.wait()
            return
        await work(event, context)

    app = laned_app(waits_for_3, lanes=2, timeout=20, idempotency={"key": "$"})
    app.queue("beside")
    app.mapping("beside", source="queue:beside", function="work", idempotency={"key": "$"})

    async def scenario(harness: Harness) -> None:
        await park_b(harness)
        work.failing.clear()
        await harness.send("queue:beside", ["3"])
        await harness.advance(1)
        step = await redrive(harness)
        assert (step.redriven, len(step.failed), step.keys) == (1, 1, 1)
        assert step.error == "another invocation works on its key: it stays parked"
        assert [message.body for message in await harness.messages("parked")] == [b"3", b"5"]
        release.set()

    play(app, scenario)


def parking_app(work: Work, place: str) -> eventcore.App:
    """Return an app with two queues, of which one is where keys are parked."""
    made = laned_app(work, lanes=2, parking=f"queue:{place}")
    made.queue("here")
    made.queue("there")
    return made


@pytest.mark.parametrize("redriven_first", [0, 2])
def test_what_was_parked_elsewhere_is_not_left_behind(redriven_first: int) -> None:
    """`parking` is changed: the key stays parked, with a reason, and nothing overtakes the records in the old place."""
    work = Work(failing=frozenset({"a", "b"}))

    app = partial(parking_app, work)

    async def run() -> None:
        async with open_memory_store() as store:
            async with open_harness(app("here"), store=store) as harness:
                await park_b(harness)
                if redriven_first:
                    work.failing.clear()
                    assert (await redrive(harness, count_max=redriven_first)).redriven == redriven_first
            async with open_harness(app("there"), store=store) as harness:
                await send(harness, ("b", 6))
                await harness.advance(60)
                work.failing.clear()
                step = await redrive(harness)
                assert (step.redriven, len(step.missing), step.keys) == (0, 1, 1)
                assert [message.body for message in await harness.messages("there")] == [b"6"]
            async with open_harness(app("here"), store=store) as harness:
                await harness.advance(1)
                assert (await redrive(harness)).redriven == 3 - redriven_first
            async with open_harness(app("there"), store=store) as harness:
                await harness.advance(1)
                assert (await redrive(harness)).redriven == 1
                assert (await redrive(harness)).keys == 0
                await harness.run_until_idle()

    run_virtual(run)
    assert work.by_key["b"] == [2, 3, 5, 6]


@pytest.mark.parametrize("is_meanwhile", [False, True])
def test_what_was_parked_after_all_that_was_found_is_not_left_behind(*, is_meanwhile: bool) -> None:
    """It is sent while the last step of a redrive runs, or after it; then `parking` is changed."""
    work = Work(failing=frozenset({"a", "b"}))

    app = partial(parking_app, work)

    async def run() -> None:
        async with open_memory_store() as store:
            async with open_harness(app("here"), store=store) as harness:
                await park_b(harness)
                work.failing.clear()
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(redrive, harness)
                    await harness.advance(2.5)
                    assert work.by_key["b"] == [2, 3]
                    if is_meanwhile:
                        await send(harness, ("b", 6), ("b", 7))
                await send(harness, ("b", 8))
                await harness.advance(5)
            async with open_harness(app("there"), store=store) as harness:
                await harness.advance(1)
                step = await redrive(harness)
                assert (step.redriven, len(step.missing), step.keys) == (0, 1, 1)
            async with open_harness(app("here"), store=store) as harness:
                await harness.advance(1)
                while (await redrive(harness)).keys:
                    pass
                await harness.run_until_idle()

    run_virtual(run)
    assert work.by_key["b"] == [2, 3, 5, *([6, 7] if is_meanwhile else []), 8]


def test_a_redrive_heeds_the_rate_of_its_mapping() -> None:
    work = Work(failing=frozenset({"a", "b"}))

    async def scenario(harness: Harness) -> None:
        await park_b(harness, later=17)
        work.failing.clear()
        await harness.advance(60)
        began_s = anyio.current_time()
        assert (await redrive(harness)).redriven == 20
        assert anyio.current_time() - began_s >= 35
        await harness.run_until_idle()

    play(laned_app(work, lanes=2, maximum_records_per_second=0.5), scenario)


def test_nothing_is_redriven_while_the_mapping_is_held_and_what_fails_again_opens_its_breaker() -> None:
    work = Work(failing=frozenset({"a", "b"}))
    app = laned_app(work, lanes=2, circuit_breaker={"failures": 25, "pause": 3600, "maximum_pause": 3600})

    async def scenario(harness: Harness) -> None:
        control = Control(app, harness)
        await park_b(harness)
        closed = (await harness.status()).mappings[0].breaker
        await control.pause()
        with pytest.raises(CommandError, match="paused by ann"):
            await redrive(harness)
        await control.resume()
        tries = 0
        while (await harness.status()).mappings[0].breaker == closed:
            assert len((await redrive(harness)).failed) == 1
            tries += 1
        assert tries < 25
        before = len(harness.invocations)
        with pytest.raises(CommandError, match="its circuit breaker"):
            await redrive(harness)
        assert len(harness.invocations) == before
        work.failing.clear()
        await control.resume()
        assert (await redrive(harness)).redriven == 3
        await harness.run_until_idle()
        await books(harness)

    play(app, scenario)
    assert work.by_key["b"] == [2, 3, 5]


def test_parked_records_that_are_gone_are_given_up_when_a_person_says_so() -> None:
    work = Work(failing=frozenset({"a", "b"}))

    async def scenario(harness: Harness) -> None:
        await park_b(harness)
        first, *_ = await harness.store.peek("parked", count_max=10)
        await harness.store.commit([DropMessages(queue="parked", ids=(first.id,))])
        work.failing.clear()
        step = await redrive(harness)
        assert (step.redriven, len(step.missing), step.keys) == (0, 1, 1)
        assert (await redrive(harness, besides=step.missing)).missing == ()
        step = await redrive(harness, gives_up_missing=True)
        assert (step.redriven, step.missing, step.keys) == (2, (), 1)
        assert (await redrive(harness)).keys == 0
        await send(harness, ("b", 7))
        await harness.run_until_idle()

    play(laned_app(work, lanes=2), scenario)
    assert work.by_key["b"] == [3, 5, 7]


def test_a_read_of_parked_records_that_ends_early_releases_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is bounded in bytes, too: a key of which it has seen nothing may have records behind its end."""
    monkeypatch.setattr("eventcore.engine.parked.READ_BYTES_MAX", 3)
    monkeypatch.setattr("eventcore.engine.parked.READ_STEP", 1)
    work = Work(failing=frozenset({"a", "b", "c"}))

    async def scenario(harness: Harness) -> None:
        await park_b(harness)
        await send(harness, ("c", 6), ("c", 7), ("c", 8))
        await harness.advance(20)
        await send(harness, ("b", 9))
        await harness.advance(20)
        work.failing.clear()
        counts = []
        while (step := await redrive(harness)).keys:
            counts.append(step.redriven)
        assert counts == [3, 3, 1]
        await harness.run_until_idle()

    play(laned_app(work, lanes=2), scenario)
    assert work.by_key["b"] == [2, 3, 5, 9]
    assert work.by_key["c"] == [6, 7, 8]


def test_a_redrive_takes_steps_of_the_size_that_it_is_told() -> None:
    work = Work(failing=frozenset({"a", "b"}))

    async def scenario(harness: Harness) -> None:
        await park_b(harness, later=10)
        work.failing.clear()
        done = 0
        while step := (await redrive(harness, count_max=4)).redriven:
            assert step <= 4
            done += step
        assert done == 13
        assert (await redrive(harness)).keys == 0

    play(laned_app(work, lanes=2), scenario)
    assert work.by_key["b"] == [2, 3, 5, *range(100, 110)]


def test_a_parked_record_comes_back_as_it_was() -> None:
    """Key, headers, time and a body of None: the handler must not see that it was parked."""
    made = record(2)
    odd = type(made)(
        position=2,
        body=None,
        key=b"\xff\x00",
        arrived_ms=1234,
        headers=(("h", b"\xfe"), ("h", b"2")),
        size_bytes=9,
        timestamp_kind=TimestampKind.LOG_APPEND_TIME,
    )
    stream = ScriptedStream({"orders-0": [_keyed(0, b"x"), _keyed(1, b"a")]})
    seen: list[Any] = []
    is_mended = False

    async def work(batch: eventcore.Batch) -> None:
        if batch.first.key == b"a" or (batch.first.key != b"x" and not is_mended):
            raise ValueError("no")
        seen.append(batch.first)

    async def scenario(harness: Harness) -> None:
        nonlocal is_mended
        await harness.advance(20)
        stream.shards["orders-0"] += [odd]
        stream.source.wake()
        await harness.advance(20)
        (mapping,) = (await harness.status()).mappings
        assert mapping.shards[0].parked == 1
        assert odd not in seen
        is_mended = True
        await harness.engine.redrive("orders", "orders-0", count_max=10)

    play_scripted(scripted_app(work, lanes=2, batch_size=1), scenario, stream)
    assert odd in seen


def test_what_has_no_lanes_or_does_not_run_is_refused_with_a_reason() -> None:
    async def work(event: dict[str, Any], context: Any) -> None: ...

    async def scenario(harness: Harness) -> None:
        await harness.run_until_idle()
        for mapping, shard, words in [
            ("orders", "shardId-000000000000", "has no lanes"),
            ("orders", "nix", "does not have the shard nix"),
            ("nix", "nix", "no mapping `nix`"),
        ]:
            with pytest.raises(CommandError, match=words):
                await harness.engine.redrive(mapping, shard, count_max=10)

    play(stream_app(work), scenario)


def test_what_was_given_up_is_not_invoked_again_when_the_checkpoint_that_passed_it_was_never_written() -> None:
    """A topic's progress is written a little later where nothing is urgent; the engine dies before that."""
    seen: list[int] = []

    async def work(batch: eventcore.Batch) -> None:
        (number,) = (int(record.body or b"") for record in batch)
        seen.append(number)
        if number == 1:
            await anyio.sleep(10)
        if number == 2:
            raise ValueError("poison")

    app = scripted_app(work, lanes=2, batch_size=1, timeout=20, maximum_retry_attempts=0)
    with open_pipeline(app) as pipeline:
        for number, key in enumerate("xab"):
            pipeline.send("kafka:local/orders", [number], key=key)
            pipeline.advance(1)
        while 1 not in [settled.last for settled in pipeline.settlements]:
            pipeline.advance(0.05)
        assert len(pipeline.delivered_to("queue:failed")) == 1
        pipeline.crash()
        pipeline.run_until_idle()
        assert len(pipeline.delivered_to("queue:failed")) == 1
    assert seen.count(2) == 1


def test_a_test_gives_back_what_was_parked() -> None:
    """`VirtualPipeline.redrive`, as `eventcore mapping redrive`: the keys that fail again, and in the end none."""
    broken = {"a", "b"}
    done: list[int] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        await anyio.sleep(1)
        if key_of(event) in broken:
            raise ValueError(f"{key_of(event)} fails")
        done.extend(numbers(event))

    app = stream_app(work, lanes=2, batch_size=1, parking="queue:parked")
    app.queue("parked")
    with open_pipeline(app) as pipeline:
        for number, key in enumerate("xabb"):
            pipeline.send("stream:orders", [number], key=key)
            pipeline.advance(20)
        assert [message.json for message in pipeline.delivered_to("queue:parked")] == [2, 3]
        (still,) = pipeline.redrive("orders")
        assert (still.redriven, len(still.failed), still.keys) == (0, 1, 1)
        assert still.error == "ValueError: b fails"
        broken.clear()
        with pytest.raises(TimeoutError):
            pipeline.redrive("orders", within_s=0.5)
        (last,) = pipeline.redrive("orders")
        assert (last.redriven, last.failed, last.keys) == (2, (), 0)
        pipeline.run_until_idle()
        assert pipeline.redrive("orders") == []
    assert [number for number in done if number > 1] == [2, 3]


def test_what_a_redriven_record_makes_is_sent_on() -> None:
    """`results`: as if it had never been parked."""
    broken = {b"a", b"b"}

    async def work(batch: eventcore.Batch) -> list[eventcore.OutgoingRecord]:
        if batch.first.key in broken:
            raise ValueError("not yet")
        return [eventcore.OutgoingRecord(body=b"of " + record.body, key=record.key) for record in batch]

    app = scripted_app(work, lanes=2, batch_size=1, parking="queue:parked", results="kafka:local/made")
    app.queue("parked")
    with open_pipeline(app) as pipeline:
        for number, key in enumerate("xab"):
            pipeline.send("kafka:local/orders", [number], key=key)
            pipeline.advance(20)
        assert [made.body for made in pipeline.delivered_to("kafka:local/made")] == [b"of 0"]
        broken.clear()
        (step,) = pipeline.redrive("orders")
        assert (step.redriven, step.keys) == (1, 0)
        pipeline.run_until_idle()
        made = [(each.key, each.body) for each in pipeline.delivered_to("kafka:local/made")]
    assert sorted(made) == [("a", b"of 1"), ("b", b"of 2"), ("x", b"of 0")]


def test_keys_that_are_parked_are_refused_where_a_transaction_moves_one_position() -> None:
    """Until they are given back: they need lanes, which `delivery = "exactly_once"` has none of."""
    stream = ScriptedStream({"orders-0": [_keyed(3, b"a")]})
    stream.kept["orders-0"] = 3, ShardState(parked=(("a", 1),))

    async def work(batch: eventcore.Batch) -> None:
        raise AssertionError("nothing overtakes what is parked")

    async def scenario(harness: Harness) -> None:
        await harness.advance(1)
        (mapping,) = (await harness.status()).mappings
        assert mapping.state == "Problem"
        assert 'take out delivery = "exactly_once" until `eventcore mapping redrive orders`' in mapping.reason

    settings = {"results": "kafka:local/made", "on_failure": "kafka:local/failed", "delivery": "exactly_once"}
    play_scripted(scripted_app(work, **settings), scenario, stream)


def test_a_redrive_that_can_not_be_written_says_so() -> None:
    """As what it is, however many keys run at the time; and nothing of it is lost."""

    class Refusing(Faults):
        is_refusing = False

        def fate_of_commit(self, operations: Sequence[Operation]) -> Fate:
            return Fate.REFUSED if self.is_refusing else Fate.DONE

    work, faults = Work(failing=frozenset({"a", "b"})), Refusing()
    app = stream_app(work, lanes=2, batch_size=1, parking="queue:parked")
    app.queue("parked")
    with open_pipeline(app, faults=faults) as pipeline:
        for number, key in enumerate("xab"):
            pipeline.send("stream:orders", [number], key=key)
            pipeline.advance(20)
        work.failing.clear()
        faults.is_refusing = True
        with pytest.raises(eventcore.EventcoreError, match="the test refuses it"):
            pipeline.redrive("orders")
        faults.is_refusing = False
        pipeline.run_until_idle()
        assert [each.keys for each in pipeline.redrive("orders")] == [0]
    assert 2 in work.by_key["b"]

"""`parallelization_factor`: batches of one shard side by side, in order per key (Lambda semantics §4 "Reading").

Errors of a lane are those of a shard: its batch is retried, the other lanes go on, the checkpoint waits for it.
"""

from __future__ import annotations

import json
import zlib
from collections import defaultdict
from typing import Any

import anyio
import pytest

from eventcore.delivery.lanes import SKEW_RECORDS_MIN, hashed_key, lane_name
from eventcore.model import Record
from eventcore.store.memory import open_memory_store
from eventcore.testing import open_pipeline
from eventcore.testing.harness import Harness, open_harness
from eventcore.testing.virtual_loop import run_virtual
from tests.behaviours.orders import numbers, play, stream_app
from tests.behaviours.scripted_source import books


def keys(*lanes: int, factor: int = 2) -> list[str]:
    """A key for each lane that is asked for, all different."""
    found: list[str] = []
    for lane in lanes:
        found.append(
            next(
                key
                for key in (f"k{number}" for number in range(1000))
                if zlib.crc32(key.encode()) % factor == lane and key not in found
            )
        )
    return found


async def send(harness: Harness, *entries: tuple[str, int]) -> None:
    for key, number in entries:
        await harness.send("stream:orders", [str(number)], key=key)


class Work:
    """Takes a second, and remembers what ran beside what."""

    def __init__(self, *failing: int) -> None:
        self.failing = set(failing)
        self.calls: list[list[int]] = []
        self.by_key: dict[str, list[int]] = defaultdict(list)
        self.running = self.running_max = 0
        self.keys_running: set[str] = set()

    async def __call__(self, event: dict[str, Any], context: Any) -> None:
        of_call = {record["kinesis"]["partitionKey"] for record in event["Records"]}
        assert not of_call & self.keys_running, "two batches of one key at a time"
        self.calls.append(numbers(event))
        self.keys_running |= of_call
        self.running += 1
        self.running_max = max(self.running_max, self.running)
        try:
            await anyio.sleep(1)
            if self.failing & set(numbers(event)):
                raise ValueError("poison")
            for record, number in zip(event["Records"], numbers(event), strict=True):
                self.by_key[record["kinesis"]["partitionKey"]].append(number)
        finally:
            self.running -= 1
            self.keys_running -= of_call


@pytest.mark.parametrize("factor", [1, 2, 3, 10])
def test_so_many_batches_of_a_shard_run_at_a_time(factor: int) -> None:
    """§4: one batch at a time per shard, times the factor; order holds per key."""
    work = Work()

    async def scenario(harness: Harness) -> None:
        await send(harness, *[(f"k{number % 40}", number) for number in range(400)])
        await harness.run_until_idle()
        (mapping,) = (await harness.status()).mappings
        assert [shard.checkpoint for shard in mapping.shards] == [400]
        await books(harness)

    play(stream_app(work, parallelization_factor=factor, batch_size=5), scenario)
    assert work.running_max == factor
    assert work.by_key == {f"k{key}": list(range(key, 400, 40)) for key in range(40)}


def test_a_batch_holds_records_of_several_keys() -> None:
    """Unlike lanes, whose batches hold one key."""
    a, b = keys(0, 0)
    work = Work()

    async def scenario(harness: Harness) -> None:
        # The first batch after the start runs alone: these come while it does.
        await send(harness, (a, 0))
        await harness.advance(0.5)
        await send(harness, (a, 1), (b, 2), (a, 3))
        await harness.run_until_idle()

    play(stream_app(work, parallelization_factor=2), scenario)
    assert work.calls == [[0], [1, 2, 3]]


def test_a_failing_batch_blocks_its_part_of_the_shard_alone_and_the_checkpoint_waits() -> None:
    """§4 "Errors": the lane is blocked until success, age or attempts; the checkpoint is the lowest of all."""
    bad, good, same = keys(0, 1, 0)
    work = Work(2)
    checkpoints: list[int] = []

    async def scenario(harness: Harness) -> None:
        await send(harness, (good, 1), (bad, 2), (good, 3), (same, 4), (good, 5))
        await harness.advance(10)
        (mapping,) = (await harness.status()).mappings
        checkpoints.append(mapping.shards[0].checkpoint)
        assert mapping.shards[0].blocked is not None
        work.failing.clear()
        await harness.run_until_idle()
        (mapping,) = (await harness.status()).mappings
        checkpoints.append(mapping.shards[0].checkpoint)

    play(stream_app(work, parallelization_factor=2, batch_size=1), scenario)
    assert work.by_key == {good: [1, 3, 5], bad: [2], same: [4]}
    assert checkpoints == [1, 5]
    done = [number for call in work.calls for number in call]
    assert done.index(5) < done.index(4)


def test_attempts_bisect_and_discards_are_those_of_a_shard() -> None:
    """bisect/raising-handler-four-records, in one lane; the other one is not concerned."""
    bad, good = keys(0, 1)
    work = Work(2)

    async def scenario(harness: Harness) -> None:
        await send(harness, (good, 9))
        await harness.advance(0.5)
        await send(harness, (bad, 1), (bad, 2), (bad, 3), (bad, 4), (good, 10))
        await harness.run_until_idle()
        (message,) = await harness.messages("failed")
        record = json.loads(message.body)
        assert record["requestContext"]["approximateInvokeCount"] == 2
        assert record["KinesisBatchInfo"]["batchSize"] == 1
        await books(harness)

    play(
        stream_app(work, parallelization_factor=2, maximum_retry_attempts=1, bisect_batch_on_function_error=True),
        scenario,
    )
    of_bad = [call for call in work.calls if not {9, 10} & set(call)]
    assert of_bad == [[1, 2, 3, 4], [1, 2], [1], [2], [2], [3, 4]]
    assert work.by_key[good] == [9, 10]


def test_nothing_is_parked_and_at_the_bound_the_shard_waits() -> None:
    """Lambda blocks; how far the checkpoint may fall behind is bounded all the same."""
    bad, good = keys(0, 1)
    work = Work(0)

    async def scenario(harness: Harness) -> None:
        await send(harness, (bad, 0))
        bodies = [str(number) for number in range(1, SKEW_RECORDS_MIN * 2)]
        await harness.send("stream:orders", bodies[: SKEW_RECORDS_MIN - 1], key=good)
        await harness.send("stream:orders", bodies[SKEW_RECORDS_MIN - 1 :], key=good)
        await harness.advance(600)
        assert not await harness.messages("parked")
        done = len(work.by_key[good])
        assert SKEW_RECORDS_MIN - 1 <= done < SKEW_RECORDS_MIN * 2 - 1
        work.failing.clear()
        await harness.run_until_idle()

    play(stream_app(work, parallelization_factor=2, batch_size=1000), scenario)
    assert len(work.by_key[good]) == SKEW_RECORDS_MIN * 2 - 1


def test_attempts_outlive_a_restart() -> None:
    bad, good = keys(0, 1)
    work = Work(1)
    app = stream_app(work, parallelization_factor=2, batch_size=1, maximum_retry_attempts=2)

    async def run() -> None:
        async with open_memory_store() as store:
            async with open_harness(app, store=store) as harness:
                await send(harness, (good, 0), (bad, 1), (good, 2))
                await harness.advance(2.5)
            async with open_harness(app, store=store) as harness:
                await harness.run_until_idle()
                assert [entry.reason for entry in harness.discarded] == ["RetryAttemptsExhausted"]

    run_virtual(run)
    assert work.calls.count([1]) == 3


def test_what_comes_again_of_a_lane_is_no_part_of_its_failing_batch() -> None:
    """The checkpoint waits for another lane: what this one settled before its failing record comes again with it."""
    held, bad = keys(0, 1)
    calls: list[tuple[list[int], str]] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        calls.append((numbers(event), context.aws_request_id))
        if set(numbers(event)) & {0, 4}:
            raise ValueError("poison")

    with open_pipeline(stream_app(work, parallelization_factor=2, batch_size=1, maximum_retry_attempts=9)) as pipeline:
        pipeline.send("stream:orders", [0], key=held)
        for number in (1, 2, 3, 4):
            pipeline.send("stream:orders", [number], key=bad)
        pipeline.advance(3)
        pipeline.restart()
        pipeline.run_until_idle()
        assert len(pipeline.delivered_to("queue:failed")) == 2
    assert {len(invoked) for invoked, _ in calls} == {1}
    assert [invoked for invoked, _ in calls].count([4]) == 10
    assert len({request_id for invoked, request_id in calls if invoked == [4]}) == 1


def test_however_much_is_given_up_behind_the_checkpoint_is_told_once_over_a_crash() -> None:
    """Another lane's records stand between all of them, and hold the checkpoint."""
    count = 1050
    invoked: list[int] = []
    is_held = True

    async def work(event: dict[str, Any], context: Any) -> None:
        (number,) = numbers(event)
        invoked.append(number)
        if number % 2:
            raise LookupError("poison")
        if is_held:
            raise TimeoutError("held")

    rules = [{"error_type": "LookupError", "give_up": True}]
    app = stream_app(work, parallelization_factor=2, batch_size=1, retry_exceptions=rules)
    with open_pipeline(app) as pipeline:
        # Without keys they are dealt out one by one.
        pipeline.send("stream:orders", list(range(2 * count)))
        pipeline.advance(30)
        assert len(pipeline.delivered_to("queue:failed")) == count
        pipeline.crash()
        is_held = False
        invoked.clear()
        pipeline.run_until_idle()
        assert sorted(invoked) == list(range(0, 2 * count, 2))
        assert len(pipeline.delivered_to("queue:failed")) == count


def test_records_without_a_key_are_dealt_out() -> None:
    """Nothing keeps them in order, and full batches of them run side by side."""
    calls: list[list[int]] = []
    running: list[int] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        calls.append(numbers(event))
        running.append(running[-1] + 1 if running else 1)
        await anyio.sleep(1)
        running.append(running[-1] - 1)

    async def scenario(harness: Harness) -> None:
        await harness.send("stream:orders", [str(number) for number in range(60)])
        await harness.run_until_idle()

    play(stream_app(work, parallelization_factor=3, batch_size=10), scenario)
    assert max(running) == 3
    assert sorted(number for call in calls for number in call) == list(range(60))
    assert {len(call) for call in calls} == {10}


def test_no_two_factors_share_the_name_of_a_lane() -> None:
    """What is kept of a lane's failing work is never taken for another's when the factor was changed."""
    records = [Record(position=0, body=b"", key=b"%d" % number) for number in range(200)]
    names = [{lane_name(hashed_key(record, factor, 1)) for record in records} for factor in range(2, 11)]
    assert [len(each) for each in names] == list(range(2, 11))
    assert len(set().union(*names)) == sum(range(2, 11))

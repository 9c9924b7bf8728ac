"""A replay runs what a stream keeps once more: in order, at its speed, once, and moves nobody's position."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

import eventcore
from eventcore.archive.replay import SHARDS_AT_ONCE, Replay, ReplayFailure, ReplayReport, ReplayShard
from eventcore.clock import LoopClock
from eventcore.delivery.batching import BatchPolicy
from eventcore.embedded.appending import append_records
from eventcore.embedded.ranges import EmbeddedRange
from eventcore.engine.dispatcher import Dispatcher
from eventcore.engine.filtering import RecordFilter
from eventcore.ids import SeededIds
from eventcore.model import PAYLOAD_BYTES_MAX, OutgoingRecord
from eventcore.patterns import FilterCriteria
from eventcore.ports.ranges import ReadRange
from eventcore.ports.runtime import FunctionSpec
from eventcore.ports.store import DefineStream, Store, StreamSettings
from eventcore.registry import Function
from eventcore.runtime.inline import open_inline_runtime
from eventcore.store.memory import open_memory_store
from eventcore.telemetry.tracing import NULL_TRACING
from eventcore.testing.virtual_loop import run_virtual


class Heard:
    """What a replay told."""

    def __init__(self) -> None:
        self.done: list[tuple[str, int]] = []
        self.failures: list[ReplayFailure] = []
        self.waits: list[tuple[str, float]] = []

    def on_done(self, shard: str, position: int) -> None:
        self.done.append((shard, position))

    def on_failure(self, failure: ReplayFailure) -> None:
        self.failures.append(failure)

    def on_wait(self, shard: str, wait_s: float) -> None:
        self.waits.append((shard, wait_s))


class CountedRange(EmbeddedRange):
    """Counts what was read."""

    read_bytes = 0

    async def read(self, shard: str, position: int, end: int, *, count_max: int) -> ReadRange:
        read = await super().read(shard, position, end, count_max=count_max)
        CountedRange.read_bytes += sum(record.size_bytes for record in read.records)
        return read


async def fill(store: Store, bodies: Sequence[tuple[str, bytes]], *, shards: int, pause_s: float) -> None:
    """Append (key, body) pairs, some time apart."""
    await store.commit([DefineStream(stream="orders", settings=StreamSettings(shards=shards))])
    for key, body in bodies:
        record = OutgoingRecord(body=body, key=key.encode())
        await append_records(store, "orders", [record], clock=LoopClock(), ids=SeededIds(1))
        await anyio.sleep(pause_s)


async def stop_later(made: Replay, at_s: float) -> None:
    await anyio.sleep_until(at_s)
    made.stop()


def replay(
    handler: Callable[..., Any],
    bodies: Sequence[tuple[str, bytes]],
    *,
    shards: int = 1,
    pause_s: float = 0.0,
    batch_size: int = 10,
    speed: float = 0.0,
    begin: int = 0,
    cancel_after_s: float = float("inf"),
    stop_after_s: float = float("inf"),
    concurrency: int = 10,
    source_class: type[EmbeddedRange] = EmbeddedRange,
    filters: Sequence[dict[str, Any]] = (),
) -> tuple[ReplayReport, Heard, float]:
    """Run a replay of a stream in virtual time; return its report, what it told, and how long it took."""
    heard = Heard()

    async def run() -> tuple[ReplayReport, Heard, float]:
        ids = SeededIds(1)
        async with open_memory_store() as store, open_inline_runtime(LoopClock(), ids, lambda _: None) as runtime:
            await fill(store, bodies, shards=shards, pause_s=pause_s)
            source = source_class("orders", store=store, region="r", account_id="0" * 12)
            spec = FunctionSpec(name="work", handler="made.up", code=Path.cwd(), arn="arn:", target=handler)
            function = Function(spec, runtime, concurrency=concurrency)
            dispatcher = Dispatcher(function, source.shape, NULL_TRACING, reports_failures=False)
            batching = BatchPolicy(batch_size=batch_size)
            keeps = RecordFilter(FilterCriteria(filters, source="kinesis"), source.shape) if filters else None
            made = Replay(source, dispatcher, batching, ids, heard, reference="stream:orders", speed=speed, keeps=keeps)
            ranges = [
                ReplayShard(shard=extent.shard, position=max(extent.first, begin), end=extent.end)
                for extent in await source.open()
            ]
            began_s = anyio.current_time()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stop_later, made, began_s + stop_after_s)
                with anyio.CancelScope(deadline=began_s + cancel_after_s):
                    await made.run(ranges)
                tasks.cancel_scope.cancel()
            assert await store.checkpoints() == []
            return made.report, heard, anyio.current_time() - began_s

    return run_virtual(run)


NUMBERS = [("k", str(number).encode()) for number in range(25)]


def test_everything_runs_once_in_order_in_batches() -> None:
    seen: list[list[int]] = []

    async def work(batch: eventcore.Batch) -> None:
        seen.append([int(record.body or b"") for record in batch])

    report, heard, _ = replay(work, NUMBERS)
    assert seen == [list(range(10)), list(range(10, 20)), list(range(20, 25))]
    assert (report.records, report.invocations, report.failed, report.left) == (25, 3, 0, ())
    assert [position for _, position in heard.done] == [10, 20, 25, 25]


def test_what_the_mapping_keeps_from_its_function_does_not_run() -> None:
    """Batches are made of what matches, as they were; the shard is done to its end."""
    seen: list[list[int]] = []

    async def work(batch: eventcore.Batch) -> None:
        seen.append([record.position for record in batch])

    orders = [("k", b'{"paid": %s}' % (b"true" if number % 3 == 0 else b"false")) for number in range(25)]
    report, heard, _ = replay(work, orders, batch_size=4, filters=[{"data": {"paid": [True]}}])
    assert seen == [[0, 3, 6, 9], [12, 15, 18, 21], [24]]
    assert (report.records, report.filtered, report.left) == (9, 16, ())
    assert heard.done[-1][1] == 25


def test_a_range_begins_where_it_is_told() -> None:
    seen: list[int] = []

    async def work(batch: eventcore.Batch) -> None:
        seen.extend(int(record.body or b"") for record in batch)

    replay(work, NUMBERS, begin=20)
    assert seen == [20, 21, 22, 23, 24]


def test_shards_run_side_by_side_each_in_order() -> None:
    seen: dict[str, list[int]] = {}
    running = [0, 0]

    async def work(batch: eventcore.Batch) -> None:
        running[0] += 1
        running[1] = max(running)
        await anyio.sleep(1)
        running[0] -= 1
        seen.setdefault(batch.shard, []).extend(int(record.body or b"") for record in batch)

    replay(work, [(f"k{number}", str(number).encode()) for number in range(60)], shards=3)
    assert len(seen) == 3
    assert running[1] == 3
    assert all(numbers == sorted(numbers) for numbers in seen.values())
    assert sum(map(len, seen.values())) == 60


def test_a_batch_that_fails_is_told_with_its_place_and_passed_by() -> None:
    calls: list[int] = []

    async def work(batch: eventcore.Batch) -> None:
        calls.append(len(batch))
        if batch.first.body == b"10":
            raise ValueError("poison")

    report, heard, _ = replay(work, NUMBERS)
    assert calls == [10, 10, 5]
    assert (report.records, report.failed) == (25, 10)
    (failure,) = heard.failures
    assert (failure.first, failure.last, failure.count) == (10, 19, 10)
    assert (failure.error_type, failure.error_message) == ("ValueError", "poison")
    assert "test_replay.py:" in failure.location
    assert report.failures == (failure,)


def test_behind_a_record_that_fails_the_rest_of_its_batch_runs() -> None:
    async def work(batch: eventcore.Batch) -> Any:
        return [record for record in batch if record.body in {b"3", b"7"}]

    report, heard, _ = replay(work, NUMBERS)
    assert [(failure.first, failure.count) for failure in heard.failures] == [(3, 1), (7, 1)]
    assert (report.records, report.failed, report.invocations) == (25, 2, 5)


@pytest.mark.parametrize(("speed", "least_s", "most_s"), [(1.0, 240.0, 241.0), (10.0, 24.0, 24.5), (0.0, 0.0, 0.1)])
def test_the_records_keep_their_distances_in_time(speed: float, least_s: float, most_s: float) -> None:
    at_s: list[float] = []

    async def work(batch: eventcore.Batch) -> None:
        at_s.append(anyio.current_time())

    _, _, took_s = replay(work, NUMBERS, pause_s=10, speed=speed)
    assert least_s <= took_s <= most_s
    assert len(at_s) == (25 if speed else 3)


@pytest.mark.parametrize(("pause_s", "told"), [(3600.0, [360.0, 360.0]), (90.0, [])])
def test_a_long_wait_for_the_next_record_is_told(pause_s: float, told: list[float]) -> None:
    """Who watches would think that it hangs."""

    async def work(batch: eventcore.Batch) -> None: ...

    _, heard, _ = replay(work, NUMBERS[:3], pause_s=pause_s, speed=10.0)
    assert [round(wait_s) for _, wait_s in heard.waits] == told


def test_what_is_left_when_it_is_interrupted_is_known() -> None:
    async def work(batch: eventcore.Batch) -> None:
        await anyio.sleep(1)

    report, _, _ = replay(work, NUMBERS, cancel_after_s=1.5)
    (left,) = report.left
    assert (left.position, left.end) == (10, 25)
    assert report.records == 10


def test_stopped_it_lets_what_runs_end_and_begins_nothing_else() -> None:
    async def work(batch: eventcore.Batch) -> None:
        await anyio.sleep(1)

    report, heard, took_s = replay(work, [(f"k{number}", b"") for number in range(80)], shards=3, stop_after_s=1.5)
    assert took_s == pytest.approx(2)
    assert report.records == 60
    assert sum(shard.count for shard in report.left) == 20
    assert {(shard.shard, shard.position) for shard in report.left} <= set(heard.done)


def test_stopped_between_two_records_it_ends_at_once() -> None:
    async def work(batch: eventcore.Batch) -> None: ...

    report, _, took_s = replay(work, NUMBERS, pause_s=10, speed=1, stop_after_s=25)
    assert took_s == pytest.approx(25)
    assert (report.records, report.left[0].position) == (3, 3)


@pytest.mark.parametrize(("speed", "at_once"), [(0.0, SHARDS_AT_ONCE), (1.0, SHARDS_AT_ONCE + 8)])
def test_side_by_side_has_a_bound_unless_each_record_has_its_time(speed: float, at_once: int) -> None:
    running = [0, 0]

    async def work(batch: eventcore.Batch) -> None:
        running[0] += 1
        running[1] = max(running)
        await anyio.sleep(1)
        running[0] -= 1

    bodies = [(f"k{number}", b"") for number in range(300)]
    report, _, _ = replay(work, bodies, shards=SHARDS_AT_ONCE + 8, speed=speed, concurrency=100)
    assert report.records == 300
    assert running[1] == at_once


def test_large_records_are_read_no_further_ahead_than_a_batch_takes() -> None:
    """Ten thousand of the largest records would be ten gigabytes."""
    done, ahead = [0], [0]
    CountedRange.read_bytes = 0

    async def work(batch: eventcore.Batch) -> None:
        ahead.append(CountedRange.read_bytes - done[0])
        done[0] += sum(len(record.body or b"") for record in batch)

    bodies = [("k", bytes(500_000))] * 60
    report, _, _ = replay(work, bodies, batch_size=10_000, source_class=CountedRange)
    assert report.records == 60
    assert max(ahead) <= 2 * PAYLOAD_BYTES_MAX

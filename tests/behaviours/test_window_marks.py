"""A window's final call is marked as other invocations are: an engine that dies in it is found out (design §3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import anyio

from eventcore.errors import StoreUnavailable
from eventcore.ports.store import Operation, SaveCheckpoint, Store
from eventcore.store.memory import open_memory_store
from eventcore.testing import VirtualPipeline, open_pipeline
from eventcore.testing.harness import Harness, open_harness
from eventcore.testing.virtual_loop import run_virtual
from tests.behaviours.orders import numbers, stream_app
from tests.behaviours.scripted_source import ScriptedStore

#: Marks at which a final call is given up as `EngineCrash`.
DEATHS = 3
#: How long a final call runs, seconds.
FINAL_S = 5.0


class Slow:
    """A function whose final calls take `FINAL_S`; notes when they ran, and what they knew."""

    def __init__(self, *, fails_first: bool = False) -> None:
        self.finals: list[tuple[str, str, list[int]]] = []  #: shard, request id, records of the window
        self.running = self.running_max = 0
        self._fails_first = fails_first
        self.fails = False  #: all final calls do

    async def __call__(self, event: dict[str, Any], context: Any) -> Any:
        known = event["state"].get("seen", [])
        if not event["isFinalInvokeForWindow"]:
            await anyio.sleep(1)
            return {"state": {"seen": [*known, *numbers(event)]}}
        shard = event["shardId"]
        is_first = shard not in {shard for shard, _, _ in self.finals}
        self.finals.append((shard, context.aws_request_id, known))
        if self.fails or (self._fails_first and is_first):
            raise ValueError("not yet")
        self.running += 1
        self.running_max = max(self.running, self.running_max)
        try:
            await anyio.sleep(FINAL_S)
        finally:
            self.running -= 1


@contextmanager
def opened(work: Slow, *, shards: int = 1, **mapping: Any) -> Iterator[VirtualPipeline]:
    app = stream_app(work, shards=shards, timeout=10, tumbling_window_in_seconds=10, batch_size=1, **mapping)
    with open_pipeline(app) as pipeline:
        yield pipeline


def begin_final(pipeline: VirtualPipeline) -> None:
    """Let one record open a window, and one of a later window have it closed; the final call runs."""
    pipeline.send("stream:orders", [1], key="k")
    pipeline.advance(12)
    pipeline.send("stream:orders", [2], key="k")
    pipeline.advance(1)


def test_a_final_call_in_which_engines_die_is_given_up_after_its_marks() -> None:
    work = Slow()
    with opened(work, maximum_retry_attempts=2) as pipeline:
        begin_final(pipeline)
        # The first call of an engine that has settled batches goes unmarked.
        for _ in range(1 + DEATHS):
            assert pipeline.discards == []
            pipeline.crash()
            pipeline.advance(1)
        pipeline.run_until_idle()
        pipeline.advance(200)
        assert [(discard.count, discard.reason) for discard in pipeline.discards] == [(0, "EngineCrash")]
        # The one that never came back, and that of the window behind it. A request id is kept with a mark.
        assert [known for _, _, known in work.finals] == [[1]] * (1 + DEATHS) + [[2]]
        assert len({request for _, request, _ in work.finals[1:-1]}) == 1


def test_a_final_call_that_a_restart_of_its_mapping_cuts_short_leaves_no_mark() -> None:
    """Another shard's checkpoint can't be written: the engine lives, and nothing is given up as `EngineCrash`."""
    work = Slow()
    failures = 0

    async def commit(store: Store, operations: Sequence[Operation]) -> list[Any]:
        nonlocal failures
        for each in operations:
            passes = isinstance(each, SaveCheckpoint) and each.position > 0 and not each.state.marked
            if passes and work.running and failures <= DEATHS:
                failures += 1
                raise StoreUnavailable("for a moment")
        return await store.commit(operations)

    async def run() -> Harness:
        app = stream_app(work, shards=2, timeout=10, tumbling_window_in_seconds=10, batch_size=1)
        async with open_memory_store() as memory:
            store: Any = ScriptedStore(memory, commit)
            async with open_harness(app, store=store) as harness:
                await harness.send("stream:orders", [1], key="a")
                await harness.advance(12)
                await harness.send("stream:orders", [2], key="a")
                await harness.advance(1)
                await harness.send("stream:orders", [3], key="d")
                await harness.run_until_idle()
                await harness.advance(200)
            return harness

    harness = run_virtual(run)
    assert failures == DEATHS + 1
    assert harness.discarded == []
    (shard, *_), *_ = work.finals
    closed = [known for each, _, known in work.finals if each == shard]
    assert closed == [[1]] * (DEATHS + 2) + [[2]]


def die_in_two_final_calls(pipeline: VirtualPipeline, work: Slow) -> None:
    """Let the engine die while the final calls of two shards run."""
    for key in ("a", "d"):
        pipeline.send("stream:orders", [1], key=key)
    pipeline.advance(12)
    for key in ("a", "d"):
        pipeline.send("stream:orders", [2], key=key)
    pipeline.advance(3)
    # Both were called before, so both are marked.
    assert work.running_max == 2
    pipeline.crash()


def test_a_final_call_that_keeps_failing_lets_that_of_another_shard_run() -> None:
    """Both came back from a call: no engine died of them."""
    work = Slow(fails_first=True)
    with opened(work, shards=2) as pipeline:
        die_in_two_final_calls(pipeline, work)
        work.finals.clear()
        work.fails = True
        pipeline.advance(10)
        assert len({shard for shard, _, _ in work.finals}) == 2


def test_final_calls_in_which_an_engine_has_died_run_one_at_a_time() -> None:
    """Else the one that kills engines would have its neighbours marked each time, and they were given up with it."""
    work = Slow(fails_first=True)
    with opened(work, shards=2) as pipeline:
        die_in_two_final_calls(pipeline, work)
        work.running = work.running_max = 0
        pipeline.run_until_idle()
        pipeline.advance(10)
        assert [known for _, _, known in work.finals[-2:]] == [[1], [1]]
        assert work.running_max == 1
        assert pipeline.discards == []

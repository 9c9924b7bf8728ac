"""How far behind a stream's mapping is in time (Lambda semantics §4 "IteratorAge")."""

from __future__ import annotations

from typing import Any

import pytest

from eventcore.store.memory import open_memory_store
from eventcore.testing.harness import Harness, open_harness
from eventcore.testing.virtual_loop import run_virtual
from tests.behaviours.orders import play, send_numbers, stream_app
from tests.behaviours.test_parallelization import keys


async def ages(harness: Harness) -> tuple[int | None, dict[str, int | None]]:
    """The mapping's iterator age, and that of each shard."""
    (mapping,) = (await harness.status()).mappings
    assert mapping.counters is not None
    return mapping.counters.iterator_age_ms, {shard.shard[-1]: shard.iterator_age_ms for shard in mapping.shards}


@pytest.mark.parametrize("settings", [{}, {"lanes": 2}, {"parallelization_factor": 2}])
def test_it_is_the_age_of_the_last_record_of_the_batch_when_it_is_sent(settings: dict[str, Any]) -> None:
    async def work(event: dict[str, Any], context: Any) -> None:
        return None

    async def scenario(harness: Harness) -> None:
        await harness.advance(0.1)
        assert await ages(harness) == (None, {"0": None})
        await send_numbers(harness, 1)
        await harness.advance(5)
        await send_numbers(harness, 1)
        await harness.advance(60)
        # The window of a minute began with the first record; the second was 55 s old at its end.
        assert await ages(harness) == (55_000, {"0": 55_000})
        assert [entry.iterator_age_ms for entry in harness.invocations] == [55_000]

    play(stream_app(work, maximum_batching_window_in_seconds=60, **settings), scenario)


def test_retries_make_it_grow_and_the_highest_shard_is_the_mappings() -> None:
    low, high = keys(0, 1)
    del high
    failing = True

    async def work(event: dict[str, Any], context: Any) -> None:
        if failing:
            raise ValueError("not yet")

    async def scenario(harness: Harness) -> None:
        nonlocal failing
        await harness.send("stream:orders", ["1"], key=low)
        await harness.advance(120)
        highest, by_shard = await ages(harness)
        assert highest is not None
        assert highest > 30_000
        assert sorted(by_shard.values(), key=str) == [highest, None]
        failing = False
        await harness.run_until_idle()
        await harness.send("stream:orders", ["2"], key=low)
        await harness.run_until_idle()
        assert (await ages(harness))[0] == 0

    play(stream_app(work, shards=2), scenario)


def test_a_backlog_is_as_old_as_it_waited() -> None:
    async def work(event: dict[str, Any], context: Any) -> None:
        return None

    async def run() -> None:
        async with open_memory_store() as store:
            async with open_harness(stream_app(work, enabled=False), store=store) as harness:
                await send_numbers(harness, 3)
                await harness.advance(3600)
            async with open_harness(stream_app(work), store=store) as harness:
                await harness.run_until_idle()
                assert (await ages(harness))[0] == 3_600_000

    run_virtual(run)

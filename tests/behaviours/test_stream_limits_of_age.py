"""Records that are too old are given up, per record and before they are invoked (Lambda semantics §4)."""

from __future__ import annotations

import json
from typing import Any

import eventcore
from eventcore.store.memory import open_memory_store
from eventcore.testing.harness import Harness, open_harness
from eventcore.testing.virtual_loop import run_virtual
from tests.behaviours.orders import numbers, play, send_numbers, stream_app


def test_the_old_head_is_cut_off_and_the_young_ones_proceed() -> None:
    """§4 "Age check": condition `RecordAgeExceeded`, no `responseContext` (trap 21)."""
    calls: list[list[int]] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        calls.append(numbers(event))
        if 1 in calls[-1]:
            raise ValueError("the first one always fails")

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 1)
        await harness.advance(40)
        await send_numbers(harness, 1, first=2)
        await harness.run_until_idle()
        (message,) = await harness.messages("failed")
        record = json.loads(message.body)
        assert record["requestContext"]["condition"] == "RecordAgeExceeded"
        assert record["requestContext"]["approximateInvokeCount"] == len(calls) - 1
        assert "responseContext" not in record

    harness = play(stream_app(work, maximum_record_age_in_seconds=60), scenario)
    assert calls[-1] == [2]
    assert [entry.count for entry in harness.discarded] == [1]


def test_records_that_retention_took_unread_are_a_counted_discard_that_names_the_range() -> None:
    """Issue 3: `RecordExpired`, never a silent jump. The mapping is stopped while retention passes."""
    calls: list[list[int]] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        calls.append(numbers(event))

    def app(*, enabled: bool) -> eventcore.App:
        made = eventcore.App()
        made.stream("orders", shards=1, retention_period=120)
        made.queue("failed")
        made.function("work", runtime="inline")(work)
        made.mapping(
            "orders",
            source="stream:orders",
            function="work",
            starting_position="TRIM_HORIZON",
            on_failure="queue:failed",
            enabled=enabled,
        )
        return made

    async def scenario() -> None:
        async with open_memory_store() as store:
            async with open_harness(app(enabled=True), store=store) as first:
                await send_numbers(first, 1)
                await first.run_until_idle()
            async with open_harness(app(enabled=False), store=store) as meanwhile:
                await send_numbers(meanwhile, 3, first=2)
                await meanwhile.advance(300)
                await send_numbers(meanwhile, 1, first=5)
            async with open_harness(app(enabled=True), store=store) as last:
                await last.run_until_idle()
                (message,) = await last.messages("failed")
                record = json.loads(message.body)
                assert record["requestContext"]["condition"] == "RecordExpired"
                assert record["lostRange"]["count"] == 3
                (failure,) = await last.failures()
                assert (failure.reason, failure.count) == ("RecordExpired", 3)
                assert [entry.count for entry in last.lost] == [3]

    run_virtual(scenario)
    assert calls == [[1], [5]]

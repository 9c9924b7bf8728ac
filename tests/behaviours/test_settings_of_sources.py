"""Settings of queues and streams act from the pipeline on, each where only it makes the difference."""

from __future__ import annotations

from typing import Any

import pytest

import eventcore
from eventcore.errors import EventcoreError
from eventcore.telemetry.events import BatchInvoked
from eventcore.testing.harness import Harness
from tests.behaviours.orders import numbers, play, queue_app, send_numbers, stream_app


async def _take(event: dict[str, Any], context: Any) -> None:
    return None


def test_a_queues_own_delay_hides_its_new_messages() -> None:
    """§3.2 DelaySeconds of the queue, where the message has none."""

    async def scenario(harness: Harness) -> None:
        await harness.send("queue:orders", ["1"])
        await harness.run_until_idle()

    harness = play(queue_app(_take, queue={"delay": 30}), scenario)
    assert 30.0 <= harness.times(BatchInvoked)[0] < 30.1


def test_a_queue_takes_no_message_above_its_size() -> None:
    """§3.2 MaximumMessageSize."""

    async def scenario(harness: Harness) -> None:
        with pytest.raises(EventcoreError, match="1024"):
            await harness.send("queue:orders", ["x" * 1025])

    play(queue_app(_take, queue={"maximum_message_size": 1024}), scenario)


def test_a_queue_keeps_messages_for_its_own_time() -> None:
    """§3.2 MessageRetentionPeriod, where nobody receives."""

    async def scenario(harness: Harness) -> None:
        await harness.send("queue:orders", ["1"])
        await harness.advance(200)
        (depth,) = [depth for depth in await harness.store.queue_depths() if depth.queue == "orders"]
        assert (depth.visible, depth.hidden) == (0, 0)

    play(queue_app(_take, queue={"message_retention_period": 60}, enabled=False), scenario)


def test_a_stream_has_as_many_shards_as_it_says() -> None:
    """One key's error blocks its shard: with one shard, everything."""
    seen: list[int] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        seen.extend(numbers(event))
        raise ValueError("blocked")

    async def scenario(harness: Harness) -> None:
        for number in range(1, 41):
            await harness.send("stream:orders", [str(number)], key=f"key-{number}")
        await harness.advance(1)
        assert len((await harness.status()).mappings[0].shards) == 2

    play(stream_app(work, shards=2), scenario)


def test_a_stream_is_trimmed_to_its_bytes() -> None:
    """The oldest records go, before a mapping that begins at the horizon reads them."""
    seen: list[int] = []

    async def scenario(harness: Harness) -> None:
        for number in range(1, 101):
            await harness.send("stream:orders", [f"{number}".rjust(1000)], key="k")
            await harness.advance(1)
        await harness.advance(600)
        (extent,) = await harness.store.extents("orders")
        seen.append(extent.first)

    app = eventcore.App()
    app.stream("orders", shards=1, retention_bytes=10_000)
    app.function("work", runtime="inline")(_take)
    app.mapping("orders", source="stream:orders", function="work", starting_position="TRIM_HORIZON", enabled=False)
    play(app, scenario)
    assert seen[0] > 50


def test_a_report_is_read_where_the_mapping_reads_it() -> None:
    """§4 ReportBatchItemFailures: what failed comes again, and what came before it does not."""
    calls: list[list[int]] = []

    async def work(event: dict[str, Any], context: Any) -> Any:
        calls.append(numbers(event))
        failed = event["Records"][1]["kinesis"]["sequenceNumber"] if len(calls) == 1 else None
        return {"batchItemFailures": [{"itemIdentifier": failed}] if failed else []}

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 3)
        await harness.run_until_idle()

    play(stream_app(work, function_response_types=["ReportBatchItemFailures"]), scenario)
    assert calls == [[1, 2, 3], [2, 3]]

"""received = settled + in flight + retrying + discarded + returned, at every moment (issue 4; OBS-8)."""

from __future__ import annotations

from typing import Any

from eventcore.testing.harness import Harness
from tests.behaviours.orders import numbers, play, queue_app, send_numbers, stream_app


async def _watch(harness: Harness, seconds: float) -> None:
    """Look at the books all the while."""
    for _ in range(int(seconds / 0.05)):
        (mapping,) = (await harness.status()).mappings
        assert mapping.counters is not None
        assert mapping.counters.is_balanced, mapping.counters
        await harness.advance(0.05)


def test_of_a_stream_with_retries_splits_and_discards() -> None:
    async def work(event: dict[str, Any], context: Any) -> None:
        if {7, 13} & set(numbers(event)):
            raise ValueError("poison")

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 20)
        await _watch(harness, 5)
        (mapping,) = (await harness.status()).mappings
        counters = mapping.counters
        assert counters is not None
        assert (counters.received, counters.settled, sum(counters.discarded.values())) == (20, 18, 2)

    app = stream_app(work, batch_size=8, maximum_retry_attempts=2, bisect_batch_on_function_error=True)
    play(app, scenario)


def test_of_a_queue_with_redelivery() -> None:
    async def work(event: dict[str, Any], context: Any) -> None:
        if event["Records"][0]["attributes"]["ApproximateReceiveCount"] == "1":
            raise ValueError("first time")

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 5, source="queue:orders")
        await _watch(harness, 8)
        (mapping,) = (await harness.status()).mappings
        counters = mapping.counters
        assert counters is not None
        assert (counters.received, counters.settled, counters.returned) == (10, 5, 5)

    play(queue_app(work, queue={"visibility_timeout": 5}), scenario)

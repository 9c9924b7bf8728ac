"""A rate limit spreads what a mapping hands to its function, and lets nothing wait in its hands for too long.

Lambda has none; what must not change is what an attempt is: §3.2 receive counts, §4 retries.
"""

from __future__ import annotations

from typing import Any

import pytest

from eventcore.telemetry.events import BatchInvoked, RecordsReceived
from eventcore.testing.harness import Harness
from tests.behaviours.orders import numbers, play, queue_app, send_numbers, stream_app


class Seen:
    """A function that notes what it was given, and how often that was received."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.counts: set[str] = set()

    async def __call__(self, event: dict[str, Any], context: Any) -> None:
        self.numbers += numbers(event)
        self.counts |= {record.get("attributes", {}).get("ApproximateReceiveCount", "1") for record in event["Records"]}


def _begun(harness: Harness) -> list[tuple[float, int]]:
    """Return when each invocation began, and with how many records."""
    return [(each.at_s, each.event.count) for each in harness.happened if isinstance(each.event, BatchInvoked)]


def _most_within(harness: Harness, seconds: float) -> int:
    """Return the most records that were invoked within any span of so many seconds."""
    begun = _begun(harness)
    return max(sum(count for at_s, count in begun if start <= at_s < start + seconds) for start, _ in begun)


@pytest.mark.parametrize("settings", [{"batch_size": 1}, {"batch_size": 5, "lanes": 4}, {"parallelization_factor": 4}])
def test_a_stream_is_worked_through_at_its_rate(settings: dict[str, Any]) -> None:
    seen = Seen()
    app = stream_app(seen, maximum_records_per_second=10, **{"batch_size": 2, **settings})

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 200)
        await harness.run_until_idle()

    harness = play(app, scenario)
    assert sorted(seen.numbers) == list(range(1, 201))
    # A second's worth at once, then ten a second.
    assert _begun(harness)[-1][0] == pytest.approx(19, abs=1)
    assert _most_within(harness, 1.0) <= 20 + 5


def test_a_queue_is_received_at_its_rate_and_no_lease_ends_while_a_message_waits() -> None:
    seen = Seen()
    app = queue_app(seen, queue={"visibility_timeout": 2}, timeout=1, maximum_records_per_second=10)

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 200, source="queue:orders")
        await harness.advance(5)
        hidden = [message for message in await harness.messages("orders") if message.receive_count]
        assert len(hidden) <= 10
        await harness.run_until_idle()

    harness = play(app, scenario)
    assert sorted(seen.numbers) == list(range(1, 201))
    assert seen.counts == {"1"}
    assert _begun(harness)[-1][0] == pytest.approx(19, abs=1)
    # Not a receive for each message, and not one for each turn of the loop.
    assert len(harness.events(RecordsReceived)) < 200


def test_less_than_one_record_a_second() -> None:
    seen = Seen()
    app = queue_app(seen, maximum_records_per_second=0.1)

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 4, source="queue:orders")
        await harness.run_until_idle()

    harness = play(app, scenario)
    assert [at_s for at_s, _ in _begun(harness)] == pytest.approx([0, 10, 20, 30], abs=0.5)
    assert seen.counts == {"1"}


def test_retries_count() -> None:
    """What fails is handed over again, and that takes its share."""

    async def work(event: dict[str, Any], context: Any) -> None:
        raise ValueError("always")

    app = stream_app(work, batch_size=1, maximum_retry_attempts=100, maximum_records_per_second=1)

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 1)
        await harness.advance(4.5)
        assert len(harness.invocations) <= 5

    play(app, scenario)


def test_whoever_waits_for_the_rate_holds_no_slot_of_the_function() -> None:
    """Another mapping of the same function goes on meanwhile; and a drain does not wait for a turn."""
    seen = Seen()
    app = stream_app(seen, batch_size=100, maximum_records_per_second=0.01)
    app.stream("others", shards=1)
    app.mapping("others", source="stream:others", function="work", starting_position="TRIM_HORIZON", batch_size=1)

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 100)
        await harness.advance(1)
        await send_numbers(harness, 100, first=101)
        await send_numbers(harness, 50, first=1001, source="stream:others")
        await harness.advance(5)
        assert sorted(seen.numbers) == [*range(1, 101), *range(1001, 1051)]

    harness = play(app, scenario)
    # Closed without waiting for the second batch's turn, which comes after 10,000 s.
    assert harness.happened[-1].at_s < 60

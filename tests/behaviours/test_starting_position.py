"""Where a mapping without a checkpoint begins (Lambda semantics §4, §5.1)."""

from __future__ import annotations

from typing import Any

from eventcore.store.memory import open_memory_store
from eventcore.testing.harness import open_harness
from eventcore.testing.virtual_loop import run_virtual
from tests.behaviours.orders import numbers, send_numbers, stream_app


def _begin(position: str, *, timestamp_after_s: float | None = None) -> list[int]:
    """Send 1 and, 100 s later, 2; then make the mapping, send 3, and return what it got."""
    seen: list[int] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        seen.extend(numbers(event))

    async def scenario() -> None:
        async with open_memory_store() as store:
            async with open_harness(stream_app(work, enabled=False), store=store) as before:
                start_s = before.clock.now_ms() / 1000
                await send_numbers(before, 1, first=1)
                await before.advance(100)
                await send_numbers(before, 1, first=2)
            settings: dict[str, Any] = {"starting_position": position}
            if timestamp_after_s is not None:
                settings["starting_position_timestamp"] = start_s + timestamp_after_s
            async with open_harness(stream_app(work, **settings), store=store) as after:
                await after.run_until_idle()
                await send_numbers(after, 1, first=3)
                await after.run_until_idle()

    run_virtual(scenario)
    return seen


def test_trim_horizon_begins_with_the_oldest() -> None:
    assert _begin("TRIM_HORIZON") == [1, 2, 3]


def test_latest_begins_with_what_comes_after() -> None:
    assert _begin("LATEST") == [3]


def test_at_timestamp_begins_with_the_first_record_at_or_after_it() -> None:
    assert _begin("AT_TIMESTAMP", timestamp_after_s=50) == [2, 3]

"""Wall time: read in one place, and following the loop where a loop says what time it is."""

from __future__ import annotations

import time

import anyio

from eventcore.clock import LoopClock, SystemClock
from eventcore.testing.virtual_loop import run_virtual


def test_the_system_clock_is_the_operating_systems() -> None:
    """In milliseconds since the epoch."""
    before_ns = time.time_ns()  # noqa: TID251 - what the clock is compared with
    now_ms = SystemClock().now_ms()
    after_ns = time.time_ns()  # noqa: TID251
    assert before_ns // 1_000_000 <= now_ms <= after_ns // 1_000_000


def test_the_loops_clock_is_as_far_as_the_loop() -> None:
    async def main() -> list[int]:
        clock = LoopClock(start_ms=1_000)
        readings = []
        for delay_s in (0, 0.0015, 3600):
            await anyio.sleep(delay_s)
            readings.append(clock.now_ms())
        return readings

    assert run_virtual(main) == [1_000, 1_001, 3_601_001]


def test_the_loops_clock_begins_at_a_fixed_time() -> None:
    """So that what a run stores is the same on every machine: 2026-01-01T00:00:00Z."""

    async def main() -> int:
        return LoopClock().now_ms()

    assert run_virtual(main) == 1_767_225_600_000

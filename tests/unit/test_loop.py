"""The loop's time and scopes are anyio's own."""

from __future__ import annotations

import anyio
import pytest

from eventcore.loop import loop_clock, loop_time, open_scope
from eventcore.testing.virtual_loop import run_virtual


def test_tells_the_time_that_anyio_tells() -> None:
    async def body() -> None:
        now = loop_clock()
        for pause_s in (0.5, 3600):
            await anyio.sleep(pause_s)
            assert loop_time() == now() == anyio.current_time()

    run_virtual(body)


def test_a_scope_ends_at_its_deadline_and_no_other_does() -> None:
    async def body() -> None:
        began = loop_time()
        with anyio.CancelScope() as outer:
            with open_scope(began + 5) as scope, anyio.CancelScope() as inner:
                await anyio.sleep_forever()
            assert loop_time() == began + 5
        assert scope.cancelled_caught
        assert not inner.cancelled_caught
        assert not outer.cancel_called

    run_virtual(body)


def test_a_scope_without_a_deadline_ends_when_it_is_cancelled() -> None:
    async def body() -> None:
        scope = open_scope()

        async def wait() -> None:
            with scope:
                await anyio.sleep_forever()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.sleep(30_000)
            assert not scope.cancel_called
            scope.cancel()
        assert scope.cancelled_caught
        assert isinstance(scope, anyio.CancelScope)

    run_virtual(body)


def test_is_of_no_use_without_a_loop() -> None:
    with pytest.raises(RuntimeError):
        loop_time()

"""Waiting for something, but no longer than until something else has happened."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio


async def unless(
    ended: anyio.Event, wait: Callable[[], Awaitable[object]], undo: Callable[[], None] | None = None
) -> bool:
    """Await something, or until an event; tell whether it came to its end.

    Args:
        ended: set when it is not waited for any longer.
        wait: gives what is waited for.
        undo: takes it back when it came to its end, and whoever waits was cancelled before being told: what it has
            acquired would be lost to everybody.
    """
    is_done = is_told = False
    try:
        async with anyio.create_task_group() as tasks:

            async def give_up() -> None:
                await ended.wait()
                tasks.cancel_scope.cancel()

            tasks.start_soon(give_up)
            await wait()
            is_done = True
            tasks.cancel_scope.cancel()
        is_told = True
    finally:
        if is_done and not is_told and undo is not None:
            undo()
    return is_done

"""Named points in the engine where tests wait, fail or kill; in production a dictionary look-up that finds nothing.

A point is an asynchronous no-op until a test sets a hook. The environment variable `EVENTCORE_KILL_AT` names a point
at which the process kills itself with SIGKILL (`NAME` or `NAME:K` for the K-th time): the crash tests use it on
real engines. It is read once, at import.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable

#: Every point, in the order a record meets them. A name that is not listed is an error in the test that uses it.
POINTS = frozenset(
    {
        "poller.received",
        "dispatcher.before_invoke",
        "dispatcher.after_invoke",
        "settler.before_store",
        "settler.after_store",
        "results.after_fence",
        "results.after_write",
        "settler.before_ack",
        "results.before_commit",
        "results.after_commit",
        "settler.after_ack",
        "events.before_store",
        "events.after_store",
        "outbox.before_send",
        "outbox.after_send",
        "outbox.after_mark",
    }
)

Hook = Callable[[], Awaitable[None]]

_hooks: dict[str, Hook] = {}


def set_hook(point: str, hook: Hook) -> None:
    """Run ``hook`` whenever the engine passes ``point``; replaces an earlier one.

    Raises:
        KeyError: ``point`` is not one of `POINTS`.
    """
    if point not in POINTS:
        raise KeyError(point)
    _hooks[point] = hook


def clear_hooks() -> None:
    """Forget every hook."""
    _hooks.clear()


async def reach(point: str) -> None:
    """Pass a named point: run its hook if a test has set one."""
    if _hooks:
        hook = _hooks.get(point)
        if hook is not None:
            await hook()


def _kill_at(spec: str) -> None:
    name, _, count = spec.partition(":")
    remaining = int(count or 1)

    async def kill() -> None:
        nonlocal remaining
        remaining -= 1
        if remaining == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    set_hook(name, kill)


if _spec := os.environ.get("EVENTCORE_KILL_AT"):
    _kill_at(_spec)

"""Invokes a function with a ready event, for people (`eventcore invoke`)."""

from __future__ import annotations

from typing import Any

import anyio

from eventcore.errors import Throttled
from eventcore.ids import IdFactory
from eventcore.model import Invocation, Outcome
from eventcore.registry import Function


async def invoke_event(function: Function, event: Any, ids: IdFactory, *, request_id: str = "") -> Outcome:
    """Run a function once with an event; see `invoke_once`."""
    return await invoke_once(function, Invocation(request_id=request_id or ids.new_id(), build_event=lambda: event))


async def invoke_once(function: Function, invocation: Invocation) -> Outcome:
    """Run a function once; one whose concurrency is used up is not waited for.

    Raises:
        Throttled: all of the function's environments are busy.
    """
    try:
        function.slots.acquire_nowait()
    except anyio.WouldBlock:
        raise Throttled(
            f"Rate Exceeded. The function {function.spec.name} may run {function.concurrency} invocations at a time, "
            "and does: ReservedFunctionConcurrentInvocationLimitExceeded",
            limit=function.concurrency,
        ) from None
    try:
        return await function.runtime.invoke(function.spec, invocation)
    finally:
        function.slots.release()

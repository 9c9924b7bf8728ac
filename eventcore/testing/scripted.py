"""Functions that do what a test says, call by call."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import anyio

#: One step of a script: an exception is raised, a callable is called with event and context, all else is returned.
Step = Any


class Scripted:
    """A function that plays a script: its first call the first step, and so on; every later call ``then``.

    A step that is an exception is raised, one that is callable is called with event and context (and awaited where it
    is asynchronous), anything else is the function's result.

    ```python
    Scripted(ConnectionError("down"), ConnectionError("down"))  # fails twice, then succeeds
    Scripted(then=ValueError("poison"))  # always fails
    Scripted({"batchItemFailures": [{"itemIdentifier": "..."}]})  # a partial response, then success
    ```
    """

    def __init__(self, *steps: Step, then: Step = None, takes_s: float = 0.0) -> None:
        """Write a script.

        Args:
            steps: what the first calls do.
            then: what every later call does.
            takes_s: how long each call takes before that, seconds of virtual time.
        """
        self._steps = steps
        self._then = then
        self._takes_s = takes_s
        self.events: list[Any] = []  #: what it was called with, in order

    @property
    def calls(self) -> int:
        """How often it was called."""
        return len(self.events)

    async def __call__(self, event: Any, context: Any) -> Any:
        """Play the next step."""
        step = self._steps[self.calls] if self.calls < len(self._steps) else self._then
        self.events.append(event)
        if self._takes_s:
            await anyio.sleep(self._takes_s)
        if isinstance(step, BaseException):
            # One object raised twice would show the traceback of both.
            raise step.with_traceback(None)
        if not callable(step):
            return step
        result = step(event, context)
        return await result if inspect.isawaitable(result) else result


def as_handler(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return what the engine runs for a test's function: an object that is called needs a signature of its own."""
    if not isinstance(function, Scripted):
        return function

    async def handler(event: Any, context: Any) -> Any:
        return await function(event, context)

    return handler

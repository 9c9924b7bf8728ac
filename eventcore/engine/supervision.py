"""Lets one part of the engine fail without the others: what runs under `attempt` ends with an error as a value."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from eventcore.errors import EventcoreError

_logger = logging.getLogger("eventcore.engine")


async def attempt(run: Callable[[], Awaitable[None]], part: str) -> Exception | None:
    """Run a part of the engine to its end; return what it failed with, or None.

    Of several errors at once the first is returned: the tasks of one part tend to fail for one reason. An error that
    is none of ours is a defect, of eventcore or of a connector, and is logged with its traceback. Cancellation is
    passed on.

    Args:
        run: the part.
        part: its name, for the log.
    """
    try:
        await run()
    except Exception as error:  # one of the three places named in errors.py
        first = _first(error)
        if not isinstance(first, EventcoreError):
            _logger.exception("engine.defect", exc_info=first, extra={"part": part})
        return first
    return None


def explain(error: Exception) -> str:
    """Return an error as one sentence for people."""
    if isinstance(error, EventcoreError):
        return str(error)
    return f"internal error: {type(error).__name__}: {error}"


def _first(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error

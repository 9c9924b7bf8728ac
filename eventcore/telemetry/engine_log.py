"""The engine's events as log records of the standard library.

The event's name is the message, its facts stand in ``extra`` under the names of `eventcore.telemetry.attributes`. A
change of state is told at INFO or above, a batch's ordinary way at DEBUG; nothing is told per record.
"""

from __future__ import annotations

import logging
from enum import Enum

import msgspec

from eventcore.model import DiscardReason, Fault
from eventcore.telemetry.attributes import EXCEPTION_STACKTRACE as TRACEBACK
from eventcore.telemetry.attributes import of_field
from eventcore.telemetry.events import (
    BatchBisected,
    BatchRetried,
    BreakerChanged,
    EngineEvent,
    EventDiscarded,
    EventRetried,
    MappingControlled,
    MappingStateChanged,
    OutboxBlocked,
    RecordsDiscarded,
    RecordsLost,
    RecordsNotRemembered,
    RecordsParked,
    ShardReleased,
    ShardTaken,
    WindowRetried,
    fault_text,
    last_line,
)

#: The logger that all events go to: `logging.getLogger("eventcore.engine").setLevel(...)` chooses.
LOGGER = "eventcore.engine"

_LEVELS: dict[type[EngineEvent], int] = {
    BatchRetried: logging.WARNING,
    BatchBisected: logging.WARNING,
    RecordsDiscarded: logging.ERROR,
    RecordsLost: logging.ERROR,
    EventRetried: logging.WARNING,
    EventDiscarded: logging.ERROR,
    OutboxBlocked: logging.WARNING,
    RecordsParked: logging.WARNING,
    RecordsNotRemembered: logging.WARNING,
    WindowRetried: logging.WARNING,
    BreakerChanged: logging.WARNING,
    MappingControlled: logging.WARNING,
    MappingStateChanged: logging.INFO,
    ShardTaken: logging.INFO,
    ShardReleased: logging.INFO,
}

#: As `eventcore.engine.status` names the state of a mapping that can't run.
PROBLEM = "Problem"

_logger = logging.getLogger(LOGGER)


def log_event(event: EngineEvent) -> None:
    """Log an event; subscribe this to `EngineEvents`."""
    level = _level(event)
    if _logger.isEnabledFor(level):
        _logger.log(level, event.NAME, extra=facts(event))


def _level(event: EngineEvent) -> int:
    match event:
        case RecordsLost(reason=DiscardReason.RECEIVES_EXHAUSTED) if event.destination:
            return logging.WARNING  # moved to a dead-letter queue, not gone
        case MappingStateChanged() if event.state == PROBLEM:
            return logging.ERROR
        case _:
            return _LEVELS.get(type(event), logging.DEBUG)


def facts(event: EngineEvent) -> dict[str, object]:
    """Return what an event says, by attribute; without what it does not say."""
    named: dict[str, object] = {}
    for field in msgspec.structs.fields(event):
        value = getattr(event, field.name)
        if isinstance(value, Fault):
            named[of_field("error_type")] = value.error_type
            named[of_field("error")] = fault_text(value)
            named[of_field("location")] = value.location
        elif field.name == "why" and isinstance(value, str) and "\n" in value:
            # What went wrong first; the traceback before it on lines of its own.
            named[of_field("why")] = last_line(value)
            named[TRACEBACK] = value
        elif value not in ("", None, ()):
            named[of_field(field.name)] = value.value if isinstance(value, Enum) else value
    return named

"""What is said of a batch: its event, and what its tumbling window adds to that and to a failure's record."""

from __future__ import annotations

from typing import Any

import msgspec

from eventcore.clock import iso_ms
from eventcore.model import Batch, BatchWindow
from eventcore.ports.sources import EventShape


def event_value(batch: Batch, shape: EventShape) -> Any:
    """Return the event (JSON-compatible) that a Lambda-shaped handler receives for a batch."""
    event = shape.event(batch.records, batch.shard)
    if batch.window is None:
        return event
    return {**event, **window_keys(batch.window, batch.shard, shape.arn)}


def window_keys(window: BatchWindow, shard: str, arn: str) -> dict[str, Any]:
    """Return what an event of a window has beside its records."""
    return {
        "shardId": shard,
        "eventSourceARN": arn,
        "window": _bounds(window),
        "state": msgspec.json.decode(window.state),
        "isFinalInvokeForWindow": window.is_final,
        "isWindowTerminatedEarly": window.is_early,
    }


def window_name(batch: Batch) -> str:
    """Return what stands for positions where a batch is the final call of a window, and has none."""
    assert batch.window is not None, "a batch without records is a final call"
    return f"window {iso_s(batch.window.start_ms)}"


def window_span(batch: Batch) -> str:
    """Return the bounds of a batch's window as people read them: `START/END`."""
    assert batch.window is not None, "asked of batches that have one"
    return f"{iso_s(batch.window.start_ms)}/{iso_s(batch.window.end_ms)}"


def window_info(window: BatchWindow) -> dict[str, Any]:
    """Return what an on-failure record says of the window."""
    return {
        "timeWindowInfo": {
            "window": _bounds(window),
            "isFinalInvokeForWindow": window.is_final,
            "isWindowTerminatedEarly": window.is_early,
        }
    }


def _bounds(window: BatchWindow) -> dict[str, str]:
    """Return start and end in whole seconds."""
    return {"start": iso_s(window.start_ms), "end": iso_s(window.end_ms)}


def iso_s(time_ms: int) -> str:
    """Return a time as windows write it: `2026-03-04T05:06:07Z`."""
    return iso_ms(time_ms)[:-5] + "Z"

"""What happens in the engine, as facts that others may listen to.

The engine says each thing once, here; logging, counters, the live lines of the command line and tests subscribe. An
event concerns a batch or a state, never a single record, so that a subscriber's cost is per batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import msgspec

from eventcore.model import DiscardReason, Fault
from eventcore.telemetry.fanout import FanOut

#: An error is told in one line; the whole of it is kept with the failure. Characters.
ERROR_TEXT_MAX = 500


class EngineEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened. `NAME` is its name in logs: stable, for people who search for it."""

    NAME: ClassVar[str] = ""
    mapping: str = ""  #: empty where it concerns none


class RecordsSent(EngineEvent, frozen=True, kw_only=True):
    """Records were put into a source by a command, a function or the engine."""

    NAME: ClassVar[str] = "records.sent"
    source: str  #: reference
    count: int


class RecordsReceived(EngineEvent, frozen=True, kw_only=True):
    """A mapping has taken records from its source."""

    NAME: ClassVar[str] = "records.received"
    mapping: str
    shard: str  #: empty for a queue, here and below
    count: int


class RecordsFiltered(EngineEvent, frozen=True, kw_only=True):
    """Received records that match no filter were settled without an invocation."""

    NAME: ClassVar[str] = "records.filtered"
    mapping: str
    shard: str
    count: int


class RecordsRepeated(EngineEvent, frozen=True, kw_only=True):
    """Records whose idempotency key was processed before are settled without an invocation.

    They are among those that `BatchSettled` tells.
    """

    NAME: ClassVar[str] = "records.repeated"
    mapping: str
    shard: str
    count: int


class RecordsNotRemembered(EngineEvent, frozen=True, kw_only=True):
    """Records were processed whose results are too large to be kept: if they come again, they are invoked again."""

    NAME: ClassVar[str] = "records.not_remembered"
    mapping: str
    count: int
    result_bytes_max: int


class RecordsLost(EngineEvent, frozen=True, kw_only=True):
    """The source gave records up before the mapping received them: retention, or a redrive policy."""

    NAME: ClassVar[str] = "records.lost"
    mapping: str
    shard: str
    count: int
    reason: DiscardReason
    first: int | str = ""  #: position, or message id; empty where the source does not say
    last: int | str = ""
    destination: str = ""  #: reference of what was told, or of the dead-letter queue; empty without one


class BatchInvoked(EngineEvent, frozen=True, kw_only=True):
    """A function is about to be invoked with a batch."""

    NAME: ClassVar[str] = "batch.invoked"
    mapping: str
    shard: str
    function: str
    first: int  #: position of the first record, here and below
    last: int
    count: int
    attempt: int  #: from 1
    request_id: str
    #: Of a stream: how old the batch's last record is (Lambda semantics §4 "IteratorAge"); None where it does not say.
    iterator_age_ms: int | None = None


class InvocationFinished(EngineEvent, frozen=True, kw_only=True):
    """An invocation came back. Throttled and released ones did not run to an end and are not told."""

    NAME: ClassVar[str] = "invocation.finished"
    mapping: str  #: empty for a direct invocation
    function: str
    request_id: str
    duration_ms: float
    fault: Fault | None = None


class BatchSettled(EngineEvent, frozen=True, kw_only=True):
    """Records were processed, and the source knows it."""

    NAME: ClassVar[str] = "batch.settled"
    mapping: str
    shard: str
    first: int
    last: int
    count: int


class BatchRetried(EngineEvent, frozen=True, kw_only=True):
    """Records failed and will be invoked again."""

    NAME: ClassVar[str] = "batch.retried"
    mapping: str
    shard: str
    first: int
    last: int
    count: int
    attempt: int  #: invocations of exactly these records that have failed; 0 for what is left of a shortened batch
    delay_ms: int  #: until the next one
    error: str  #: see `fault_text`
    location: str = ""  #: `file:line` in the user's code
    #: The source keeps them and hands them out again (a queue); else the engine does (a shard of a stream).
    is_returned: bool = False


class BatchBisected(EngineEvent, frozen=True, kw_only=True):
    """A failed batch of a stream was split; the left part is invoked first."""

    NAME: ClassVar[str] = "batch.bisected"
    mapping: str
    shard: str
    first: int
    middle: int  #: position of the last record of the left part
    last: int
    left_count: int
    right_count: int
    error: str = ""
    location: str = ""


class RecordsDiscarded(EngineEvent, frozen=True, kw_only=True):
    """Received records were given up, and that is durable."""

    NAME: ClassVar[str] = "records.discarded"
    mapping: str
    shard: str
    first: int | str  #: position; a queue's message id
    last: int | str
    count: int
    reason: DiscardReason
    failure_id: str
    destination: str  #: reference; empty without one
    error: str = ""
    location: str = ""


class RecordsParked(EngineEvent, frozen=True, kw_only=True):
    """Received records of a key that keeps failing wait elsewhere, and that is durable."""

    NAME: ClassVar[str] = "records.parked"
    mapping: str
    shard: str
    first: int  #: position
    last: int
    count: int
    destination: str  #: reference of where they wait


class WindowCalled(EngineEvent, frozen=True, kw_only=True):
    """A function is about to be invoked with the final call of a tumbling window."""

    NAME: ClassVar[str] = "window.called"
    mapping: str
    shard: str
    function: str
    window: str  #: its bounds, as `START/END`
    attempt: int  #: from 1
    is_early: bool  #: it ends because its state is too large
    request_id: str


class WindowRetried(EngineEvent, frozen=True, kw_only=True):
    """The final call of a tumbling window failed and will be made again; its shard waits."""

    NAME: ClassVar[str] = "window.retried"
    mapping: str
    shard: str
    window: str
    attempt: int  #: calls that have failed
    delay_ms: int  #: until the next one
    error: str
    location: str = ""  #: `file:line` in the user's code


class WindowClosed(EngineEvent, frozen=True, kw_only=True):
    """A tumbling window has ended, and its state is dropped: after its final call, or given up."""

    NAME: ClassVar[str] = "window.closed"
    mapping: str
    shard: str
    window: str
    is_early: bool


class RecordsReturned(EngineEvent, frozen=True, kw_only=True):
    """Received records went back to their source as they were: drain, a throttled queue."""

    NAME: ClassVar[str] = "records.returned"
    mapping: str
    shard: str
    count: int
    why: str


class MappingStateChanged(EngineEvent, frozen=True, kw_only=True):
    """A mapping is in another state: Creating, Enabled, Problem and so on."""

    NAME: ClassVar[str] = "mapping.state_changed"
    mapping: str
    state: str
    why: str = ""


class BreakerChanged(EngineEvent, frozen=True, kw_only=True):
    """A mapping's circuit breaker is in another state."""

    NAME: ClassVar[str] = "breaker.changed"
    mapping: str
    state: str  #: "open": it does not pull; "half-open": one batch, to find out; "closed"
    why: str = ""  #: what failed last
    pause_ms: int = 0  #: open: until the next probe


class MappingControlled(EngineEvent, frozen=True, kw_only=True):
    """A person paused, resumed, moved or skipped something."""

    NAME: ClassVar[str] = "mapping.controlled"
    mapping: str
    shard: str  #: empty: the whole mapping
    action: str  #: "pause", "resume", "seek" or "skip"
    by: str  #: a user of the operating system
    detail: str = ""


class ShardTaken(EngineEvent, frozen=True, kw_only=True):
    """A shard is ours now."""

    NAME: ClassVar[str] = "shard.taken"
    mapping: str
    shard: str
    epoch: int
    checkpoint: int  #: -1 when nothing was ever settled


class ShardReleased(EngineEvent, frozen=True, kw_only=True):
    """A shard is no longer ours; what was received of it and is not settled, its next owner receives."""

    NAME: ClassVar[str] = "shard.released"
    mapping: str
    shard: str
    why: str


class EventAccepted(EngineEvent, frozen=True, kw_only=True):
    """An event for a function is durable, and waits for it; told of those that the engine itself has accepted."""

    NAME: ClassVar[str] = "event.accepted"
    function: str
    request_id: str


class EventInvoked(EngineEvent, frozen=True, kw_only=True):
    """A function is about to be invoked with an event that waited for it."""

    NAME: ClassVar[str] = "event.invoked"
    function: str
    request_id: str
    attempt: int  #: from 1


class EventDelivered(EngineEvent, frozen=True, kw_only=True):
    """A function has taken an event that waited for it, and that is durable."""

    NAME: ClassVar[str] = "event.delivered"
    function: str
    request_id: str
    attempt: int
    destination: str = ""  #: reference of what was told; empty without one


class EventRetried(EngineEvent, frozen=True, kw_only=True):
    """An event waits for another try: its function failed, had no room, or was ended by a stop."""

    NAME: ClassVar[str] = "event.retried"
    function: str
    request_id: str
    attempt: int  #: invocations that have failed
    delay_ms: int
    error: str  #: see `fault_text`; empty after a stop
    location: str = ""
    is_throttled: bool = False  #: the function did not run


class EventDiscarded(EngineEvent, frozen=True, kw_only=True):
    """An event was given up, and that is durable."""

    NAME: ClassVar[str] = "event.discarded"
    function: str
    request_id: str
    reason: DiscardReason
    attempt: int  #: invocations that have failed
    failure_id: str
    destinations: tuple[str, ...] = ()  #: references of what was told; none: it is counted and kept, and told to nobody
    error: str = ""
    location: str = ""


class OutboxBlocked(EngineEvent, frozen=True, kw_only=True):
    """A destination outside takes nothing: rows wait for it, and at the bound the mapping stops pulling."""

    NAME: ClassVar[str] = "outbox.blocked"
    destination: str  #: reference
    rows: int
    error: str
    retry_in_ms: int
    is_at_bound: bool = False  #: mappings that write to it have stopped pulling


class EngineEvents:
    """Hands each event to whoever has subscribed, at once; see `FanOut` for what a subscriber owes."""

    def __init__(self) -> None:
        self._listeners: FanOut[EngineEvent] = FanOut()

    def subscribe(self, subscriber: Callable[[EngineEvent], None], *, mapping: str = "") -> Callable[[], None]:
        """Hand every later event to ``subscriber``; return what ends that. Ending it twice is harmless.

        Args:
            subscriber: what to call.
            mapping: only events of this mapping; empty for all events.

        Raises:
            ProgrammingError: `SUBSCRIBERS_MAX` are there already.
        """
        return self._listeners.subscribe(subscriber, mapping)

    def emit(self, event: EngineEvent) -> None:
        """Tell what happened."""
        self._listeners.tell(event, event.mapping)


def last_line(text: str) -> str:
    """Return the last line of a text that says something: of a traceback the error itself."""
    return (text.rstrip().splitlines() or [""])[-1].strip()


def fault_text(fault: Fault | None) -> str:
    """Return a fault as one line of at most `ERROR_TEXT_MAX` characters; empty without one."""
    if fault is None:
        return ""
    text = " ".join(f"{fault.error_type}: {fault.message}".split())
    return text if len(text) <= ERROR_TEXT_MAX else text[: ERROR_TEXT_MAX - 1] + "…"

"""What a running engine says of itself: snapshots for `status`, the control socket and tests."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence

import msgspec

from eventcore.model import DiscardReason
from eventcore.telemetry.counters import CountersSnapshot

#: Parked records that one step of a redrive gives back: a few batches of each key.
REDRIVE_RECORDS_MAX = 500


class MappingState(enum.StrEnum):
    """The life of a mapping (Lambda semantics §3.1); `Problem` is ours: it could not run, and will be tried again."""

    CREATING = "Creating"
    ENABLED = "Enabled"
    DISABLED = "Disabled"
    PROBLEM = "Problem"
    STOPPED = "Stopped"


class Pause(msgspec.Struct, frozen=True, kw_only=True):
    """A mapping, or a shard of it, that was paused by hand."""

    by: str  #: a user of the operating system
    since_ms: int  #: wall time


class BreakerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A mapping's circuit breaker."""

    state: str  #: "closed", "open" or "half-open"
    since_ms: int = 0  #: wall time when it left "closed"
    why: str = ""  #: what the last failure was that opened it
    next_probe_ms: int = 0  #: wall time; 0 unless open


class Blocked(msgspec.Struct, frozen=True, kw_only=True):
    """A shard's failing batch."""

    position: int  #: of its first record
    since_ms: int
    attempt: int
    error_type: str
    error_message: str
    location: str  #: `file:line` in the user's code
    next_try_ms: int


class ShardStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One owned shard."""

    shard: str
    checkpoint: int
    lag: int  #: records behind the end, as far as known; -1 unknown
    buffered: int
    blocked: Blocked | None = None
    pause: Pause | None = None  #: by hand: its own, or the mapping's
    #: How old the last record of the last batch was when it was invoked (Lambda semantics §4 "IteratorAge").
    iterator_age_ms: int | None = None
    waits_for: str = ""  #: shards that are read to their ends before this one
    parked: int = 0  #: keys whose records wait elsewhere, with lanes


class MappingStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One mapping."""

    mapping: str
    source: str
    function: str
    state: MappingState
    reason: str = ""  #: why, for `Problem`; what it waits for, for `Enabled`
    rate: float = 0.0  #: records settled a second, over the last seconds
    counters: CountersSnapshot | None = None
    last_result: str = ""  #: "OK", "PROBLEM: ..." or empty before the first
    shards: Sequence[ShardStatus] = ()
    running: int = 0  #: batches being worked on
    pause: Pause | None = None  #: of the whole mapping
    breaker: BreakerStatus | None = None  #: None without one, or while the mapping does not run


class ParkedRedriven(msgspec.Struct, frozen=True, kw_only=True):
    """What one step of a redrive, or the whole of it, did with the parked records of a shard."""

    shard: str
    redriven: int  #: records that succeeded
    failed: Sequence[str] = ()  #: names of keys that failed again: they stay parked
    missing: Sequence[str] = ()  #: names of keys whose first record was not found: they stay parked
    keys: int = 0  #: keys that are still parked
    error: str = ""  #: of the first key that failed
    location: str = ""  #: `file:line` in the user's code

    @property
    def besides(self) -> tuple[str, ...]:
        """Names of keys that the next step leaves out."""
        return (*self.failed, *self.missing)

    @property
    def is_last(self) -> bool:
        """Whether another step would bring nothing.

        Without a key left, a shard that was split or merged has made way for its children.
        """
        return not self.redriven or not self.keys

    def plus(self, step: ParkedRedriven) -> ParkedRedriven:
        """Return what these steps and the next one did together."""
        told = self if self.failed else step
        return ParkedRedriven(
            shard=self.shard,
            redriven=self.redriven + step.redriven,
            failed=(*self.failed, *step.failed),
            missing=(*self.missing, *step.missing),
            keys=step.keys,
            error=told.error,
            location=told.location,
        )


class DestinationStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What waits for one destination, for people."""

    destination: str
    rows: int
    size_bytes: int
    last_error: str


class FunctionStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What one function did with the events that wait for it, since the engine began."""

    function: str
    running: int  #: events in hand: being invoked, or waiting for room
    invoked: int = 0
    delivered: int = 0
    retried: int = 0  #: put back after the function failed
    throttled: int = 0  #: tries that found no room
    discarded: Mapping[DiscardReason, int] = {}
    untold: int = 0  #: of the discarded ones, those that no destination was told of
    problem: str = ""  #: why events can't be taken now


class EngineStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A whole engine."""

    version: str
    pid: int
    started_ms: int
    is_draining: bool
    mappings: Sequence[MappingStatus]
    destinations: Sequence[DestinationStatus] = ()
    functions: Sequence[FunctionStatus] = ()  #: those that had events

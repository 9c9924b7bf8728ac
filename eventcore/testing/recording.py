"""What happened in a pipeline, as plain data: each thing with its time, in seconds of virtual time since the start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import msgspec

from eventcore.errors import ProgrammingError
from eventcore.model import UNREADABLE_JSON, Invocation, Outcome, OutcomeKind, Record
from eventcore.ports.runtime import KEY_VERSION, FunctionSpec, HandlerForm, LogLine, Runtime, RuntimeStatistics
from eventcore.telemetry.events import (
    BatchRetried,
    BatchSettled,
    EngineEvent,
    EventDiscarded,
    RecordsDiscarded,
    RecordsLost,
    fault_text,
)

#: Entries that a recording holds: a scenario that makes more is a benchmark.
ENTRIES_MAX = 1_000_000
#: Lines of a timeline that a failed test shows: the last ones.
TIMELINE_LINES_MAX = 60
_ENDED_BY_ENGINE = Outcome(kind=OutcomeKind.RELEASED)


class Invoked(msgspec.Struct, kw_only=True):
    """One invocation of a function."""

    at_s: float  #: when it began
    function: str
    request_id: str
    event: Any  #: as the handler was given it; for handlers of records, the event that stands for them
    mapping: str = ""  #: empty for one without a mapping
    shard: str = ""  #: empty for a queue
    attempt: int = 1  #: which invocation of exactly these records it is
    records: tuple[Record, ...] = ()  #: of its batch
    ended_s: float | None = None  #: None while it runs, and where a crash took it
    kind: str = ""  #: "success", "failure", "released" (ended by the engine), "throttled"; empty while it runs
    response: Any = None  #: what the handler returned
    error: str = ""  #: "ValueError: poison"; empty without one

    @property
    def bodies(self) -> list[Any]:
        """The bodies of its records: JSON decoded, other text as text, else bytes."""
        return [read_body(record.body) for record in self.records]


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """Records that were processed, and the source knows it."""

    at_s: float
    mapping: str
    shard: str
    first: int  #: position, here and below
    last: int
    count: int


class Retried(msgspec.Struct, frozen=True, kw_only=True):
    """Records that failed and will be invoked again."""

    at_s: float
    mapping: str
    shard: str
    first: int
    last: int
    count: int
    attempt: int
    delay_s: float
    error: str


class Discarded(msgspec.Struct, frozen=True, kw_only=True):
    """Records that were given up: by the engine, or by their source (retention, a redrive policy); or one event."""

    at_s: float
    mapping: str  #: empty for an event that waited for its function
    shard: str
    first: int | str  #: position, message id, or an event's request id
    last: int | str
    count: int
    reason: str
    destination: str  #: reference, several of them with commas; empty without one
    failure_id: str = ""
    error: str = ""


class Delivered(msgspec.Struct, frozen=True, kw_only=True):
    """What a destination has."""

    body: bytes
    key: str = ""  #: partition key, message group or idempotency key
    headers: dict[str, str] = {}
    at_s: float | None = None  #: when it arrived; None where the destination does not say

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return msgspec.json.decode(self.body)


class Recording:
    """Listens to engines, one after another, and keeps what they say."""

    def __init__(self) -> None:
        self.invocations: list[Invoked] = []
        self.settlements: list[Settled] = []
        self.retries: list[Retried] = []
        self.discards: list[Discarded] = []
        self.logs: list[LogLine] = []
        self.events: list[tuple[float, EngineEvent]] = []  #: all that engines told, with its time

    def hear(self, event: EngineEvent) -> None:
        """Take an event of an engine."""
        at_s = anyio.current_time()
        self.events.append((at_s, event))
        match event:
            case BatchSettled():
                self.settlements.append(
                    Settled(
                        at_s=at_s,
                        mapping=event.mapping,
                        shard=event.shard,
                        first=event.first,
                        last=event.last,
                        count=event.count,
                    )
                )
            case BatchRetried():
                self.retries.append(
                    Retried(
                        at_s=at_s,
                        mapping=event.mapping,
                        shard=event.shard,
                        first=event.first,
                        last=event.last,
                        count=event.count,
                        attempt=event.attempt,
                        delay_s=event.delay_ms / 1000,
                        error=event.error,
                    )
                )
            case RecordsDiscarded() | RecordsLost():
                self.discards.append(_discarded(at_s, event))
            case EventDiscarded():
                self.discards.append(
                    Discarded(
                        at_s=at_s,
                        mapping="",
                        shard="",
                        first=event.request_id,
                        last=event.request_id,
                        count=1,
                        reason=event.reason,
                        destination=", ".join(event.destinations),
                        failure_id=event.failure_id,
                        error=event.error,
                    )
                )
            case _:
                pass
        self._bound()

    def begin(self, function: FunctionSpec, invocation: Invocation, event: Any) -> Invoked:
        """Note the begin of an invocation; who runs it notes its end."""
        batch = invocation.batch
        invoked = Invoked(
            at_s=anyio.current_time(),
            function=function.name,
            request_id=invocation.request_id,
            event=event,
            mapping=batch.mapping if batch is not None else "",
            shard=batch.shard if batch is not None else "",
            attempt=batch.attempt if batch is not None else 1,
            records=tuple(batch.records) if batch is not None else (),
        )
        self.invocations.append(invoked)
        self._bound()
        return invoked

    def _bound(self) -> None:
        if len(self.events) + len(self.invocations) > ENTRIES_MAX:
            raise ProgrammingError(f"more than {ENTRIES_MAX} things happened in one scenario")

    def timeline(self, lines_max: int = TIMELINE_LINES_MAX) -> str:
        """Return what happened, a line each, for people; the last lines when there are more."""
        lines = [(call.at_s, 0, _show_invoked(call)) for call in self.invocations]
        lines += [(each.at_s, 1, f"settled {_span(each)}") for each in self.settlements]
        lines += [(each.at_s, 1, f"retry {_span(each)} in {each.delay_s:g} s: {each.error}") for each in self.retries]
        lines += [
            (each.at_s, 1, f"gave up {_span(each)}: {each.reason}, to {each.destination or 'nowhere'}")
            for each in self.discards
        ]
        told = [f"{at_s:10.3f} s  {text}" for at_s, _, text in sorted(lines, key=lambda line: line[:2])]
        dropped = [f"… {len(told) - lines_max} lines before"] if len(told) > lines_max else []
        return "\n".join([*dropped, *told[-lines_max:]])


def _discarded(at_s: float, event: RecordsDiscarded | RecordsLost) -> Discarded:
    return Discarded(
        at_s=at_s,
        mapping=event.mapping,
        shard=event.shard,
        first=event.first,
        last=event.last,
        count=event.count,
        reason=event.reason,
        destination=event.destination,
        failure_id=event.failure_id if isinstance(event, RecordsDiscarded) else "",
        error=event.error if isinstance(event, RecordsDiscarded) else "",
    )


def _span(entry: Settled | Retried | Discarded) -> str:
    where = f" of {entry.shard}" if entry.shard else ""
    return f"{entry.mapping}: {entry.count} record{'s' * (entry.count != 1)} [{entry.first}-{entry.last}]{where}"


def _show_invoked(call: Invoked) -> str:
    what = f"{len(call.records)} records of {call.mapping}, attempt {call.attempt}" if call.records else "an event"
    took = "still running" if call.ended_s is None else f"{call.kind} after {call.ended_s - call.at_s:g} s"
    return f"invoked {call.function} with {what}: {took}{': ' * bool(call.error)}{call.error}"


def read_body(body: bytes | None) -> Any:
    """Return a body as people write it: JSON decoded, other text as text, else bytes."""
    if body is None:
        return None
    try:
        return msgspec.json.decode(body)
    except UNREADABLE_JSON:
        pass
    try:
        return body.decode()
    except UnicodeDecodeError:
        return body


class RecordingRuntime:
    """A runtime that another one is, with a note of every invocation."""

    def __init__(self, runtime: Runtime, recording: Recording, is_cut: Callable[[], bool] = lambda: False) -> None:
        """Wrap a runtime.

        Args:
            runtime: what runs the handlers.
            recording: where the notes go.
            is_cut: whether a simulated crash has ended the engine: what comes back afterwards never did.
        """
        self._runtime = runtime
        self._recording = recording
        self._is_cut = is_cut
        self.capabilities = runtime.capabilities

    async def prepare(self, function: FunctionSpec) -> HandlerForm:
        """Import the handler."""
        return await self._runtime.prepare(function)

    async def invoke(self, function: FunctionSpec, invocation: Invocation) -> Outcome:
        """Run the handler once and note it; what makes idempotency keys is no invocation of a function."""
        if function.version == KEY_VERSION:
            return await self._runtime.invoke(function, invocation)
        event = invocation.build_event()
        # What the handler makes of its event must not change what is told of it.
        told = msgspec.json.decode(msgspec.json.encode(event))
        invoked = self._recording.begin(function, invocation, told)
        outcome = _ENDED_BY_ENGINE
        try:
            outcome = await self._runtime.invoke(
                function, msgspec.structs.replace(invocation, build_event=lambda: event)
            )
        finally:
            if not self._is_cut():
                invoked.ended_s = anyio.current_time()
                invoked.kind = str(outcome.kind)
                invoked.response = read_body(outcome.response)
                invoked.error = fault_text(outcome.fault)
        return outcome

    async def retire(self, function: str) -> None:
        """Forget a function's handler."""
        await self._runtime.retire(function)

    def kill(self, request_id: str) -> bool:
        """End an invocation."""
        return self._runtime.kill(request_id)

    def is_alive(self, request_id: str) -> bool:
        """Tell whether an invocation runs."""
        return self._runtime.is_alive(request_id)

    def statistics(self) -> RuntimeStatistics:
        """Return a snapshot."""
        return self._runtime.statistics()

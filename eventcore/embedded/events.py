"""Events that wait for their function: one embedded queue a function, visible like any other.

A message's body is the event, its id the request id of every try. What is kept between tries stands in its headers: a
try that did not deliver deletes the message and sends it again, with what it has learned, in one commit.
"""

from __future__ import annotations

import msgspec

from eventcore.clock import Clock
from eventcore.delivery.asynchronous import EventState
from eventcore.delivery.lineage import LINEAGE, Lineage, read_lineage
from eventcore.errors import CommandError
from eventcore.ids import IdFactory
from eventcore.model import UNREADABLE_JSON, Record
from eventcore.ports.store import (
    BODY_BYTES_MAX,
    DefineQueue,
    NewMessage,
    QueueSettings,
    SendMessages,
    Store,
)
from eventcore.telemetry.propagation import TRACEPARENT

#: What a function's queue of events is called: no declared queue has a dot in its name.
PREFIX = "events."
#: Longer than the oldest event that is still tried (six hours), so that what waits for an engine is told, not lost.
RETENTION_S = 1_209_600
SETTINGS = QueueSettings(message_retention_period=RETENTION_S)

_ACCEPTED, _ATTEMPTS, _THROTTLES = "eventcore-accepted-ms", "eventcore-attempts", "eventcore-throttles"
_STATE = frozenset({_ACCEPTED, _ATTEMPTS, _THROTTLES})


def event_queue(function: str) -> str:
    """Return the name of the queue in which a function's events wait."""
    return PREFIX + function


def define_event_queue(function: str) -> DefineQueue:
    """Return the write that makes a function's queue of events."""
    return DefineQueue(queue=event_queue(function), settings=SETTINGS)


class WaitingEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event that was received from its queue."""

    request_id: str
    body: bytes  #: JSON
    #: As it was received. What is sent on: a text that was made JSON may be longer than a message can be.
    received: bytes
    state: EventState
    receipt: str
    begun: int  #: how often this try was begun before
    headers: tuple[tuple[str, bytes], ...] = ()  #: without those of the state

    @property
    def lineage(self) -> Lineage:
        """Through which functions it has come."""
        return read_lineage(dict(self.headers).get(LINEAGE))

    @property
    def traceparent(self) -> str:
        """The span that it comes from; empty without one."""
        return dict(self.headers).get(TRACEPARENT, b"").decode(errors="replace")


def begun_before(record: Record) -> int:
    """Return how often the try of an event that was received was begun before, and never came back."""
    return int(record.attributes["ApproximateReceiveCount"]) - 1


def read_event(record: Record) -> WaitingEvent:
    """Return what a message of an event queue says; one that was sent there by hand is an event as well."""
    known = {name: value for name, value in record.headers if name in _STATE}
    received = record.body or b"{}"
    return WaitingEvent(
        request_id=record.id,
        body=_as_json(received),
        received=received,
        state=EventState(
            accepted_ms=_number(known.get(_ACCEPTED), record.arrived_ms),
            attempts=_number(known.get(_ATTEMPTS), 0),
            throttles=_number(known.get(_THROTTLES), 0),
        ),
        receipt=record.receipt,
        begun=begun_before(record),
        headers=tuple([header for header in record.headers if header[0] not in _STATE]),
    )


def send_again(function: str, event: WaitingEvent, state: EventState, *, delay_s: int, now_ms: int) -> SendMessages:
    """Return the write that lets an event wait for its next try."""
    own = {_ACCEPTED: state.accepted_ms, _ATTEMPTS: state.attempts, _THROTTLES: state.throttles}
    message = NewMessage(
        id=event.request_id,
        body=event.received,
        headers=(*event.headers, *[(name, b"%d" % number) for name, number in own.items()]),
        delay_s=delay_s,
    )
    return SendMessages(queue=event_queue(function), messages=(message,), now_ms=now_ms)


async def accept_event(store: Store, function: str, event: bytes, *, clock: Clock, ids: IdFactory) -> str:
    """Let an event wait for its function, and return its request id once that is durable.

    Raises:
        CommandError: it is longer than 1 MiB, or not JSON.
        StoreUnavailable: nothing was accepted.
    """
    if len(event) > BODY_BYTES_MAX:
        raise CommandError(
            f"{len(event)} byte payload is too large for the Event invocation type (limit {BODY_BYTES_MAX} bytes)"
        )
    try:
        msgspec.json.decode(event)
    except UNREADABLE_JSON as error:
        raise CommandError(f"the event is not JSON: {error}") from error
    request_id = ids.new_id()
    send = SendMessages(
        queue=event_queue(function), messages=(NewMessage(id=request_id, body=event),), now_ms=clock.now_ms()
    )
    await store.commit([define_event_queue(function), send])
    return request_id


def _as_json(body: bytes) -> bytes:
    """Return an event's JSON; a message that was sent by hand and is none becomes a text."""
    try:
        msgspec.json.decode(body)
    except UNREADABLE_JSON:
        return msgspec.json.encode(body.decode(errors="backslashreplace"))
    return body


def _number(value: bytes | None, default: int) -> int:
    return int(value) if value is not None and value.isdigit() and len(value) < 16 else default

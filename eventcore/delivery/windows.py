"""Tumbling windows: records of one shard by their time of arrival, and a state handed from one invocation to the next.

Pure: no await, no I/O, no clock. A window ends when a record of a later one is to be invoked, when its state has grown
past `STATE_BYTES_MAX`, when its shard ends, or after `IDLE_S` without records. Its end is one *final call*, without
records, after which the state is dropped.

Source: Lambda semantics §4 "Tumbling windows" and §12 "windows"; the event's keys and the failure record as recorded on
AWS (`conformance/esm_scenarios.jsonl`, family `windows`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from eventcore.delivery.decide import MARKS_MIN
from eventcore.delivery.ordering import Part, Window
from eventcore.delivery.retry import StreamRetry
from eventcore.model import UNREADABLE_JSON, BatchWindow, DiscardReason, Outcome, OutcomeKind, Record

#: A state of more bytes, written as JSON, ends its window early (§4).
STATE_BYTES_MAX = 1024 * 1024
#: A window whose end has passed waits so long for a record, of it or of a later one, before it is closed, seconds (§4).
IDLE_S = 120.0
#: The attempts of a final call belong to no record.
NOT_CALLED = Part(last=-1)


class BadState(ValueError):
    """A response of a function with windows has no state that could be handed on."""


class FinalDecision(msgspec.Struct, frozen=True):
    """What becomes of a window after its final call, or instead of it."""

    window: Window | None  #: to be called again; None: it is over, and its state dropped
    delay_ms: int = 0  #: before the next call
    reason: DiscardReason | None = None  #: it is over because it was given up


def open_window(record: Record, length_s: int) -> Window:
    """Return the window that a record opens: its bounds are multiples of its length since the epoch."""
    length_ms = length_s * 1000
    start_ms = max(record.arrived_ms, 0) // length_ms * length_ms
    return Window(start_ms=start_ms, end_ms=start_ms + length_ms)


def count_inside(records: Sequence[Record], window: Window) -> int:
    """Return how many leading records belong to a window: the first that arrived after its end belongs to a later one.

    A record that arrived before its start, as after a clock was set back, belongs to it too: windows never go back.
    """
    for index, record in enumerate(records):
        if record.arrived_ms >= window.end_ms:
            return index
    return len(records)


def view(window: Window, *, is_final: bool = False) -> BatchWindow:
    """Return a window as an invocation sees it."""
    return BatchWindow(
        start_ms=window.start_ms,
        end_ms=window.end_ms,
        state=window.state,
        is_final=is_final,
        is_early=is_final and window.is_early,
    )


class _Response(msgspec.Struct):
    state: msgspec.Raw = msgspec.Raw()


_responses = msgspec.json.Decoder(_Response)
_states = msgspec.json.Decoder(dict[str, Any])


def read_state(response: bytes) -> bytes:
    """Return the state of a response, an object as JSON.

    Raises:
        BadState: there is none: the invocation counts as failed (§4).
    """
    try:
        state = bytes(_responses.decode(response).state)
        if not state:
            raise BadState("the response has no `state`, which a function with tumbling windows must return")
        _states.decode(state)
    except UNREADABLE_JSON as error:
        raise BadState(f"the response has no object `state`: {error}") from error
    return state


def hand_on(window: Window, state: bytes) -> Window:
    """Return the window with the state that an invocation returned; too large, it ends the window early."""
    return msgspec.structs.replace(window, state=state, is_early=len(state) > STATE_BYTES_MAX)


def decide_before_final(window: Window, policy: StreamRetry, *, now_ms: int) -> FinalDecision | None:
    """Return what becomes of a window without its final call, or None when the function is to be called.

    A final call has no records whose age counts: it is given up as too old once it has been failing for as long as a
    record may be old.
    """
    call, age_max_s = window.final, policy.maximum_record_age_in_seconds
    if age_max_s >= 0 and call.first_failure_ms and now_ms > call.first_failure_ms + age_max_s * 1000:
        return FinalDecision(None, reason=DiscardReason.RECORD_AGE_EXCEEDED)
    if call.marks >= max(MARKS_MIN, policy.maximum_retry_attempts + 1):
        return FinalDecision(None, reason=DiscardReason.ENGINE_CRASH)
    return None


def decide_final(window: Window, outcome: Outcome, policy: StreamRetry, *, now_ms: int, jitter: float) -> FinalDecision:
    """Return what becomes of a window after its final call.

    Its retries are those of an unchanged batch (§4: "retry/age settings apply"). Whatever a call returns that did not
    raise is success: the state is dropped, and AWS's own samples return none there.

    Args:
        window: as it was called, its mark included.
        outcome: what came back.
        policy: the mapping's limits.
        now_ms: wall time.
        jitter: in [0, 1).
    """
    call = window.final
    if outcome.kind is OutcomeKind.SUCCESS:
        return FinalDecision(None)
    if outcome.kind is not OutcomeKind.FAILURE:
        return FinalDecision(window)
    attempt = call.attempt + 1
    error_type = outcome.fault.error_type if outcome.fault is not None else ""
    if policy.is_over(attempt, error_type):
        return FinalDecision(None, reason=DiscardReason.RETRY_ATTEMPTS_EXHAUSTED)
    first_failure_ms = call.first_failure_ms or now_ms
    pause_ms = policy.pause_ms(attempt, error_type, jitter)
    if policy.maximum_record_age_in_seconds >= 0:
        too_old_ms = first_failure_ms + policy.maximum_record_age_in_seconds * 1000 + 1
        pause_ms = min(pause_ms, max(0, too_old_ms - now_ms))
    again = msgspec.structs.replace(call, attempt=attempt, first_failure_ms=first_failure_ms, marks=0)
    return FinalDecision(msgspec.structs.replace(window, final=again), pause_ms)

"""What destinations and dead-letter queues are told of an event that was invoked asynchronously.

Source: Lambda semantics §2.1 (invocation record), §2.2 (dead-letter queue), §12.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from eventcore.clock import iso_ms
from eventcore.delivery.lineage import CHAIN_MAX
from eventcore.errors import RuntimeUnavailable
from eventcore.model import DiscardReason, Fault, FaultCause, Outcome, OutcomeKind
from eventcore.ports.store import BODY_BYTES_MAX

#: The condition of an event that its function has taken.
SUCCESS = "Success"
#: A dead letter's `ErrorMessage` has so many bytes of UTF-8 at most (§2.2, recorded).
ERROR_MESSAGE_BYTES_MAX = 1024
#: What a caller is told whose function has no room (§1.1, recorded).
THROTTLED_MESSAGE = "Rate Exceeded."


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """An event that is delivered or given up."""

    request_id: str
    event: bytes  #: JSON
    attempts: int  #: invocations that came back
    reason: DiscardReason | None  #: why it was given up; None: it succeeded
    outcome: Outcome | None  #: of the last try; None where it was given up without one

    @property
    def status_code(self) -> int | None:
        """What the last try was answered with, as over HTTP; None without one."""
        if self.outcome is None:
            return None
        if self.outcome.kind is not OutcomeKind.THROTTLED:
            return 200
        return 429 if self.outcome.fault is None else 500

    @property
    def has_response(self) -> bool:
        """Whether the function itself has answered the last try."""
        return self.status_code == 200


def system_error(request_id: str, error: RuntimeUnavailable) -> Outcome:
    """Return the outcome of a try for which no environment could be had: as a throttle, but it says why."""
    fault = Fault(cause=FaultCause.EXIT, error_type=type(error).__name__, message=str(error), request_id=request_id)
    return Outcome(kind=OutcomeKind.THROTTLED, fault=fault)


def invocation_record(delivery: Delivery, *, function_arn: str, version: str, now_ms: int) -> bytes:
    """Return the record as JSON.

    One that is longer than a message may be (1 MiB) is told without its `responsePayload`, and if need be without its
    `requestPayload`: SNS's rule for long payloads (§2.1), here for every destination.

    Args:
        delivery: what became of the event.
        function_arn: without a qualifier; `:$LATEST` is put behind it.
        version: that answered.
        now_ms: wall time.
    """
    outcome = delivery.outcome
    record: dict[str, Any] = {
        "version": "1.0",
        "timestamp": iso_ms(now_ms),
        "requestContext": {
            "requestId": delivery.request_id,
            "functionArn": f"{function_arn}:$LATEST",
            "condition": SUCCESS if delivery.reason is None else delivery.reason.value,
            "approximateInvokeCount": 1 if delivery.reason is None else delivery.attempts,
        },
        "requestPayload": msgspec.Raw(delivery.event),
    }
    if delivery.has_response and outcome is not None:
        has_failed = outcome.kind is not OutcomeKind.SUCCESS
        record["responseContext"] = {
            "statusCode": 200,
            "executedVersion": version,
            **({"functionError": "Unhandled"} if has_failed else {}),
        }
        fault = outcome.fault
        record["responsePayload"] = fault.payload() if fault is not None else msgspec.Raw(outcome.response or b"null")
    elif delivery.status_code is not None:
        record["responseContext"] = {"statusCode": delivery.status_code}
    encoded = msgspec.json.encode(record)
    for payload in ("responsePayload", "requestPayload"):
        if len(encoded) > BODY_BYTES_MAX and record.pop(payload, None) is not None:
            encoded = msgspec.json.encode(record)
    return encoded


def dead_letter_attributes(delivery: Delivery) -> Mapping[str, str]:
    """Return the message attributes of a dead letter, whose body is the event as it is.

    An event that was given up without a try has no `ErrorCode` (recorded for `ZeroReservedConcurrency`).
    """
    attributes = {"RequestID": delivery.request_id}
    if delivery.status_code is not None:
        attributes["ErrorCode:Number"] = str(delivery.status_code)
    message = _error_message(delivery)
    if message:
        attributes["ErrorMessage"] = message.encode()[:ERROR_MESSAGE_BYTES_MAX].decode(errors="ignore")
    return attributes


def _error_message(delivery: Delivery) -> str:
    outcome = delivery.outcome
    if outcome is not None and outcome.fault is not None:
        return outcome.fault.message
    if outcome is not None and outcome.kind is OutcomeKind.THROTTLED:
        return THROTTLED_MESSAGE
    if delivery.reason is DiscardReason.RECURSION:
        return f"the function was invoked {CHAIN_MAX} times in one chain of events"
    return ""

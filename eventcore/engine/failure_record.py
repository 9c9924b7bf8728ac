"""The on-failure record: what a destination is told of records that were given up.

Source: Lambda semantics §4 "OnFailure record", §5.1 (Kafka), trap 21.
"""

from __future__ import annotations

from typing import Any

import msgspec

from eventcore.clock import iso_ms
from eventcore.engine.event_value import event_value, window_info
from eventcore.model import Batch, DiscardReason, Outcome, OutcomeKind
from eventcore.ports.sources import EventShape, LostRange

#: Reasons that are found before the function is invoked: the record then has no `responseContext`.
_WITHOUT_RESPONSE = {
    DiscardReason.RECORD_AGE_EXCEEDED,
    DiscardReason.RECORD_EXPIRED,
    DiscardReason.MAXIMUM_PAYLOAD_SIZE_EXCEEDED,
    DiscardReason.ENGINE_CRASH,
    DiscardReason.IDEMPOTENCY_FAILED,
    DiscardReason.WINDOWS_REMOVED,
}


def failure_record(
    batch: Batch,
    shape: EventShape,
    *,
    function_arn: str,
    reason: DiscardReason,
    invocations: int,
    outcome: Outcome | None,
    now_ms: int,
    payload: Any = None,
) -> bytes:
    """Return the record as JSON.

    Args:
        batch: exactly the records that were given up.
        shape: of their source.
        function_arn: unqualified, as configured.
        reason: becomes the `condition`.
        invocations: how often the batch was invoked (`approximateInvokeCount`).
        outcome: of the last invocation; None without one.
        now_ms: wall time.
        payload: see `carried_payload`; None leaves it out.
    """
    record: dict[str, Any] = {
        "requestContext": {
            "requestId": batch.request_id,
            "functionArn": function_arn,
            "condition": reason.value,
            # Recorded for a record that was too old before its first invocation (Lambda semantics §12, the cases of
            # September 2026: dynamodb/age-limit-passes-while-disabled).
            "approximateInvokeCount": max(invocations, int(reason is DiscardReason.RECORD_AGE_EXCEEDED)),
        }
    }
    if reason is DiscardReason.MAXIMUM_PAYLOAD_SIZE_EXCEEDED:
        record["responseContext"] = None
    elif reason not in _WITHOUT_RESPONSE and outcome is not None:
        is_raised = outcome.kind is OutcomeKind.FAILURE or outcome.fault is not None
        record["responseContext"] = {
            "statusCode": 200,
            "executedVersion": "$LATEST",
            "functionError": "Unhandled" if is_raised else None,
        }
    record["version"] = "1.0"
    record["timestamp"] = iso_ms(now_ms)
    record.update(shape.batch_info(batch.records, batch.shard))
    if batch.window is not None:
        record.update(window_info(batch.window))
    if payload is not None:
        record["payload"] = payload
    return msgspec.json.encode(record)


def carried_payload(batch: Batch, shape: EventShape, kind: str) -> Any:
    """Return the invocation's event as a kind of destination carries it, or None for those that don't.

    A Kafka record holds it as it is, an object as JSON in a string (Lambda semantics §4, §5.1).
    """
    if kind == "kafka":
        return event_value(batch, shape)
    return msgspec.json.encode(event_value(batch, shape)).decode() if kind == "bucket" else None


def lost_record(lost: LostRange, *, source: str, function_arn: str, now_ms: int) -> bytes:
    """Return the record that names a range which the source dropped unread, as JSON.

    Lambda has no such record: it moves on in silence. The condition is ours (`RecordExpired`).
    """
    return msgspec.json.encode(
        {
            "requestContext": {
                "requestId": "",
                "functionArn": function_arn,
                "condition": DiscardReason.RECORD_EXPIRED.value,
                "approximateInvokeCount": 0,
            },
            "version": "1.0",
            "timestamp": iso_ms(now_ms),
            "lostRange": {
                "source": source,
                "shard": lost.shard,
                "firstPosition": lost.first,
                "lastPosition": lost.last,
                "count": lost.last - lost.first + 1,
            },
        }
    )

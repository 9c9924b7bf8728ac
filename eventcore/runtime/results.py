"""What a handler of records returns, as records that are sent on (`results` of a mapping)."""

from __future__ import annotations

from typing import Any

import msgspec

from eventcore.model import RESPONSE_BYTES_MAX, Outcome, OutcomeKind, OutgoingRecord, Record
from eventcore.runtime import fault as faults

#: Brokers take records of 1,048,588 bytes by default, with key, headers and framing.
RESULT_BYTES_MAX = 1_000_000


def is_results(value: Any) -> bool:
    """Tell whether a `Batch` handler returned records to send on, and not the records that failed."""
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(each, OutgoingRecord) for each in value)


def make_results(value: Any, record: Record) -> list[OutgoingRecord]:
    """Return what a typed handler made of a record: ready records, or a value under the record's own key.

    Bytes go as they are, text as UTF-8, anything else as JSON.

    Raises:
        TypeError: the value can't be written as JSON.
        ValueError: a result is larger than `RESULT_BYTES_MAX`.
    """
    if isinstance(value, OutgoingRecord):
        results = [value]
    elif is_results(value):
        results = list(value)
    else:
        results = [OutgoingRecord(body=_encode(value), key=record.key)]
    for result in results:
        if len(result.body) > RESULT_BYTES_MAX:
            raise ValueError(f"a result has at most {RESULT_BYTES_MAX:,} bytes, not {len(result.body):,}")
    return results


def _encode(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    return value.encode() if isinstance(value, str) else msgspec.json.encode(value)


def bounded(outcome: Outcome, request_id: str) -> Outcome:
    """Return the outcome, or a failure when its results are too many to be handed back (Lambda semantics §1.1)."""
    sizes = [len(record.body) for _, record in outcome.results]
    if sum(sizes) > RESPONSE_BYTES_MAX or max(sizes) > RESULT_BYTES_MAX:
        return Outcome(kind=OutcomeKind.FAILURE, fault=faults.oversize_fault(request_id))
    return outcome

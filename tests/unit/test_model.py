"""Records, batches and what a failure looks like to a caller."""

from __future__ import annotations

import msgspec
import pytest

from eventcore.model import (
    PAYLOAD_BYTES_MAX,
    RESPONSE_BYTES_MAX,
    Batch,
    DiscardReason,
    Fault,
    FaultCause,
    Record,
)


def test_a_header_is_the_last_of_its_name() -> None:
    record = Record(position=1, body=b"", headers=(("a", b"1"), ("b", b"2"), ("a", b"3")))
    assert record.header("a") == b"3"
    assert record.header("c") is None


def test_the_value_is_the_body() -> None:
    """Kafka users look for `value`."""
    assert Record(position=1, body=b"x").value == b"x"
    assert Record(position=1, body=None).value is None


def test_a_batch_is_its_records() -> None:
    records = [Record(position=position, body=b"") for position in (3, 5, 8)]
    batch = Batch(source="stream:orders", shard="0", records=records)
    assert list(batch) == records
    assert len(batch) == 3
    assert (batch.first.position, batch.last.position) == (3, 8)


@pytest.mark.parametrize("struct", [Record(position=1, body=b""), Batch(source="s", shard="", records=())])
def test_nothing_that_travels_can_be_changed(struct: msgspec.Struct) -> None:
    with pytest.raises(AttributeError):
        struct.source = "other"  # type: ignore[attr-defined]


def _payload(cause: FaultCause) -> dict[str, object]:
    return Fault(
        cause=cause, error_type="ValueError", message="no", request_id="r-1", stack_trace=("frame\n",)
    ).payload()


ERROR = {"errorMessage": "no", "errorType": "ValueError"}


@pytest.mark.parametrize("cause", [FaultCause.HANDLER, FaultCause.UNDECODABLE])
def test_a_handler_that_raised_tells_its_request_and_its_frames(cause: FaultCause) -> None:
    """Lambda semantics §7.2."""
    assert _payload(cause) == ERROR | {"requestId": "r-1", "stackTrace": ["frame\n"]}


def test_a_module_that_raised_has_an_empty_request_id() -> None:
    """Lambda semantics §7.2; trap 2."""
    assert _payload(FaultCause.IMPORT) == ERROR | {"requestId": "", "stackTrace": ["frame\n"]}


@pytest.mark.parametrize("cause", [FaultCause.TIMEOUT, FaultCause.EXIT, FaultCause.RESPONSE])
def test_other_failures_tell_neither(cause: FaultCause) -> None:
    """Lambda semantics §7.2: one schema for all failures is a trap."""
    assert _payload(cause) == ERROR


def test_the_limits_are_lambdas() -> None:
    """Lambda semantics §1.1: 6 MiB, and the exact ceiling that was recorded for a result."""
    assert PAYLOAD_BYTES_MAX == 6_291_456
    assert RESPONSE_BYTES_MAX == 6_291_556


def test_reasons_are_lambdas_conditions_where_it_has_them() -> None:
    """Lambda semantics §4, §5.1."""
    assert {reason.value for reason in DiscardReason} >= {
        "RetryAttemptsExhausted",
        "RecordAgeExceeded",
        "MaximumPayloadSizeExceeded",
    }

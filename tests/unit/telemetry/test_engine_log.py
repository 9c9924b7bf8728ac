"""Events as log records (style §9.4): name as message, facts in `extra`, nothing per record."""

from __future__ import annotations

import logging

import pytest

from eventcore.model import DiscardReason, Fault, FaultCause
from eventcore.telemetry.engine_log import LOGGER, facts, log_event
from eventcore.telemetry.events import (
    BatchSettled,
    EngineEvent,
    InvocationFinished,
    MappingStateChanged,
    RecordsDiscarded,
    RecordsLost,
)

DISCARDED = RecordsDiscarded(
    mapping="orders",
    shard="orders-3",
    first=4,
    last=6,
    count=3,
    reason=DiscardReason.RETRY_ATTEMPTS_EXHAUSTED,
    failure_id="f-1",
    destination="queue:failed",
)
SETTLED = BatchSettled(mapping="orders", shard="orders-3", first=0, last=9, count=10)
ENABLED = MappingStateChanged(mapping="orders", state="Enabled")


LOST = RecordsLost(mapping="orders", shard="", count=1, reason=DiscardReason.RECORD_EXPIRED)
MOVED = RecordsLost(
    mapping="orders", shard="", count=1, reason=DiscardReason.RECEIVES_EXHAUSTED, destination="queue:dead"
)
PROBLEM = MappingStateChanged(mapping="orders", state="Problem", why="Traceback:\n  File\nE: x\n")


@pytest.mark.parametrize(
    ("event", "level"),
    [
        (DISCARDED, logging.ERROR),
        (SETTLED, logging.DEBUG),
        (ENABLED, logging.INFO),
        (PROBLEM, logging.ERROR),
        (LOST, logging.ERROR),
        (MOVED, logging.WARNING),
    ],
)
def test_an_event_is_one_log_record(caplog: pytest.LogCaptureFixture, event: EngineEvent, level: int) -> None:
    with caplog.at_level(logging.DEBUG, LOGGER):
        log_event(event)
    (record,) = caplog.records
    assert (record.getMessage(), record.levelno, record.name) == (event.NAME, level, LOGGER)
    assert getattr(record, "eventcore.mapping") == "orders"


def test_what_is_below_the_level_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, LOGGER):
        log_event(SETTLED)
    assert caplog.records == []


def test_facts_have_the_names_of_the_conventions_where_there_are_any() -> None:
    assert facts(DISCARDED) == {
        "eventcore.mapping": "orders",
        "messaging.destination.partition.id": "orders-3",
        "messaging.batch.message_count": 3,
        "eventcore.first": 4,
        "eventcore.last": 6,
        "eventcore.reason": "RetryAttemptsExhausted",
        "eventcore.failure_id": "f-1",
        "eventcore.destination": "queue:failed",
    }


def test_a_fault_is_told_by_type_line_and_place() -> None:
    fault = Fault(cause=FaultCause.HANDLER, error_type="OrderError", message="no", location="orders.py:7")
    finished = InvocationFinished(mapping="orders", function="f", request_id="r", duration_ms=1.5, fault=fault)
    told = facts(finished)
    assert told["error.type"] == "OrderError"
    assert told["eventcore.error"] == "OrderError: no"
    assert told["eventcore.fault.location"] == "orders.py:7"
    assert told["faas.invocation_id"] == "r"


def test_of_a_problem_the_error_comes_first_and_its_traceback_apart() -> None:
    told = facts(PROBLEM)
    assert told["eventcore.why"] == "E: x"
    assert told["exception.stacktrace"] == PROBLEM.why

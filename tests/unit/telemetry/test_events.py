"""Telling what happens: once, at once, in order, to a bounded number of listeners (style §9.4)."""

from __future__ import annotations

import msgspec
import pytest

from eventcore.errors import ProgrammingError
from eventcore.model import Fault, FaultCause
from eventcore.telemetry.attributes import of_field
from eventcore.telemetry.events import (
    ERROR_TEXT_MAX,
    EngineEvent,
    EngineEvents,
    MappingStateChanged,
    RecordsSent,
    ShardReleased,
    fault_text,
)
from eventcore.telemetry.fanout import SUBSCRIBERS_MAX

SENT = RecordsSent(source="stream:orders", count=3)
ORDERS = MappingStateChanged(mapping="orders", state="Enabled")
RETURNS = MappingStateChanged(mapping="returns", state="Enabled")


def test_every_subscriber_hears_every_event_in_order() -> None:
    events = EngineEvents()
    heard: list[tuple[str, EngineEvent]] = []
    events.subscribe(lambda event: heard.append(("first", event)))
    events.subscribe(lambda event: heard.append(("second", event)))
    events.emit(SENT)
    events.emit(ORDERS)
    assert heard == [("first", SENT), ("second", SENT), ("first", ORDERS), ("second", ORDERS)]


def test_a_subscriber_of_one_mapping_hears_nothing_else() -> None:
    events = EngineEvents()
    heard: list[EngineEvent] = []
    events.subscribe(heard.append, mapping="orders")
    for event in (SENT, RETURNS, ORDERS):
        events.emit(event)
    assert heard == [ORDERS]


@pytest.mark.parametrize("mapping", ["", "orders"])
def test_who_has_unsubscribed_hears_nothing_more(mapping: str) -> None:
    events = EngineEvents()
    heard: list[EngineEvent] = []
    unsubscribe = events.subscribe(heard.append, mapping=mapping)
    # The same callable again: ending one subscription leaves the other, however often it is ended.
    events.subscribe(heard.append, mapping=mapping)
    unsubscribe()
    unsubscribe()
    events.emit(ORDERS)
    assert heard == [ORDERS]


def test_unsubscribing_while_an_event_is_told_disturbs_nobody() -> None:
    events = EngineEvents()
    heard: list[EngineEvent] = []
    ends = []
    ends.append(events.subscribe(lambda _: ends[0]()))
    events.subscribe(heard.append)
    events.emit(ORDERS)
    assert heard == [ORDERS]


def test_subscriptions_are_bounded() -> None:
    events = EngineEvents()
    ends = [events.subscribe(print, mapping=f"m{number}") for number in range(SUBSCRIBERS_MAX)]
    with pytest.raises(ProgrammingError, match=str(SUBSCRIBERS_MAX)):
        events.subscribe(print)
    ends[0]()
    events.subscribe(print)


def _kinds() -> list[type[EngineEvent]]:
    return EngineEvent.__subclasses__()


def test_every_event_has_a_name_of_its_own() -> None:
    """People search logs for it."""
    names = [kind.NAME for kind in _kinds()]
    assert all(names)
    assert len(set(names)) == len(names) >= 14


def test_no_two_facts_of_an_event_share_an_attribute() -> None:
    for kind in _kinds():
        attributes = [of_field(field.name) for field in msgspec.structs.fields(kind)]
        assert len(set(attributes)) == len(attributes), kind


def test_an_event_does_not_change() -> None:
    with pytest.raises(AttributeError):
        ShardReleased(mapping="m", shard="0", why="").why = "other"  # type: ignore[misc]


def test_a_fault_is_told_in_one_bounded_line() -> None:
    fault = Fault(cause=FaultCause.HANDLER, error_type="OrderError", message="no\n  such\torder")
    assert fault_text(fault) == "OrderError: no such order"
    assert fault_text(None) == ""
    long = fault_text(Fault(cause=FaultCause.HANDLER, error_type="E", message="x" * 10_000))
    assert len(long) == ERROR_TEXT_MAX
    assert long.endswith("…")

"""Trace context in record headers (W3C Trace Context, "traceparent Header")."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventcore.model import Record
from eventcore.telemetry.propagation import LINKS_MAX, TraceContext, contexts_of, hand_on, read_context

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
VALID = f"00-{TRACE}-{SPAN}-01"


def _record(*headers: tuple[str, bytes]) -> Record:
    return Record(position=0, body=b"", headers=headers)


def _numbered(number: int) -> bytes:
    return f"00-{number + 1:032x}-{SPAN}-01".encode()


def test_a_context_is_read_and_written_as_it_came() -> None:
    context = read_context(VALID.encode())
    assert context == TraceContext(int(TRACE, 16), int(SPAN, 16), 1)
    assert str(context) == VALID


def test_a_later_version_may_say_more() -> None:
    """ "Versioning of traceparent": what is known of it is read."""
    assert read_context(f"cc-{TRACE}-{SPAN}-01-what-the-future-brings".encode()) is not None
    assert read_context(f"cc-{TRACE}-{SPAN}-01".encode()) is not None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "garbage",
        VALID + "-more",
        VALID + "\n",
        " " + VALID,
        VALID.upper(),
        VALID[:-1],
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"cc-{TRACE}-{SPAN}-01more",
    ],
)
def test_what_is_not_a_context_is_none(text: str) -> None:
    assert read_context(text.encode()) is None


@given(st.binary(max_size=80))
def test_no_header_is_an_error(header: bytes) -> None:
    context = read_context(header)
    assert context is None or header.startswith(str(context)[2:].encode(), 2)


def test_contexts_come_in_the_records_order_each_once() -> None:
    records = [
        _record(),
        _record(("other", b"x"), ("traceparent", _numbered(2))),
        _record(("traceparent", b"garbage")),
        _record(("traceparent", _numbered(1))),
        _record(("traceparent", _numbered(2))),
    ]
    assert [str(context).encode() for context in contexts_of(records)] == [_numbered(2), _numbered(1)]


def test_contexts_are_bounded() -> None:
    records = [_record(("traceparent", _numbered(number))) for number in range(LINKS_MAX * 2)]
    assert [context.trace_id for context in contexts_of(records)] == list(range(1, LINKS_MAX + 1))


def test_a_context_is_handed_on_in_place_of_the_old_one() -> None:
    attributes = {"traceparent": "old", "a": "1", "tracestate": "old"}
    assert hand_on(attributes, VALID) == {"a": "1", "traceparent": VALID}


def test_without_tracing_attributes_pass_as_they_are() -> None:
    attributes = {"traceparent": "old", "tracestate": "old"}
    assert hand_on(attributes, "") == attributes

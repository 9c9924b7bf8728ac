"""Reading `batchItemFailures` (Lambda semantics §3.1 "Partial response parsing", trap 10 and 11)."""

from __future__ import annotations

from typing import Any

import pytest

from eventcore.delivery.partial import SUCCESS, Report, read_report

KNOWN = {"a": 0, "b": 1, "c": 2}


def _read(response: bytes) -> Report:
    def read_identifier(value: Any) -> str | None:
        return value if isinstance(value, str) and value else None

    return read_report(response, KNOWN, read_identifier)


@pytest.mark.parametrize(
    "response",
    [
        b"null",
        b'""',
        b"[]",
        b"{}",
        b" { } ",
        b"",
        b'{"batchItemFailures":[]}',
        b'{"batchItemFailures":null}',
        b'{"statusCode":200}',
    ],
)
def test_empty_answers_are_full_success(response: bytes) -> None:
    assert _read(response) == SUCCESS


def test_listed_records_have_failed() -> None:
    response = b'{"batchItemFailures":[{"itemIdentifier":"c"},{"itemIdentifier":"a"},{"itemIdentifier":"c"}]}'
    assert _read(response) == Report(failed=(0, 2))
    assert _read(b'{"batchItemFailures":[{"itemIdentifier":"b"}]}') == Report(failed=(1,))


@pytest.mark.parametrize(
    "entries",
    [
        b'[{"itemIdentifier":""}]',
        b'[{"itemIdentifier":null}]',
        b'[{"itemIdentifier":123}]',
        b'[{"foo":123}]',
        b'[{"foo":null}]',
        b"[{}]",
        b'[{"itemIdentifier":"unknown"}]',
        b'[{"itemIdentifier":"a"},{"itemIdentifier":"unknown"}]',
        b'["a"]',
        b'"a"',
        b'{"itemIdentifier":"a"}',
        b"0",
    ],
)
def test_one_bad_entry_makes_the_report_unusable(entries: bytes) -> None:
    """One id that is missing, empty or unknown fails the whole batch."""
    report = _read(b'{"batchItemFailures":' + entries + b"}")
    assert report.is_unusable
    assert report.failed == ()
    assert report.problem


@pytest.mark.parametrize(
    "response",
    [b"{", b'"ok"', b"[1]", b"0", b"false", b"\xff\xfe", b'"\xff"', b"[" * 100_000, b"NaN"],
    ids=lambda response: response[:8],
)
def test_what_is_not_an_object_makes_the_report_unusable(response: bytes) -> None:
    """Also what no parser gets through: it is the handler's fault, and must not become ours."""
    report = _read(response)
    assert report.is_unusable
    assert report.problem

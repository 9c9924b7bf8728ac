"""Keys of records: reading them, sorting a batch by them, and putting its outcome together again."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from eventcore.delivery.idempotency import (
    IdempotencyPolicy,
    Keyed,
    KeyReader,
    Known,
    Merged,
    Sorted,
    find,
    keys_of,
    merge,
    parse_path,
    sort,
)
from eventcore.delivery.partial import SUCCESS, Report
from eventcore.model import Fault, FaultCause, Outcome, OutcomeKind, OutgoingRecord, Record


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("$", ()),
        ("id", ("id",)),
        ("$.id", ("id",)),
        ("order.lines[0].id", ("order", "lines", 0, "id")),
        ("$[1][2].a-b", (1, 2, "a-b")),
        ("a b.ü", ("a b", "ü")),
    ],
)
def test_a_path_is_read(text: str, path: tuple[Any, ...]) -> None:
    assert parse_path(text) == path


@pytest.mark.parametrize("text", ["", ".", "a.", "a..b", "$$", "a[", "a[x]", "a]b", "a.[0]", "[0]a", "a[-1]", "$x.$y"])
def test_what_is_no_path_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="path"):
        parse_path(text)


@pytest.mark.parametrize(
    ("path", "value"),
    [("$", {"a": [{"b": 0}]}), ("a[0].b", 0), ("a[1]", None), ("a.b", None), ("b", None), ("a[0].b.c", None)],
)
def test_a_value_is_found(path: str, value: Any) -> None:
    assert find({"a": [{"b": 0}]}, parse_path(path)) == value


def reader(*paths: str, function: str = "work", payload: tuple[str, ...] = ()) -> KeyReader:
    policy = IdempotencyPolicy(
        key=paths, payload=payload, expires_after_s=1, in_progress_timeout_s=1, result_bytes_max=1
    )
    return KeyReader(function, policy)


def record(body: bytes | None) -> Record:
    return Record(position=0, body=body)


def test_equal_values_are_one_key_however_they_are_written() -> None:
    read = reader("$.id").read
    same = [b'{"id":{"a":1,"b":"\xc3\xbc"}}', b' { "x": 2, "id" : {"b": "\\u00fc", "a": 1} }']
    assert len({read(record(body)).key for body in same}) == 1
    others = [b'{"id":1}', b'{"id":"1"}', b'{"id":true}', b'{"id":[1]}', b'{"id":0}']
    assert len({read(record(body)).key for body in others}) == len(others)


def test_several_values_do_not_run_into_each_other_and_functions_keep_theirs() -> None:
    keys = {
        reader("$.a", "$.b").read(record(b'{"a":"x","b":"yz"}')).key,
        reader("$.a", "$.b").read(record(b'{"a":"xy","b":"z"}')).key,
        reader("$.a", "$.b", function="other").read(record(b'{"a":"xy","b":"z"}')).key,
    }
    assert len(keys) == 3


def test_one_value_at_two_paths_is_two_keys() -> None:
    body = b'{"order":5,"customer":5}'
    assert reader("$.order").read(record(body)).key != reader("$.customer").read(record(body)).key
    assert reader("$.order").read(record(body)) == reader("order").read(record(body))


DEEP = b'{"id":' + b"[" * 100_000 + b"]" * 100_000 + b"}"


@pytest.mark.parametrize("body", [None, b"", b"x", b"\xff", b'{"id":"\xff"}', DEEP, b'{"id":null}', b"{}", b"[]", b"1"])
def test_no_key(body: bytes | None) -> None:
    assert reader("$.id").read(record(body)) == Keyed(b"")


def test_a_payload_of_nothing_is_a_payload_too() -> None:
    read = reader("$.id", payload=("$.x",)).read
    without, with_null, with_value = (
        read(record(body)) for body in (b'{"id":1}', b'{"id":1,"x":null}', b'{"id":1,"x":2}')
    )
    assert without == with_null
    assert without.key == with_value.key
    assert without.payload != with_value.payload


# -- batches -----------------------------------------------------------------------------------------------------------

OURS = Known(is_ours=True)
DONE = Known(payload=b"p")


def keyed(text: str) -> list[Keyed]:
    """One record a letter, `-` without a key."""
    return [Keyed(b"" if letter == "-" else letter.encode(), b"p") for letter in text]


def sorted_of(text: str, *, is_ordered: bool = False, requires_key: bool = False, **states: Known) -> Sorted:
    known = {key.encode(): state for key, state in states.items()}
    return sort(keyed(text), known, requires_key=requires_key, is_ordered=is_ordered)


def test_every_record_is_in_one_place() -> None:
    busy = Known(busy_until_ms=7)
    found = sorted_of("adba-ca", a=OURS, b=OURS, c=busy, d=DONE)
    assert (found.fresh, dict(found.repeats), found.deferred) == ((0, 2, 4), {3: 0, 6: 0}, (5,))
    assert dict(found.known) == {1: ()}
    assert found.busy_until_ms == 7
    assert not found.is_plain


def test_in_order_nothing_passes_a_record_that_waits() -> None:
    found = sorted_of("ac-da", is_ordered=True, a=OURS, c=Known(busy_until_ms=7), d=DONE)
    assert (found.fresh, found.deferred) == ((0,), (1, 2, 3, 4))


def test_keys_are_claimed_once() -> None:
    assert keys_of(keyed("ab-a")) == (b"a", b"b")


def merged(text: str, found: Sorted, outcome: Outcome | None, report: Report = SUCCESS) -> Merged:
    return merge(keyed(text), found, outcome, report, now_ms=2)


SUCCEEDED = Outcome(kind=OutcomeKind.SUCCESS)
FAULT = Fault(cause=FaultCause.HANDLER, error_type="ValueError", message="poison")
FAILED = Outcome(kind=OutcomeKind.FAILURE, fault=FAULT)


def test_an_outcome_of_all_records_is_that_of_the_batch() -> None:
    found = sorted_of("ab", a=OURS, b=OURS)
    assert merged("ab", found, FAILED).outcome is FAILED
    report = Report(failed=(1,))
    answer = merged("ab", found, SUCCEEDED, report)
    assert (answer.outcome, answer.done) == (SUCCEEDED, (0,))


@pytest.mark.parametrize("kind", [OutcomeKind.RELEASED, OutcomeKind.THROTTLED])
def test_what_did_not_run_decides_for_all(kind: OutcomeKind) -> None:
    outcome = Outcome(kind=kind)
    answer = merged("ab", sorted_of("ab", a=OURS, b=DONE), outcome)
    assert (answer.outcome, answer.done, answer.repeated) == (outcome, (), 0)


def test_a_failure_is_that_of_the_records_that_ran_and_of_their_repeats() -> None:
    answer = merged("dada", sorted_of("dada", a=OURS, d=DONE), FAILED)
    assert answer.outcome.kind is OutcomeKind.SUCCESS
    assert answer.outcome.failed == (1, 3)
    assert answer.outcome.fault_of(3) == FAULT
    assert (answer.done, answer.repeated) == ((), 2)


def test_a_report_names_the_records_that_ran_by_their_place_in_the_batch() -> None:
    answer = merged("dabc", sorted_of("dabc", a=OURS, b=OURS, c=OURS, d=DONE), SUCCEEDED, Report(failed=(1,)))
    assert (answer.outcome.failed, answer.done, answer.repeated) == ((2,), (1, 3), 1)
    assert answer.outcome.fault_of(2) is None


def test_each_failed_record_has_its_own_fault() -> None:
    found = sorted_of("a-b", requires_key=True, a=OURS, b=OURS)
    outcome = Outcome(kind=OutcomeKind.SUCCESS, failed=(1,), faults=(FAULT,), fault=FAULT)
    answer = merged("a-b", found, outcome, Report(failed=(1,))).outcome
    assert answer.failed == (1, 2)
    assert answer.fault_of(1) is not None
    assert answer.fault_of(1).error_type == "IdempotencyKeyError"
    assert answer.fault_of(2) == FAULT
    assert answer.fault == answer.fault_of(1)


def test_many_refused_records_do_not_lend_their_fault_to_one_that_failed() -> None:
    """It would be given up at once. And they share theirs: a batch may have ten thousand."""
    found = sorted_of("-" * 300 + "a", requires_key=True, a=OURS)
    answer = merged("-" * 300 + "a", found, FAILED).outcome
    assert answer.failed == tuple(range(301))
    assert answer.fault_of(300) == FAULT
    assert len({id(fault) for fault in answer.faults}) == 2


def test_what_waits_says_for_how_long() -> None:
    answer = merged("ca", sorted_of("ca", a=OURS, c=Known(busy_until_ms=7)), SUCCEEDED).outcome
    assert (answer.deferred, answer.deferred_ms, answer.failed) == ((0,), 5, ())


def test_results_of_before_and_of_now_are_in_the_records_order() -> None:
    old, new = OutgoingRecord(body=b"old"), OutgoingRecord(body=b"new")
    found = sorted_of("adb", a=OURS, b=OURS, d=Known(results=(old, old)))
    outcome = Outcome(kind=OutcomeKind.SUCCESS, results=((0, new), (1, new)))
    answer = merged("adb", found, outcome)
    assert answer.outcome.results == ((0, new), (1, old), (1, old), (2, new))
    assert answer.results == {0: (new,), 2: (new,)}


def test_a_known_key_with_another_payload_is_refused_where_payloads_are_kept() -> None:
    assert sorted_of("a", a=Known(payload=b"other")).refused
    assert not sorted_of("a", a=Known()).refused
    first, second = keyed("aa")
    other = [first, msgspec.structs.replace(second, payload=b"other")]
    found = sort(other, {b"a": OURS}, requires_key=False, is_ordered=False)
    assert merge(other, found, SUCCEEDED, SUCCESS, now_ms=0).outcome.failed == (1,)
    assert merge(other, found, FAILED, SUCCESS, now_ms=0).outcome.fault_of(1) == FAULT

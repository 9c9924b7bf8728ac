"""Lineage: pure, bounded, and read from whatever stands in a header (Lambda semantics §2.3)."""

from __future__ import annotations

import pytest

from eventcore.delivery.lineage import (
    CHAIN_MAX,
    FUNCTIONS_MAX,
    LINEAGE,
    find_recursive,
    hand_on_lineage,
    is_recursive,
    lineage_of,
    read_lineage,
)
from eventcore.model import Record


def _record(lineage: str = "", **headers: str) -> Record:
    named = {**headers, LINEAGE: lineage} if lineage else headers
    return Record(position=0, body=b"", headers=tuple((name, value.encode()) for name, value in named.items()))


@pytest.mark.parametrize(
    ("value", "counts"),
    [
        (None, {}),
        (b"", {}),
        (b"work=3,other=16", {"work": 3, "other": 16}),
        (b"work=-1,x,=4,y=,z=1.5,work", {}),
        (b"\xff=3", {"�": 3}),
        (b"work=" + b"9" * 5000, {"work": 1_000_000}),
        ("work=\u0663".encode(), {}),
    ],
)
def test_what_can_not_be_read_is_passed_over(value: bytes | None, counts: dict[str, int]) -> None:
    assert read_lineage(value) == counts


def test_of_several_records_the_highest_count_holds() -> None:
    assert lineage_of([_record("a=3,b=1"), _record(), _record("b=7"), _record(other="x")]) == {"a": 3, "b": 7}
    assert lineage_of([_record(), _record(other="x")]) == {}


def test_each_invocation_counts_one() -> None:
    value = ""
    for _ in range(CHAIN_MAX):
        assert not is_recursive(read_lineage(value.encode()), "work")
        value = hand_on_lineage(read_lineage(value.encode()), "work")
    assert value == f"work={CHAIN_MAX}"
    assert is_recursive(read_lineage(value.encode()), "work")
    assert not is_recursive(read_lineage(value.encode()), "other")


def test_a_chain_through_many_functions_keeps_the_ones_that_go_round_and_its_own() -> None:
    lineage = {f"f{number}": 1 for number in range(FUNCTIONS_MAX)} | {"loop": 9}
    kept = read_lineage(hand_on_lineage(lineage, "work").encode())
    assert len(kept) == FUNCTIONS_MAX
    assert (kept["work"], kept["loop"]) == (1, 9)


def test_records_that_go_round_are_found_by_their_place() -> None:
    records = [_record(), _record(f"work={CHAIN_MAX}"), _record(f"work={CHAIN_MAX - 1}"), _record(f"work={CHAIN_MAX}")]
    assert find_recursive(records, "work") == [1, 3]
    assert find_recursive(records, "other") == []
    assert find_recursive([_record(), _record(other="x")], "work") == ()

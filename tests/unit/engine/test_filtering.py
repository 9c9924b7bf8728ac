"""Which records of a source reach a function, by their body, their key, or both (Lambda semantics §3.1, §6.4)."""

from __future__ import annotations

from typing import Any

import pytest

from eventcore.engine.filtering import RecordFilter
from eventcore.model import Record
from eventcore.patterns import FilterCriteria
from eventcore_connectors.kafka.shape import KafkaShape

GOOD, BAD = b'{"a": "y"}', b'{"a": "x"}'
NOT_X = {"a": [{"anything-but": ["x"]}]}


@pytest.mark.parametrize(
    ("filters", "matching"),
    [
        ([{"value": NOT_X}], [0, 2]),
        ([{"key": NOT_X}], [0, 1]),
        ([{"key": NOT_X, "value": NOT_X}], [0]),
        ([{"key": NOT_X}, {"value": NOT_X}], [0, 1, 2]),
    ],
)
def test_records_are_held_against_what_the_filters_are_about(
    filters: list[dict[str, Any]], matching: list[int]
) -> None:
    """Each batch anew, and one after another: a glance at a batch decides nothing of the next."""
    records = [
        Record(position=number, key=key, body=body)
        for number, (key, body) in enumerate([(GOOD, GOOD), (GOOD, BAD), (BAD, GOOD), (BAD, BAD)])
    ]
    found = RecordFilter(FilterCriteria(filters, source="kafka"), KafkaShape("orders", "127.0.0.1:9092"))
    for batch in ([records[number]] for number in (0, 1, 2, 3, 0, 1, 2, 3)):
        assert found.sort(batch, "orders-0").matching == [each for each in batch if each.position in matching]
    together = found.sort(records, "orders-0")
    assert [record.position for record in together.matching] == matching
    assert [record.position for record in together.others] == [n for n in range(4) if n not in matching]

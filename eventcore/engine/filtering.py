"""Hop 2: records that match no filter are settled without an invocation. Source: Lambda semantics §3.1 "Filtering"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec

from eventcore.model import Record
from eventcore.patterns import FilterCriteria
from eventcore.ports.sources import EventShape


class Sorted(NamedTuple):
    """Records by whether they match, each in order."""

    matching: Sequence[Record]
    others: Sequence[Record]


class Offered(msgspec.Struct, frozen=True):
    """What a shard was offered."""

    count: int  #: records that it has not settled before
    filtered: int  #: of them, those that match no filter


class RecordFilter:
    """The filters of one mapping, held against its source's records."""

    def __init__(self, criteria: FilterCriteria, shape: EventShape) -> None:
        self._criteria = criteria
        self._shape = shape
        single = criteria.single_test()
        self._test = single[1] if single is not None else None
        self._is_about_key = single is not None and single[0] == "key"

    def sort(self, records: Sequence[Record], shard: str) -> Sorted:
        """Return the records of a shard that match, and the others."""
        test = self._test
        if test is None:
            matches = [self._matches(record, shard) for record in records]
        elif self._is_about_key:
            matches = test.allow_each([record.key for record in records])
        elif test.surely_allows_all(records):
            return Sorted(records, ())
        else:
            matches = test.allow_each([record.body for record in records])
        if all(matches):
            return Sorted(records, ())
        return Sorted(
            [record for record, is_match in zip(records, matches, strict=True) if is_match],
            [record for record, is_match in zip(records, matches, strict=True) if not is_match],
        )

    def _matches(self, record: Record, shard: str) -> bool:
        data = {name: record.key if name == "key" else record.body for name in self._criteria.data_keys}
        return self._criteria.matches_parts(data, partial(self._entry, record, shard))

    def _entry(self, record: Record, shard: str) -> Mapping[str, Any]:
        """Return the record as it would stand in an event, what is inside `kinesis` beside the rest."""
        entries = self._shape.event([record], shard)
        entry: dict[str, Any] = (entries.get("Records") or entries["records"][shard])[0]
        inner: dict[str, Any] = entry.get("kinesis", {})
        return {**entry, **inner}

"""JSON data held against filters of which one is enough. Pure. Source: Lambda semantics §3.1 "Filtering"."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import msgspec

from eventcore.errors import PatternError
from eventcore.model import UNREADABLE_JSON
from eventcore.patterns.compile import Node
from eventcore.patterns.glance import HasBody
from eventcore.patterns.pattern import Matcher

#: After so many records it is looked at which filter is asked first.
LOOK_AFTER = 1_000
#: So many of them tell which lets most pass, at most.
SAMPLE_MAX = 32
#: So often all of many have matched, at least and at most, before there is a glance at them again.
GLANCE_PAUSE_MIN, GLANCE_PAUSE_MAX = 8, 64


class DataTest:
    """Tells whether JSON data matches any of several filters.

    A filter that lets most records pass is asked first, and the others about what it does not let pass: of most records
    as much is decoded as that filter names. What matches does not depend on it: what one filter names and cannot be
    read in a record keeps none out that another lets pass.
    """

    def __init__(self, filters: Sequence[Sequence[Node]]) -> None:
        """Index filters, each the trees of which one is enough."""
        self._filters = filters
        self._matcher = Matcher([tree for trees in filters for tree in trees])
        self._first: int | None = None
        self._asked = self._missed = 0  #: records since it was looked at; of them those that the first did not let pass
        #: After a glance in vain: how often all are to match before the next, the last time and from now on.
        self._glance_pause = self._glance_left = 0

    @property
    def first(self) -> int | None:
        """The number of the filter that is asked first; None: all are asked together."""
        return self._first

    def allows(self, data: Any) -> bool:
        """Tell whether data matches, a text or what it says; plain data and None never do."""
        if data is None:
            return False
        try:
            if type(data) is bytes or type(data) is str:
                return self._matcher.matches_text(data)
            return self._matcher.matches(data)
        except PatternError:
            return self._allows_unread(data)

    def surely_allows_all(self, records: Sequence[HasBody]) -> bool:
        """Tell whether each of many records surely matches, in less time than `allow_each`; False: that one tells."""
        if self._glance_left or (self._first is None and len(self._filters) > 1):
            return False
        if self._all_surely_match(records):
            self._glance_pause = max(0, self._glance_pause - 1)
            return True
        # What it took is lost, and more than several glances save: the more often, the longer it is not tried.
        self._glance_pause = min(self._glance_pause * 2 + GLANCE_PAUSE_MIN, GLANCE_PAUSE_MAX)
        self._glance_left = self._glance_pause
        return False

    def allow_each(self, data: Sequence[Any]) -> list[bool]:
        """Tell the same as `allows` of each of many; texts of JSON objects take less time together."""
        allowed = self._hold_each(data)
        if self._glance_left and all(allowed):
            self._glance_left -= 1
        return allowed

    def _all_surely_match(self, records: Sequence[HasBody]) -> bool:
        if self._first is None:
            return self._matcher.all_surely_match(records)
        if not self._alone[self._first].all_surely_match(records):
            return False
        self._asked += len(records)
        return True

    def _hold_each(self, data: Sequence[Any]) -> list[bool]:
        if self._first is None:
            return self._hold_against_all(data)
        passing = self._alone[self._first].passing_texts(data)
        if passing is None:
            self._first = None
            return self._hold_against_all(data)
        self._asked += len(data)
        if all(passing):
            return [True] * len(passing)
        others = [text for text, bits in zip(data, passing, strict=True) if not bits]
        rest = iter(self._hold_against_all(others))
        self._missed += len(others)
        if self._asked >= LOOK_AFTER:
            if self._missed * 2 > self._asked:
                self._first = None
            self._asked = self._missed = 0
        return [bits > 0 or next(rest) for bits in passing]

    def _hold_against_all(self, data: Sequence[Any]) -> list[bool]:
        passing = self._matcher.passing_texts(data)
        if passing is None:
            return list(map(self.allows, data))
        if self._first is None and len(self._filters) > 1:
            self._asked += len(data)
            if self._asked >= LOOK_AFTER:
                self._first = self._find_first(passing[:SAMPLE_MAX])
                self._asked = self._missed = 0
        return list(map(bool, passing))

    def _find_first(self, sample: Sequence[int]) -> int | None:
        """Return the filter that lets three quarters of a sample pass, given as the bits of the trees that do."""
        begin = 0
        for number, trees in enumerate(self._filters):
            own = ((1 << len(trees)) - 1) << begin
            if sum([bits & own > 0 for bits in sample]) * 4 >= len(sample) * 3:
                return number
            begin += len(trees)
        return None

    def _allows_unread(self, data: Any) -> bool:
        """Tell the same of data of which not all that the filters name can be read: a filter may name none of that."""
        if len(self._filters) == 1 or not _is_object(data):
            return False
        for alone in self._alone:
            try:
                if alone.matches_text(data):
                    return True
            except PatternError:
                continue
        return False

    @cached_property
    def _alone(self) -> list[Matcher]:
        """Each filter by itself."""
        return [Matcher(trees) for trees in self._filters]


class _Nothing(msgspec.Struct):
    """An object of which nothing is decoded."""


_skip = msgspec.json.Decoder(_Nothing).decode


def _is_object(data: Any) -> bool:
    """Tell whether data is the text of an object, whatever stands in it."""
    try:
        _skip(data)
    except (*UNREADABLE_JSON, TypeError):
        return False
    return True

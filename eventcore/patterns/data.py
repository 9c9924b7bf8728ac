"""JSON data held against filters of which one is enough. Pure. Source: Lambda semantics §3.1 "Filtering"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eventcore.errors import PatternError
from eventcore.patterns.compile import Node
from eventcore.patterns.pattern import Matcher

#: So many records tell which tree is to be asked first.
SAMPLE = 32


class DataTest:
    """Tells whether JSON data matches any of several trees: each of them by itself, whatever the others name.

    Where one tree lets most records pass, the next records are held against it first, and only what it does not let
    pass against all: as much of a record is decoded as that tree names. What matches does not depend on it.
    """

    def __init__(self, trees: Sequence[Node]) -> None:
        self._matcher = Matcher(trees)
        self._alone = [Matcher([tree]) for tree in trees] if len(trees) > 1 else []
        self._first: Matcher | None = None  #: lets most pass, of late

    def allows(self, data: Any) -> bool:
        """Tell whether data matches, a text or what it says; plain data and None never do."""
        if data is None:
            return False
        if type(data) is not bytes and type(data) is not str:
            return _matches(self._matcher, data)
        try:
            return self._matcher.matches_text(data)
        except PatternError:
            # Plain, or no object; or what one tree names can't be read, which is nothing to the others.
            return any(_matches_text(each, data) for each in self._alone)

    def allow_each(self, data: Sequence[Any]) -> list[bool]:
        """Tell the same of each of many; texts of JSON objects take less time together."""
        passing = self._first.passing_texts(data) if self._first is not None else None
        if passing is None:
            return self._hold_against_all(data)
        if all(passing):
            return [True] * len(passing)
        others = [text for text, bits in zip(data, passing, strict=True) if not bits]
        if len(others) * 2 > len(data) >= SAMPLE:
            self._first = None
        rest = iter(self._hold_against_all(others))
        return [bits > 0 or next(rest) for bits in passing]

    def _hold_against_all(self, data: Sequence[Any]) -> list[bool]:
        passing = self._matcher.passing_texts(data)
        if passing is None:
            return list(map(self.allows, data))
        if self._first is None and len(passing) >= SAMPLE:
            self._choose_first(passing[:SAMPLE])
        return list(map(bool, passing))

    def _choose_first(self, sample: Sequence[int]) -> None:
        """Ask the tree first that lets three quarters of a sample pass, given as the bits of the trees that do."""
        for number, alone in enumerate(self._alone):
            if sum([bits >> number & 1 for bits in sample]) * 4 >= SAMPLE * 3:
                self._first = alone
                return


def _matches(matcher: Matcher, data: Any) -> bool:
    try:
        return matcher.matches(data)
    except PatternError:
        return False


def _matches_text(matcher: Matcher, text: str | bytes) -> bool:
    try:
        return matcher.matches_text(text)
    except PatternError:
        return False

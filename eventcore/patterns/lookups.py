"""The rules of many conjunctions at one path, beside exact values: which of them a value lets pass. Pure.

Rules of one kind are looked up together (`spans.py`), so that a thousand cost little more than one. What can't be
looked up is tried: of wildcards those whose begin and end fit, and texts beyond ASCII in any case.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import compress
from operator import or_

from eventcore.patterns.spans import OF_NUMBERS, Holding, Span, index_spans
from eventcore.patterns.values import Means, Rule, Test

#: So many bits are told one by one; more of them together.
_FEW = 8
_ZERO = ord("0")


class RuleIndex:
    """Rules, each of a conjunction."""

    def __init__(self, rules: Sequence[tuple[int, Rule]]) -> None:
        """Index rules.

        Args:
            rules: each with the bit of its conjunction.
        """
        known: dict[Means, dict[str, list[tuple[Span, int]]]] = {means: {} for means in Means}
        self._tests: list[tuple[Test, int]] = []
        self._possible: dict[int, list[Test]] = {}  #: by bit
        self._unless = 0  #: of those that exclude what is looked up
        for bit, rule in rules:
            # Excluding twice is not to exclude what either does.
            if not rule.spans or (rule.means is Means.EXCLUDED and self._unless & bit):
                self._tests.append((rule.allows, bit))
                continue
            for span in rule.spans:
                known[rule.means].setdefault(span.taken, []).append((span, bit))
            if rule.means is Means.EXCLUDED:
                self._unless |= bit
            elif rule.means is Means.POSSIBLE:
                self._possible.setdefault(bit, []).append(rule.allows)
        self._allowed: dict[type, list[Holding]] = {kind: _index(known[Means.ALLOWED], kind) for kind in _KINDS}
        self._excluded: dict[type, list[Holding]] = {kind: _index(known[Means.EXCLUDED], kind) for kind in _KINDS}
        self._fitting = _index(known[Means.POSSIBLE], str)

    def add_passing(self, value: object, passing: int) -> int:
        """Return the bits that pass, and those of which a rule allows a value that is no array and no object."""
        kind = type(value)
        for holding in self._allowed.get(kind, ()):
            passing |= holding(value)
        if self._unless:
            passing |= self._unless & ~reduce(or_, [holding(value) for holding in self._excluded.get(kind, ())], 0)
        if self._possible and kind is str:
            passing |= self._passing_possible(value, passing)
        for test, bit in self._tests:
            if not passing & bit and test(value):
                passing |= bit
        return passing

    def _passing_possible(self, value: object, passing: int) -> int:
        begin, end = self._fitting
        possible = begin(value) & end(value) & ~passing
        found = 0
        for number in numbers_of(possible):
            bit = 1 << number
            if any(test(value) for test in self._possible[bit]):
                found |= bit
        return found


_KINDS: tuple[type, ...] = (str, int, float)


def _index(spans: dict[str, list[tuple[Span, int]]], kind: type) -> list[Holding]:
    """Return the lookups that are about one kind of values."""
    return [index_spans(taken, each) for taken, each in spans.items() if (taken == OF_NUMBERS) is not (kind is str)]


def numbers_of(bits: int) -> Sequence[int]:
    """Return the numbers of the bits that are set, in order."""
    if bits.bit_count() > _FEW:
        digits = format(bits, "b")[::-1].encode().translate(_IS_SET)
        return list(compress(range(len(digits)), digits))
    found: list[int] = []
    while bits:
        lowest = bits & -bits
        found.append(lowest.bit_length() - 1)
        bits ^= lowest
    return found


#: From the digits of a number to what is true of a one.
_IS_SET = bytes(code != _ZERO for code in range(256))

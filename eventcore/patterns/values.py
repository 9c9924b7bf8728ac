"""What one value of an event may be: the rules of a leaf. Pure. Source: Lambda semantics §6.3.

A value is what JSON has at the end of a path: a text, a number, true, false or null. Each rule is linear in the value.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

#: Tells whether a rule allows a value.
Test = Callable[[Any], bool]


class Leaf(msgspec.Struct, frozen=True):
    """The rules of one path: any of them is enough."""

    texts: frozenset[str] = frozenset()  #: exact texts
    numbers: frozenset[float] = frozenset()  #: exact numbers
    literals: tuple[bool | None, ...] = ()  #: of true, false and null
    tests: tuple[Test, ...] = ()  #: everything else
    allows_any: bool = False  #: `exists` true: whatever it is
    allows_absence: bool = False  #: `exists` false: the path leads nowhere in the event

    def allows(self, value: Any) -> bool:
        """Tell whether a value, or any value of an array, is allowed."""
        kind = type(value)
        if kind is str:
            if value in self.texts:
                return True
        elif kind is int or kind is float:
            if value in self.numbers:
                return True
        elif kind is list:
            return any(self.allows(each) for each in value)
        elif kind is not bool and value is not None:
            # An object is no value.
            return False
        elif value in self.literals:
            return True
        if self.allows_any:
            return True
        for test in self.tests:  # noqa: SIM110 - a generator would cost more than the tests
            if test(value):
                return True
        return False


def begins(prefix: str) -> Test:
    """Allow texts that begin so."""
    return lambda value: type(value) is str and value.startswith(prefix)


def ends(suffix: str) -> Test:
    """Allow texts that end so."""
    return lambda value: type(value) is str and value.endswith(suffix)


def equals_ignoring_case(text: str) -> Test:
    """Allow a text in any case."""
    match = re.compile(_any_case(text), re.DOTALL).fullmatch
    return lambda value: type(value) is str and match(value) is not None


def begins_ignoring_case(prefix: str) -> Test:
    """Allow texts that begin so, in any case."""
    match = re.compile(_any_case(prefix), re.DOTALL).match
    return lambda value: type(value) is str and match(value) is not None


def ends_ignoring_case(suffix: str) -> Test:
    """Allow texts that end so, in any case."""
    # From the end, so that the search is as long as the suffix and not as the value.
    match = re.compile("".join(_case_of(character, is_reversed=True) for character in reversed(suffix))).match
    return lambda value: type(value) is str and match(value[: -len(suffix) * 3 - 1 : -1]) is not None


def _any_case(text: str) -> str:
    return "".join(_case_of(character) for character in text)


def _case_of(character: str, *, is_reversed: bool = False) -> str:
    """Return an expression for a character in either case: a letter may be two in the other (`ß`, `SS`)."""
    cases = dict.fromkeys((character.lower(), character.upper()))
    forms = [re.escape(case[::-1] if is_reversed else case) for case in cases]
    return forms[0] if len(forms) == 1 else f"(?:{'|'.join(forms)})"


def fits_wildcard(parts: Sequence[str]) -> Test:
    """Allow texts that have these parts, in order, the first at their begin and the last at their end.

    Between two parts stands anything: it is the pattern `part*part*part`.
    """
    if len(parts) == 1:
        (only,) = parts
        return lambda value: type(value) is str and value == only
    first, *middle, last = parts
    least = len(first) + len(last)

    def fits(value: Any) -> bool:
        if type(value) is not str or len(value) < least:
            return False
        if not (value.startswith(first) and value.endswith(last)):
            return False
        # The earliest place of each part leaves the most room for the next: no need to go back.
        begin, end = len(first), len(value) - len(last)
        for part in middle:
            found = value.find(part, begin, end)
            if found < 0:
                return False
            begin = found + len(part)
        return True

    return fits


def is_number_within(low: float | None, high: float | None, *, with_low: bool, with_high: bool) -> Test:
    """Allow numbers between bounds; None for no bound."""

    def is_within(value: Any) -> bool:
        if type(value) is not int and type(value) is not float:
            return False
        if low is not None and not (value > low or (with_low and value == low)):
            return False
        return high is None or value < high or (with_high and value == high)

    return is_within


def is_address_of(network: str) -> Test:
    """Allow texts that are an IP address of a network in CIDR notation."""
    known = ipaddress.ip_network(network, strict=False)
    low, high, version = int(known.network_address), int(known.broadcast_address), known.version

    def is_within(value: Any) -> bool:
        if type(value) is not str:
            return False
        try:
            address = ipaddress.ip_address(value)
        except ValueError:
            return False
        return address.version == version and low <= int(address) <= high

    return is_within


def is_none_of(texts: Iterable[str], numbers: Iterable[float]) -> Test:
    """Allow whatever is not one of these."""
    excluded_texts, excluded_numbers = frozenset(texts), frozenset(numbers)

    def is_other(value: Any) -> bool:
        kind = type(value)
        if kind is str:
            return value not in excluded_texts
        return not (kind is int or kind is float) or value not in excluded_numbers

    return is_other


def fails_all(tests: Sequence[Test]) -> Test:
    """Allow whatever none of the tests allows."""
    return lambda value: not any(test(value) for test in tests)

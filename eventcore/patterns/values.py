"""What one value of an event may be: the rules of a leaf. Pure. Source: Lambda semantics §6.3.

A value is what JSON has at the end of a path: a text, a number, true, false or null. Each rule is linear in the value.
"""

from __future__ import annotations

import enum
import ipaddress
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from eventcore.patterns.spans import (
    Span,
    beginning_with,
    exact_folded,
    exact_text,
    folded_beginning_with,
    number_range,
)

#: Whole numbers up to this are exact as floating-point numbers.
_EXACT_MAX = 2**53
#: Tells whether a rule allows a value.
Test = Callable[[Any], bool]


class Means(enum.Enum):
    """What it means for a rule that a value is in its spans."""

    ALLOWED = enum.auto()  #: it allows a value that is in one of them, and no other
    EXCLUDED = enum.auto()  #: it allows whatever is in none of them
    POSSIBLE = enum.auto()  #: it allows none but texts that are in each of them; of those, the test tells


class Rule(msgspec.Struct, frozen=True):
    """One rule, and what can be known of it without a test, for an index of many."""

    allows: Test
    spans: tuple[Span, ...] = ()  #: none: only the test tells
    means: Means = Means.ALLOWED
    excluded_texts: frozenset[str] | None = None  #: it allows every value but these texts; None: it is another rule


class Leaf(msgspec.Struct, frozen=True):
    """The rules of one path: any of them is enough."""

    texts: frozenset[str] = frozenset()  #: exact texts
    numbers: frozenset[float] = frozenset()  #: exact numbers
    literals: tuple[bool | None, ...] = ()  #: of true, false and null
    rules: tuple[Rule, ...] = ()  #: everything else
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
        for rule in self.rules:  # noqa: SIM110 - a generator would cost more than the rules
            if rule.allows(value):
                return True
        return False


def begins(prefix: str) -> Rule:
    """Allow texts that begin so."""
    return Rule(lambda value: type(value) is str and value.startswith(prefix), (beginning_with(prefix),))


def ends(suffix: str) -> Rule:
    """Allow texts that end so."""
    span = beginning_with(suffix[::-1], "text from its end")
    return Rule(lambda value: type(value) is str and value.endswith(suffix), (span,))


def equals_ignoring_case(text: str) -> Rule:
    """Allow a text in any case."""
    match = re.compile(_any_case(text), re.DOTALL).fullmatch
    spans = (exact_folded(text),) if text.isascii() else ()
    return Rule(lambda value: type(value) is str and match(value) is not None, spans)


def begins_ignoring_case(prefix: str) -> Rule:
    """Allow texts that begin so, in any case."""
    match = re.compile(_any_case(prefix), re.DOTALL).match
    spans = (folded_beginning_with(prefix),) if prefix.isascii() else ()
    return Rule(lambda value: type(value) is str and match(value) is not None, spans)


def ends_ignoring_case(suffix: str) -> Rule:
    """Allow texts that end so, in any case."""
    # From the end, so that the search is as long as the suffix and not as the value.
    match = re.compile("".join(_case_of(character, is_reversed=True) for character in reversed(suffix))).match
    spans = (folded_beginning_with(suffix[::-1], "folded from its end"),) if suffix.isascii() else ()
    return Rule(lambda value: type(value) is str and match(value[: -len(suffix) * 3 - 1 : -1]) is not None, spans)


def _any_case(text: str) -> str:
    return "".join(_case_of(character) for character in text)


def _case_of(character: str, *, is_reversed: bool = False) -> str:
    """Return an expression for a character in either case: a letter may be two in the other (`ß`, `SS`)."""
    cases = dict.fromkeys((character.lower(), character.upper()))
    forms = [re.escape(case[::-1] if is_reversed else case) for case in cases]
    return forms[0] if len(forms) == 1 else f"(?:{'|'.join(forms)})"


def fits_wildcard(parts: Sequence[str]) -> Rule:
    """Allow texts that have these parts, in order, the first at their begin and the last at their end.

    Between two parts stands anything: it is the pattern `part*part*part`.
    """
    if len(parts) == 1:
        (only,) = parts
        return Rule(lambda value: type(value) is str and value == only, (exact_text(only),))
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

    spans = beginning_with(first), beginning_with(last[::-1], "text from its end")
    return Rule(fits, spans, Means.POSSIBLE)


def is_number_within(low: float | None, high: float | None, *, with_low: bool, with_high: bool) -> Rule:
    """Allow numbers between bounds; None for no bound."""

    def is_within(value: Any) -> bool:
        if type(value) is not int and type(value) is not float:
            return False
        if low is not None and not (value > low or (with_low and value == low)):
            return False
        return high is None or value < high or (with_high and value == high)

    return Rule(is_within, (number_range(low, high, with_low=with_low, with_high=with_high),))


def is_address_of(network: str) -> Rule:
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

    return Rule(is_within, (Span("address", (version, low), (version, high + 1)),))


def is_none_of(texts: Iterable[str], numbers: Iterable[float]) -> Rule:
    """Allow whatever is not one of these."""
    excluded_texts, excluded_numbers = frozenset(texts), frozenset(numbers)

    def is_other(value: Any) -> bool:
        kind = type(value)
        if kind is str:
            return value not in excluded_texts
        return not (kind is int or kind is float) or value not in excluded_numbers

    spans: tuple[Span, ...] = ()
    if all(abs(number) <= _EXACT_MAX for number in excluded_numbers):
        exact = (number_range(number, number, with_low=True, with_high=True) for number in excluded_numbers)
        spans = (*map(exact_text, excluded_texts), *exact)
    return Rule(is_other, spans, Means.EXCLUDED, None if excluded_numbers else excluded_texts)


def allows_none_of(rules: Sequence[Rule]) -> Rule:
    """Allow whatever none of the rules allows."""
    is_known = all(rule.spans and rule.means is Means.ALLOWED for rule in rules)
    spans = tuple(span for rule in rules for span in rule.spans) if is_known else ()
    return Rule(lambda value: not any(rule.allows(value) for rule in rules), spans, Means.EXCLUDED)

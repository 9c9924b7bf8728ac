"""Patterns agree with the slowest matcher there is: every way to pick one element of each array, one by one."""

from __future__ import annotations

import ipaddress
import itertools
import json
import operator
import re
from collections.abc import Iterator
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from eventcore.model import Record
from eventcore.patterns import FilterCriteria, Pattern, PatternSet

names = st.sampled_from("abc")
values = st.sampled_from(["x", "xy", "", 1, 1.0, 2, True, None])
rules = st.sampled_from(
    ["x", 1, True, None, {"prefix": "x"}, {"anything-but": "x"}, {"exists": True}, {"numeric": [">", 1]}]
)
leaves = st.lists(rules, min_size=1, max_size=2)
patterns = st.recursive(
    leaves, lambda inner: st.dictionaries(names, inner, min_size=1, max_size=2), max_leaves=4
).filter(lambda pattern: isinstance(pattern, dict))
events = st.recursive(
    values,
    lambda inner: st.one_of(st.dictionaries(names, inner, max_size=3), st.lists(inner, max_size=3)),
    max_leaves=8,
).map(lambda value: {"a": value})


def choices(value: Any) -> Iterator[Any]:
    """Yield a value with every array replaced by one of its elements; an empty one by nothing at all."""
    if isinstance(value, list):
        for each in value:
            yield from choices(each)
        if not value:
            yield ...
    elif isinstance(value, dict):
        for picked in itertools.product(*(list(choices(each)) for each in value.values())):
            yield dict(zip(value, picked, strict=True))
    else:
        yield value


def fits(pattern: Any, value: Any) -> bool:
    if isinstance(pattern, dict):
        return isinstance(value, dict) and all(fits(inner, value.get(name, ...)) for name, inner in pattern.items())
    return value is not ... and not isinstance(value, dict) and any(allows(rule, value) for rule in pattern)


def allows(rule: Any, value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    match rule:
        case {"anything-but": dict() as excluded}:
            ((name, arguments),) = excluded.items()
            return not any(allows({name: argument}, value) for argument in arguments)
        case {"anything-but": list() as excluded}:
            return isinstance(value, bool) or value not in excluded
        case {"anything-but": excluded}:
            return bool(value != excluded)
        case {"exists": True}:
            return True
        case {"numeric": terms}:
            return is_number and all(
                COMPARE[sign](value, bound) for sign, bound in zip(terms[::2], terms[1::2], strict=True)
            )
        case dict():
            return isinstance(value, str) and allows_text(rule, value)
    if isinstance(rule, bool) or rule is None:
        return value is rule
    if isinstance(rule, int | float):
        return is_number and bool(value == rule)
    return isinstance(value, str) and value == rule


COMPARE = {"=": operator.eq, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def allows_text(rule: Any, value: str) -> bool:
    match rule:
        case {"prefix": {"equals-ignore-case": prefix}}:
            return any(is_same(prefix, value[:length]) for length in range(len(value) + 1))
        case {"suffix": {"equals-ignore-case": suffix}}:
            return any(is_same(suffix, value[begin:]) for begin in range(len(value) + 1))
        case {"prefix": prefix}:
            return value.startswith(prefix)
        case {"suffix": suffix}:
            return value.endswith(suffix)
        case {"equals-ignore-case": text}:
            return is_same(text, value)
        case {"wildcard": text}:
            return re.fullmatch(".*".join(map(re.escape, text.split("*"))), value, re.DOTALL) is not None
        case {"cidr": network}:
            try:
                return ipaddress.ip_address(value) in ipaddress.ip_network(network)
            except ValueError:
                return False
    raise AssertionError(rule)


def is_same(text: str, value: str) -> bool:
    """Tell whether a value is a text, each of whose characters is in either case."""
    if not text:
        return not value
    cases = {text[0].lower(), text[0].upper()}
    return any(value.startswith(case) and is_same(text[1:], value[len(case) :]) for case in cases)


@given(patterns, events)
def test_as_every_choice_of_elements_would(pattern: dict[str, Any], event: dict[str, Any]) -> None:
    """An event matches if some choice of one element of each array matches; as an object and as text."""
    expected = any(fits(pattern, choice) for choice in choices(event))
    assert Pattern(pattern).matches(event) is expected
    assert Pattern(pattern).matches(json.dumps(event)) is expected


@given(st.lists(patterns, min_size=2, max_size=3), events)
def test_alternatives_match_as_any_of_them(alternatives: list[dict[str, Any]], event: dict[str, Any]) -> None:
    """An `$or` is what its alternatives are, each by itself."""
    expected = any(Pattern(each).matches(event) for each in alternatives)
    assert Pattern({"$or": alternatives}).matches(event) is expected
    assert Pattern({"$or": alternatives}).matches(json.dumps(event)) is expected


@given(st.lists(patterns, min_size=1, max_size=6), events)
def test_a_set_matches_what_each_of_its_patterns_does(each: list[dict[str, Any]], event: dict[str, Any]) -> None:
    """By name and in order, of an object and of a text."""
    patterns_by_name = {str(number): pattern for number, pattern in enumerate(each)}
    expected = [name for name, pattern in patterns_by_name.items() if Pattern(pattern).matches(event)]
    assert PatternSet(patterns_by_name).matching(event) == expected
    assert PatternSet(patterns_by_name).matching(json.dumps(event)) == expected


# A Kelvin sign and a long s are letters whose other case is ASCII; ß has two letters in the other.
texts = st.text("abABkK\u212as\u017fß\U0010ffff", max_size=4)
numbers = st.sampled_from([-1, -0.5, 0, 0.1, 0.2, 1, 1.5, 2, 5e9])
addresses = st.sampled_from(["10.0.0.1", "10.0.1.0", "10.1.0.0", "::1", "::ff"])
networks = st.sampled_from(["10.0.0.0/8", "10.0.0.0/24", "10.1.0.0/16", "::/64", "::f0/124", "0.0.0.0/0"])
wildcards = st.lists(texts, min_size=1, max_size=4).map("*".join).filter(lambda text: "**" not in text)
some_texts = st.lists(texts.filter(bool), min_size=1, max_size=3)
ranges = st.tuples(st.sampled_from([">", ">="]), numbers, st.sampled_from(["<", "<="]), numbers).filter(
    lambda terms: terms[1] < terms[3]
)
any_rules = st.one_of(
    texts,
    numbers,
    st.sampled_from([True, False, None, {"exists": True}]),
    st.builds(lambda name, text: {name: text}, st.sampled_from(["prefix", "suffix", "equals-ignore-case"]), texts),
    st.builds(lambda name, text: {name: {"equals-ignore-case": text}}, st.sampled_from(["prefix", "suffix"]), texts),
    wildcards.map(lambda text: {"wildcard": text}),
    networks.map(lambda network: {"cidr": network}),
    st.tuples(st.sampled_from(sorted(COMPARE)), numbers).map(lambda terms: {"numeric": list(terms)}),
    ranges.map(lambda terms: {"numeric": list(terms)}),
    st.lists(texts, min_size=1, max_size=3).map(lambda excluded: {"anything-but": excluded}),
    st.lists(numbers | st.just(2**60 + 1), min_size=1, max_size=3).map(lambda excluded: {"anything-but": excluded}),
    st.builds(
        lambda name, excluded: {"anything-but": {name: excluded}},
        st.sampled_from(["prefix", "suffix", "equals-ignore-case", "wildcard"]),
        some_texts,
    ),
)
any_values = st.one_of(texts, numbers, addresses, st.sampled_from([True, False, None, 10**30, 2**60, 2**60 + 1, 1e300]))


@given(
    st.lists(st.lists(any_rules, min_size=1, max_size=3), min_size=1, max_size=20),
    st.lists(any_values | st.lists(any_values, max_size=3), min_size=1, max_size=5),
)
@example([[{"equals-ignore-case": "ß"}], [{"prefix": {"equals-ignore-case": "ß"}}]], ["SS", "ß", "s"])
@example([[{"suffix": {"equals-ignore-case": "ß"}}], [{"equals-ignore-case": "k"}]], ["SS", "\u212a", "K"])
@example([[{"anything-but": [2**60 + 1]}], [{"anything-but": [1]}]], [2**60 + 1, 2**60 + 2, 1.0])
def test_rules_that_are_looked_up_together_allow_what_each_does(leaves: list[list[Any]], held: list[Any]) -> None:
    """Of every kind, on one path, in one set; many to a kind, and to a conjunction."""
    together = PatternSet({str(number): {"a": leaf} for number, leaf in enumerate(leaves)})
    for value in held:
        found = [str(number) for number, leaf in enumerate(leaves) if any(fits(leaf, each) for each in choices(value))]
        assert together.matching(json.dumps({"a": value})) == found


@given(st.lists(patterns, min_size=1, max_size=3), st.lists(events | values | st.just("no JSON"), max_size=6))
def test_many_records_match_together_as_one_by_one(each: list[dict[str, Any]], bodies: list[Any]) -> None:
    """Whatever stands beside a record: arrays, plain data, nothing at all."""
    single = FilterCriteria([{"value": pattern} for pattern in each], source="kafka").single_test()
    assert single is not None
    data = [
        None if body is None else body.encode() if isinstance(body, str) else json.dumps(body).encode()
        for body in bodies
    ]
    one_by_one = [single[1].allows(each) for each in data]
    assert single[1].allow_each(data) == one_by_one
    regular = [body for body, known in zip(data, bodies, strict=True) if isinstance(known, dict)]
    assert single[1].allow_each(regular) == [single[1].allows(each) for each in regular]


@given(
    st.lists(
        st.sampled_from(
            [{"anything-but": "x"}, {"anything-but": ["x", "xy"]}, {"exists": True}, {"exists": False}, "x"]
        ),
        min_size=1,
        max_size=2,
    ),
    st.booleans(),
    st.lists(values | st.just([]) | st.just(["x"]) | st.just({}), max_size=6),
)
def test_a_glance_is_never_surer_than_a_look_at_each(leaf: list[Any], is_deep: bool, found: list[Any]) -> None:
    """Of one path, which is all that a glance is about; at its root, or below."""
    single = FilterCriteria([{"value": {"a": {"b": leaf}} if is_deep else {"a": leaf}}], source="kafka").single_test()
    assert single is not None
    data = [json.dumps({"a": {"b": each}} if is_deep else {"a": each}).encode() for each in found]
    if single[1].surely_allows_all([Record(position=0, body=each) for each in data]):
        assert all(map(single[1].allows, data))


@given(patterns, events)
def test_absence_is_what_presence_is_not(pattern: dict[str, Any], event: dict[str, Any]) -> None:
    """Of one path: it is there, or it is not."""
    path = "a"
    inner: Any = pattern
    while isinstance(inner, dict):
        name, inner = next(iter(inner.items()))
        path += f".{name}"
    present = Pattern({path: [{"exists": True}]}).matches(event)
    assert Pattern({path: [{"exists": False}]}).matches(json.dumps(event)) is not present

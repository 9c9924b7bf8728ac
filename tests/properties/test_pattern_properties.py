"""Patterns agree with the slowest matcher there is: every way to pick one element of each array, one by one."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

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
        case {"prefix": prefix}:
            return isinstance(value, str) and value.startswith(prefix)
        case {"anything-but": excluded}:
            return bool(value != excluded)
        case {"exists": True}:
            return True
        case {"numeric": [">", low]}:
            return is_number and value > low
    if isinstance(rule, bool) or rule is None:
        return value is rule
    if isinstance(rule, int):
        return is_number and bool(value == rule)
    return isinstance(value, str) and value == rule


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

"""Expressions for topics: what they match, and what is refused."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventcore.patterns.topics import (
    EXPRESSION_CHARACTERS_MAX,
    NAME_CHARACTERS_MAX,
    BadExpression,
    TopicPattern,
    is_topic_name,
)


@pytest.mark.parametrize(
    ("expression", "matching", "others"),
    [
        ("^orders-.*", ["orders-", "orders-eu"], ["orders", "my-orders-eu"]),
        ("^orders", ["orders", "orders-eu"], ["order"]),
        ("^orders$", ["orders"], ["orders-eu", "order"]),
        (r"^a\.b$", ["a.b"], ["axb", "a.b.c"]),
        (r"^(eu|us|)-orders$", ["eu-orders", "us-orders", "-orders"], ["orders", "asia-orders"]),
        ("^[a-c]x[^0-9]$", ["axb", "cx-"], ["dxb", "ax1"]),
        (r"^v\d+$", ["v1", "v22"], ["v", "va"]),
        ("^a{2}b{1,2}c{2,}$", ["aabcc", "aabbccc"], ["abcc", "aabbbcc", "aabc"]),
        ("^[-_.]x$", ["-x", "_x", ".x"], ["ax"]),
        ("^", ["anything"], []),
    ],
)
def test_it_matches_as_it_reads(expression: str, matching: list[str], others: list[str]) -> None:
    """From the beginning of the name; to its end only with a `$`."""
    pattern = TopicPattern(expression)
    assert [name for name in matching + others if pattern.match(name)] == matching


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("orders", "is no expression"),
        ("^a|b", "leaves it open"),
        ("^(a", "ends too early"),
        ("^a)", "not open"),
        ("^[a", "ends too early"),
        ("^[]", "no characters"),
        ("^[z-a]", "range"),
        ("^*", "repeats nothing"),
        ("^a**", "a repetition"),
        ("^a*?", "a repetition"),
        ("^a{x}", "without counts"),
        ("^a{3,2}", "3 to 2"),
        ("^(?=a)", "begins with `(?`"),
        (r"^(a)\1", r"`\1`"),
        ("^a b", "has ` `"),
        ("^a$b", "before its end"),
        ("^((a{99}){99}){99}", "repeats too much"),
        ("^" + "a" * EXPRESSION_CHARACTERS_MAX, "characters, more than"),
    ],
)
def test_what_the_dialect_has_not_is_refused_by_name(expression: str, reason: str) -> None:
    with pytest.raises(BadExpression) as refused:
        TopicPattern(expression)
    assert reason in refused.value.reason
    assert refused.value.hint


def test_no_expression_takes_long() -> None:
    """Python's `re` needs minutes and more for these: 2 to the 60 ways to fail."""
    name = "a" * (NAME_CHARACTERS_MAX - 1) + "b"
    assert not TopicPattern("^(a*)*$").match(name)
    assert not TopicPattern("^(a|a|aa)+$").match(name)
    assert not TopicPattern("^" + "a?" * 60 + "a" * 60 + "$").match("a" * 59)


_atoms = st.sampled_from(["a", "b", ".", r"\.", "[ab]", "[^a]", r"\d", "(a|b.)", "(ab|a)", "(?:b|)"])
_repeats = st.sampled_from(["", "", "*", "+", "?", "{2}", "{1,2}", "{0,}"])
_expressions = st.lists(st.builds("{}{}".format, _atoms, _repeats), max_size=5).map("".join)


@given(_expressions, st.sampled_from(["", "$"]), st.text("ab.1", max_size=8))
def test_it_agrees_with_python(expression: str, end: str, name: str) -> None:
    """Where both know what an expression means, they mean the same."""
    expected = re.match(f"^{expression}{end}", name) is not None
    assert TopicPattern(f"^{expression}{end}").match(name) is expected


def test_names_are_those_that_kafka_allows() -> None:
    assert is_topic_name("orders_1.eu-west")
    assert not any(map(is_topic_name, ["", ".", "..", "orders*", "a" * (NAME_CHARACTERS_MAX + 1)]))

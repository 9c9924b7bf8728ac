"""The large events of event-ruler's performance scenarios match as it says: arrays of objects, arrays of values.

The file names a generator for each; what they make is written down here after their names and notes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from eventcore.patterns import Pattern
from tests.conformance.test_patterns import cases

Event = dict[str, Any]


def _texts(count: int) -> list[str]:
    return [f"text-{number}" for number in range(count)]


def _customer(count: int) -> Event:
    data = {"name": "a", "domains": [{"email": f"{number}@example.org"} for number in range(count)], "type": "b"}
    return {"detail": {"data": data, "context": {"companyId": 1, "userId": 2, "email": "c"}}}


def _deep(count: int) -> Event:
    return {"a": [{"b": {"tags": _texts(count), "type": f"{number}"}} for number in range(3)]}


GENERATORS: dict[str, Callable[[int], Event]] = {
    "primArrayOnly": lambda count: {"d": {"tags": _texts(count)}},
    "objArrayBothFields": lambda count: {"d": [{"a": number, "b": number} for number in range(count)]},
    "objArrayLastValid": lambda count: {"d": [*({"a": number} for number in range(count - 1)), {"a": 0, "b": 0}]},
    "objArrayAllPartial": lambda count: {"d": [{"ab"[number % 2]: number} for number in range(count)]},
    "customerLike": _customer,
    "primInsideObjArray": lambda count: {"detail": {"data": [{"name": _texts(count), "type": "a"}, {"name": "b"}]}},
    "noObjArrayLargePrim": lambda count: {"detail": {"data": {"name": _texts(count), "type": _texts(count)}}},
    "nested2Level": lambda count: {"a": [{"b": [{"x": 1, "y": 2} for _ in range(10)]} for _ in range(count)]},
    "deepNestedPrim": _deep,
    "wideRulePrimArray": lambda count: {"d": {"a": _texts(count), "b": _texts(count), "c": _texts(count)}},
    "controlScalar": lambda _: {"a": 1, "b": 2},
}


@pytest.mark.parametrize("case", cases("event_pattern_perf_scenarios"), ids=lambda case: case["generator"])
def test_a_large_event_matches_as_the_scenario_says(case: dict[str, Any]) -> None:
    pattern = Pattern(case["rule"])
    for size in case["sizes"]:
        event = GENERATORS[case["generator"]](size)
        assert pattern.matches(event) == bool(case["expectedMatches"]), size
        assert pattern.matches(json.dumps(event)) == bool(case["expectedMatches"]), size

"""Patterns and filter criteria give what AWS gives, and what the matcher that AWS publishes computes.

The recorded cases are read where they are. Source: Lambda semantics §3.1, §6.3, §6.4.
"""

import json
import os
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from eventcore.patterns import FilterCriteria, Pattern, PatternError, PatternSet

CONFORMANCE = Path(os.environ.get("EVENTCORE_CONFORMANCE", Path(__file__).parents[3] / "shared" / "conformance"))

if not CONFORMANCE.is_dir():
    pytest.skip(f"no recorded cases at {CONFORMANCE}: set EVENTCORE_CONFORMANCE", allow_module_level=True)

#: What is asked of the API that tests a pattern, and not of the pattern: that the event is one of a bus.
OF_THE_API = {"localstack/invalid_event_missing_mandatory_envelope_fields"}


def cases(family: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (CONFORMANCE / f"{family}.jsonl").read_text().splitlines()]


def answer(case: dict[str, Any], event: Any) -> bool | str:
    try:
        return Pattern(case.get("pattern", case.get("pattern_raw"))).matches(event)
    except PatternError as error:
        return error.message


@pytest.mark.parametrize("family", ["event_patterns", "event_patterns_ruler", "event_patterns_differential"])
@pytest.mark.parametrize("form", ["object", "text"])
def test_every_recorded_pattern_gives_the_recorded_answer(family: str, form: str) -> None:
    """Match or no match, and errors in the service's words; those of its library lack what the service puts before."""
    wrong = []
    for case in cases(family):
        if case["name"] in OF_THE_API:
            continue
        event = case["event_raw"] if "event_raw" in case else case["event"]
        if form == "text" and "event" in case:
            event = json.dumps(event)
        found = answer(case, event)
        expected = case["match"] if "match" in case else case["error_message"]
        if found != expected and not (isinstance(found, str) and found.endswith(f"Reason: {expected}")):
            wrong.append((case["name"], expected, found))
    assert wrong == []


def test_patterns_are_taken_as_json_text_too() -> None:
    wrong = [
        case["name"]
        for case in cases("event_patterns")
        if "match" in case
        and "pattern" in case
        and Pattern(json.dumps(case["pattern"])).matches(case["event"]) is not case["match"]
    ]
    assert wrong == []


def test_all_patterns_in_one_set_give_what_each_gives() -> None:
    """Each of the events held against all of the patterns at once."""
    known = {
        case["name"]: case
        for case in cases("event_patterns")
        if "match" in case and "pattern" in case and isinstance(case["event"], dict)
    }
    together = PatternSet({name: case["pattern"] for name, case in known.items()})
    alone = {name: Pattern(case["pattern"]) for name, case in known.items()}
    assert len(known) > 50
    for case in known.values():
        expected = [name for name, pattern in alone.items() if pattern.matches(case["event"])]
        assert together.matching(case["event"]) == expected
        assert together.matching(json.dumps(case["event"])) == expected


def record_of(case: dict[str, Any]) -> dict[str, Any]:
    if "record_body" in case:
        return {"messageId": "1", "body": case["record_body"]}
    if "record_data" in case:
        return {"kinesis": {"partitionKey": "k", "data": b64encode(case["record_data"].encode()).decode()}}
    record: dict[str, Any] = case["record"]
    return record


def test_every_recorded_filter_gives_the_recorded_answer() -> None:
    wrong = []
    for case in cases("filter_criteria"):
        criteria = FilterCriteria(case["filters"], source=case["source"])
        record = record_of(case)
        if criteria.matches(record) is not case["match"] or criteria.matches(json.dumps(record)) is not case["match"]:
            wrong.append(case["name"])
    assert wrong == []


@pytest.mark.parametrize("size", [1_000, 20_000])
def test_no_pattern_takes_more_than_its_event_is_long(size: int) -> None:
    """What made matchers slow: arrays of objects, absence asked of each element, stars. It ends, whatever it gives."""
    elements = [{"b": number} for number in range(size)]
    event = {"d": [*elements, {"a": 1}], "text": "a" * size}
    assert not Pattern({"d": {"a": [{"exists": False}], "b": ["x"]}}).matches(event)
    assert not Pattern({"d": {"a": [{"exists": False}], "z": ["x"]}}).matches(event)
    assert Pattern({"d": {"a": [{"exists": True}]}}).matches(json.dumps(event))
    assert not Pattern({"text": [{"wildcard": "*a*a*a*a*a*a*a*b"}]}).matches(event)
    assert not Pattern({"text": [{"suffix": {"equals-ignore-case": "a" * 50 + "b"}}]}).matches(event)

"""What destinations are told is what AWS told them: `destination_records.jsonl`, value for value.

Recorded values that differ from run to run stand there as placeholders (`<uuid:1>`): any value of that form agrees, and
equal placeholders are equal values. What was recorded on a table's stream or through a topic is compared without what
that connector adds: the batch's place in the table, and the notification around. Source: Lambda semantics §2.1, §4.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from eventcore.testing import Scripted
from tests.conformance.scenarios.stage import BUCKET, REPORTS, Stage
from tests.conformance.scenarios.table import CONFORMANCE
from tests.conformance.test_recorded_invocations import CASES as INVOCATIONS

RECORDS = CONFORMANCE / "destination_records.jsonl"
#: Records whose names begin so await what the recorded cases of that family await.
AWAITING = {"dlq/sns_then_sqs": "topics", "sns/": "topics"}
#: A record that a function raised for, with one retry.
_RAISED = ({"maximum_retry_attempts": 1}, Scripted(then=ValueError("poison")), 1)


def _reported(entry: dict[str, Any]) -> tuple[dict[str, Any], Any, int]:
    """A record that a function reported so, with three retries."""
    return {"maximum_retry_attempts": 3}, Scripted(then={"batchItemFailures": [entry]}), 1


#: Settings and function by the record's name, and how many records are sent.
STREAMS: Mapping[str, tuple[dict[str, Any], Any, int]] = {
    "kinesis/retries_exhausted_sqs": _RAISED,
    "kinesis/retries_exhausted_sns": _RAISED,
    "dynamodb/event_source_mapping_with_on_failure_destination_config": _RAISED,
    "dynamodb/event_source_mapping_with_sns_on_failure_destination_config": _RAISED,
    "dynamodb/event_source_mapping_with_s3_on_failure_destination": _RAISED,
    "dynamodbstreams/batch_item_failures/null_item_identifier_failure": _reported({"itemIdentifier": None}),
    "dynamodbstreams/batch_item_failures/invalid_key_foo_failure": _reported({"foo": 123}),
    "dynamodbstreams/batch_item_failures/invalid_key_foo_null_value_failure": _reported({"foo": None}),
    "dynamodbstreams/batch_item_failures/item_identifier_not_present_failure": _reported({"itemIdentifier": 123}),
    "kinesis/partial_batch_last_record": ({"batch_size": 3, "maximum_retry_attempts": 3}, Stage("stream").report(6), 6),
    "kinesis/batch_item_failures/null_item_identifier_failure": (
        {},
        Scripted(then={"batchItemFailures": [{"itemIdentifier": None}]}),
        1,
    ),
    "kinesis/batch_item_failures/invalid_key_foo_failure": (
        {},
        Scripted(then={"batchItemFailures": [{"foo": 123}]}),
        1,
    ),
    "kinesis/batch_item_failures/invalid_key_foo_null_value_failure": (
        {},
        Scripted(then={"batchItemFailures": [{"foo": None}]}),
        1,
    ),
    "kinesis/batch_item_failures/unhandled_exception_in_function": ({}, Scripted(then=ZeroDivisionError("no")), 1),
}

#: What stands for a value that differs from run to run: a placeholder, an account, a time.
_VARIES = re.compile(r"<[a-z]|111111111111|^(date|sent-timestamp|sender-id)$")
_PLACEHOLDER = re.compile(r"<([a-z0-9-]+):?([^>]*)>")


def disagreements(recorded: Any, ours: Any, known: dict[str, str], path: str = "") -> Iterator[str]:
    """Yield where our value is not the recorded one; placeholders are met by what they were met by before."""
    if isinstance(recorded, dict) and isinstance(ours, dict):
        if set(recorded) != set(ours):
            yield f"{path}: keys {sorted(ours)}, recorded {sorted(recorded)}"
        for key in recorded.keys() & ours.keys():
            yield from disagreements(recorded[key], ours[key], known, f"{path}.{key}")
    elif isinstance(recorded, list) and isinstance(ours, list):
        if len(recorded) != len(ours):
            yield f"{path}: {len(ours)} entries, recorded {len(recorded)}"
        for index, (theirs, own) in enumerate(zip(recorded, ours, strict=False)):
            yield from disagreements(theirs, own, known, f"{path}[{index}]")
    elif isinstance(recorded, str) and _VARIES.search(recorded):
        if not isinstance(ours, str | float) or not _meets(recorded, str(ours), known):
            yield f"{path}: {ours!r}, recorded {recorded!r}"
    elif type(recorded) is not type(ours) or recorded != ours:
        yield f"{path}: {ours!r}, recorded {recorded!r}"


def _meets(recorded: str, ours: str, known: dict[str, str]) -> bool:
    if recorded in {"sent-timestamp", "sender-id"}:
        return ours.isdecimal()
    if recorded == "date":
        return re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", ours) is not None
    if time := re.fullmatch(r"<timestamp:(.*)>", recorded):
        return re.sub(r"\d", "0", ours) == re.sub(r"\d", "0", time[1])
    pattern, names = "", []
    last = 0
    for found in _PLACEHOLDER.finditer(recorded):
        pattern += re.escape(recorded[last : found.start()]) + "(.+?)"
        # One without a number stands for any value.
        names.append(found[0] if found[2] or found[1] in {"region", "partition"} else "")
        last = found.end()
    pattern = (pattern + re.escape(recorded[last:])).replace("111111111111", r"\d{12}")
    met = re.fullmatch(pattern, ours)
    return met is not None and all(
        not name or known.setdefault(name, value) == value for name, value in zip(names, met.groups(), strict=True)
    )


def _lines() -> list[Any]:
    if not RECORDS.is_file():
        return [pytest.param(None, id="no-recorded-cases")]
    lines = [json.loads(line) for line in RECORDS.read_text().splitlines()]
    # Those of asynchronous invocation are played by `test_recorded_invocations.py`.
    return [pytest.param(line, id=line["name"]) for line in lines if line["name"] not in INVOCATIONS]


@pytest.mark.skipif(not RECORDS.is_file(), reason=f"no recorded cases at {CONFORMANCE}: set EVENTCORE_CONFORMANCE")
@pytest.mark.parametrize("line", _lines())
def test_the_record_is_the_recorded_one(line: dict[str, Any]) -> None:
    name = line["name"]
    if name not in STREAMS:
        (capability,) = {capability for prefix, capability in AWAITING.items() if name.startswith(prefix)}
        pytest.skip(f"awaiting: {capability}")
    settings, work, count = STREAMS[name]
    stage = Stage("stream")
    function = Scripted(then=work._then) if isinstance(work, Scripted) else work
    defaults = {"batch_size": 1, "maximum_retry_attempts": 2}
    reports = REPORTS if "batch" in name else []
    is_object = line["destination"] == "s3 object body"
    place = {"on_failure": BUCKET} if is_object else {}
    stage.play(function, count, **{**defaults, **settings, **place}, function_response_types=reports)
    (ours,) = stage.failed
    recorded = line["record"].get("Message", line["record"])
    if name.startswith("dynamodb"):
        if is_object:
            # The recording decoded it; the records in it are of another shape.
            assert isinstance(ours["payload"], str)
            assert [*json.loads(ours["payload"])] == [*recorded["payload"]]
        recorded = _without(recorded, "DDBStreamBatchInfo", "payload")
        ours = _without(ours, "KinesisBatchInfo", "payload")
    assert list(disagreements(recorded, ours, {})) == []


def _without(record: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in names}


@pytest.mark.skipif(not RECORDS.is_file(), reason="no recorded cases")
@pytest.mark.parametrize("source", ["kinesis", "dynamodb"])
def test_what_a_mapping_told_is_among_the_records(source: str) -> None:
    """What stands in the recordings of mappings is what the test above compares: none is left out."""
    known = [json.loads(line)["record"] for line in RECORDS.read_text().splitlines()]
    lines = map(json.loads, (CONFORMANCE / f"esm_{source}.jsonl").read_text().splitlines())
    told = [told for line in lines for told in line["destination"].values()]
    assert told
    for each in told:
        messages = [message["Body"] for message in each["Messages"]] if "Messages" in each else [each]
        for message in messages:
            assert message in known


def test_the_comparison_finds_what_differs() -> None:
    recorded = {"a": "<uuid:1>", "b": "arn:<partition>:x:111111111111:<uuid:1>", "c": 1, "d": None}
    ours = {"a": "u", "b": "arn:aws:x:000000000000:u", "c": 1, "d": None}
    assert list(disagreements(recorded, ours, {})) == []
    for key, value in {"a": "v", "b": "arn:aws:y:000000000000:u", "c": True, "d": "None"}.items():
        assert len(list(disagreements(recorded, {**ours, key: value}, {}))) >= 1
    assert list(disagreements(recorded, {"a": "u"}, {})) != []

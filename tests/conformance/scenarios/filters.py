"""Filter criteria of streams (Lambda semantics §3.1, §4): recorded cases of what is invoked and what is not.

What a filter on a table's stream looks at is a record's entry; here the entry is the record's data, so that the rule is
played by a mapping. Filters on the entry itself: `test_patterns.py`.
"""

from __future__ import annotations

from typing import Any

from eventcore.testing import Scripted, open_pipeline
from tests.conformance.scenarios.stage import Stage, batches
from tests.conformance.scenarios.table import delivery

CONNECTOR = "a DynamoDB connector"
_PRESENT = {"presentKey": {"S": "presentValue"}}


def _entry(name: str, image: dict[str, Any]) -> dict[str, Any]:
    about = {"NewImage": {"id": {"S": name}, **image}, "ApproximateCreationDateTime": 1_700_000_000.25}
    return {"eventName": name, "dynamodb": about}


def _play(stage: Stage, pattern: dict[str, Any], entries: list[dict[str, Any]]) -> list[list[Any]]:
    """Send the entries through a mapping with this filter on them, one by one; return its batches."""
    criteria = {"filters": [{"pattern": {stage.data: pattern}}]}
    with stage.open(Scripted(), batch_size=1, filter_criteria=criteria) as pipeline:
        pipeline.send(stage.source, entries, key="k")
        pipeline.run_until_idle()
        (mapping,) = pipeline.status.mappings
        assert [shard.lag for shard in mapping.shards] == [0]
    return batches(pipeline)


def _filtered(pattern: dict[str, Any], entries: list[dict[str, Any]], count: int) -> Any:
    """A case in which the first so many of the entries are invoked."""

    def play(stage: Stage) -> None:
        assert _play(stage, pattern, entries) == [[entry] for entry in entries[:count]]

    return play


_PLAIN, _WITH_KEY = _entry("INSERT", {}), _entry("INSERT", _PRESENT)
_CASES: dict[str, Any] = {
    "content_or_filter": _filtered({"eventName": ["INSERT", "MODIFY"]}, [_PLAIN, _entry("MODIFY", {})], 2),
    "content_filter_type": _filtered(
        {"dynamodb": {"NewImage": {"presentKey": {"S": ["presentValue"]}}}}, [_WITH_KEY, _PLAIN], 1
    ),
    "exists_filter_type": _filtered(
        {"dynamodb": {"NewImage": {"presentKey": {"S": [{"exists": True}]}}}}, [_WITH_KEY, _PLAIN], 1
    ),
    "exists_false_filter": _filtered(
        {"dynamodb": {"NewImage": {"presentKey": [{"exists": False}]}}}, [_PLAIN, _WITH_KEY], 2
    ),
    "date_time_conversion": _filtered(
        {"dynamodb": {"ApproximateCreationDateTime": [{"numeric": [">", 0]}]}}, [_PLAIN, _WITH_KEY], 2
    ),
}
for _name, _case in _CASES.items():
    delivery(f"dynamodb/filter-{_name}", awaits={2: CONNECTOR})(_case)


@delivery("dynamodb/filter-leaves-gaps-in-one-batch")
def leaves_gaps(stage: Stage) -> None:
    criteria = {"filters": [{"pattern": {stage.data: {"n": [2, 4]}}}]}
    with stage.open(Scripted(), filter_criteria=criteria) as pipeline:
        pipeline.send(stage.source, [{"n": number} for number in range(1, 5)], key="k")
        pipeline.run_until_idle()
        assert batches(pipeline) == [[{"n": 2}, {"n": 4}]]


@delivery("kinesis/filter-on-decoded-data")
def on_decoded_data(stage: Stage) -> None:
    names = ("work", "other")
    records = [{"event_type": name} for name in names]
    criteria = [{"filters": [{"pattern": {stage.data: record}}]} for record in ({"event_type": [n]} for n in names)]
    app = stage.app(filter_criteria=criteria[0])
    app.function("other", handler="nowhere.other")
    settings: Any = {"starting_position": "TRIM_HORIZON", "filter_criteria": criteria[1]}
    app.mapping("others", source=stage.source, function="other", **settings)
    with open_pipeline(app, functions={name: Scripted() for name in names}) as pipeline:
        pipeline.send(stage.source, records, key="k")
        pipeline.run_until_idle()
        calls = sorted((call.function, call.bodies) for call in pipeline.invocations)
        assert calls == [("other", [records[1]]), ("work", [records[0]])]

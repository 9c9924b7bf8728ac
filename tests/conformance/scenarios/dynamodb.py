"""Streams (Lambda semantics §4, §12): the rules that were recorded on DynamoDB Streams, and those of bisect.

The rules are played on the embedded stream and on Kafka; the shape of DynamoDB's records comes with its connector.
Filters: `filters.py`.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from eventcore.errors import ConfigError
from eventcore.testing import Scripted
from tests.conformance.scenarios.stage import BUCKET, REPORTS, Stage, batches, bodies, gaps
from tests.conformance.scenarios.table import delivery, scenario

CONNECTOR = "a DynamoDB connector"
MANAGEMENT = "a management API"
TOPICS = "topics"


@delivery("dynamodb/duplicate-mapping-conflict", awaits={1: MANAGEMENT})
def duplicate_mapping(stage: Stage) -> None:
    app = stage.app()
    app.mapping("again", source=stage.source, function="work", starting_position="TRIM_HORIZON")
    with pytest.raises(ConfigError, match=r"already exists.*ResourceConflictException\]"):
        app.loaded()


@delivery("dynamodb/disable-stops-delivery", awaits={1: MANAGEMENT})
def disable(stage: Stage) -> None:
    with stage.open(Scripted()) as pipeline:
        stage.send(pipeline, 1)
        pipeline.run_until_idle()
        pipeline.restart(stage.app(enabled=False), functions={"work": Scripted()})
        stage.send(pipeline, 1, first=2)
        pipeline.advance(3600)
        assert batches(pipeline) == [[1]]


def _on_failure(stage: Stage) -> None:
    pipeline = stage.play(Scripted(then=ValueError("always")), batch_size=1, maximum_retry_attempts=1)
    assert len(pipeline.invocations) == 2
    (failed,) = stage.failed
    assert failed["requestContext"]["condition"] == "RetryAttemptsExhausted"
    assert failed["requestContext"]["approximateInvokeCount"] == 2
    assert failed["responseContext"]["functionError"] == "Unhandled"


@delivery("dynamodb/on-failure-s3")
def on_failure_to_an_object(stage: Stage) -> None:
    pipeline = stage.play(
        Scripted(then=ValueError("always")), batch_size=1, maximum_retry_attempts=1, on_failure=BUCKET
    )
    (failed,) = stage.failed
    assert failed["requestContext"]["condition"] == "RetryAttemptsExhausted"
    assert failed["requestContext"]["approximateInvokeCount"] == 2
    assert failed["responseContext"]["functionError"] == "Unhandled"
    assert json.loads(failed["payload"]) == pipeline.invocations[0].event


for _name, _awaits in (("sqs", CONNECTOR), ("sns", TOPICS)):
    delivery(f"dynamodb/on-failure-{_name}", awaits={2: _awaits})(_on_failure)


def _unusable(response: Any) -> Any:
    def play(stage: Stage) -> None:
        settings = {"batch_size": 3, "maximum_retry_attempts": 3, "function_response_types": REPORTS}
        pipeline = stage.play(Scripted(then=response), **settings)
        assert batches(pipeline) == [[1]] * 4
        (failed,) = stage.failed
        assert failed["requestContext"]["condition"] == "RetryAttemptsExhausted"
        assert failed["requestContext"]["approximateInvokeCount"] == 4
        assert failed["responseContext"]["functionError"] is None

    return play


def _success(response: Any) -> Any:
    def play(stage: Stage) -> None:
        settings = {"batch_size": 1, "maximum_retry_attempts": 2, "function_response_types": REPORTS}
        assert batches(stage.play(Scripted(then=response), **settings)) == [[1]]
        assert stage.failed == []

    return play


_RESPONSES: dict[str, Any] = {
    "item_identifier_not_present_failure": _unusable({"batchItemFailures": [{"itemIdentifier": 123}]}),
    "null_item_identifier_failure": _unusable({"batchItemFailures": [{"itemIdentifier": None}]}),
    "invalid_key_foo_failure": _unusable({"batchItemFailures": [{"foo": 123}]}),
    "invalid_key_foo_null_value_failure": _unusable({"batchItemFailures": [{"foo": None}]}),
    "empty_list_success": _success([]),
    "null_success": _success(None),
    "empty_dict_success": _success({}),
    "null_batch_item_failure_success": _success({"batchItemFailures": None}),
}
for _name, _play in _RESPONSES.items():
    delivery(f"dynamodb/batch-response-{_name}")(_play)


@scenario("dynamodb/starting-position-validation", awaits={3: CONNECTOR})
def starting_position() -> None:
    with pytest.raises(ConfigError, match=r"starting_position: .*InvalidParameterValueException\]"):
        Stage("stream").app(starting_position=None).loaded()
    with pytest.raises(ConfigError, match="starting_position"):
        Stage("stream").app(starting_position="invalid").loaded()


def _accepts_101(stage: Stage) -> None:
    pipeline = stage.play(Scripted(), 101, batch_size=101, maximum_batching_window_in_seconds=0)
    assert bodies(pipeline) == list(range(1, 102))


delivery("dynamodb/large-batch-needs-no-window")(_accepts_101)
delivery("dynamodb/batch-over-ten-needs-no-window")(_accepts_101)


@delivery("dynamodb/age-limit-passes-while-disabled")
def age_limit_while_disabled(stage: Stage) -> None:
    """Recorded: an invoke count of 1 for a record that was never invoked."""
    work = {"work": Scripted()}
    with stage.open(Scripted(), enabled=False, maximum_record_age_in_seconds=60) as pipeline:
        stage.send(pipeline, 1)
        pipeline.advance(70)
        pipeline.restart(stage.app(maximum_record_age_in_seconds=60), functions=work)
        pipeline.run_until_idle()
        assert pipeline.invocations == []
        (message,) = pipeline.delivered_to("queue:failed")
        assert message.json["requestContext"]["condition"] == "RecordAgeExceeded"
        assert message.json["requestContext"]["approximateInvokeCount"] == 1
        assert "responseContext" not in message.json


@delivery("dynamodb/retry-spacing-measured")
def retry_spacing(stage: Stage) -> None:
    """The pauses double, as measured; that they begin at 0.2 s, with ±20 %, is ours (design §12)."""
    pipeline = stage.play(Scripted(then=ValueError("always")), maximum_retry_attempts=2)
    first, second = gaps(pipeline.invocations)
    assert 0.16 <= first <= 0.27
    assert 0.32 <= second <= 0.5


@delivery("bisect/raising-handler-four-records")
def raising_handler(stage: Stage) -> None:
    settings = {"batch_size": 4, "maximum_retry_attempts": 1, "bisect_batch_on_function_error": True}
    pipeline = stage.play(stage.refuse(2), 4, **settings)
    assert batches(pipeline) == [[1, 2, 3, 4], [1, 2], [1], [2], [2], [3, 4]]
    (failed,) = stage.failed
    assert stage.span(failed) == (1, 1)
    assert failed["requestContext"]["approximateInvokeCount"] == 2


@delivery("bisect/partial-report-four-records-kinesis")
def partial_report(stage: Stage) -> None:
    settings = {"batch_size": 4, "maximum_retry_attempts": 1, "bisect_batch_on_function_error": True}
    pipeline = stage.play(stage.report(2), 4, function_response_types=REPORTS, **settings)
    assert batches(pipeline) == [[1, 2, 3, 4], [2, 3, 4], [2], [2], [3, 4]]
    ids = [call.request_id for call in pipeline.invocations]
    assert ids[2] == ids[3]
    assert len(set(ids)) == 4


@delivery("bisect/first-retry-spacing-dynamodb")
def spacing_of_a_bisect(stage: Stage) -> None:
    """Only the unchanged repeat waits; the milliseconds of the others are Lambda's own work."""
    settings = {"batch_size": 4, "maximum_retry_attempts": 1, "bisect_batch_on_function_error": True}
    raising = gaps(stage.play(stage.refuse(2), 4, **settings).invocations)
    assert [gap > 0.15 for gap in raising] == [False, False, False, True, False]
    assert 0.16 <= raising[3] <= 0.27
    reports = gaps(stage.play(stage.report(2), 4, function_response_types=REPORTS, **settings).invocations)
    assert [gap > 0.15 for gap in reports] == [False, False, True, False]


@delivery("bisect/off-suffix-retry-spacing")
def spacing_of_a_suffix(stage: Stage) -> None:
    settings = {"batch_size": 4, "maximum_retry_attempts": 1, "function_response_types": REPORTS}
    pipeline = stage.play(stage.report(2), 4, **settings)
    assert batches(pipeline) == [[1, 2, 3, 4], [2, 3, 4], [2, 3, 4]]
    suffix, repeat = gaps(pipeline.invocations)
    assert suffix < 0.15
    assert 0.16 <= repeat <= 0.27


@delivery("dynamodb/no-destination-no-dropped-metric", awaits={1: "metrics"})
def no_destination(stage: Stage) -> None:
    """No `on_failure`: here the built-in queue has what was given up, and it is counted (a decision)."""
    app_settings = {"maximum_retry_attempts": 0, "batch_size": 1}
    with stage.open(Scripted(then=ValueError("always")), **app_settings) as pipeline:
        stage.send(pipeline, 3)
        pipeline.run_until_idle()
        assert len(pipeline.invocations) == 3
        (mapping,) = pipeline.status.mappings
        assert mapping.counters is not None
        assert sum(mapping.counters.discarded.values()) == 3


@scenario("dynamodb/read-permission-lost-and-restored", awaits={1: MANAGEMENT})
def source_away() -> None:
    """A topic that refuses for a while; `status` shows the mapping's problem meanwhile."""
    stage = Stage("kafka")
    with stage.open(Scripted(), maximum_retry_attempts=0, batch_size=1) as pipeline:
        pipeline.advance(1)
        pipeline.take_down(stage.source, seconds=300)
        stage.send(pipeline, 2)
        pipeline.advance(200)
        assert pipeline.invocations == []
        (mapping,) = pipeline.status.mappings
        assert "taken it down" in mapping.reason
        pipeline.run_until_idle()
        assert batches(pipeline) == [[1], [2]]
        assert [call.attempt for call in pipeline.invocations] == [1, 1]

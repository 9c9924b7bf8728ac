"""Streams (Lambda semantics §4, §12): the recorded cases of the family `kinesis`, played on Kafka as well."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import pytest

from eventcore.delivery.hash_keys import share_of
from eventcore.errors import ConfigError
from eventcore.testing import Scripted, open_pipeline
from tests.conformance.scenarios.stage import REPORTS, Stage, batches, bodies, gaps
from tests.conformance.scenarios.table import delivery, scenario

UNHANDLED = {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"}
CONNECTOR = "a Kinesis connector"
REPORTED = {**UNHANDLED, "functionError": None}


@delivery("kinesis/two-functions-read-one-stream-independently")
def two_functions(stage: Stage) -> None:
    app = stage.app()
    app.function("other", handler="nowhere.other")
    app.mapping("others", source=stage.source, function="other", starting_position="TRIM_HORIZON")
    with open_pipeline(app, functions={"work": Scripted(), "other": Scripted()}) as pipeline:
        stage.send(pipeline, 1)
        pipeline.run_until_idle()
        assert sorted((call.function, call.bodies) for call in pipeline.invocations) == [("other", [1]), ("work", [1])]


@delivery("kinesis/batches-of-a-shard-run-one-after-another")
def one_after_another(stage: Stage) -> None:
    settings = {"batch_size": 10, "starting_position": "LATEST", "function": {"timeout": 10}}
    with stage.open(Scripted(takes_s=5), **settings) as pipeline:
        pipeline.advance(1)
        stage.send(pipeline, 10)
        stage.send(pipeline, 10, first=11)
        pipeline.run_until_idle()
        assert batches(pipeline) == [list(range(1, 11)), list(range(11, 21))]
        assert gaps(pipeline.invocations)[0] >= 5


@delivery("kinesis/disabled-mapping-does-not-invoke")
def disabled(stage: Stage) -> None:
    with stage.open(Scripted()) as pipeline:
        stage.send(pipeline, 10)
        pipeline.run_until_idle()
        pipeline.restart(stage.app(enabled=False), functions={"work": Scripted()})
        stage.send(pipeline, 10, first=11)
        pipeline.advance(3600)
        assert len(pipeline.invocations) == 1


@delivery("kinesis/on-failure-sns", awaits={4: "topics"})
@delivery("kinesis/on-failure-sqs")
def on_failure(stage: Stage) -> None:
    settings = {"batch_size": 1, "maximum_retry_attempts": 1}
    pipeline = stage.play(Scripted(then=ValueError("always")), **settings)
    assert len(pipeline.invocations) == 2
    (failed,) = stage.failed
    context = failed["requestContext"]
    assert (context["condition"], context["approximateInvokeCount"]) == ("RetryAttemptsExhausted", 2)
    assert context["functionArn"] == "arn:aws:lambda:us-east-1:000000000000:function:work"
    assert failed["responseContext"] == UNHANDLED
    assert failed["version"] == "1.0"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", failed["timestamp"])
    assert stage.batch_size(failed) == 1
    if stage.kind == "stream":
        assert set(failed["KinesisBatchInfo"]) == {
            "shardId",
            "startSequenceNumber",
            "endSequenceNumber",
            "approximateArrivalOfFirstRecord",
            "approximateArrivalOfLastRecord",
            "batchSize",
            "streamArn",
        }
    assert set(failed) == {"requestContext", "responseContext", "version", "timestamp", stage.info}


@delivery("kinesis/partial-batch-bisects-at-the-failed-record")
def partial_batch(stage: Stage) -> None:
    settings = {"batch_size": 3, "maximum_batching_window_in_seconds": 1, "maximum_retry_attempts": 3}
    pipeline = stage.play(stage.report(6), 6, function_response_types=REPORTS, **settings)
    assert batches(pipeline) == [[1, 2, 3], [4, 5, 6], [6], [6], [6], [6]]
    deliveries = bodies(pipeline)
    assert [deliveries.count(number) for number in range(1, 7)] == [1, 1, 1, 1, 1, 5]
    (failed,) = stage.failed
    assert failed["requestContext"]["approximateInvokeCount"] == 4
    assert failed["requestContext"]["condition"] == "RetryAttemptsExhausted"
    assert failed["responseContext"] == REPORTED
    assert stage.batch_size(failed) == 1
    assert stage.span(failed) == (5, 5)


def _unusable(response: Any, functionerror: str | None = None) -> Any:
    def play(stage: Stage) -> None:
        settings = {"batch_size": 1, "maximum_retry_attempts": 2}
        pipeline = stage.play(Scripted(then=response), function_response_types=REPORTS, **settings)
        assert batches(pipeline) == [[1], [1], [1]]
        (failed,) = stage.failed
        assert failed["requestContext"]["condition"] == "RetryAttemptsExhausted"
        assert failed["requestContext"]["approximateInvokeCount"] == 3
        assert failed["responseContext"]["functionError"] == functionerror

    return play


def _success(response: Any) -> Any:
    def play(stage: Stage) -> None:
        settings = {"batch_size": 1, "maximum_retry_attempts": 2}
        pipeline = stage.play(Scripted(then=response), function_response_types=REPORTS, **settings)
        assert batches(pipeline) == [[1]]
        assert stage.failed == []

    return play


_RESPONSES: dict[str, Any] = {
    "null_item_identifier_failure": _unusable({"batchItemFailures": [{"itemIdentifier": None}]}),
    "invalid_key_foo_failure": _unusable({"batchItemFailures": [{"foo": 123}]}),
    "invalid_key_foo_null_value_failure": _unusable({"batchItemFailures": [{"foo": None}]}),
    "unhandled_exception_in_function": _unusable(ZeroDivisionError("division by zero"), "Unhandled"),
    "empty_string_success": _success(""),
    "empty_list_success": _success([]),
    "empty_dict_success": _success({}),
    "empty_batch_item_failure_success": _success({"batchItemFailures": []}),
    "null_batch_item_failure_success": _success({"batchItemFailures": None}),
}
for _name, _play in _RESPONSES.items():
    delivery(f"kinesis/batch-response-{_name}")(_play)


@delivery("kinesis/last-processing-result-values")
def last_processing_result(stage: Stage) -> None:
    """The word for what was never invoked stands in the management API's reply; here nothing was said yet."""

    def result(pipeline: Any) -> str:
        (mapping,) = pipeline.status.mappings
        return str(mapping.last_result)

    settings = {"function_response_types": REPORTS, "maximum_retry_attempts": 0, "batch_size": 2}
    with stage.open(Scripted(), **settings) as pipeline:
        assert result(pipeline) in {"", "No records processed"}
        stage.send(pipeline, 1)
        pipeline.run_until_idle()
        assert result(pipeline) == "OK"
    with stage.open(stage.report(2), **settings) as pipeline:
        stage.send(pipeline, 2)
        pipeline.run_until_idle()
        assert result(pipeline) == "OK"
    with stage.open(Scripted(then=ValueError("always")), **settings) as pipeline:
        stage.send(pipeline, 1)
        pipeline.run_until_idle()
        assert result(pipeline) == "PROBLEM: Function call failed"


@delivery("kinesis/unchanged-retry-keeps-request-id")
def request_ids(stage: Stage) -> None:
    """A whole failure, then reports that shorten the batch, which begins its budget anew."""

    def work(event: Any, context: Any) -> Any:
        if len(pipeline.invocations) == 1:
            raise ValueError("whole")
        return stage.report(3)(event, context)

    settings = {"batch_size": 3, "maximum_retry_attempts": 2, "function_response_types": REPORTS}
    with stage.open(work, **settings) as pipeline:
        stage.send(pipeline, 3)
        pipeline.run_until_idle()
        assert batches(pipeline) == [[1, 2, 3], [1, 2, 3], [3], [3], [3]]
        ids = [call.request_id for call in pipeline.invocations]
        assert ids[0] == ids[1]
        assert ids[2] == ids[3] == ids[4] != ids[0]
        (message,) = pipeline.delivered_to("queue:failed")
        assert message.json["requestContext"]["approximateInvokeCount"] == 3


@delivery("kinesis/enhanced-fan-out-arn-kept", awaits={1: CONNECTOR, 2: CONNECTOR})
def reported_without_retries(stage: Stage) -> None:
    settings = {"batch_size": 1, "maximum_retry_attempts": 0, "function_response_types": REPORTS}
    pipeline = stage.play(stage.report(1), **settings)
    assert batches(pipeline) == [[1]]
    (failed,) = stage.failed
    context = failed["requestContext"]
    assert (context["condition"], context["approximateInvokeCount"]) == ("RetryAttemptsExhausted", 1)
    assert failed["responseContext"] == REPORTED


#: What the producer library puts before several records in one.
_MAGIC = b"\xf3\x89\x9a\xc2"


def _stays_opaque(body: bytes) -> None:
    """Read by polling: an embedded stream never looks into its records."""
    bodies = [b"before", body, b"after"]
    with Stage("stream").open(Scripted()) as pipeline:
        pipeline.send("stream:orders", bodies, key="k")
        pipeline.run_until_idle()
        assert [record.body for call in pipeline.invocations for record in call.records] == bodies


@scenario("kinesis/damaged-kpl-aggregate-stays-opaque")
def damaged_aggregate() -> None:
    for body in (_MAGIC + b"\x0a\x01k\x1a\x00" + b"\x00" * 16, _MAGIC):
        _stays_opaque(body)


def _aggregate(count: int) -> bytes:
    """So many records in one: a table of keys, an entry a record, and the digest of all that."""
    entry = b"\x08\x00\x1a\x01x"  # partition_key_index 0, data "x"
    message = b"\x0a\x01k" + b"".join(b"\x1a" + bytes([len(entry)]) + entry for _ in range(count))
    return _MAGIC + message + hashlib.md5(message, usedforsecurity=False).digest()


@scenario("kinesis/aggregate-with-foreign-hash-key", awaits={1: CONNECTOR})
@scenario("kinesis/kpl-aggregate-standard-vs-efo", awaits={2: CONNECTOR})
def aggregate() -> None:
    _stays_opaque(_aggregate(3))


@scenario("kinesis/duplicate-mapping-conflict", awaits={1: "a management API", 2: "a management API"})
def duplicate_mapping() -> None:
    """Two mappings of one stream to one function are refused; to another function they are not."""
    app = Stage("stream").app()
    app.mapping("again", source="stream:orders", function="work", starting_position="TRIM_HORIZON")
    with pytest.raises(ConfigError, match=r"already exists.*ResourceConflictException\]"):
        app.loaded()
    two_functions(Stage("stream"))


@scenario("kinesis/siblings-run-at-once-after-parent")
def siblings_after_their_parent() -> None:
    with Stage("stream").open(Scripted(takes_s=2)) as pipeline:
        # Keys whose hash keys lie in the lower and in the upper half.
        low, high = (next(key for key in map(str, range(100)) if share_of(key.encode(), 2) == half) for half in (0, 1))
        ((parent, _),) = pipeline.send("stream:orders", [1], key=low)
        left, right = pipeline.split("orders", parent)
        pipeline.send("stream:orders", [2], key=low)
        pipeline.send("stream:orders", [3], key=high)
        merged = pipeline.merge("orders", left, right)
        pipeline.send("stream:orders", [4], key=low)
        pipeline.run_until_idle()
        calls = {call.bodies[0]: call for call in pipeline.invocations}
        ended = {number: call.ended_s or 0.0 for number, call in calls.items()}
        assert min(calls[2].at_s, calls[3].at_s) >= ended[1]
        assert max(calls[2].at_s, calls[3].at_s) < min(ended[2], ended[3])
        assert calls[4].at_s >= max(ended[2], ended[3])
        shards = [calls[number].event["Records"][0]["eventID"].partition(":")[0] for number in range(1, 5)]
        assert shards == [parent, left, right, merged]

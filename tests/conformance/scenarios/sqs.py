"""Queues (Lambda semantics §3): the recorded cases of the family `sqs`."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

import eventcore
from eventcore.errors import ConfigError
from eventcore.testing import Scripted, open_pipeline
from tests.conformance.scenarios.stage import (
    REPORTS,
    batches,
    bodies,
    gaps,
    message_ids,
    queue_app,
    queue_pipeline,
    receive_counts,
    redrive,
)
from tests.conformance.scenarios.table import scenario

MANAGEMENT = "a management API"


@scenario("sqs/failed-invocation-is-retried-after-visibility-timeout", awaits={6: MANAGEMENT})
def retried_after_visibility_timeout() -> None:
    work = Scripted(ValueError("first"))
    with queue_pipeline(work, queue={"visibility_timeout": 5}, batch_size=1, function={"timeout": 5}) as pipeline:
        pipeline.send("queue:orders", ["hello"])
        pipeline.run_until_idle()
        assert batches(pipeline) == [["hello"], ["hello"]]
        first, second = pipeline.invocations
        assert 5.0 <= second.at_s - first.at_s < 5.1
        assert message_ids(first) == message_ids(second)
        assert first.event["Records"][0]["receiptHandle"] != second.event["Records"][0]["receiptHandle"]
        assert [receive_counts(call) for call in pipeline.invocations] == [["1"], ["2"]]
        assert pipeline.delivered_to("queue:orders") == []


@scenario("sqs/record-shape-with-message-attributes")
def record_shape() -> None:
    with queue_pipeline(Scripted(), batch_size=1) as pipeline:
        headers = {"Title": "The Whistler", "Author": "John Grisham", "WeeksOn:Number": "6"}
        pipeline.send("queue:orders", ["Information about current NY Times fiction bestseller"], headers=headers)
        pipeline.run_until_idle()
        (call,) = pipeline.invocations
        (record,) = call.event["Records"]
        assert set(record) == {
            "messageId",
            "receiptHandle",
            "body",
            "attributes",
            "messageAttributes",
            "md5OfMessageAttributes",
            "md5OfBody",
            "eventSource",
            "eventSourceARN",
            "awsRegion",
        }
        names = {"ApproximateReceiveCount", "SentTimestamp", "SenderId", "ApproximateFirstReceiveTimestamp"}
        assert set(record["attributes"]) == names
        assert all(isinstance(value, str) for value in record["attributes"].values())
        assert record["messageAttributes"]["WeeksOn"] == {
            "stringValue": "6",
            "stringListValues": [],
            "binaryListValues": [],
            "dataType": "Number",
        }
        assert set(record["messageAttributes"]) == {"Title", "Author", "WeeksOn"}
        assert record["eventSource"] == "aws:sqs"
        assert record["md5OfMessageAttributes"] == "d25a6aea97eb8f585bfa92d314504a92"


@scenario("sqs/redrive-policy-moves-message-after-max-receive-count")
def redrive_policy() -> None:
    queue = {"visibility_timeout": 5, "redrive_policy": redrive(2)}
    with queue_pipeline(Scripted(then=ValueError("always")), queue=queue, batch_size=1) as pipeline:
        (sent,) = pipeline.send("queue:orders", ["body"])
        pipeline.advance(3)
        assert len(pipeline.invocations) == 1
        assert pipeline.delivered_to("queue:dead") == []
        pipeline.run_until_idle()
        assert [receive_counts(call) for call in pipeline.invocations] == [["1"], ["2"]]
        assert pipeline.now_s >= 10
        (message,) = pipeline.delivered_to("queue:dead")
        assert message.body == b"body"
        assert [message_ids(call) for call in pipeline.invocations] == [[sent], [sent]]
        assert pipeline.discards[0].first == sent


@scenario("sqs/partial-batch-setting-does-not-save-a-raising-handler")
def raising_handler_fails_the_batch() -> None:
    queue = {"visibility_timeout": 3, "redrive_policy": redrive(2)}
    work = Scripted(then=ValueError("always"))
    with queue_pipeline(work, queue=queue, function_response_types=REPORTS, batch_size=10) as pipeline:
        pipeline.send("queue:orders", ["no json", {"good": True}])
        pipeline.run_until_idle()
        assert [len(call.records) for call in pipeline.invocations] == [2, 2]
        assert {message.body for message in pipeline.delivered_to("queue:dead")} == {b"no json", b'{"good":true}'}


@scenario("sqs/partial-batch-entry-without-itemIdentifier-fails-whole-batch")
def entry_without_identifier() -> None:
    queue = {"visibility_timeout": 4, "redrive_policy": redrive(2)}
    work = Scripted(then={"batchItemFailures": [{"foo": "notvalid"}]})
    with queue_pipeline(work, queue=queue, function_response_types=REPORTS, batch_size=10) as pipeline:
        pipeline.send("queue:orders", ["hello"])
        pipeline.run_until_idle()
        assert [receive_counts(call) for call in pipeline.invocations] == [["1"], ["2"]]
        assert [message.body for message in pipeline.delivered_to("queue:dead")] == [b"hello"]


@scenario("sqs/partial-batch-empty-object-means-success")
def empty_object_is_success() -> None:
    queue = {"visibility_timeout": 4, "redrive_policy": redrive(1)}
    with queue_pipeline(Scripted(then={}), queue=queue, function_response_types=REPORTS) as pipeline:
        pipeline.send("queue:orders", ["hello"])
        pipeline.run_until_idle()
        assert len(pipeline.invocations) == 1
        assert pipeline.delivered_to("queue:orders") == pipeline.delivered_to("queue:dead") == []


@scenario("sqs/defaults-and-large-batch-needs-window")
def large_batch_needs_window() -> None:
    with queue_pipeline(Scripted()) as pipeline:
        pipeline.send("queue:orders", list(range(25)))
        pipeline.run_until_idle()
        assert max(len(call.records) for call in pipeline.invocations) == 10
        assert pipeline.invocations[0].at_s < 0.1
    with pytest.raises(ConfigError) as caught:
        queue_app(batch_size=11).loaded()
    expected = "Maximum batch window in seconds must be greater than 0 if maximum batch size is greater than 10"
    assert expected in str(caught.value)
    assert "InvalidParameterValueException]" in str(caught.value)


def _large_batches(batch_size: int) -> None:
    with queue_pipeline(Scripted(), batch_size=batch_size, maximum_batching_window_in_seconds=1) as pipeline:
        pipeline.send("queue:orders", list(range(10)))
        pipeline.send("queue:orders", list(range(10, 15)))
        pipeline.run_until_idle()
        assert sorted(bodies(pipeline)) == list(range(15))
        assert {count for call in pipeline.invocations for count in receive_counts(call)} == {"1"}


@scenario("sqs/batch-size-100-accepted-with-window")
def batches_of_100() -> None:
    _large_batches(100)


@scenario("sqs/batch-size-1000-accepted-with-window")
def batches_of_1000() -> None:
    _large_batches(1000)


@scenario("sqs/batch-size-10000-accepted-with-window")
def batches_of_10000() -> None:
    _large_batches(10_000)


@scenario("sqs/maximum-concurrency-2-gives-two-batches")
def two_batches() -> None:
    settings = {"batch_size": 20, "maximum_batching_window_in_seconds": 1, "maximum_concurrency": 2}
    app = queue_app(function={"concurrency": 2}, enabled=False, **settings)
    with open_pipeline(app, functions={"work": Scripted()}) as pipeline:
        pipeline.send("queue:orders", list(range(30)))
        pipeline.restart(queue_app(function={"concurrency": 2}, **settings), functions={"work": Scripted()})
        pipeline.run_until_idle()
        assert len(pipeline.invocations) == 2
        assert sorted(bodies(pipeline)) == list(range(30))


def _filtered(pattern: dict[str, Any], matching: Any, other: Any) -> None:
    settings = {"filter_criteria": {"filters": [{"pattern": pattern}]}, "maximum_batching_window_in_seconds": 1}
    with open_pipeline(queue_app(enabled=False, **settings), functions={"work": Scripted()}) as pipeline:
        pipeline.send("queue:orders", [matching, other])
        pipeline.restart(queue_app(**settings), functions={"work": Scripted()})
        pipeline.run_until_idle()
        assert batches(pipeline) == [[matching]]
        assert pipeline.delivered_to("queue:orders") == []


@scenario("sqs/filter-discards-non-matching-valid-json-filter", awaits={3: MANAGEMENT})
def filter_drops_plain_text() -> None:
    _filtered({"body": {"message": ["m1"]}}, {"message": "m1"}, "this is plain text")


@scenario("sqs/filter-discards-non-matching-numeric-range", awaits={3: MANAGEMENT})
def filter_takes_a_half_open_range() -> None:
    _filtered({"body": {"my-number": [{"numeric": [">=", 0, "<", 10]}]}}, {"my-number": 0}, {"my-number": 10})


@scenario("sqs/mapping-crud-errors", awaits={1: MANAGEMENT, 2: MANAGEMENT, 3: MANAGEMENT})
def mistakes_of_a_mapping() -> None:
    app = eventcore.App()
    app.queue("orders")
    app.mapping("orders", source="queue:orders", function="nobody")
    with pytest.raises(ConfigError, match="nobody"):
        app.loaded()
    with pytest.raises(
        ConfigError, match=r"Unsupported DestinationConfig parameter .*InvalidParameterValueException\]"
    ):
        queue_app(on_failure="queue:dead").loaded()


@scenario("sqs/function-timeout-must-not-exceed-visibility", awaits={2: MANAGEMENT})
def timeout_and_visibility() -> None:
    with pytest.raises(ConfigError, match="visibility_timeout"):
        queue_app(queue={"visibility_timeout": 5}, function={"timeout": 6}).loaded()
    assert queue_app(queue={"visibility_timeout": 6}, function={"timeout": 6}).loaded()


@scenario("sqs/throttled-batch-keeps-its-lease")
def throttled_batch() -> None:
    """Other mappings have the function's one slot: until before the messages come back, and until after."""
    assert _throttle(mappings=1) == [("x", "1")]
    assert _throttle(mappings=2) == [("x", "2")]


def _throttle(mappings: int) -> list[tuple[str, str]]:
    """Hold the slot for 40 s a mapping; return body and receive count of what then runs of the other queue."""

    async def work(event: Any, context: Any) -> None:
        await anyio.sleep(40 if event["Records"][0]["body"] == "hold" else 0)

    app = queue_app(queue={"visibility_timeout": 60}, function={"concurrency": 1, "timeout": 60})
    holding = [f"holding-{number}" for number in range(mappings)]
    for name in holding:
        app.queue(name, visibility_timeout=3600)
        app.mapping(name, source=f"queue:{name}", function="work", batch_size=1)
    with open_pipeline(app, functions={"work": work}) as pipeline:
        for name in holding:
            pipeline.send(f"queue:{name}", ["hold"])
        pipeline.advance(0.5)
        (sent,) = pipeline.send("queue:orders", ["x"])
        pipeline.run_until_idle()
        calls = [call for call in pipeline.invocations if call.mapping == "orders"]
        assert [message_ids(call) for call in calls] == [[sent]]
        return [(call.bodies[0], receive_counts(call)[0]) for call in calls]


@scenario("sqs/number-and-binary-attributes")
def number_and_binary_attributes() -> None:
    with queue_pipeline(Scripted()) as pipeline:
        headers = {"Price:Number": "0012.3400", "Photo:Binary": b"\x00\x01\x7f\x80\xff"}
        pipeline.send("queue:orders", ["hello"], headers=headers)
        pipeline.run_until_idle()
        attributes = pipeline.invocations[0].event["Records"][0]["messageAttributes"]
        assert attributes["Price"]["stringValue"] == "12.34"
        assert "binaryValue" not in attributes["Price"]
        assert attributes["Photo"]["binaryValue"] == "AAF/gP8="
        assert "stringValue" not in attributes["Photo"]
        for attribute in attributes.values():
            assert attribute["stringListValues"] == attribute["binaryListValues"] == []


@scenario("sqs/disabled-mapping-leaves-messages")
def disabled_mapping() -> None:
    work = {"work": Scripted()}
    with open_pipeline(queue_app(enabled=False), functions=work) as pipeline:
        sent = pipeline.send("queue:orders", [1, 2, 3])
        pipeline.advance(3600)
        assert pipeline.invocations == []
        pipeline.restart(queue_app(), functions=work)
        pipeline.run_until_idle()
        pipeline.restart(queue_app(enabled=False), functions=work)
        assert sorted(name for call in pipeline.invocations for name in message_ids(call)) == sorted(sent)
        pipeline.advance(60)
        assert pipeline.delivered_to("queue:orders") == []


@scenario("sqs/partial-report-ignored-when-not-enabled")
def report_ignored() -> None:
    def work(event: Any, context: Any) -> Any:
        return {"batchItemFailures": [{"itemIdentifier": event["Records"][0]["messageId"]}]}

    with queue_pipeline(work) as pipeline:
        pipeline.send("queue:orders", [1, 2, 3])
        pipeline.run_until_idle()
        assert sorted(bodies(pipeline)) == [1, 2, 3]
        assert pipeline.delivered_to("queue:orders") == []


@scenario("sqs/error-retry-has-new-receipt-handle", awaits={2: "metrics"})
def new_receipt_handle() -> None:
    with queue_pipeline(Scripted(ValueError("once")), queue={"visibility_timeout": 60}) as pipeline:
        pipeline.send("queue:orders", ["hello"])
        pipeline.run_until_idle()
        (gap,) = gaps(pipeline.invocations)
        assert 60.0 <= gap < 60.1
        assert [receive_counts(call) for call in pipeline.invocations] == [["1"], ["2"]]
        first, second = (call.event["Records"][0]["receiptHandle"] for call in pipeline.invocations)
        assert first != second

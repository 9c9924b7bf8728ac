"""Asynchronous invocation (Lambda semantics §2, §12): the recorded cases of the families `async` and `concurrency`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest

import eventcore
from eventcore.errors import ConfigError, Throttled
from eventcore.ports.destinations import OBJECT_KEY
from eventcore.testing import Scripted, VirtualPipeline, open_pipeline
from eventcore_connectors.bucket.object_store import CONTENT_TYPE
from tests.conformance.scenarios.stage import BUCKET, declare_bucket, gaps
from tests.conformance.scenarios.table import scenario

MANAGEMENT = "a management API"
VERSIONS = "versions and aliases"
TOPICS = "topics"
#: An event that holds the function's one slot, and one that waits for it.
HOLD, WAITS = {"id": "hold"}, {"id": "waits"}


def _app(**function: Any) -> eventcore.App:
    app = eventcore.App()
    for queue in ("done", "failed", "dead"):
        app.queue(queue)
    app.function("work", handler="nowhere.work", **{"timeout": 900, **function})
    return app


@contextmanager
def _open(work: Callable[..., Any], **function: Any) -> Iterator[VirtualPipeline]:
    with open_pipeline(_app(**function), functions={"work": work}) as pipeline:
        yield pipeline


def _told(pipeline: VirtualPipeline, queue: str) -> Any:
    (message,) = pipeline.delivered_to(f"queue:{queue}")
    return message.json


def _dead_letter(pipeline: VirtualPipeline) -> dict[str, str]:
    """The attributes of the one dead letter."""
    (message,) = pipeline.delivered_to("queue:dead")
    return {name.partition(":")[0]: value for name, value in message.headers.items()}


def _fail(text: str = "Test exception (this is intentional)") -> Scripted:
    return Scripted(then=Exception(text))


# -- records -----------------------------------------------------------------------------------------------------------


@scenario("async/on-success-record", awaits={5: MANAGEMENT})
def on_success() -> None:
    seen: list[Any] = []

    def work(event: Any, context: Any) -> Any:
        seen.append(context)
        return {"event": event, "context": context.aws_request_id}

    with _open(work, maximum_retry_attempts=0, on_success="queue:done", on_failure="queue:done") as pipeline:
        request_id = pipeline.invoke_async("work")
        pipeline.run_until_idle()
        record = _told(pipeline, "done")
    (context,) = seen
    assert context.aws_request_id == request_id
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record.pop("timestamp"))
    arn = "arn:aws:lambda:us-east-1:000000000000:function:work"
    assert context.invoked_function_arn == arn
    assert record == {
        "version": "1.0",
        "requestContext": {
            "requestId": request_id,
            "functionArn": f"{arn}:$LATEST",
            "condition": "Success",
            "approximateInvokeCount": 1,
        },
        "requestPayload": {},
        "responseContext": {"statusCode": 200, "executedVersion": "$LATEST"},
        "responsePayload": {"event": {}, "context": request_id},
    }


@scenario("async/on-failure-record-without-retries")
def on_failure() -> None:
    with _open(_fail(), maximum_retry_attempts=0, on_failure="queue:failed") as pipeline:
        request_id = pipeline.invoke_async("work", {"raise_error": 1})
        pipeline.run_until_idle()
        record = _told(pipeline, "failed")
    context = record["requestContext"]
    assert (context["condition"], context["approximateInvokeCount"]) == ("RetriesExhausted", 1)
    assert record["requestPayload"] == {"raise_error": 1}
    assert record["responseContext"]["functionError"] == "Unhandled"
    assert record["responseContext"]["statusCode"] == 200
    payload = record["responsePayload"]
    assert list(payload) == ["errorMessage", "errorType", "requestId", "stackTrace"]
    assert payload["errorType"] == "Exception"
    assert payload["requestId"] == request_id
    assert all(isinstance(line, str) for line in payload["stackTrace"])


@scenario("async/s3-destination-key")
def object_as_destination() -> None:
    app = _app(on_failure=BUCKET, maximum_retry_attempts=0)
    declare_bucket(app)
    with open_pipeline(app, functions={"work": _fail()}) as pipeline:
        pipeline.invoke_async("work", {"id": 1})
        pipeline.run_until_idle()
        (told,) = pipeline.delivered_to(BUCKET)
    uuid = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    day = r"2026/01/01/2026-01-01T00\.00\.\d\d"
    assert re.fullmatch(f"aws/lambda/async/work/{day}-{uuid}", told.headers[OBJECT_KEY])
    assert CONTENT_TYPE == "application/octet-stream"
    app = _app(on_success=BUCKET)
    declare_bucket(app)
    with pytest.raises(ConfigError, match="failures alone"):
        app.loaded()


@scenario("async/lambda-destination-is-a-new-event")
def function_as_destination() -> None:
    app = _app(on_success="function:second")
    app.function("second", handler="nowhere.second")
    functions = {"work": Scripted("done"), "second": Scripted(then=ValueError("always"))}
    with open_pipeline(app, functions=functions) as pipeline:
        request_id = pipeline.invoke_async("work", {"id": 1})
        pipeline.run_until_idle()
        first, *second = pipeline.invocations
        assert (first.function, first.request_id) == ("work", request_id)
        assert [call.function for call in second] == ["second"] * 3
        assert len({call.request_id for call in second} - {request_id}) == 1
        assert second[0].event["requestContext"]["condition"] == "Success"
        assert second[0].event["responsePayload"] == "done"


# -- tries -------------------------------------------------------------------------------------------------------------


@scenario("async/default-is-two-retries", awaits={2: MANAGEMENT})
def default_retries() -> None:
    with _open(_fail(), on_success="queue:done", on_failure="queue:failed") as pipeline:
        pipeline.invoke_async("work")
        pipeline.run_until_idle()
        context = _told(pipeline, "failed")["requestContext"]
        assert (context["condition"], context["approximateInvokeCount"]) == ("RetriesExhausted", 3)


@scenario("async/first-retry-jitter")
def first_retry() -> None:
    with _open(_fail()) as pipeline:
        pipeline.invoke_async("work")
        pipeline.run_until_idle()
        first, second = gaps(pipeline.invocations)
        # What was recorded lies around the documented minute and two minutes.
        assert 60 <= first <= 67.2
        assert 114.2 <= second <= 120.1


@scenario("async/request-id-kept-over-retry")
def request_id_kept() -> None:
    with _open(_fail(), maximum_retry_attempts=1) as pipeline:
        request_id = pipeline.invoke_async("work")
        pipeline.run_until_idle()
        assert [call.request_id for call in pipeline.invocations] == [request_id] * 2
        ends = [line for line in pipeline.logs if line.startswith("END ")]
        assert ends == [f"END RequestId: {request_id}"] * 2


@scenario("async/max-event-age-ends-retries-early")
def age_ends_retries() -> None:
    for age_s, count in ((60, 1), (90, 2)):
        settings = {"maximum_retry_attempts": 2, "maximum_event_age_in_seconds": age_s}
        with _open(_fail(), on_failure="queue:failed", **settings) as pipeline:
            pipeline.invoke_async("work")
            pipeline.run_until_idle()
            record = _told(pipeline, "failed")
            context = record["requestContext"]
            assert (context["condition"], context["approximateInvokeCount"]) == ("EventAgeExceeded", count)
            assert record["responseContext"]["functionError"] == "Unhandled"
            assert record["responsePayload"]["errorType"] == "Exception"
            (message,) = pipeline.delivered_to("queue:failed")
            assert message.at_s == pytest.approx((0, 60)[count - 1], abs=1)


# -- dead letters ------------------------------------------------------------------------------------------------------


@scenario("async/dlq-without-retries")
def dead_letter() -> None:
    with _open(_fail(), maximum_retry_attempts=0, dead_letter_queue="dead") as pipeline:
        pipeline.invoke_async("work", {"raise_error": 1})
        pipeline.run_until_idle()
        attributes = _dead_letter(pipeline)
        assert attributes["ErrorCode"] == "200"
        assert attributes["ErrorMessage"] == "Test exception (this is intentional)"


@scenario("async/dlq-error-message-truncated")
def long_message() -> None:
    with _open(_fail("x" * 5000), maximum_retry_attempts=0, dead_letter_queue="dead") as pipeline:
        pipeline.invoke_async("work")
        pipeline.run_until_idle()
        assert len(_dead_letter(pipeline)["ErrorMessage"].encode()) == 1024


@scenario("async/sns-chain-to-sns-dlq", awaits={1: TOPICS, 3: TOPICS})
def dead_letter_of_a_notification() -> None:
    """The event is a topic's by its shape alone; the dead letter is it, whole, with three attributes and our own."""
    about = {"Message": '{"raise_error":1}', "Subject": None, "MessageAttributes": {}}
    event = {"Records": [{"EventSource": "aws:sns", "EventVersion": "1.0", "Sns": about}]}
    with _open(_fail(), maximum_retry_attempts=0, dead_letter_queue="dead") as pipeline:
        request_id = pipeline.invoke_async("work", event)
        pipeline.run_until_idle()
        assert _told(pipeline, "dead") == event
        attributes = _dead_letter(pipeline)
    assert attributes.pop("eventcore-lineage") == "work=1"
    expected = {"RequestID": request_id, "ErrorCode": "200", "ErrorMessage": "Test exception (this is intentional)"}
    assert attributes == expected


# -- settings ----------------------------------------------------------------------------------------------------------


@scenario("async/event-invoke-config-rules", awaits=dict.fromkeys((1, 4, 5, 7, 8), MANAGEMENT))
def settings_of_events() -> None:
    with pytest.raises(ConfigError, match=r"as a destination for itself\. .*InvalidParameterValueException\]"):
        _app(on_success="function:work").loaded()
    with pytest.raises(ConfigError, match="nobody"):
        _app(on_failure="function:nobody").loaded()
    assert _app(maximum_event_age_in_seconds=21_600).loaded()
    with pytest.raises(ConfigError, match="maximum_event_age_in_seconds"):
        _app(maximum_event_age_in_seconds=21_601).loaded()


# -- room --------------------------------------------------------------------------------------------------------------


@scenario("async/reserved-concurrency-zero")
def nothing_reserved() -> None:
    settings = {"reserved_concurrent_executions": 0, "maximum_retry_attempts": 0}
    with _open(Scripted(), on_failure="queue:failed", **settings) as pipeline:
        with pytest.raises(Throttled) as caught:
            pipeline.invoke("work", {})
        assert "Rate Exceeded." in str(caught.value)
        assert "ReservedFunctionConcurrentInvocationLimitExceeded" in str(caught.value)
        assert pipeline.invoke_async("work")
        pipeline.run_until_idle()
        record = _told(pipeline, "failed")
        context = record["requestContext"]
        assert (context["condition"], context["approximateInvokeCount"]) == ("ZeroReservedConcurrency", 0)
        assert record["requestPayload"] == {}
        assert not {"responseContext", "responsePayload"} & record.keys()
        assert pipeline.invocations == []


@scenario("concurrency/zero-reservation-dlq-has-no-error-code")
def nothing_reserved_dead_letter() -> None:
    settings = {"reserved_concurrent_executions": 0, "on_failure": "queue:failed", "dead_letter_queue": "dead"}
    with _open(Scripted(), **settings) as pipeline:
        pipeline.invoke_async("work")
        pipeline.run_until_idle()
        assert "ErrorCode" not in _dead_letter(pipeline)
        context = _told(pipeline, "failed")["requestContext"]
        assert (context["condition"], context["approximateInvokeCount"]) == ("ZeroReservedConcurrency", 0)


def _hold(seconds: float) -> Callable[..., Any]:
    async def work(event: Any, context: Any) -> None:
        if event == HOLD:
            await anyio.sleep(seconds)

    return work


@contextmanager
def _held(seconds: float, **settings: Any) -> Iterator[VirtualPipeline]:
    """A function whose only slot is held by a first event."""
    told = {"on_failure": "queue:failed", "dead_letter_queue": "dead"}
    with _open(_hold(seconds), reserved_concurrent_executions=1, **told, **settings) as pipeline:
        pipeline.invoke_async("work", HOLD)
        pipeline.advance(1)
        yield pipeline


@scenario("async/age-exceeded-while-throttled-never-executed")
def age_exceeded() -> None:
    with _held(130, maximum_event_age_in_seconds=90) as pipeline:
        assert pipeline.invoke_async("work", WAITS)
        pipeline.run_until_idle()
        assert [call.event for call in pipeline.invocations] == [HOLD]
        record = _told(pipeline, "failed")
        context = record["requestContext"]
        assert (context["condition"], context["approximateInvokeCount"]) == ("EventAgeExceeded", 0)
        assert record["responseContext"]["statusCode"] == 429
        assert "responsePayload" not in record
        attributes = _dead_letter(pipeline)
        assert (attributes["ErrorCode"], attributes["ErrorMessage"]) == ("429", "Rate Exceeded.")
        (message,) = pipeline.delivered_to("queue:dead")
        assert "ErrorCode:Number" in message.headers


@scenario("async/throttled-event-look-ahead")
def look_ahead() -> None:
    with _held(110, maximum_event_age_in_seconds=60, maximum_retry_attempts=2) as pipeline:
        accepted_s = pipeline.now_s
        pipeline.invoke_async("work", WAITS)
        pipeline.run_until_idle()
        (message,) = pipeline.delivered_to("queue:failed")
        assert message.at_s is not None
        assert message.at_s - accepted_s == pytest.approx(31, abs=1)
        (function,) = pipeline.status.functions
        assert function.throttled == 6
        record = message.json
        context = record["requestContext"]
        assert (context["condition"], context["approximateInvokeCount"]) == ("EventAgeExceeded", 0)
        assert record["responseContext"] == {"statusCode": 429}
        assert "responsePayload" not in record


# -- a function that changes -------------------------------------------------------------------------------------------


@scenario("async/queued-events-run-the-updated-function")
def updated_function() -> None:
    """A deployment here is another engine on the same state: what runs ends as what it was begun as."""
    first, second = Scripted(then=lambda event, context: "1", takes_s=22), Scripted(then=lambda event, context: "2")
    settings = {"reserved_concurrent_executions": 1}
    with _open(first, **settings) as pipeline:
        for number in range(10):
            pipeline.invoke_async("work", number)
        pipeline.advance(5)
        pipeline.restart(_app(**settings), functions={"work": second})
        for number in range(10, 15):
            pipeline.invoke_async("work", number)
        pipeline.run_until_idle()
        assert [call.response for call in pipeline.invocations] == ["1"] + ["2"] * 14
        assert sorted(call.event for call in pipeline.invocations) == list(range(15))


@scenario("async/accepted-event-runs-on-replacement-function-recreate", awaits={2: VERSIONS})
def recreated_function() -> None:
    hold, settings = Scripted(takes_s=22), {"reserved_concurrent_executions": 1}
    with _open(hold, **settings) as pipeline:
        pipeline.invoke_async("work", HOLD)
        pipeline.advance(1)
        request_id = pipeline.invoke_async("work", WAITS)
        pipeline.restart(_app(**settings), functions={"work": Scripted(then=lambda event, context: "new")})
        pipeline.run_until_idle()
        assert [call.event for call in pipeline.invocations] == [HOLD, WAITS]
        again = pipeline.invocations[1]
        assert (again.request_id, again.response) == (request_id, "new")


def _app_without_work() -> eventcore.App:
    app = eventcore.App()
    app.queue("failed")
    app.function("other", handler="nowhere.other")
    return app


def _deleted(retries: int) -> Callable[[], None]:
    """A deployment without the function: what waits for it stays, for no settings of it are left to tell anybody."""

    def play() -> None:
        settings: Any = {"reserved_concurrent_executions": 1, "maximum_retry_attempts": retries}
        with _open(Scripted(takes_s=22), on_failure="queue:failed", **settings) as pipeline:
            pipeline.invoke_async("work", HOLD)
            pipeline.advance(1)
            pipeline.invoke_async("work", WAITS)
            pipeline.restart(_app_without_work(), functions={"other": Scripted()})
            pipeline.advance(3600)
            assert [call.event for call in pipeline.invocations] == [HOLD]
            (waiting,) = pipeline.delivered_to("queue:events.work")
            assert waiting.json == WAITS

    return play


for _retries in (0, 1):
    _awaits = {2: MANAGEMENT, 3: MANAGEMENT}
    scenario(f"async/deleted-target-function-retry{_retries}", awaits=_awaits)(_deleted(_retries))


@scenario("async/retry-resolves-alias-again", awaits={2: VERSIONS})
def retry_runs_what_is_deployed() -> None:
    """Between two tries the function is deployed anew."""
    settings: Any = {"maximum_retry_attempts": 1}
    with _open(_fail(), on_failure="queue:failed", **settings) as pipeline:
        request_id = pipeline.invoke_async("work", WAITS)
        pipeline.advance(30)
        again = _app(on_failure="queue:failed", **settings)
        pipeline.restart(again, functions={"work": Scripted(then=ValueError("of the second"))})
        pipeline.run_until_idle()
        assert [call.request_id for call in pipeline.invocations] == [request_id] * 2
        record = _told(pipeline, "failed")
    assert record["requestContext"]["approximateInvokeCount"] == 2
    assert record["responsePayload"]["errorMessage"] == "of the second"

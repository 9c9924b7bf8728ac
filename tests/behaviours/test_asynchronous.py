"""Asynchronous invocation: accepted at once, tried three times, told to destinations (Lambda semantics §2, §12)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import anyio
import pytest

import eventcore
from eventcore.delivery.asynchronous import BEGUN_MAX
from eventcore.engine.event_worker import LEASE_MARGIN_S
from eventcore.errors import (
    CommandError,
    ConfigError,
    ProgrammingError,
    RuntimeUnavailable,
    StoreUnavailable,
    Throttled,
)
from eventcore.model import DiscardReason, Invocation, Outcome
from eventcore.ports.runtime import FunctionSpec, Runtime
from eventcore.ports.store import DeleteMessages, Operation, ReceiveMessages, SendMessages, Store
from eventcore.store.memory import open_memory_store
from eventcore.telemetry.events import EventDelivered, EventDiscarded, EventInvoked, EventRetried, InvocationFinished
from eventcore.testing import Scripted, open_pipeline
from eventcore.testing.harness import Harness, open_harness
from eventcore.testing.virtual_loop import run_virtual
from tests.behaviours.orders import play, send_numbers, stream_app
from tests.behaviours.scripted_source import play_scripted


def _app(handler: Callable[..., Any], **settings: Any) -> eventcore.App:
    app = eventcore.App()
    app.queue("done")
    app.queue("failed")
    app.queue("dead")
    app.function("work", runtime="inline", **{"timeout": 900, **settings})(handler)
    return app


async def _fail(event: Any, context: Any) -> None:
    raise ValueError("intentional failure")


async def _record(harness: Harness, queue: str = "failed") -> Any:
    (message,) = await harness.messages(queue)
    return json.loads(message.body)


def _once(event: Any = None) -> Callable[[Harness], Awaitable[None]]:
    async def scenario(harness: Harness) -> None:
        await harness.invoke_async("work", event)
        await harness.run_until_idle()

    return scenario


# -- tries -------------------------------------------------------------------------------------------------------------


def test_an_event_is_accepted_at_once_and_invoked_under_the_id_that_was_answered() -> None:
    seen: list[tuple[Any, str]] = []

    async def work(event: Any, context: Any) -> None:
        await anyio.sleep(10)
        seen.append((event, context.aws_request_id))

    async def scenario(harness: Harness) -> None:
        request_id = await harness.invoke_async("work", {"id": 7})
        assert seen == []
        await harness.run_until_idle()
        assert seen == [({"id": 7}, request_id)]
        assert await harness.messages("events.work") == []

    play(_app(work), scenario)


def test_a_failing_event_is_tried_after_one_and_after_two_more_minutes_with_one_request_id() -> None:
    """async/default-is-two-retries, async/request-id-kept-over-retry."""
    seen: list[str] = []

    async def work(event: Any, context: Any) -> None:
        seen.append(context.aws_request_id)
        raise ValueError("intentional failure")

    async def scenario(harness: Harness) -> None:
        await _once()(harness)
        record = await _record(harness)
        assert record["requestContext"]["condition"] == "RetriesExhausted"
        assert record["requestContext"]["approximateInvokeCount"] == 3
        assert record["requestContext"]["requestId"] == seen[0]

    harness = play(_app(work, on_failure="queue:failed"), scenario)
    assert harness.times(EventInvoked) == pytest.approx([0, 60, 180], abs=0.05)
    assert len(set(seen)) == 1


def test_maximum_retry_attempts_bounds_the_tries() -> None:
    """async/on-failure-record-without-retries."""
    harness = play(_app(_fail, maximum_retry_attempts=0), _once())
    assert len(harness.events(EventInvoked)) == 1
    (discarded,) = harness.events(EventDiscarded)
    assert (discarded.reason, discarded.attempt) == (DiscardReason.RETRIES_EXHAUSTED, 1)


@pytest.mark.parametrize(("age_s", "tries"), [(60, 1), (90, 2), (181, 3)])
def test_the_age_limit_is_looked_at_ahead(age_s: int, tries: int) -> None:
    """async/max-event-age-ends-retries-early: trap 5; the record keeps the last response."""

    async def scenario(harness: Harness) -> None:
        await _once()(harness)
        record = await _record(harness)
        condition = "EventAgeExceeded" if tries < 3 else "RetriesExhausted"
        assert record["requestContext"]["condition"] == condition
        assert record["requestContext"]["approximateInvokeCount"] == tries
        assert record["responsePayload"]["errorMessage"] == "intentional failure"

    app = _app(_fail, on_failure="queue:failed", maximum_event_age_in_seconds=age_s)
    harness = play(app, scenario)
    assert len(harness.events(EventInvoked)) == tries
    # Given up at its last failure, not at its age.
    assert harness.times(EventDiscarded) == pytest.approx([(0, 60, 180)[tries - 1]], abs=0.05)


def test_an_event_that_waited_too_long_for_an_engine_is_not_tried() -> None:
    async def run() -> None:
        app = _app(_fail, on_failure="queue:failed", maximum_event_age_in_seconds=60)
        async with open_memory_store() as store:
            async with open_harness(app, store=store) as harness:
                harness.engine.drain()
                await harness.invoke_async("work")
            await anyio.sleep(61)
            async with open_harness(app, store=store) as harness:
                await harness.run_until_idle()
                assert harness.events(EventInvoked) == []
                record = await _record(harness)
                assert record["requestContext"]["condition"] == "EventAgeExceeded"
                assert "responseContext" not in record

    run_virtual(run)


def test_throttles_double_from_a_second_use_up_no_attempt_and_are_looked_at_ahead() -> None:
    """async/throttled-event-look-ahead: given up 31 s after it was accepted, after six throttles."""

    async def work(event: Any, context: Any) -> None:
        await anyio.sleep(110)

    async def scenario(harness: Harness) -> None:
        await harness.invoke_async("work", 1)
        await harness.advance(1)
        await harness.invoke_async("work", 2)
        await harness.run_until_idle()
        record = await _record(harness)
        assert record["requestPayload"] == 2
        assert record["requestContext"]["condition"] == "EventAgeExceeded"
        assert record["requestContext"]["approximateInvokeCount"] == 0
        assert record["responseContext"] == {"statusCode": 429}
        assert "responsePayload" not in record
        (function,) = (await harness.status()).functions
        assert (function.throttled, function.invoked, function.delivered) == (6, 1, 1)
        (dead,) = await harness.messages("dead")
        assert ("ErrorCode:Number", b"429") in dead.headers
        assert ("ErrorMessage", b"Rate Exceeded.") in dead.headers

    app = _app(
        work,
        reserved_concurrent_executions=1,
        maximum_event_age_in_seconds=60,
        on_failure="queue:failed",
        dead_letter_queue="dead",
    )
    harness = play(app, scenario)
    assert harness.times(EventDiscarded) == pytest.approx([32], abs=0.2)


def test_throttled_events_are_delivered_when_there_is_room() -> None:
    """A slot that frees within a second is taken at once; the longest pause between two tries is five minutes."""
    held_s = 1000.0

    async def work(event: Any, context: Any) -> None:
        await anyio.sleep(held_s if event == 1 else 0)

    async def scenario(harness: Harness) -> None:
        await harness.invoke_async("work", 1)
        await harness.advance(0.1)
        await harness.invoke_async("work", 2)
        await harness.run_until_idle()

    harness = play(_app(work, timeout=900, concurrency=1), scenario)
    assert [event.attempt for event in harness.events(EventDelivered)] == [1]  # the first one timed out after 900 s

    held_s = 0.5
    harness = play(_app(work, concurrency=1), scenario)
    assert len(harness.events(EventDelivered)) == 2
    assert harness.times(EventInvoked)[1] == pytest.approx(0.5, abs=0.1)
    assert harness.events(EventRetried) == []


def test_queued_events_run_one_after_another_in_the_room_that_there_is() -> None:
    """async/queued-events-run-the-updated-function, its numbers."""
    running: list[int] = []

    async def work(event: Any, context: Any) -> None:
        running.append(event)
        assert len(running) == 1
        await anyio.sleep(22 if event == 0 else 0.2)
        running.remove(event)

    async def scenario(harness: Harness) -> None:
        for number in range(15):
            await harness.invoke_async("work", number)
        await harness.run_until_idle()

    harness = play(_app(work, reserved_concurrent_executions=1), scenario)
    assert len(harness.events(EventDelivered)) == 15
    assert not [event for event in harness.events(InvocationFinished) if event.fault]


# -- reserved concurrency ----------------------------------------------------------------------------------------------


def test_a_function_with_nothing_reserved_runs_nothing_and_its_events_are_given_up_at_once() -> None:
    """async/reserved-concurrency-zero, concurrency/zero-reservation-dlq-has-no-error-code: trap 6."""

    async def scenario(harness: Harness) -> None:
        with pytest.raises(Throttled, match=r"Rate Exceeded\..*ReservedFunctionConcurrentInvocationLimitExceeded"):
            await harness.engine.invoke("work", {})
        await _once()(harness)
        record = await _record(harness)
        assert record["requestContext"]["condition"] == "ZeroReservedConcurrency"
        assert record["requestContext"]["approximateInvokeCount"] == 0
        assert record["requestPayload"] == {}
        assert not record.keys() & {"responseContext", "responsePayload"}
        (dead,) = await harness.messages("dead")
        assert dead.body == b"{}"
        assert [name for name, _ in dead.headers if name.startswith("Error")] == []

    app = _app(_fail, reserved_concurrent_executions=0, on_failure="queue:failed", dead_letter_queue="dead")
    harness = play(app, scenario)
    assert harness.events(EventInvoked) == []
    assert harness.times(EventDiscarded) == pytest.approx([0], abs=0.05)


def test_a_mapping_of_a_function_with_nothing_reserved_takes_nothing() -> None:
    """Its messages stay in their queue, and are not received until a dead-letter queue has them."""

    async def scenario(harness: Harness) -> None:
        await harness.send("queue:done", ["1"])
        await harness.advance(600)
        (mapping,) = (await harness.status()).mappings
        assert mapping.state == "Problem"
        assert "reserved_concurrent_executions" in mapping.reason
        assert [message.receive_count for message in await harness.messages("done")] == [0]

    app = _app(_fail, reserved_concurrent_executions=0, timeout=3)
    app.mapping("done", source="queue:done", function="work")
    play(app, scenario)


# -- destinations ------------------------------------------------------------------------------------------------------


def test_a_success_is_told_with_its_response() -> None:
    """async/on-success-record; §12: a success after a failure reports one invocation."""
    tries: list[str] = []

    async def work(event: Any, context: Any) -> Any:
        tries.append(context.invoked_function_arn)
        if len(tries) == 1:
            raise ValueError("at first")
        return {"answer": event}

    async def scenario(harness: Harness) -> None:
        await _once({"id": 1})(harness)
        record = await _record(harness, "done")
        assert list(record) == [
            "version", "timestamp", "requestContext", "requestPayload", "responseContext", "responsePayload"
        ]  # fmt: skip
        assert record["requestContext"]["condition"] == "Success"
        assert record["requestContext"]["approximateInvokeCount"] == 1
        assert record["requestContext"]["functionArn"] == f"{tries[0]}:$LATEST"
        assert record["responseContext"] == {"statusCode": 200, "executedVersion": "$LATEST"}
        assert record["responsePayload"] == {"answer": {"id": 1}}
        assert await harness.messages("failed") == []

    play(_app(work, on_success="queue:done", on_failure="queue:failed"), scenario)


def test_a_dead_letter_is_the_event_as_it_was_with_three_attributes() -> None:
    """async/dlq-without-retries, async/dlq-error-message-truncated."""

    async def work(event: Any, context: Any) -> None:
        raise ValueError("€" * 1000)

    async def scenario(harness: Harness) -> None:
        request_id = await harness.invoke_async("work", b'{ "raise_error" : 1 }')
        await harness.run_until_idle()
        (dead,) = await harness.messages("dead")
        assert dead.body == b'{ "raise_error" : 1 }'
        headers = dict(dead.headers)
        assert headers["RequestID"] == request_id.encode()
        assert headers["ErrorCode:Number"] == b"200"
        assert headers["ErrorMessage"].decode() == "€" * 341
        # Both get the event.
        assert (await _record(harness))["requestPayload"] == {"raise_error": 1}

    app = _app(work, maximum_retry_attempts=0, dead_letter_queue="dead", on_failure="queue:failed")
    play(app, scenario)


def test_an_event_that_nobody_is_told_of_is_counted_and_kept() -> None:
    async def scenario(harness: Harness) -> None:
        await _once({"id": 1})(harness)
        (function,) = (await harness.status()).functions
        assert function.discarded == {DiscardReason.RETRIES_EXHAUSTED: 1}
        assert function.untold == 1
        (failure,) = await harness.failures()
        assert (failure.function, failure.attempts, failure.reason) == ("work", 3, "RetriesExhausted")

    harness = play(_app(_fail), scenario)
    (discarded,) = harness.events(EventDiscarded)
    assert discarded.destinations == ()


def test_a_function_as_destination_gets_an_event_of_its_own() -> None:
    """async/lambda-destination-is-a-new-event: under a new request id, with its own retries."""
    seen: list[tuple[Any, str]] = []

    async def follow(event: Any, context: Any) -> None:
        seen.append((event, context.aws_request_id))
        raise ValueError("each time")

    async def work(event: Any, context: Any) -> str:
        return "done"

    async def scenario(harness: Harness) -> None:
        request_id = await harness.invoke_async("work", {"id": 1})
        await harness.run_until_idle()
        assert len(seen) == 3
        event, own_id = seen[0]
        assert event["requestContext"]["requestId"] == request_id != own_id
        assert event["responsePayload"] == "done"

    app = _app(work, on_success="function:follow")
    app.function("follow", runtime="inline")(follow)
    play(app, scenario)


def test_a_record_that_is_too_long_for_a_message_is_told_without_its_payloads() -> None:
    async def work(event: Any, context: Any) -> str:
        return "x" * 1_100_000 if event == 1 else "y"

    async def scenario(harness: Harness) -> None:
        await harness.invoke_async("work", 1)
        await harness.invoke_async("work", "z" * 1_048_500)
        await harness.run_until_idle()
        long_response, long_request = [json.loads(message.body) for message in await harness.messages("done")]
        assert "responsePayload" not in long_response
        assert long_response["requestPayload"] == 1
        assert not long_request.keys() & {"requestPayload", "responsePayload"}

    play(_app(work, on_success="queue:done"), scenario)


# -- accepting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "event", "said"),
    [
        ("nobody", b"{}", "there is no function `nobody`"),
        ("work", b"{", "not JSON"),
        ("work", b'{"id":"\xff"}', "not JSON"),
        ("work", b"[" * 100_000 + b"]" * 100_000, "not JSON"),
        ("work", b'"' + b"x" * 1_048_575 + b'"', "1048577 byte payload is too large for the Event invocation type"),
    ],
)
def test_what_is_refused_is_refused_at_once(function: str, event: bytes, said: str) -> None:
    async def scenario(harness: Harness) -> None:
        with pytest.raises(CommandError, match=said):
            await harness.invoke_async(function, event)
        assert "events.work" not in {depth.queue for depth in await harness.store.queue_depths()}

    play(_app(_fail), scenario)


@pytest.mark.parametrize("body", [b"plain", b"\xff\x00", b'"\xff"', b"", b"[" * 100_000 + b"]" * 100_000])
def test_a_message_that_is_no_json_is_an_event_that_is_a_text(body: bytes) -> None:
    """`eventcore send queue:events.work` takes any bytes; the record must be JSON all the same."""

    async def scenario(harness: Harness) -> None:
        await _once({})(harness)
        await harness.send("queue:events.work", [body])
        await harness.run_until_idle()
        (_, message) = await harness.messages("failed")
        payload = json.loads(message.body)["requestPayload"]
        assert payload == (body.decode(errors="backslashreplace") if body else {})

    play(_app(_fail, maximum_retry_attempts=0, on_failure="queue:failed"), scenario)


def test_a_long_message_that_is_no_json_is_carried_as_it_was_sent() -> None:
    """Made JSON, each of its bytes takes five: more than a message can hold."""
    body = b"\xff" * 1_000_000

    async def scenario(harness: Harness) -> None:
        await _once({})(harness)
        await harness.send("queue:events.work", [body])
        await harness.run_until_idle()
        (_, dead) = await harness.messages("dead")
        assert dead.body == body
        (_, failure) = sorted(await harness.failures(), key=lambda failure: failure.created_ms)
        assert (failure.attempts, failure.reason) == (3, "RetriesExhausted")

    play(_app(_fail, dead_letter_queue="dead", on_failure="queue:failed"), scenario)


def test_a_restart_goes_on_with_the_same_attempts() -> None:
    async def run() -> None:
        app = _app(_fail, on_failure="queue:failed")
        async with open_memory_store() as store:
            async with open_harness(app, store=store) as harness:
                await harness.invoke_async("work")
                await harness.advance(30)
            async with open_harness(app, store=store) as harness:
                await harness.run_until_idle()
                assert [event.attempt for event in harness.events(EventInvoked)] == [2, 3]
                assert (await _record(harness))["requestContext"]["approximateInvokeCount"] == 3

    run_virtual(run)


def test_an_aborted_invocation_uses_up_no_attempt() -> None:
    async def work(event: Any, context: Any) -> None:
        await anyio.sleep(100)

    async def run() -> None:
        app = _app(work)
        async with open_memory_store() as store:
            for _ in range(4):
                async with open_harness(app, store=store) as harness:
                    if not await store.peek("events.work", count_max=1) if _ else True:
                        await harness.invoke_async("work")
                    await harness.advance(1)
                    harness.engine.abort()
            async with open_harness(app, store=store) as harness:
                await harness.run_until_idle()
                assert [event.attempt for event in harness.events(EventDelivered)] == [1]

    run_virtual(run)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"on_success": "function:work"}, "You can't specify the function as a destination for itself."),
        ({"on_failure": "function:work"}, "You can't specify the function as a destination for itself."),
        ({"on_failure": "queue:nowhere"}, "leads to nothing"),
        ({"dead_letter_queue": "nowhere"}, "leads to nothing"),
        ({"on_failure": "topic:orders"}, "is not a reference"),
        ({"on_success": "queue:ordered"}, "FIFO"),
        ({"on_failure": "queue:ordered"}, "FIFO"),
        ({"dead_letter_queue": "ordered"}, "FIFO"),
        ({"concurrency": 3, "reserved_concurrent_executions": 3}, "no effect"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], said: str) -> None:
    app = _app(_fail, **settings)
    app.queue("ordered", fifo_queue=True)
    with pytest.raises(ConfigError, match=said):
        app.loaded()


# -- functions as destinations of mappings -----------------------------------------------------------------------------


def test_what_a_mapping_gives_up_is_an_event_for_its_function() -> None:
    """Each discard has its own tries: one that fails holds nothing else up, and the mapping least of all."""
    calls: Counter[str] = Counter()

    async def sink(event: dict[str, Any], context: Any) -> None:
        start = str(event["KinesisBatchInfo"]["startSequenceNumber"])
        calls[start] += 1
        if list(calls).index(start) == 2:
            raise ValueError("the third")

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 3)
        await harness.run_until_idle()
        (failure,) = [failure for failure in await harness.failures() if failure.function == "sink"]
        assert failure.attempts == 3

    app = stream_app(_fail, maximum_retry_attempts=0, batch_size=1, on_failure="function:sink")
    app.function("sink", runtime="inline")(sink)
    harness = play(app, scenario)
    assert list(calls.values()) == [1, 1, 3]
    assert len(harness.discarded) == 3


# -- destinations outside, and a store that is away --------------------------------------------------------------------


@pytest.mark.parametrize("destination", ["kafka:local/told", "http:sink", "stream:told", "stdout"])
def test_records_go_to_every_kind_of_destination_with_their_lineage(destination: str) -> None:
    app = eventcore.App()
    app.kafka("local", bootstrap_servers="127.0.0.1:9092")
    app.http("sink", url="http://127.0.0.1:9/")
    app.stream("told", shards=1)
    app.function(
        "work", handler="nowhere.work", maximum_retry_attempts=0, on_success=destination, on_failure=destination
    )
    work = Scripted("done", ValueError("no"))
    with open_pipeline(app, functions={"work": work}) as pipeline:
        ids = [pipeline.invoke_async("work", number) for number in range(2)]
        pipeline.run_until_idle()
        told = pipeline.delivered_to(destination)
        records = [message.json for message in told]
        assert [record["requestContext"]["requestId"] for record in records] == ids
        assert [record["requestContext"]["condition"] for record in records] == ["Success", "RetriesExhausted"]
        assert [message.headers["eventcore-lineage"] for message in told] == ["work=1"] * 2


def test_a_destination_without_room_holds_events_back() -> None:
    """Nothing is dropped: what can't be told is not begun (design §3)."""
    app = eventcore.App()
    app.http("sink", url="http://127.0.0.1:9/")
    app.function("work", handler="nowhere.work", on_success="http:sink")
    with open_pipeline(app, functions={"work": Scripted(then="x" * 1_000_000)}) as pipeline:
        pipeline.take_down("http:sink", seconds=600)
        for number in range(100):
            pipeline.invoke_async("work", number)
        pipeline.advance(60)
        # 64 MB of rows, and those that were begun with the last of them.
        assert 64 <= len(pipeline.invocations) < 64 + 2 * 11
        pipeline.run_until_idle()
        assert len(pipeline.delivered_to("http:sink")) == 100


def test_a_store_that_is_away_for_a_moment_loses_nothing_and_tells_once() -> None:
    refused: list[Operation] = []

    async def commit(store: Store, operations: Sequence[Operation]) -> list[Any]:
        if len(refused) < 2 and any(isinstance(operation, DeleteMessages) for operation in operations):
            refused.extend(operations)
            raise StoreUnavailable("the disk is full for a moment")
        return await store.commit(operations)

    async def scenario(harness: Harness) -> None:
        await _once({"id": 1})(harness)
        assert (await _record(harness))["requestPayload"] == {"id": 1}
        (function,) = (await harness.status()).functions
        assert function.problem == ""

    harness = play_scripted(_app(_fail, maximum_retry_attempts=0, on_failure="queue:failed"), scenario, commit=commit)
    assert refused
    assert [event.attempt for event in harness.events(EventInvoked)] == [1, 1]
    assert len(harness.events(EventDiscarded)) == 1


def test_an_event_whose_end_can_not_be_written_ends_no_other_and_was_not_begun() -> None:
    """The other one runs once; the first is not taken for one in which the engine died, and waits for no lease."""
    refused: list[Operation] = []

    async def commit(store: Store, operations: Sequence[Operation]) -> list[Any]:
        if len(refused) <= BEGUN_MAX and any(
            isinstance(each, SendMessages) and each.queue == "done" and b'"requestPayload":1' in each.messages[0].body
            for each in operations
        ):
            refused.append(operations[0])
            raise StoreUnavailable("the disk is full for a moment")
        return await store.commit(operations)

    calls: Counter[int] = Counter()

    async def work(event: int, context: Any) -> None:
        calls[event] += 1
        await anyio.sleep(100 * (event - 1))

    async def scenario(harness: Harness) -> None:
        await harness.invoke_async("work", 1)
        await harness.invoke_async("work", 2)
        await harness.run_until_idle()
        assert harness.events(EventDiscarded) == []
        assert len(await harness.messages("done")) == 2

    play_scripted(_app(work, on_success="queue:done"), scenario, commit=commit)
    assert calls == {1: len(refused) + 1, 2: 1}
    assert len(refused) > BEGUN_MAX


def test_a_try_that_outlasts_its_lease_leaves_the_event_to_the_next() -> None:
    """The first does not heed its deadline. Put back by it as well, the event would be there twice."""
    began: list[float] = []

    async def work(event: int, context: Any) -> None:
        began.append(anyio.current_time())
        with anyio.CancelScope(shield=True):
            await anyio.sleep(40 if len(began) == 1 else 20)
        raise ValueError("always")

    async def scenario(harness: Harness) -> None:
        await harness.invoke_async("work", 1)
        await harness.advance(45)
        assert began == [0, 3 + LEASE_MARGIN_S]
        depths = {each.queue: each for each in await harness.engine.store.queue_depths()}
        found = depths["events.work"]
        assert (found.visible, found.hidden, found.delayed) == (0, 1, 0)
        await harness.run_until_idle()

    play(_app(work, timeout=3), scenario)
    assert len(began) == 1 + 3  # the one that came too late, and the three there are


def test_a_receive_that_fails_ends_no_invocation() -> None:
    refused: list[Operation] = []
    calls: list[Any] = []

    async def commit(store: Store, operations: Sequence[Operation]) -> list[Any]:
        is_receive = any(isinstance(each, ReceiveMessages) and each.queue == "events.work" for each in operations)
        if calls and is_receive and len(refused) < 3:
            refused.extend(operations)
            raise StoreUnavailable("locked for a moment")
        return await store.commit(operations)

    async def work(event: Any, context: Any) -> None:
        calls.append(event)
        await anyio.sleep(100)

    async def scenario(harness: Harness) -> None:
        await harness.invoke_async("work", 1)
        await harness.advance(1)
        await harness.invoke_async("work", 2)
        await harness.run_until_idle()

    play_scripted(_app(work), scenario, commit=commit)
    assert refused
    assert calls == [1, 2]


def test_an_error_of_ours_in_one_event_is_told_and_ends_no_other() -> None:
    calls: list[Any] = []

    async def work(event: Any, context: Any) -> None:
        calls.append(event)
        await anyio.sleep(100)

    async def scenario(harness: Harness) -> None:
        function = harness.engine.registry.get("work")
        function.runtime = _Refusing(function.runtime, ProgrammingError("a mistake of ours"), count=1)
        await harness.invoke_async("work", 1)
        await harness.invoke_async("work", 2)
        await harness.advance(0.5)
        (status,) = (await harness.status()).functions
        assert status.problem == "a mistake of ours"
        await harness.run_until_idle()
        assert harness.events(EventRetried) == []

    play(_app(work), scenario)
    assert calls == [2, 1]


def test_an_event_for_which_no_environment_can_be_had_waits_and_says_why() -> None:
    """A system error uses up no attempt (§2), is no throttle, and is told as what it is."""
    error = RuntimeUnavailable("no environment can be started: no memory")

    async def scenario(harness: Harness) -> None:
        function = harness.engine.registry.get("work")
        function.runtime = _Refusing(function.runtime, error, count=100)
        await _once()(harness)
        record = await _record(harness)
        assert record["requestContext"]["condition"] == "EventAgeExceeded"
        assert record["requestContext"]["approximateInvokeCount"] == 0
        assert record["responseContext"] == {"statusCode": 500}
        assert "responsePayload" not in record
        (dead,) = await harness.messages("dead")
        assert ("ErrorCode:Number", b"500") in dead.headers
        assert ("ErrorMessage", str(error).encode()) in dead.headers
        (status,) = (await harness.status()).functions
        assert status.throttled == 0
        (failure,) = await harness.failures()
        assert failure.error_message == str(error)

    app = _app(_sleep, maximum_event_age_in_seconds=60, on_failure="queue:failed", dead_letter_queue="dead")
    harness = play(app, scenario)
    told = harness.events(EventRetried)
    assert [str(error) in event.error for event in told] == [True] * 5


class _Refusing:
    """A runtime whose machine has nothing left for the first invocations."""

    def __init__(self, runtime: Runtime, error: Exception, *, count: int) -> None:
        self._runtime = runtime
        self._error = error
        self._left = count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)

    async def invoke(self, function: FunctionSpec, invocation: Invocation) -> Outcome:
        self._left -= 1
        if self._left >= 0:
            raise self._error
        return await self._runtime.invoke(function, invocation)


def test_an_event_in_which_the_engine_dies_each_time_is_given_up() -> None:
    """Design §3: it must not loop for ever; a death uses up no attempt."""

    async def run() -> None:
        app = _app(_sleep, timeout=3, on_failure="queue:failed")
        async with open_memory_store() as store:
            request_id = ""
            async with open_harness(app, store=store) as harness:
                request_id = await harness.invoke_async("work")
            for _ in range(BEGUN_MAX):
                # As an engine leaves it that dies in the invocation: received, and never settled.
                receive = ReceiveMessages(
                    queue="events.work", count_max=1, now_ms=harness.clock.now_ms(), visibility_timeout_s=1
                )
                ((received,),) = [result.messages for result in await store.commit([receive])]
                assert received.id == request_id
                await anyio.sleep(2)
            async with open_harness(app, store=store) as harness:
                await harness.run_until_idle()
                assert harness.events(EventInvoked) == []
                assert (await _record(harness))["requestContext"]["condition"] == "EngineCrash"

    run_virtual(run)


async def _sleep(event: Any, context: Any) -> None:
    await anyio.sleep(1)

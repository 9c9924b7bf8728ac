"""FIFO queues and dead-letter queues (Lambda semantics §3.2): the families `sqs-fifo` and `sqs-core`."""

from __future__ import annotations

from typing import Any

import pytest

import eventcore
from eventcore.engine.move_task import MoveState, MoveTask
from eventcore.errors import ConfigError
from eventcore.testing import Scripted, VirtualPipeline, open_pipeline
from eventcore.testing.harness import Harness
from tests.behaviours.orders import play as play_behaviour
from tests.conformance.scenarios.stage import REPORTS, batches, message_ids, receive_counts, redrive
from tests.conformance.scenarios.table import scenario


def _app(*, queue: dict[str, Any] | None = None, is_fifo: bool = True, **mapping: Any) -> eventcore.App:
    """A mapping from the queue `orders`, and one from its dead-letter queue, each with a function of its own."""
    app = eventcore.App()
    app.queue("dead", fifo_queue=is_fifo)
    app.queue("orders", **{"fifo_queue": is_fifo, **(queue or {})})
    app.function("work", handler="nowhere.work")
    app.function("look", handler="nowhere.look")
    app.mapping("orders", source="queue:orders", function="work", **mapping)
    app.mapping("dead", source="queue:dead", function="look")
    return app


def _attributes(pipeline: VirtualPipeline, mapping: str) -> list[dict[str, str]]:
    calls = [call for call in pipeline.invocations if call.mapping == mapping]
    return [record["attributes"] for call in calls for record in call.event["Records"]]


@scenario("sqs-fifo/report-batch-item-failures-retries-only-failed")
def report_retries_only_failed() -> None:
    fail_attempts = {1: 0, 2: 1, 3: 1, 4: 2}

    def work(event: Any, context: Any) -> Any:
        failed = [
            {"itemIdentifier": record["messageId"]}
            for record in event["Records"]
            if fail_attempts[int(record["body"])] >= int(record["attributes"]["ApproximateReceiveCount"])
        ]
        return {"batchItemFailures": failed}

    def app(**settings: Any) -> eventcore.App:
        app = eventcore.App()
        app.queue("dead", fifo_queue=True)
        app.queue(
            "orders",
            fifo_queue=True,
            content_based_deduplication=True,
            visibility_timeout=8,
            redrive_policy=redrive(2),
        )
        app.function("work", handler="nowhere.work")
        app.mapping("orders", source="queue:orders", function="work", function_response_types=REPORTS, **settings)
        return app

    with open_pipeline(app(enabled=False), functions={"work": work}) as pipeline:
        sent = pipeline.send("queue:orders", [1, 2, 3, 4], key="g")
        pipeline.restart(app(), functions={"work": work})
        pipeline.run_until_idle()
        assert batches(pipeline) == [[1, 2, 3, 4], [2, 3, 4]]
        first, second = pipeline.invocations
        assert (receive_counts(first), receive_counts(second)) == (["1"] * 4, ["2"] * 3)
        assert 8.0 <= second.at_s - first.at_s < 8.1
        assert message_ids(first) == sent
        (dead,) = pipeline.delivered_to("queue:dead")
        assert dead.body == b"4"
        names = {"MessageGroupId", "MessageDeduplicationId", "SequenceNumber"}
        assert names < set(first.event["Records"][0]["attributes"])


@scenario("sqs-core/dedup-outlives-delete")
def dedup_outlives_delete() -> None:
    with open_pipeline(_app(), functions={"work": Scripted(), "look": Scripted()}) as pipeline:
        for _ in range(2):
            pipeline.send("queue:orders", ["hello"], key="g", deduplication_id="d")
            pipeline.run_until_idle()
        assert len(pipeline.invocations) == 1
        pipeline.advance(300)
        pipeline.send("queue:orders", ["hello"], key="g", deduplication_id="d")
        pipeline.run_until_idle()
        assert len(pipeline.invocations) == 2


@scenario("sqs-core/empty-group-returns")
def empty_group_returns() -> None:
    with open_pipeline(_app(), functions={"work": Scripted(), "look": Scripted()}) as pipeline:
        for name in ("one", "two"):
            pipeline.send("queue:orders", [name], key="g", deduplication_id=name)
            pipeline.run_until_idle()
        assert batches(pipeline) == [["one"], ["two"]]


@scenario("sqs-core/high-throughput-dedup-per-group")
def dedup_per_group() -> None:
    app = _app(queue={"deduplication_scope": "messageGroup"}, batch_size=1)
    with open_pipeline(app, functions={"work": Scripted(), "look": Scripted()}) as pipeline:
        for group in ("a", "b", "a"):
            pipeline.send("queue:orders", [group], key=group, deduplication_id="d")
        pipeline.run_until_idle()
        assert batches(pipeline) == [["a"], ["b"]]


@scenario("sqs-core/dlq-keeps-id-and-adds-source")
def dlq_keeps_id_and_adds_source() -> None:
    app = _app(queue={"visibility_timeout": 3, "redrive_policy": redrive(1)}, is_fifo=False)
    functions = {"work": Scripted(then=ValueError("always")), "look": Scripted()}
    with open_pipeline(app, functions=functions) as pipeline:
        sent = pipeline.send("queue:orders", ["hello"], headers={"Title": "t"})
        pipeline.run_until_idle()
        first, dead = pipeline.invocations
        assert message_ids(first) == message_ids(dead) == sent
        (attributes,) = _attributes(pipeline, "dead")
        assert attributes["ApproximateReceiveCount"] == "2"
        assert attributes["DeadLetterQueueSourceArn"] == first.event["Records"][0]["eventSourceARN"]
        (record,) = dead.event["Records"]
        assert set(record["messageAttributes"]) == {"Title"}


@scenario("sqs-core/fifo-dlq-identity")
def fifo_dlq_identity() -> None:
    app = _app(queue={"visibility_timeout": 3, "redrive_policy": redrive(1)})
    functions = {"work": Scripted(None, then=ValueError("always")), "look": Scripted()}
    with open_pipeline(app, functions=functions) as pipeline:
        pipeline.send("queue:orders", ["other"], key="h", deduplication_id="other")
        pipeline.run_until_idle()
        (sent,) = pipeline.send("queue:orders", ["hello"], key="g", deduplication_id="d")
        pipeline.run_until_idle()
        first, dead = _attributes(pipeline, "orders")[1], _attributes(pipeline, "dead")[0]
        assert message_ids(pipeline.invocations[-1]) == [sent]
        for kept in ("SentTimestamp", "ApproximateFirstReceiveTimestamp", "MessageGroupId"):
            assert dead[kept] == first[kept]
        assert dead["ApproximateReceiveCount"] == "2"
        assert (first["MessageDeduplicationId"], dead["MessageDeduplicationId"]) == ("d", sent)
        assert dead["SequenceNumber"] != first["SequenceNumber"]


@scenario("sqs/fifo-limits")
def fifo_limits() -> None:
    for refused in ({"batch_size": 11}, {"maximum_batching_window_in_seconds": 1}):
        with pytest.raises(ConfigError, match="FIFO"):
            _app(**refused).loaded()
    assert _app(batch_size=10).loaded()


@scenario("dynamodb/fifo-failure-destination-rejected")
def fifo_failure_destination() -> None:
    app = _app()
    app.stream("clicks")
    app.mapping(
        "clicks", source="stream:clicks", function="work", starting_position="LATEST", on_failure="queue:orders"
    )
    with pytest.raises(ConfigError, match="only standard queues"):
        app.loaded()


# -- message-move tasks ------------------------------------------------------------------------------------------------


def _redriven_app(work: Any, *, is_fifo: bool = True) -> eventcore.App:
    """A mapping from `orders`, whose dead-letter queue nobody reads."""
    app = eventcore.App()
    app.queue("dead", fifo_queue=is_fifo)
    app.queue("orders", fifo_queue=is_fifo, visibility_timeout=3, redrive_policy=redrive(1))
    app.function("work", runtime="inline")(work)
    app.mapping("orders", source="queue:orders", function="work")
    return app


async def _redrive(harness: Harness, *, rate: int = 0) -> MoveTask:
    depths = {depth.queue: depth for depth in await harness.store.queue_depths()}
    return await harness.engine.moves.start(depths["dead"], depths["orders"], rate=rate)


@scenario("sqs-core/redrive-makes-new-message")
def redrive_makes_new_message() -> None:
    seen: list[dict[str, Any]] = []

    async def work(event: Any, context: Any) -> None:
        seen.extend(event["Records"])
        if len(seen) == 1:
            raise ValueError("first time")

    async def play(harness: Harness) -> None:
        await harness.send("queue:orders", ["hello"], key="g", deduplication_id="d")
        await harness.advance(60)
        await _redrive(harness)
        await harness.advance(10)

    play_behaviour(_redriven_app(work), play)
    first, second = seen
    assert first["body"] == second["body"] == "hello"
    assert first["messageId"] != second["messageId"]
    before, after = first["attributes"], second["attributes"]
    assert int(after["SentTimestamp"]) - int(before["SentTimestamp"]) >= 60_000
    assert after["ApproximateReceiveCount"] == "1"
    assert "DeadLetterQueueSourceArn" not in after


@scenario("sqs-core/move-task-hits-dedup")
def move_task_hits_dedup() -> None:
    async def work(event: Any, context: Any) -> None:
        if event["Records"][0]["body"] == "poison":
            raise ValueError("always")

    async def play(harness: Harness) -> None:
        (sent,) = await harness.send("queue:orders", ["poison"], key="g", deduplication_id="d")
        await harness.advance(10)
        await harness.send("queue:orders", ["good"], key="g", deduplication_id=sent)
        await harness.advance(1)
        assert await harness.messages("orders") == []
        task = await _redrive(harness)
        await harness.advance(1)
        ended = await harness.engine.moves.find(task.id)
        assert (ended.state, ended.moved) == (MoveState.COMPLETED, 0)
        assert await harness.messages("dead") == await harness.messages("orders") == []

    play_behaviour(_redriven_app(work), play)


@scenario("sqs-core/move-task-cancel-settles-later")
def move_task_cancel_settles_later() -> None:
    """How many more messages go after the request is a matter of its moment: here none, as a step is one message."""

    async def work(event: Any, context: Any) -> None:
        return None

    async def play(harness: Harness) -> None:
        await harness.send("queue:dead", list(range(30)))
        task = await _redrive(harness, rate=2)
        await harness.advance(5)
        cancelling = await harness.engine.moves.cancel("dead")
        assert cancelling.state is MoveState.CANCELLING
        await harness.advance(1)
        ended = await harness.engine.moves.find(task.id)
        assert ended.state is MoveState.CANCELLED
        assert ended.moved + len(await harness.messages("dead")) == 30

    play_behaviour(_redriven_app(work, is_fifo=False), play)

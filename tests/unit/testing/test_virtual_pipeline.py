"""A pipeline in virtual time, driven by an ordinary function."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import anyio
import pytest

import eventcore
from eventcore.errors import ConfigError, ProgrammingError
from eventcore.testing import Scripted, VirtualPipeline, open_pipeline

ORDERS = """
import os
seen = []
def price(event, context):
    seen.append(os.environ.get("RATE"))
"""
FILE = """
[kafka.local]
bootstrap_servers = "127.0.0.1:9092"

[http.warehouse]
url = "https://warehouse.example.org/failed"

[functions.price]
handler = "{module}.price"
environment = {{ RATE = "2.5" }}
memory_size = 1024

[mappings.orders]
source = "kafka:local/orders"
function = "price"
starting_position = "TRIM_HORIZON"
maximum_retry_attempts = 1
batch_size = 1
on_failure = "http:warehouse"
"""


@pytest.fixture
def kafka_file(tmp_path: Path) -> Path:
    module = f"orders_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{module}.py").write_text(ORDERS)
    (tmp_path / "eventcore.toml").write_text(FILE.format(module=module))
    return tmp_path


def queue_app(**queue: Any) -> eventcore.App:
    app = eventcore.App()
    app.queue("dead")
    app.queue("orders", **queue)
    app.function("work", handler="nowhere.work")
    app.mapping("orders", source="queue:orders", function="work")
    return app


def test_a_scripted_function_plays_its_steps_and_then_what_comes_after() -> None:
    work = Scripted(ConnectionError("down"), {"done": 1}, lambda event, _: len(event["Records"]), then=ValueError("no"))
    with open_pipeline(queue_app(visibility_timeout=10), functions={"work": work}) as pipeline:
        for number in range(4):
            pipeline.send("queue:orders", [number])
            pipeline.advance(1)
        assert [call.error or call.response for call in pipeline.invocations] == [
            "ConnectionError: down",
            {"done": 1},
            1,
            "ValueError: no",
        ]
        assert [call.bodies for call in pipeline.invocations] == [[0], [1], [2], [3]]
        assert work.calls == 4
        assert work.events == [call.event for call in pipeline.invocations]


@pytest.mark.parametrize(
    ("body", "shown"), [(b'"\xff"', b'"\xff"'), (b"\xff", b"\xff"), (b"[" * 5_000, "[" * 5_000), (b"text", "text")]
)
def test_bodies_that_are_no_json_are_shown_as_they_are(body: bytes, shown: object) -> None:
    app = eventcore.App()
    app.stream("orders", shards=1)
    app.function("work", handler="nowhere.work")
    app.mapping("orders", source="stream:orders", function="work", starting_position="TRIM_HORIZON")
    with open_pipeline(app, functions={"work": Scripted()}) as pipeline:
        pipeline.send("stream:orders", [body])
        pipeline.run_until_idle()
        (call,) = pipeline.invocations
        assert call.bodies == [shown]


def test_a_call_that_takes_time_takes_virtual_time() -> None:
    with open_pipeline(queue_app(), functions={"work": Scripted(takes_s=2.5)}) as pipeline:
        pipeline.send("queue:orders", ["a"])
        pipeline.run_until_idle()
        (call,) = pipeline.invocations
        assert call.ended_s is not None
        assert call.ended_s - call.at_s == pytest.approx(2.5)


def test_time_stands_still_between_two_calls() -> None:
    with open_pipeline(queue_app(), functions={"work": Scripted()}) as pipeline:
        before = pipeline.now_s
        assert pipeline.now_s == before
        pipeline.advance(3600)
        assert pipeline.now_s == pytest.approx(before + 3600)


def test_six_hours_of_redeliveries_end_in_the_dead_letter_queue() -> None:
    policy = {"dead_letter_queue": "dead", "max_receive_count": 12}
    app = queue_app(visibility_timeout=1800, redrive_policy=policy)
    with open_pipeline(app, functions={"work": Scripted(then=ConnectionError("down"))}) as pipeline:
        pipeline.send("queue:orders", [{"id": 1}])
        pipeline.run_until_idle()
        assert [round(call.at_s) for call in pipeline.invocations] == [1800 * number for number in range(12)]
        assert [message.json for message in pipeline.delivered_to("queue:dead")] == [{"id": 1}]
        assert [(each.reason, each.destination) for each in pipeline.discards] == [("ReceivesExhausted", "queue:dead")]
        assert pipeline.now_s >= 6 * 3600


@pytest.mark.parametrize("seed", [0, 7])
def test_equal_seeds_give_equal_runs(seed: int) -> None:
    def play() -> tuple[str, list[str]]:
        app = eventcore.App()
        app.stream("orders", shards=3)
        app.function("work", handler="nowhere.work")
        app.mapping("orders", source="stream:orders", function="work", starting_position="TRIM_HORIZON", batch_size=2)
        work = Scripted(*[ValueError("down")] * 5)
        with open_pipeline(app, functions={"work": work}, seed=seed) as pipeline:
            for key in "abcdef":
                pipeline.send("stream:orders", [1, 2, 3], key=key)
            pipeline.run_until_idle()
            return pipeline.timeline(), [call.request_id for call in pipeline.invocations]

    assert play() == play()


def test_a_kafka_pipeline_from_a_file_runs_without_a_broker(kafka_file: Path) -> None:
    """Its handler gets Kafka's event, its variables, and its destination what it gave up."""
    before = os.environ.get("RATE")
    poison = Scripted(then=ValueError("poison"))
    with open_pipeline(kafka_file, shards={"kafka:local/orders": 2}) as pipeline:
        assert pipeline.send("kafka:local/orders", [{"id": 1}], key="ada", headers={"trace": "x"})[0][1] == 0
        pipeline.run_until_idle()
        (call,) = pipeline.invocations
        assert call.error == ""
        ((shard, (record,)),) = call.event["records"].items()
        assert (call.shard, record["topic"], record["offset"], record["headers"]) == (
            shard,
            "orders",
            0,
            [{"trace": [120]}],
        )
    assert os.environ.get("RATE") == before
    with open_pipeline(kafka_file / "eventcore.toml", functions={"price": poison}) as pipeline:
        pipeline.send("kafka:local/orders", [{"id": 2}])
        pipeline.run_until_idle()
        (failed,) = pipeline.delivered_to("http:warehouse")
        assert failed.json["requestContext"]["condition"] == "RetryAttemptsExhausted"
        assert failed.json["KafkaBatchInfo"]["batchSize"] == 1
        (failure,) = pipeline.failures
        assert failure.error_message == "poison"


def test_a_functions_variables_are_there_while_it_runs(kafka_file: Path) -> None:
    import sys

    with open_pipeline(kafka_file) as pipeline:
        pipeline.send("kafka:local/orders", [1, 2])
        pipeline.run_until_idle()
    assert sys.modules[f"orders_{kafka_file.name.replace('-', '_')}"].seen == ["2.5", "2.5"]


def test_what_a_destination_refuses_arrives_when_it_is_back(kafka_file: Path) -> None:
    with open_pipeline(kafka_file, functions={"price": Scripted(then=ValueError("poison"))}) as pipeline:
        pipeline.take_down("http:warehouse", seconds=600)
        pipeline.send("kafka:local/orders", [1])
        pipeline.advance(300)
        assert pipeline.delivered_to("http:warehouse") == []
        pipeline.run_until_idle()
        (arrived,) = pipeline.delivered_to("http:warehouse")
        assert arrived.at_s is not None
        assert arrived.at_s >= 600


def test_a_crash_loses_nothing(kafka_file: Path) -> None:
    """What ran in the crash has no end; the next engine runs its record again, and settles it once."""
    work = Scripted(takes_s=2)
    with open_pipeline(kafka_file, functions={"price": work}) as pipeline:
        pipeline.send("kafka:local/orders", [1])
        pipeline.advance(1)
        pipeline.crash()
        pipeline.run_until_idle()
        lost, again = pipeline.invocations
        assert (lost.ended_s, lost.kind) == (None, "")
        assert (again.kind, again.bodies) == ("success", [1])
        assert [each.count for each in pipeline.settlements] == [1]
        assert again.at_s >= 1


def test_attempts_survive_a_restart() -> None:
    app = eventcore.App()
    app.stream("orders", shards=1)
    app.function("work", handler="nowhere.work")
    app.mapping(
        "orders", source="stream:orders", function="work", starting_position="TRIM_HORIZON", maximum_retry_attempts=3
    )
    with open_pipeline(app, functions={"work": Scripted(then=ValueError("never"))}) as pipeline:
        pipeline.send("stream:orders", [1])
        pipeline.advance(0.3)
        attempts = len(pipeline.invocations)
        assert 0 < attempts < 4
        pipeline.restart()
        pipeline.run_until_idle()
        assert [call.attempt for call in pipeline.invocations] == [1, 2, 3, 4]
        (discard,) = pipeline.discards
        assert discard.reason == "RetryAttemptsExhausted"
        (message,) = pipeline.delivered_to("queue:discards")
        assert message.json["requestContext"]["approximateInvokeCount"] == 4


def test_a_rebalance_goes_on_where_the_owner_before_was(kafka_file: Path) -> None:
    with open_pipeline(kafka_file, functions={"price": Scripted(takes_s=1)}) as pipeline:
        pipeline.send("kafka:local/orders", [1, 2, 3])
        pipeline.advance(1.5)
        pipeline.rebalance("orders")
        pipeline.run_until_idle()
        assert [call.bodies for call in pipeline.invocations] == [[1], [2], [3]]
        pipeline.rebalance("orders", is_lost=True)
        pipeline.send("kafka:local/orders", [4])
        pipeline.run_until_idle()
        assert pipeline.invocations[-1].bodies == [4]
        with pytest.raises(ProgrammingError, match="reads no simulated topic"):
            pipeline.rebalance("others")


def test_streams_and_topics_can_be_looked_at(kafka_file: Path) -> None:
    app = queue_app()
    app.stream("copies", shards=1)
    with open_pipeline(app, functions={"work": Scripted()}) as pipeline:
        pipeline.send("stream:copies", ["a", {"b": 1}], key="k", headers={"h": "v"})
        copies = pipeline.delivered_to("stream:copies")
        assert [(each.body, each.key, each.headers["h"], each.at_s) for each in copies] == [
            (b"a", "k", "v", 0.0),
            (b'{"b":1}', "k", "v", 0.0),
        ]
        with pytest.raises(ProgrammingError, match=r"pipeline\.invocations"):
            pipeline.delivered_to("function:work")
    with open_pipeline(kafka_file) as pipeline:
        pipeline.send("kafka:local/orders", ["x"], key="k")
        (topic,) = pipeline.delivered_to("kafka:local/orders")
        assert (topic.body, topic.key) == (b"x", "k")


def test_a_direct_invocation_is_one_of_no_mapping() -> None:
    with open_pipeline(queue_app(), functions={"work": Scripted({"answer": 42})}) as pipeline:
        outcome = pipeline.invoke("work", {"question": "?"})
        assert outcome.response == b'{"answer": 42}'
        (call,) = pipeline.invocations
        assert (call.mapping, call.event, call.response) == ("", {"question": "?"}, {"answer": 42})


def test_what_is_still_going_on_is_named() -> None:
    with open_pipeline(queue_app(visibility_timeout=600), functions={"work": Scripted(then=ValueError())}) as pipeline:
        pipeline.send("queue:orders", [1])
        with pytest.raises(TimeoutError, match="queue orders holds 0 visible, 1 hidden"):
            pipeline.run_until_idle(within_s=60)


def test_mistakes_are_told_at_once() -> None:
    with (
        pytest.raises(ProgrammingError, match="no function `others` in this pipeline; there is: work"),
        open_pipeline(queue_app(), functions={"others": Scripted()}),
    ):
        pass
    app = eventcore.App()
    app.mapping("orders", source="queue:orders", function="work")
    with pytest.raises(ConfigError), open_pipeline(app):
        pass


def test_two_functions_with_other_values_of_a_variable_are_refused() -> None:
    app = queue_app()
    app.function("a", handler="nowhere.a", environment={"RATE": "1"})
    app.function("b", handler="nowhere.b", environment={"RATE": "2"})
    with pytest.raises(ProgrammingError, match="`RATE`"), open_pipeline(app):
        pass
    with open_pipeline(app, functions={"work": Scripted(), "b": Scripted()}) as pipeline:
        assert pipeline.now_s >= 0
        assert os.environ["RATE"] == "1"


def test_an_error_of_the_test_is_its_own() -> None:
    kept: list[VirtualPipeline] = []

    def fail() -> None:
        with open_pipeline(queue_app(), functions={"work": Scripted(takes_s=1)}) as pipeline:
            kept.append(pipeline)
            pipeline.send("queue:orders", [1])
            pipeline.advance(0.5)
            raise AssertionError("mine")

    with pytest.raises(AssertionError, match="mine"):
        fail()
    with pytest.raises(ProgrammingError, match="closed"):
        kept[0].advance(1)


def test_topics_that_match_an_expression_are_found_as_they_come() -> None:
    app = eventcore.App()
    app.kafka("local", bootstrap_servers="127.0.0.1:9092")
    app.function("work", handler="nowhere.work")
    app.mapping("all", source="kafka:local/^orders-.*", function="work", starting_position="LATEST")
    with open_pipeline(app, functions={"work": Scripted()}) as pipeline:
        pipeline.advance(60)
        pipeline.send("kafka:local/orders-eu", [1])
        pipeline.send("kafka:local/returns", [2])
        pipeline.run_until_idle()
        assert [(call.shard, call.bodies) for call in pipeline.invocations] == [("orders-eu-0", [1])]


def test_a_deadlock_is_told_with_who_waits() -> None:
    async def wait_for_nothing() -> None:
        with anyio.fail_after(5):
            await anyio.sleep_forever()

    with open_pipeline(queue_app(), functions={"work": Scripted()}) as pipeline, pytest.raises(TimeoutError):
        pipeline.run(wait_for_nothing())


def test_an_engine_that_dies_as_a_task_begins_leaves_nothing_behind() -> None:
    """The crash comes in the turn of the loop in which the task was made: no coroutine stays unawaited."""
    begun: list[str] = []

    async def begin() -> None:
        begun.append("begun")
        await anyio.sleep_forever()

    async def hold(inner: Coroutine[Any, Any, None]) -> None:
        """As a task group holds what it runs."""
        await inner

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with open_pipeline(queue_app(), functions={"work": Scripted()}) as pipeline:
            pipeline._loop.create_task(hold(begin()))
            pipeline.crash()
        gc.collect()
    assert begun == ["begun"]
    assert [str(warning.message) for warning in caught if "never awaited" in str(warning.message)] == []

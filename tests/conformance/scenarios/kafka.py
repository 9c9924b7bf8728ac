"""Kafka (Lambda semantics §5.1): the recorded cases of its own; those of streams are played on it as well."""

from __future__ import annotations

import pytest

import eventcore
from eventcore.errors import ConfigError
from eventcore.testing import Scripted, open_pipeline
from tests.conformance.scenarios.stage import Stage, batches
from tests.conformance.scenarios.table import scenario


@scenario("kafka/kafka-topic-destination")
def topic_destination() -> None:
    """The record names the batch, carries the event and keeps the key of the record that failed."""
    app = Stage("kafka").app(on_failure="kafka:local/failed", maximum_retry_attempts=0, batch_size=1)
    with open_pipeline(app, functions={"work": Scripted(then=ValueError("always"))}) as pipeline:
        pipeline.send("kafka:local/orders", ["poison"], key="ada")
        pipeline.run_until_idle()
        (failed,) = pipeline.delivered_to("kafka:local/failed")
        assert failed.key == "ada"
        assert failed.json["payload"] == pipeline.invocations[0].event
        assert failed.json["requestContext"]["condition"] in {"RetriesExhausted", "RetryAttemptsExhausted"}
        assert "KafkaBatchInfo" in failed.json
    with pytest.raises(ConfigError, match="own source"):
        Stage("kafka").app(on_failure="kafka:local/orders").loaded()
    app = Stage("kafka").app(on_failure="kafka:local/failed", batch_size=1)
    with open_pipeline(app, functions={"work": Scripted(then=ValueError("always"))}) as pipeline:
        pipeline.send("kafka:local/orders", ["poison"])
        pipeline.run_until_idle()
        assert len(pipeline.invocations) == 1 + 10


@scenario("kafka/msk-defaults")
def defaults() -> None:
    """Batches of 100 and a window of 500 ms; the starting position is asked for, see the decisions."""
    app = eventcore.App()
    app.kafka("local", bootstrap_servers="127.0.0.1:9092")
    app.function("work", handler="nowhere.work")
    app.mapping("orders", source="kafka:local/orders", function="work", starting_position="TRIM_HORIZON")
    with open_pipeline(app, functions={"work": Scripted()}) as pipeline:
        pipeline.send("kafka:local/orders", list(range(150)), key="k")
        pipeline.run_until_idle()
        assert [len(batch) for batch in batches(pipeline)] == [100, 50]
        assert [0.45 <= call.at_s <= 0.6 for call in pipeline.invocations] == [False, True]


@scenario("kafka/disabled-mapping-before-topic-exists")
def disabled_before_the_topic() -> None:
    stage = Stage("kafka")
    with stage.open(Scripted(), enabled=False) as pipeline:
        pipeline.advance(60)
        stage.send(pipeline, 1)
        pipeline.restart(stage.app(), functions={"work": Scripted()})
        pipeline.run_until_idle()
        assert batches(pipeline) == [[1]]


@scenario("kafka/self-managed-endpoint-errors", awaits={1: "a management API"})
def no_endpoints() -> None:
    app = eventcore.App()
    app.kafka("local", bootstrap_servers="")
    app.function("work", handler="nowhere.work")
    app.mapping("orders", source="kafka:local/orders", function="work", starting_position="TRIM_HORIZON")
    with pytest.raises(ConfigError, match="bootstrap_servers"):
        app.loaded()

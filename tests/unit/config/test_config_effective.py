"""What holds where a pipeline says nothing, and where every value comes from."""

import pytest

from eventcore.config.effective import explain, resolve
from eventcore.config.reference import DISCARDS_QUEUE, Reference, StartingPosition
from eventcore.config.structs import PROCESS_SETTINGS
from eventcore.delivery.retry import StreamRetry

PIPELINE = """
    [functions.f]
    handler = "a.b"
    environment = { A = "b", maximum_retry_attempts = "c" }

    [functions.g]
    handler = "a.c"
    runtime = "inline"

    [mappings.plain]
    source = "stream:s"
    function = "f"
    starting_position = "LATEST"

    [mappings.set]
    source = "stream:s"
    function = "g"
    starting_position = "AT_TIMESTAMP"
    starting_position_timestamp = 1.5
    batch_size = 7
    maximum_batching_window_in_seconds = 0.25
    function_response_types = ["ReportBatchItemFailures"]
    maximum_retry_attempts = 0
    maximum_record_age_in_seconds = 60
    bisect_batch_on_function_error = true
    on_failure = "kafka:k/failed"
    enabled = false

    [mappings.kafka]
    source = "kafka:k/t"
    function = "f"
    starting_position = "TRIM_HORIZON"
    on_failure = "stdout"

    [mappings.kafka-discards]
    source = "kafka:k/u"
    function = "f"
    starting_position = "TRIM_HORIZON"

    [mappings.kafka-aged]
    source = "kafka:k/v"
    function = "f"
    starting_position = "TRIM_HORIZON"
    on_failure = "stdout"
    maximum_record_age_in_seconds = 600
    maximum_batching_window_in_seconds = 0
    consumer_group_id = "mine"

    [mappings.queue]
    source = "queue:q"
    function = "f"

    [streams.s]
    [kafka.k]
    bootstrap_servers = "h:1"
    [queues.q]
    redrive_policy = { dead_letter_queue = "dead", max_receive_count = 3 }
    [queues.dead]
"""


@pytest.fixture
def pipeline(load):
    return resolve(load(PIPELINE))


@pytest.fixture
def rows(pipeline):
    return {row.path: row for row in explain(pipeline)}


def test_lambdas_defaults_for_a_stream(pipeline):
    mapping = pipeline.mappings["plain"]
    assert mapping.source == Reference("stream", "s")
    assert (mapping.kind, mapping.function, mapping.enabled) == ("stream", "f", True)
    assert (mapping.batch_size, mapping.window_s, mapping.reports_failures) == (100, 0.0, False)
    assert mapping.retry == StreamRetry(maximum_retry_attempts=-1, maximum_record_age_in_seconds=-1)
    assert mapping.starting_position == StartingPosition("LATEST")
    assert (mapping.on_failure, mapping.is_on_failure_default) == (Reference("queue", DISCARDS_QUEUE), True)


def test_lambdas_defaults_for_a_queue(pipeline):
    mapping = pipeline.mappings["queue"]
    assert (mapping.kind, mapping.batch_size, mapping.window_s) == ("queue", 10, 0.0)
    assert mapping.maximum_concurrency == 10


def test_what_is_written_holds(pipeline):
    mapping = pipeline.mappings["set"]
    assert (mapping.batch_size, mapping.window_s, mapping.reports_failures) == (7, 0.25, True)
    assert mapping.retry == StreamRetry(
        maximum_retry_attempts=0, maximum_record_age_in_seconds=60, bisect_batch_on_function_error=True
    )
    assert mapping.starting_position == StartingPosition("AT_TIMESTAMP", 1500)
    assert (mapping.on_failure, mapping.is_on_failure_default) == (Reference("kafka", "k", "failed"), False)
    assert mapping.enabled is False


def test_kafka_waits_half_a_second_and_has_a_group_of_the_mappings_name(pipeline):
    assert pipeline.mappings["kafka"].window_s == 0.5
    assert pipeline.mappings["kafka"].consumer_group_id == "eventcore-kafka"
    assert pipeline.mappings["kafka-aged"].window_s == 0.0
    assert pipeline.mappings["kafka-aged"].consumer_group_id == "mine"


def test_kafka_with_a_destination_and_no_limit_is_retried_ten_times(pipeline):
    """Source: Lambda semantics §5.1: the limit needs a destination of one's own, and no limit at all."""
    attempts = {name: mapping.retry.maximum_retry_attempts for name, mapping in pipeline.mappings.items()}
    assert attempts == {"plain": -1, "set": 0, "kafka": 10, "kafka-discards": -1, "kafka-aged": -1, "queue": -1}


def test_an_explicit_endlessness_is_limited_on_kafka_too(load):
    text = PIPELINE.replace('on_failure = "stdout"\n', 'on_failure = "stdout"\n    maximum_retry_attempts = -1\n', 1)
    pipeline = resolve(load(text))
    assert pipeline.mappings["kafka"].retry.maximum_retry_attempts == 10
    [row] = [row for row in explain(pipeline) if row.path == "mappings.kafka.maximum_retry_attempts"]
    assert (row.value, row.origin) == (10, "default, as in Lambda: Kafka with on_failure and no limit")


def test_the_discards_queue_is_always_there(pipeline, load):
    assert pipeline.queues[DISCARDS_QUEUE].message_retention_period == 1_209_600
    declared = resolve(load("[queues.discards]\nmessage_retention_period = 60\n"))
    assert declared.queues[DISCARDS_QUEUE].message_retention_period == 60


def test_every_value_has_an_origin(rows):
    assert rows["mappings.set.batch_size"].value == 7
    assert rows["mappings.set.batch_size"].origin.endswith("eventcore.toml:19")
    assert (rows["mappings.plain.batch_size"].value, rows["mappings.plain.batch_size"].origin) == (100, "default")
    assert rows["mappings.kafka.maximum_retry_attempts"].origin.startswith("default, as in Lambda")
    assert rows["mappings.kafka-aged.maximum_retry_attempts"].origin == "default"
    assert rows["functions.f.environment.A"].origin.endswith("eventcore.toml:3")
    assert rows["functions.f.environment.maximum_retry_attempts"].value == "c"
    assert rows["queues.q.redrive_policy.max_receive_count"].value == 3
    assert rows["settings.region"].origin == "default"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("functions.f.memory_size", 512),
        ("functions.f.concurrency", 10),
        ("mappings.plain.on_failure", "queue:discards"),
    ],
)
def test_a_default_that_is_not_lambdas_says_why(rows, path, value):
    assert rows[path].value == value
    assert rows[path].origin.startswith("default, differs from Lambda: ")


def test_settings_that_mean_nothing_for_a_source_are_left_out(rows):
    assert "mappings.queue.maximum_retry_attempts" not in rows
    assert "mappings.queue.on_failure" not in rows
    assert "mappings.queue.starting_position" not in rows
    assert "mappings.plain.maximum_concurrency" not in rows
    assert "mappings.plain.consumer_group_id" not in rows
    assert rows["mappings.kafka.consumer_group_id"].value == "eventcore-kafka"


@pytest.mark.parametrize("setting", ["concurrency", "reserved_concurrent_executions"])
def test_a_queue_without_a_maximum_runs_as_many_batches_as_its_function_may_have(load, setting):
    text = PIPELINE.replace("[functions.f]", f"[functions.f]\n{setting} = 7")
    rows = {row.path: row for row in explain(resolve(load(text)))}
    row = rows["mappings.queue.maximum_concurrency"]
    assert (row.value, row.origin) == (7, f"default: functions.f.{setting}")


def test_settings_of_processes_are_left_out_for_inline_functions(rows):
    assert not [row for row in rows if row.removeprefix("functions.g.") in PROCESS_SETTINGS]
    assert rows["functions.g.timeout"].value == 3


def test_the_group_is_the_one_that_the_mapping_names(load):
    loaded = load(
        """
        [functions.work]
        handler = "orders.work"

        [kafka.local]
        bootstrap_servers = "127.0.0.1:9092"

        [mappings.orders]
        source = "kafka:local/orders"
        function = "work"
        starting_position = "TRIM_HORIZON"
        consumer_group_id = "billing"
        """
    )
    assert resolve(loaded).mappings["orders"].consumer_group_id == "billing"

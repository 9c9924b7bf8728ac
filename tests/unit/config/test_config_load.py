"""A pipeline file is read whole: either every setting is right, or every mistake is named with its line and remedy."""

import msgspec
import pytest

from eventcore.config.foreign import REFUSED, RENAMED
from eventcore.config.load import FILE_BYTES_MAX, load_config
from eventcore.config.reference import DISCARDS_QUEUE
from eventcore.config.structs import (
    FunctionConfig,
    MappingConfig,
    PipelineConfig,
    QueueConfig,
    RedrivePolicy,
    Settings,
    StreamConfig,
)
from eventcore.config.unknown import snake_case
from eventcore.errors import ConfigError

WHOLE = """
    [settings]
    region = "eu-central-1"

    [functions.enrich]
    handler = "orders.enrich"
    environment = { MODE = "fast" }
    preload = ["json"]

    [mappings.orders]
    source = "stream:orders"
    function = "enrich"
    starting_position = "LATEST"
    maximum_batching_window_in_seconds = 1
    maximum_retry_attempts = 3

    [mappings.late]
    source = "queue:late"
    function = "enrich"
    function_response_types = ["ReportBatchItemFailures"]

    [streams.orders]
    shards = 2

    [queues.late]
    redrive_policy = { dead_letter_queue = "dead" }

    [queues.dead]
    message_retention_period = 1_209_600
"""


def of(found, path):
    [mistake] = [mistake for mistake in found if mistake.path == path]
    return mistake


def test_a_whole_file_becomes_structs(load, tmp_path):
    loaded = load(WHOLE)
    assert loaded.config == msgspec.convert(
        {
            "settings": Settings(region="eu-central-1"),
            "functions": {
                "enrich": FunctionConfig(handler="orders.enrich", environment={"MODE": "fast"}, preload=("json",))
            },
            "mappings": {
                "orders": MappingConfig(
                    source="stream:orders",
                    function="enrich",
                    starting_position="LATEST",
                    maximum_batching_window_in_seconds=1.0,
                    maximum_retry_attempts=3,
                ),
                "late": MappingConfig(
                    source="queue:late", function="enrich", function_response_types=("ReportBatchItemFailures",)
                ),
            },
            "streams": {"orders": StreamConfig(shards=2)},
            "queues": {
                "late": QueueConfig(redrive_policy=RedrivePolicy(dead_letter_queue="dead")),
                "dead": QueueConfig(message_retention_period=1_209_600),
            },
        },
        PipelineConfig,
    )
    assert loaded.folder == tmp_path
    assert loaded.warnings == ()


def test_a_folder_means_the_file_in_it(load, tmp_path):
    assert load(WHOLE).config == load_config(tmp_path, environ={}).config


def test_an_empty_file_is_a_pipeline_that_does_nothing(load):
    loaded = load("")
    assert loaded.config == PipelineConfig()
    assert [warning.code for warning in loaded.warnings] == ["EC161"]


def test_every_mistake_is_reported_at_once_with_line_reason_and_remedy(mistakes, tmp_path):
    found = mistakes("""
        [functions.enrich]
        handler = "orders.enrich"
        timeout = "10"
        runtime = "proces"
        preload = "numpy"
        environment = { RETRIES = 3 }

        [mappings.orders]
        source = "stream:orders"
        function = "enrich"
        starting_position = "latest"
        batchsize = 20
        maximum_retry_attempts = 20_000

        [streams.orders]
        shards = 0
    """)
    assert [(mistake.path, mistake.line) for mistake in found] == [
        ("functions.enrich.timeout", 3),
        ("functions.enrich.runtime", 4),
        ("functions.enrich.preload", 5),
        ("functions.enrich.environment.RETRIES", 6),
        ("mappings.orders.starting_position", 11),
        ("mappings.orders.batchsize", 12),
        ("mappings.orders.maximum_retry_attempts", 13),
        ("streams.orders.shards", 16),
    ]
    assert {mistake.file for mistake in found} == {str(tmp_path / "eventcore.toml")}
    assert all(mistake.message for mistake in found)
    assert [mistake.hint for mistake in found[:6]] == [
        "write timeout = 10, without quotes",
        "did you mean `process`?",
        'write preload = ["numpy"]',
        'write RETRIES = "3"',
        "did you mean `LATEST`?",
        "did you mean `batch_size`?",
    ]
    assert "from -1 to 10,000" in found[6].message
    assert "0 is not a whole number from 1 to 1,000" in found[7].message


def test_the_text_of_an_error_has_every_mistake_on_a_line_of_its_own(load):
    with pytest.raises(ConfigError) as caught:
        load('[functions.f]\nhandler = "a.b"\ntimeout = 0\nmemory_size = 1\n')
    first, second = str(caught.value).splitlines()
    assert "eventcore.toml:3: functions.f.timeout: 0 is not" in first
    assert "eventcore.toml:4: functions.f.memory_size: 1 is not" in second


@pytest.mark.parametrize(
    ("text", "path", "line", "message", "hint"),
    [
        ("[functions.f]\ntimeout = 1\n", "functions.f.handler", 1, "is missing", 'write handler = "orders.enrich"'),
        ('[mappings.m]\nfunction = "f"\n', "mappings.m.source", 1, "is missing", 'write source = "stream:orders"'),
        ("[functions]\nf = 3\n", "functions.f", 2, "is not a table", "[functions.NAME]"),
        ("functions = 3\n", "functions", 1, "is not a table", "write [functions.NAME]"),
        ("settings = []\n", "settings", 1, "is not a table", "[settings]"),
        ('[queues."a b"]\n', 'queues."a b"', 1, "is not a name", "other signs"),
        (
            "[queues.a]\nredrive_policy = {}\n",
            "queues.a.redrive_policy.dead_letter_queue",
            2,
            "is missing",
            'write dead_letter_queue = "failed-orders"',
        ),
        (
            '[queues.a]\nredrive_policy = "b"\n',
            "queues.a.redrive_policy",
            2,
            "is not a table",
            "write redrive_policy = { ... }",
        ),
        (
            '[mappings.m]\nsource = "queue:q"\nfunction = "f"\nfunction_response_types = ["X"]\n',
            "mappings.m.function_response_types[0]",
            4,
            '"X" is not `ReportBatchItemFailures`',
            'write "ReportBatchItemFailures"',
        ),
        ("[queues.a]\ndelay = true\n", "queues.a.delay", 2, "true is not a whole number", "write delay = 0, or more"),
        ("[queues.a]\ndelay = 1.5\n", "queues.a.delay", 2, "1.5 is not a whole number", "write delay = 0, or more"),
        (
            "[queues.a]\ndelay = 1979-05-27\n",
            "queues.a.delay",
            2,
            "1979-05-27 is not a whole number",
            "write delay = 0, or more",
        ),
        ("[queues.a]\ndelay = [1]\n", "queues.a.delay", 2, "a list is not a whole number", "write delay = 0, or more"),
        (
            "[queues.a]\ndelay = 99999999999999999999\n",
            "queues.a.delay",
            2,
            "from 0 to 900",
            "write delay = 900, or less",
        ),
        (
            "[settings]\ndrain_timeout = nan\n",
            "settings.drain_timeout",
            2,
            "nan is not a number",
            "write drain_timeout = 0, or more",
        ),
        (
            "[settings]\ndrain_timeout = inf\n",
            "settings.drain_timeout",
            2,
            "inf is not a number",
            "write drain_timeout = 900, or less",
        ),
        (
            '[settings]\naccount_id = "12"\n',
            "settings.account_id",
            2,
            '"12" is not text that matches',
            'write account_id = "123456789012"',
        ),
        (
            '[http.h]\nurl = "ftp://x"\n',
            "http.h.url",
            2,
            '"ftp://x" is not text',
            'write url = "https://example.org/failed-orders"',
        ),
        (
            '[http.h]\nurl = "http://x"\ntimeout = 0\n',
            "http.h.timeout",
            3,
            "above 0, up to 900",
            "write timeout = 1, or more",
        ),
    ],
)
def test_what_can_be_wrong_with_one_setting(mistakes, text, path, line, message, hint):
    found = of(mistakes(text), path)
    assert found.line == line
    assert message in found.message
    assert hint in found.hint


def test_a_setting_that_could_not_be_read_is_not_judged_again(mistakes):
    """What a check would say rests on a value that is not there: one mistake, not two."""
    found = mistakes("""
        [functions.f]
        handler = "a.b"
        timeout = 901

        [mappings.m]
        source = "queue:q"
        function = "f"
        batch_size = 11
        maximum_batching_window_in_seconds = 301

        [mappings.n]
        source = "stream:s"
        function = "f"
        starting_positon = "LATEST"

        [queues.q]
        [streams.s]
    """)
    assert [mistake.path for mistake in found] == [
        "functions.f.timeout",
        "mappings.m.maximum_batching_window_in_seconds",
        "mappings.n.starting_positon",
    ]


def test_a_function_that_could_not_be_read_is_there_all_the_same(mistakes):
    found = mistakes("""
        [functions.f]
        handler = 1
        [mappings.m]
        source = "stream:s"
        function = "f"
        starting_position = "LATEST"
        [streams.s]
    """)
    assert [mistake.path for mistake in found] == ["functions.f.handler"]


# -- unknown keys ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "key", "message", "hint"),
    [
        ("mappings.m", "BatchSize", "eventcore calls it `batch_size`", "write `batch_size`: records of one"),
        ("mappings.m", "batchSize", "eventcore calls it `batch_size`", "write `batch_size`"),
        ("mappings.m", "batch-size", "eventcore calls it `batch_size`", "write `batch_size`"),
        ("mappings.m", "MaximumRecordAgeInSeconds", "calls it `maximum_record_age_in_seconds`", "write"),
        ("mappings.m", "batch_sise", "there is no `batch_sise`", "did you mean `batch_size`?"),
        ("mappings.m", "ParallelizationFactor", "calls it `parallelization_factor`", "write"),
        ("mappings.m", "FilterCriteria", "calls it `filter_criteria`", "write `filter_criteria`"),
        ("mappings.m", "TumblingWindowInSeconds", "calls it `tumbling_window_in_seconds`", "write"),
        ("mappings.m", "provisioned_poller_config", "needs no provisioning", "take it out"),
        ("mappings.m", "scaling_config", "calls it `maximum_concurrency`", "write `maximum_concurrency`"),
        ("mappings.m", "destination_config", "calls it `on_failure`", "write `on_failure`"),
        ("mappings.m", "timeout", "there is no `timeout` here", "it belongs to [functions.NAME]"),
        ("mappings.m", "xyzzy", "there is no `xyzzy`", "known are source, function"),
        ("functions.f", "VpcConfig", "has no meaning here", "take it out"),
        ("functions.f", "role", "has no meaning here", "take it out"),
        ("functions.f", "Layers", "there are no layers", "take it out"),
        ("functions.f", "KMSKeyArn", "encrypt their disk", "take it out"),
        ("functions.f", "MemorySize", "calls it `memory_size`", "write `memory_size`: MB"),
        ("queues.q", "fifo", "calls it `fifo_queue`", "write `fifo_queue`"),
        ("queues.q", "FifoThroughputLimit", "no quota", "take it out"),
        ("queues.q", "ContentBasedDeduplication", "calls it `content_based_deduplication`", "write `content_based"),
        ("queues.q", "kms_key", "encrypt their disk", "take it out"),
        ("queues.q", "DelaySeconds", "calls it `delay`", "write `delay`: seconds"),
        ("streams.s", "RetentionPeriodHours", "calls it `retention_period`", "write `retention_period`: seconds"),
        ("kafka.k", "partition_assignment_strategy", "does not do this yet", "take it out"),
        ("kafka.k", "ssl_context", "made of files", "write ssl_cafile"),
        ("kafka.k", "auto_offset_reset", "belongs to the mapping", "write [mappings.NAME] starting_position"),
        ("settings", "regoin", "there is no `regoin`", "did you mean `region`?"),
    ],
)
def test_an_unknown_key_is_told_what_it_should_be(mistakes, table, key, message, hint):
    found = of(mistakes(f"[{table}]\n{key} = 1\n"), f"{table}.{key}")
    assert found.line == 2
    assert message in found.message
    assert found.hint.startswith(hint)


@pytest.mark.parametrize(
    ("table", "message", "hint"),
    [
        ("function", "there is no `function`", "did you mean `functions`?"),
        ("Mappings", "eventcore calls it `mappings`", "write `mappings`"),
        ("bucket", "there is no `bucket`", "did you mean `buckets`?"),
        ("topics", "does not do this yet", "take it out"),
        ("schedules", "does not do this yet", "take it out"),
        ("region", "there is no `region` here", "it belongs to [settings] or [s3.NAME]"),
        (
            "xyzzy",
            "there is no `xyzzy`",
            "known are settings, functions, mappings, queues, streams, kafka, http, buckets, s3",
        ),
    ],
)
def test_an_unknown_table_is_told_what_it_should_be(mistakes, table, message, hint):
    found = of(mistakes(f"[{table}.x]\n"), table)
    assert message in found.message
    assert found.hint == hint


def test_no_setting_is_refused_or_renamed_that_exists():
    sections = {"": PipelineConfig, "settings": Settings, "redrive_policy": RedrivePolicy}
    sections |= {
        "functions": FunctionConfig,
        "mappings": MappingConfig,
        "queues": QueueConfig,
        "streams": StreamConfig,
    }
    for kind, section in sections.items():
        known = set(section.__struct_fields__)
        assert not known & REFUSED.get(kind, {}).keys()
        assert not known & RENAMED.get(kind, {}).keys()
        assert set(RENAMED.get(kind, {}).values()) <= known
    for keys in [*REFUSED.values(), *RENAMED.values()]:
        assert all(key == snake_case(key) for key in keys)


# -- files that are no pipelines ---------------------------------------------------------------------------------------


def refusal(path):
    with pytest.raises(ConfigError) as caught:
        load_config(path, environ={})
    [mistake] = caught.value.mistakes
    return mistake


def test_a_missing_file_is_named_with_the_command_that_writes_one(tmp_path):
    found = refusal(tmp_path / "nothing.toml")
    assert found.file.endswith("nothing.toml")
    assert found.message == "there is no such file"
    assert "eventcore init" in found.hint


@pytest.mark.parametrize(
    ("data", "line", "message"),
    [
        (b"[a]\nx = \n", 2, "is not TOML: Invalid value"),
        (b"[a]\nx = [1,\n", 3, "is not TOML"),
        (b"[a]\nx = 1\nx = 2\n", 3, "is not TOML: Cannot overwrite a value"),
        (b"# \xe4\n[a]\n", 1, "is not UTF-8"),
        (b"[a]\n\n# \xff\n", 3, "is not UTF-8"),
        (b"x = " + b"9" * 5000, None, "is not TOML"),
        (b"x = " + b"[" * 100_000, None, "is nested too deeply"),
        (b"#" * (FILE_BYTES_MAX + 1), None, "is larger than"),
    ],
)
def test_a_file_that_is_not_toml_is_refused_with_its_line(tmp_path, data, line, message):
    path = tmp_path / "eventcore.toml"
    path.write_bytes(data)
    found = refusal(path)
    assert message in found.message
    assert found.line == line


def test_a_name_that_no_file_can_have_is_no_file(tmp_path):
    assert "File name too long" in refusal(tmp_path / ("x" * 5000)).message


def test_a_file_that_can_not_be_read_says_why(tmp_path):
    (tmp_path / "file").write_text("")
    assert refusal(tmp_path / "file" / "eventcore.toml").message == "can't be read: Not a directory"


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    path = tmp_path / "eventcore.toml"
    path.write_bytes(b"\xef\xbb\xbf[queues.a]\n")
    assert list(load_config(path).config.queues) == ["a"]


def test_the_built_in_queue_may_be_declared(load):
    loaded = load(f"[queues.{DISCARDS_QUEUE}]\nvisibility_timeout = 5\n")
    assert loaded.config.queues[DISCARDS_QUEUE].visibility_timeout == 5

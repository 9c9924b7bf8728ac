"""A pipeline written in Python gives the structs that the same pipeline gives in a file, and the same mistakes."""

import functools
import importlib.util
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import eventcore
import eventcore.cli
import eventcore.config
from eventcore.config.effective import explain, resolve
from eventcore.config.keywords import (
    BucketKeywords,
    CircuitBreakerKeywords,
    FunctionKeywords,
    HttpKeywords,
    KafkaKeywords,
    MappingKeywords,
    QueueKeywords,
    RedrivePolicyKeywords,
    RetryExceptionKeywords,
    RetryScheduleKeywords,
    S3Keywords,
    SettingsKeywords,
    StreamKeywords,
)
from eventcore.config.load import load_config
from eventcore.config.pipeline import Pipeline
from eventcore.config.structs import (
    TABLES,
    CircuitBreakerConfig,
    RedrivePolicy,
    RetryExceptionConfig,
    RetryScheduleConfig,
    Settings,
)
from eventcore.errors import ConfigError

ROOT = Path(eventcore.__file__).parents[1]
TEMPLATES = Path(eventcore.cli.__file__).parent / "templates"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write Python modules into a folder of their own; return a function that imports one of them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(**modules):
        """Take a module's text by its name; a package's modules by `package/module`."""
        for name, text in modules.items():
            path = tmp_path / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf-8")
            monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        return importlib.import_module

    yield write
    for name in [name for name, module in sys.modules.items() if _stands_in(module, tmp_path)]:
        del sys.modules[name]


def _stands_in(module, folder):
    # A package without `__init__` has no file, but a path.
    places = [getattr(module, "__file__", None), *getattr(module, "__path__", [])]
    return any(str(place).startswith(str(folder)) for place in places)


def mistakes_of(pipeline, **environ):
    with pytest.raises(ConfigError) as caught:
        pipeline.loaded(environ=environ)
    return caught.value.mistakes


# -- both forms --------------------------------------------------------------------------------------------------------

#: The templates' pipelines, in Python: their handlers are in a module of their own, as in the template.
TWINS = {
    "stream": """
        app.stream("orders")
        app.queue("failed-orders")
        app.function("price-order", timeout=10)(orders.price)
        app.mapping("orders", source="stream:orders", function="price-order", starting_position="TRIM_HORIZON",
                    batch_size=10, maximum_retry_attempts=2, bisect_batch_on_function_error=True,
                    on_failure="queue:failed-orders")
    """,
    "kafka": """
        app.kafka("local", bootstrap_servers="127.0.0.1:9092")
        app.queue("failed-orders")
        app.function("price-order", timeout=10)(orders.price)
        app.mapping("orders", source="kafka:local/orders", function=orders.price, starting_position="TRIM_HORIZON",
                    batch_size=10, maximum_retry_attempts=2, bisect_batch_on_function_error=True,
                    on_failure="queue:failed-orders")
    """,
    "queue": """
        app.queue("orders", visibility_timeout=20,
                  redrive_policy={"dead_letter_queue": "failed-orders", "max_receive_count": 3})
        app.queue("failed-orders", message_retention_period=1_209_600)
        app.function("price-order", handler="orders.price")
        app.mapping("orders", source="queue:orders", function="price-order",
                    function_response_types=["ReportBatchItemFailures"])
    """,
    "demo": """
        app.stream("orders", shards=2)
        app.queue("failed-orders")
        app.function("price-orders")(orders.price)
        app.mapping("orders", source="stream:orders", function=orders.price, starting_position="TRIM_HORIZON",
                    batch_size=8, maximum_retry_attempts=2, bisect_batch_on_function_error=True,
                    on_failure="queue:failed-orders")
    """,
}


@pytest.mark.parametrize("name", sorted(folder.name for folder in TEMPLATES.iterdir() if folder.is_dir()))
def test_each_template_in_python_gives_equal_structs(write, tmp_path, name):
    handlers = (TEMPLATES / name / "orders.py").read_text()
    twin = f"import eventcore\nimport orders\n\napp = eventcore.App()\n{textwrap.dedent(TWINS[name])}"
    loaded = write(orders=handlers, twin=twin)("twin").app.loaded()
    from_file = load_config(TEMPLATES / name, environ={})
    assert loaded.config == from_file.config
    assert [finding.code for finding in loaded.warnings] == [finding.code for finding in from_file.warnings]
    assert loaded.folder == tmp_path


def readme_pairs():
    """Every pipeline in Python with the one in TOML that stands before it, from every README; a test is no pipeline."""
    readmes = [ROOT / "README.md", *ROOT.glob("eventcore/**/README.md"), *ROOT.glob("functions/**/README.md")]
    for readme in readmes:
        toml = None
        for kind, text in re.findall(r"^```(toml|python)\n(.*?)^```", readme.read_text(), re.MULTILINE | re.DOTALL):
            if kind == "toml":
                toml = text
            elif "\napp = eventcore.App()" in f"\n{text}" and "app.mapping(" in text:
                yield pytest.param(toml, text, id=str(readme.relative_to(ROOT)))


@pytest.mark.parametrize(("toml", "python"), list(readme_pairs()))
def test_each_pair_of_examples_in_the_readmes_gives_equal_structs(write, load, toml, python):
    assert toml is not None, "the same pipeline as a file stands before it"
    module = re.search(r'^handler = "(.+)\.\w+"', toml, re.MULTILINE).group(1)
    loaded = write(**{module: python})(module).app.loaded(environ={})
    assert loaded.config == load(toml).config


def test_everything_that_a_file_can_say_can_be_said_in_python(write, load):
    """Every setting of every table is set to something that is no default, in both forms."""
    module = write(
        orders="""
        import eventcore

        app = eventcore.App()
        app.settings(region="eu-west-1", account_id="123456789012", drain_timeout=1, failures_maximum_bytes=2_000_000,
                     failures_retention_period=60)

        @app.function("enrich", timeout=4, memory_size=128, ephemeral_storage=600, environment={"A": "${env:A}"},
                      concurrency=2, preload=["json"], idle_timeout=5, code=".", runtime="process", start="fork")
        def enrich(event): ...

        app.mapping("s", source="stream:s", function="enrich", enabled=False, batch_size=3,
                    maximum_batching_window_in_seconds=2, function_response_types=["ReportBatchItemFailures"],
                    starting_position="AT_TIMESTAMP", starting_position_timestamp=3, maximum_retry_attempts=4,
                    maximum_record_age_in_seconds=60, bisect_batch_on_function_error=True, on_failure="http:h")
        app.mapping("q", source="queue:q", function=enrich, maximum_concurrency=2)
        app.mapping("k", source="kafka:k/t", function=enrich, starting_position="LATEST", consumer_group_id="g")
        app.queue("q", visibility_timeout=60, message_retention_period=61, delay=1,
                  maximum_message_size=2000, redrive_policy={"dead_letter_queue": "d", "max_receive_count": 2})
        app.queue("d")
        app.stream("s", shards=3, retention_period=60, retention_bytes=1)
        app.kafka("k", bootstrap_servers="h:1", client_id="c", session_timeout_ms=9000, heartbeat_interval_ms=1000,
                  max_poll_interval_ms=9001, rebalance_timeout_ms=9002, request_timeout_ms=9003,
                  fetch_max_bytes=3_000_000, max_partition_fetch_bytes=2_000_000, isolation_level="read_uncommitted")
        app.http("h", url="https://h", headers={"X": "y"}, timeout=1)
        """
    )("orders")
    from_file = load(
        """
        [settings]
        region = "eu-west-1"
        account_id = "123456789012"
        drain_timeout = 1
        failures_maximum_bytes = 2_000_000
        failures_retention_period = 60
        [functions.enrich]
        handler = "orders.enrich"
        timeout = 4
        memory_size = 128
        ephemeral_storage = 600
        environment = { A = "${env:A}" }
        concurrency = 2
        preload = ["json"]
        idle_timeout = 5
        [mappings.s]
        source = "stream:s"
        function = "enrich"
        enabled = false
        batch_size = 3
        maximum_batching_window_in_seconds = 2
        function_response_types = ["ReportBatchItemFailures"]
        starting_position = "AT_TIMESTAMP"
        starting_position_timestamp = 3
        maximum_retry_attempts = 4
        maximum_record_age_in_seconds = 60
        bisect_batch_on_function_error = true
        on_failure = "http:h"
        [mappings.q]
        source = "queue:q"
        function = "enrich"
        maximum_concurrency = 2
        [mappings.k]
        source = "kafka:k/t"
        function = "enrich"
        starting_position = "LATEST"
        consumer_group_id = "g"
        [queues.q]
        visibility_timeout = 60
        message_retention_period = 61
        delay = 1
        maximum_message_size = 2000
        redrive_policy = { dead_letter_queue = "d", max_receive_count = 2 }
        [queues.d]
        [streams.s]
        shards = 3
        retention_period = 60
        retention_bytes = 1
        [kafka.k]
        bootstrap_servers = "h:1"
        client_id = "c"
        session_timeout_ms = 9000
        heartbeat_interval_ms = 1000
        max_poll_interval_ms = 9001
        rebalance_timeout_ms = 9002
        request_timeout_ms = 9003
        fetch_max_bytes = 3_000_000
        max_partition_fetch_bytes = 2_000_000
        isolation_level = "read_uncommitted"
        [http.h]
        url = "https://h"
        headers = { X = "y" }
        timeout = 1
        """,
        A="secret",
    )
    loaded = module.app.loaded(environ={"A": "secret"})
    assert loaded.config == from_file.config
    assert loaded.masked() == from_file.masked()
    assert "secret" not in repr(loaded)


def test_the_keywords_are_the_settings():
    """Type checkers see what the structs hold: the names, and which of them are arguments of their own."""
    keywords = {
        Settings: (SettingsKeywords, set()),
        RedrivePolicy: (RedrivePolicyKeywords, set()),
        CircuitBreakerConfig: (CircuitBreakerKeywords, set()),
        RetryScheduleConfig: (RetryScheduleKeywords, set()),
        RetryExceptionConfig: (RetryExceptionKeywords, set()),
        TABLES["functions"]: (FunctionKeywords, {"handler"}),
        TABLES["mappings"]: (MappingKeywords, {"source", "function"}),
        TABLES["queues"]: (QueueKeywords, set()),
        TABLES["streams"]: (StreamKeywords, set()),
        TABLES["kafka"]: (KafkaKeywords, {"bootstrap_servers"}),
        TABLES["http"]: (HttpKeywords, {"url"}),
        TABLES["buckets"]: (BucketKeywords, set()),
        TABLES["s3"]: (S3Keywords, {"endpoint", "access_key_id", "secret_access_key"}),
    }
    for section, (given, arguments) in keywords.items():
        assert set(given.__annotations__) | arguments == set(section.__struct_fields__)


# -- functions ---------------------------------------------------------------------------------------------------------


def test_the_callable_is_returned_unchanged():
    app = Pipeline()

    def handler(event): ...

    assert app.function(handler) is handler
    assert app.function("other", runtime="inline")(handler) is handler
    assert app.function(runtime="inline")(handler) is handler


def test_inline_functions_keep_their_callable_wherever_it_is_defined():
    app = Pipeline()

    async def handle(event): ...

    class Callable:
        async def __call__(self, event): ...

    app.function("a", runtime="inline")(handle)
    app.function("b", runtime="inline")(functools.partial(handle))
    app.function("c", runtime="inline")(lambda _event: None)
    instance = app.function("d", runtime="inline")(Callable())
    assert list(app.targets) == ["a", "b", "c", "d"]
    assert app.targets["a"] is handle
    assert app.targets["d"] is instance
    assert app.loaded(environ={}).config.functions["a"].runtime == "inline"


def test_a_process_function_is_named_below_the_root_of_its_module(write, tmp_path):
    load_module = write(
        **{"shop/handlers": "def enrich(event): ...\n"},
        pipeline="""
        import eventcore
        from shop.handlers import enrich

        app = eventcore.App()
        app.function(enrich)
        app.mapping("m", source="queue:q", function=enrich)
        app.queue("q")
        """,
    )
    loaded = load_module("pipeline").app.loaded(environ={})
    assert loaded.config.functions["enrich"].handler == "shop.handlers.enrich"
    assert loaded.config.functions["enrich"].code == "."
    assert loaded.config.mappings["m"].function == "enrich"
    assert loaded.folder == tmp_path


def test_a_pipeline_in_a_package_stands_in_the_packages_parent(write, tmp_path):
    text = "import eventcore\napp = eventcore.App()\n@app.function\ndef f(event): ...\n"
    loaded = write(**{"shop/__init__": text})("shop").app.loaded(environ={})
    assert loaded.folder == tmp_path
    assert loaded.config.functions["f"].handler == "shop.f"
    assert loaded.config.functions["f"].code == "."


def test_a_handler_from_elsewhere_has_its_own_folder(write, tmp_path, monkeypatch):
    (tmp_path / "lib").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    (tmp_path / "lib" / "handlers_elsewhere.py").write_text("def f(event): ...\n")
    text = "import eventcore, handlers_elsewhere\napp = eventcore.App()\napp.function(handlers_elsewhere.f)\n"
    loaded = write(main_pipeline=text)("main_pipeline").app.loaded(environ={})
    assert loaded.config.functions["f"].code == "lib"
    assert loaded.config.functions["f"].handler == "handlers_elsewhere.f"


def test_a_script_is_imported_by_its_files_name(tmp_path):
    """Run as `python orders.py` the module is called `__main__`, which no process of a function could import."""
    script = tmp_path / "orders.py"
    script.write_text(
        "import eventcore\napp = eventcore.App()\n@app.function\ndef f(event): ...\n"
        "function = app.loaded().config.functions['f']\nprint(function.handler, function.code)\n"
    )
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, env=environ)
    assert done.stdout.split() == ["orders.f", "."]


def test_a_module_that_is_run_is_imported_by_its_name(tmp_path):
    """Run as `python -m shop.orders` the module is called `__main__` too, and is not `orders` but `shop.orders`."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "orders.py").write_text(
        "import eventcore\napp = eventcore.App()\n@app.function\ndef f(event): ...\n"
        "function = app.loaded().config.functions['f']\nprint(function.handler, function.code)\n"
    )
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "shop.orders"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environ, cwd=tmp_path)
    assert done.stdout.split() == ["shop.orders.f", "."]


def test_a_mapping_of_a_callable_means_the_name_it_was_declared_under_last():
    def handle(event): ...

    app = Pipeline()
    app.queue("q")
    for name in ("first", "second"):
        app.function(name, runtime="inline")(handle)
        app.mapping(name, source="queue:q", function=handle)
    mappings = app.loaded(environ={}).config.mappings
    assert {name: mapping.function for name, mapping in mappings.items()} == {"first": "first", "second": "second"}


def test_each_value_comes_from_the_line_of_its_call(write):
    load_module = write(
        orders="""
        import eventcore

        app = eventcore.App()
        app.function("f", handler="a.b",
                     environment={"A": "b"})
        app.settings(region="eu-west-1")
        """
    )
    rows = {row.path: row.origin for row in explain(resolve(load_module("orders").app.loaded(environ={})))}
    assert rows["functions.f.environment.A"] == "orders.py:4"
    assert rows["functions.f.handler"] == "orders.py:4"
    assert rows["functions.f.timeout"] == "default"
    assert rows["settings.region"] == "orders.py:6"


def test_what_no_process_can_import_is_a_mistake_that_names_the_line(write):
    load_module = write(
        orders="""
        import functools
        import eventcore

        app = eventcore.App()

        def make():
            @app.function
            def inner(event): ...

        make()
        app.function("anonymous")(lambda event: None)
        app.function("partial")(functools.partial(make))
        """
    )
    found = mistakes_of(load_module("orders").app)
    assert [(mistake.path, mistake.file, mistake.line) for mistake in found] == [
        ("functions.inner", "orders.py", 7),
        ("functions.anonymous", "orders.py", 11),
        ("functions.partial", "orders.py", 12),
    ]
    assert "defined inside `make`" in found[0].message
    assert "a lambda has no name" in found[1].message
    assert "no function" in found[2].message
    assert all('runtime="inline"' in mistake.hint for mistake in found)


def test_a_function_is_declared_by_name_alone_as_in_the_file():
    app = Pipeline()
    assert app.function("thumbnail", handler="images.thumbnail", timeout=9) is None
    assert app.loaded(environ={}).config.functions["thumbnail"].timeout == 9


# -- mistakes ----------------------------------------------------------------------------------------------------------


def test_mistakes_carry_the_line_of_the_call_all_at_once(write):
    load_module = write(
        orders="""
        import eventcore

        app = eventcore.App()


        @app.function(timout=3)
        def f(event): ...


        app.queue("q", visibility_timeout=-1)
        app.mapping(
            "m",
            source="queue:r",
            function="f",
        )
        app.queue("q")
        """
    )
    found = mistakes_of(load_module("orders").app)
    assert [(mistake.path, mistake.file, mistake.line) for mistake in found] == [
        ("functions.f.timout", "orders.py", 6),
        ("queues.q.visibility_timeout", "orders.py", 10),
        ("mappings.m.source", "orders.py", 11),
        ("queues.q", "orders.py", 16),
    ]
    assert found[0].hint == "did you mean `timeout`?"
    assert found[3].message == "is declared twice: first at orders.py:10"


def test_what_no_file_could_say_is_a_mistake_too():
    app = Pipeline()
    app.function("f", handler="a.b", environment={1: "x"}, preload={"json"})
    app.queue(3)
    app.queue("q", delay=None)
    app.mapping("m", source=None, function="f")
    assert {mistake.path for mistake in mistakes_of(app)} == {
        "functions.f.environment",
        "functions.f.preload",
        "mappings.m.source",
        "queues[3]",
        "queues.q.delay",
    }


def test_a_pipeline_can_be_checked_again_after_more_was_declared():
    app = Pipeline()
    app.mapping("m", source="queue:q", function="f")
    assert {mistake.path for mistake in mistakes_of(app)} == {"mappings.m.source", "mappings.m.function"}
    app.queue("q")
    app.function("f", handler="a.b")
    assert app.loaded(environ={}).config.mappings["m"].source == "queue:q"


def test_the_folder_may_be_given(tmp_path):
    (tmp_path / "lib").mkdir()
    app = Pipeline(folder=tmp_path)
    app.function("f", handler="a.b", code="lib")
    assert app.loaded(environ={}).folder == tmp_path

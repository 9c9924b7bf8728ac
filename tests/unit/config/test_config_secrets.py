"""`${env:NAME}` is replaced everywhere, and what it stood for is shown nowhere."""

import io

import pytest
from rich.console import Console

from eventcore.config.effective import explain, resolve
from eventcore.errors import ConfigError

SECRET = "hunter2-hunter2"

PIPELINE = """
    [settings]
    region = "${env:TOKEN}"

    [functions.f]
    handler = "a.b"
    environment = { TOKEN = "Bearer ${env:TOKEN}", PLAIN = "x" }

    [mappings.m]
    source = "kafka:k/${env:TOKEN}"
    function = "f"
    starting_position = "LATEST"
    maximum_retry_attempts = 1
    on_failure = "http:h"

    [kafka.k]
    bootstrap_servers = "${env:HOST}:${env:PORT}"

    [http.h]
    url = "${env:URL}"
    headers = { Authorization = "${env:TOKEN}" }

    [queues.q]
    redrive_policy = { dead_letter_queue = "${env:QUEUE}" }

    [queues.dead]
    message_retention_period = 1_000_000
"""
ENVIRON = {"TOKEN": SECRET, "HOST": "broker", "PORT": "9092", "QUEUE": "dead", "URL": f"https://h/{SECRET}"}


def test_variables_are_replaced_in_every_text(load):
    config = load(PIPELINE, **ENVIRON).config
    assert config.functions["f"].environment == {"TOKEN": f"Bearer {SECRET}", "PLAIN": "x"}
    assert config.mappings["m"].source == f"kafka:k/{SECRET}"
    assert config.kafka["k"].bootstrap_servers == "broker:9092"
    assert config.http["h"].headers == {"Authorization": SECRET}
    assert config.queues["q"].redrive_policy.dead_letter_queue == "dead"


def rich_text(value):
    console = Console(file=io.StringIO(), width=200)
    console.print(value)
    return console.file.getvalue()


@pytest.mark.parametrize("show", [repr, str, rich_text])
def test_no_representation_shows_a_value(load, show):
    loaded = load(PIPELINE, **ENVIRON)
    config = loaded.config
    sections = [config.settings, config.functions, config.mappings, config.http, config.kafka, config.queues["q"]]
    for thing in [loaded, config, loaded.masked(), *sections]:
        assert SECRET not in show(thing)
        assert "***" in show(thing)


def test_the_masked_copy_keeps_everything_else(load):
    masked = load(PIPELINE, **ENVIRON).masked()
    assert masked.functions["f"].environment == {"TOKEN": "Bearer ***", "PLAIN": "x"}
    assert masked.kafka["k"].bootstrap_servers == "***:***"
    assert masked.http["h"].url == "***"
    assert masked.queues["q"].redrive_policy.dead_letter_queue == "***"
    assert masked.mappings["m"].maximum_retry_attempts == 1


def test_explanations_name_the_variable_and_mask_the_value(load):
    rows = {row.path: row for row in explain(resolve(load(PIPELINE, **ENVIRON)))}
    token = rows["functions.f.environment.TOKEN"]
    assert (token.value, token.origin) == ("Bearer ***", "environment TOKEN")
    assert rows["kafka.k.bootstrap_servers"].origin == "environment HOST, PORT"
    assert rows["queues.q.redrive_policy.dead_letter_queue"].value == "***"
    assert not any(SECRET in str(row.value) for row in rows.values())


WRONG = """
    [settings]
    account_id = "${env:TOKEN}"
    drain_timeout = "${env:TOKEN}"

    [functions.f]
    handler = "${env:TOKEN}"
    runtime = "${env:TOKEN}"
    code = "${env:TOKEN}"
    preload = ["${env:TOKEN}"]

    [mappings.m]
    source = "${env:TOKEN}"
    function = "${env:TOKEN}"

    [mappings.n]
    source = "stream:${env:TOKEN}"
    function = "f"
    starting_position = "${env:TOKEN}"
    on_failure = "function:${env:TOKEN}"

    [mappings.o]
    source = "stdout:${env:TOKEN}"
    function = "f"

    [mappings.p]
    source = "kafka:k/${env:TOKEN}"
    function = "f"
    starting_position = "LATEST"
    on_failure = "kafka:k/${env:TOKEN}"

    [mappings.q]
    source = "kafka:k/${env:TOKEN}"
    function = "f"
    starting_position = "LATEST"

    [mappings.r]
    source = "${env:ARN}"
    function = "f"

    [mappings.s]
    source = "${env:PART}"
    function = "f"

    [kafka.k]
    bootstrap_servers = "${env:TOKEN}"

    [http.h]
    url = "${env:TOKEN}"

    [queues.q]
    redrive_policy = { dead_letter_queue = "${env:TOKEN}" }
"""


def test_no_mistake_shows_a_value(load):
    """Every check that quotes what it refuses has been handed a secret here."""
    with pytest.raises(ConfigError) as caught:
        load(WRONG, TOKEN=SECRET, ARN=f"arn:aws:{SECRET}", PART=f"queue:{SECRET}/x")
    assert len(caught.value.mistakes) >= 16
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value.mistakes)


def test_a_number_can_not_come_from_the_environment(mistakes):
    [found] = mistakes('[queues.q]\ndelay = "${env:DELAY}"\n', DELAY="3")
    assert found.message.startswith('"***" is not a whole number')
    assert found.hint == "the environment gives text only: write the value itself"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${env:MISSING}", "the environment variable MISSING is not set"),
        ("a${env:}b", "`${env:}` names no environment variable"),
        ("${env:A B}", "`${env:A B}` names no environment variable"),
        ("${env:TOKEN", "a `${env:` is not closed"),
    ],
)
def test_what_can_be_wrong_with_a_variable(mistakes, text, message):
    [found] = mistakes(f'[functions.f]\nhandler = "a.b"\nenvironment = {{ X = "{text}" }}\n', TOKEN="x")
    assert found.path == "functions.f.environment.X"
    assert found.line == 3
    assert found.message == message
    assert found.hint


def test_every_missing_variable_is_reported(mistakes):
    found = mistakes('[functions.f]\nhandler = "a.b"\nenvironment = { X = "${env:A}${env:B}", Y = "${env:C}" }\n')
    assert [mistake.message.split()[3] for mistake in found] == ["A", "B", "C"]


def test_the_process_environment_is_the_default(load, monkeypatch, tmp_path):
    from eventcore.config.load import load_config

    monkeypatch.setenv("EVENTCORE_TEST_HANDLER", "a.b")
    (tmp_path / "eventcore.toml").write_text('[functions.f]\nhandler = "${env:EVENTCORE_TEST_HANDLER}"\n')
    assert load_config(tmp_path).config.functions["f"].handler == "a.b"

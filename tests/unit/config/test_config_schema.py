"""The JSON Schema and the README say what the structs say."""

import tomllib
from pathlib import Path

import jsonschema
import msgspec
import pytest

import eventcore.cli
import eventcore.config
from eventcore.config.document import codes_table, settings_tables
from eventcore.config.schema import DIALECT, json_schema
from eventcore.config.structs import TABLES, RedrivePolicy, Settings

TEMPLATES = sorted(Path(eventcore.cli.__file__).parent.glob("templates/*/eventcore.toml"))
README = Path(eventcore.config.__file__).parent / "README.md"


@pytest.fixture
def validator():
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def errors(validator, text):
    return [".".join(map(str, error.absolute_path)) for error in validator.iter_errors(tomllib.loads(text))]


def test_it_is_a_schema_of_the_named_draft():
    assert json_schema()["$schema"] == DIALECT


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.parent.name)
def test_the_templates_are_valid(validator, path):
    assert len(TEMPLATES) == 4
    assert errors(validator, path.read_text()) == []


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("[functions.f]\ntimeout = 1", "functions.f"),
        ('[functions.f]\nhandler = "a.b"\ntimeout = 901', "functions.f.timeout"),
        ('[functions.f]\nhandler = "a.b"\nruntime = "x"', "functions.f.runtime"),
        ("[queues.q]\nDelay = 1", "queues.q"),
        ("[queues.q]\nredrive_policy = { max_receive_count = 1 }", "queues.q.redrive_policy"),
        ('[queues."a b"]', "queues"),
        ('[http.h]\nurl = "x"', "http.h.url"),
        ("[topics.b]", ""),
        ('[buckets.b]\nbucket = "A"', "buckets.b.bucket"),
    ],
)
def test_what_the_loader_refuses_an_editor_marks(validator, text, path):
    assert errors(validator, text) == [path]


def test_a_variable_may_stand_where_a_pattern_is_asked_for(validator):
    assert errors(validator, '[http.h]\nurl = "${env:URL}"\n[settings]\naccount_id = "${env:ACCOUNT}"') == []


def test_every_setting_has_a_description_and_its_default():
    definitions = json_schema()["$defs"]
    for section in [Settings, RedrivePolicy, *TABLES.values()]:
        properties = definitions[section.__name__]["properties"]
        for field in msgspec.structs.fields(section):
            said = properties[field.name]
            inner = [said, *said.get("anyOf", [])]
            described = [variant for variant in inner if variant.get("description") or "$ref" in variant]
            assert described, f"{section.__name__}.{field.name}"
            assert field.required or "default" in said


def test_the_readme_lists_every_setting_and_code():
    """Write it anew with `python -m eventcore.config.document`."""
    text = README.read_text(encoding="utf-8")
    assert settings_tables() in text
    assert codes_table() in text

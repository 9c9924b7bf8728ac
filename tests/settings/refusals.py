"""Where a setting is refused: asked of the checks themselves, with one pipeline for each kind of section."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import inspect

from eventcore.config.describe import Description as Said
from eventcore.config.describe import describe
from eventcore.config.load import load_config
from eventcore.errors import ConfigError
from tests.settings.forced import SECTIONS

#: What every pipeline has beside the section that is asked about.
AROUND = """
[functions.work]
handler = "a.work"
[queues.source]
visibility_timeout = 60
[queues.line]
fifo_queue = true
[queues.dead]
[streams.source]
[kafka.source]
bootstrap_servers = "h:1"
"""
STREAM = 'function = "work"\nstarting_position = "LATEST"\nmaximum_retry_attempts = 1\n'
#: By table: its kinds, each with what makes it one.
KINDS: Mapping[str, Mapping[str, str]] = {
    "mappings": {
        "queue": 'source = "queue:source"\nfunction = "work"\n',
        "FIFO queue": 'source = "queue:line"\nfunction = "work"\n',
        "stream": f'source = "stream:source"\n{STREAM}',
        "Kafka": f'source = "kafka:source/orders"\n{STREAM}',
    },
    "functions": {"inline": 'handler = "a.b"\nruntime = "inline"\n'},
    "queues": {"standard": "visibility_timeout = 30\n", "FIFO": "fifo_queue = true\n"},
    "kafka": {
        "aiokafka": 'bootstrap_servers = "h:1"\n',
        "librdkafka": 'bootstrap_servers = "h:1"\nclient = "librdkafka"\n',
        "consumer protocol": 'bootstrap_servers = "h:1"\nclient = "librdkafka"\ngroup_protocol = "consumer"\n',
    },
}
#: A file that is there.
HERE = Path(__file__).as_posix()
LOGIN = '"PLAIN"\nsasl_plain_username = "a"\nsasl_plain_password = "a"\nsecurity_protocol = "SASL_PLAINTEXT"'
TOKEN = 'sasl_mechanism = "OAUTHBEARER"\nsecurity_protocol = "SASL_PLAINTEXT"'
TLS = 'security_protocol = "SSL"'
#: What a setting is written as where a value of its type is not enough, with what it needs beside it; for one kind
#: alone, behind a colon.
WRITTEN: Mapping[str, str] = {
    "functions.code": 'code = "."',
    "functions.dead_letter_queue": 'dead_letter_queue = "dead"',
    "functions.environment": 'environment = { A = "b" }',
    "functions.handler": 'handler = "a.b"',
    "functions.on_failure": 'on_failure = "queue:dead"',
    "functions.on_success": 'on_success = "queue:dead"',
    "kafka.bootstrap_servers": 'bootstrap_servers = "h:1"',
    "kafka.client": 'client = "aiokafka"',
    "kafka.group_protocol": 'group_protocol = "consumer"',
    "kafka.heartbeat_interval_ms": "heartbeat_interval_ms = 3000",
    "kafka.sasl_mechanism": f"sasl_mechanism = {LOGIN}",
    "kafka.sasl_oauth_token_file": f'sasl_oauth_token_file = "{HERE}"\n{TOKEN}',
    "kafka.sasl_plain_password": f"sasl_mechanism = {LOGIN}",
    "kafka.sasl_plain_username": f"sasl_mechanism = {LOGIN}",
    "kafka.session_timeout_ms": "session_timeout_ms = 45000",
    "kafka.ssl_cafile": f'ssl_cafile = "{HERE}"\n{TLS}',
    "kafka.ssl_certfile": f'ssl_certfile = "{HERE}"\n{TLS}',
    "kafka.ssl_check_hostname": f"ssl_check_hostname = false\n{TLS}",
    "kafka.ssl_keyfile": f'ssl_certfile = "{HERE}"\nssl_keyfile = "{HERE}"\n{TLS}',
    "kafka.ssl_password": f'ssl_certfile = "{HERE}"\nssl_password = "a"\n{TLS}',
    "mappings.circuit_breaker": "circuit_breaker = { failures = 2 }",
    "mappings.delivery": 'delivery = "at_least_once"',
    "mappings.filter_criteria": "filter_criteria = { filters = [{ pattern = { body = [{ exists = true }] } }] }",
    "mappings.function": 'function = "work"',
    "mappings.idempotency": 'idempotency = { key = "$" }',
    "mappings.maximum_record_age_in_seconds": "maximum_record_age_in_seconds = 60",
    "mappings.on_failure": 'on_failure = "queue:dead"',
    "mappings.parking": 'lanes = 2\nparking = "queue:dead"',
    "mappings.results": 'results = "kafka:source/made"',
    "mappings.retry_schedule": 'retry_schedule = { kind = "exponential" }',
    "mappings.retry_exceptions": 'retry_exceptions = [{ error_type = "E", give_up = true }]',
    "mappings.source:queue": 'source = "queue:source"',
    "mappings.source:FIFO queue": 'source = "queue:line"',
    "mappings.source:stream": 'source = "stream:source"',
    "mappings.source:Kafka": 'source = "kafka:source/orders"',
    "mappings.starting_position": 'starting_position = "LATEST"',
    "mappings.starting_position_timestamp": 'starting_position = "AT_TIMESTAMP"\nstarting_position_timestamp = 1',
    "queues.redrive_policy:FIFO": 'redrive_policy = { dead_letter_queue = "line" }',
    "queues.redrive_policy": 'redrive_policy = { dead_letter_queue = "dead" }',
}


def refusals() -> Mapping[str, str]:
    """Return where each setting is refused, with the code of the check; those that no kind refuses are left out."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "eventcore.toml"
        asked = {
            f"{table}.{field.name}": [
                f"{kind} ({code})" for kind in kinds if (code := _refusal(file, table, kind, field)) is not None
            ]
            for table, kinds in KINDS.items()
            for field in msgspec.structs.fields(SECTIONS[table])
        }
    for setting, places in asked.items():
        kinds = KINDS[setting.partition(".")[0]]
        assert len(kinds) == 1 or len(places) < len(kinds), f"{setting} is refused everywhere: {places}"
    return {setting: ", ".join(places) for setting, places in asked.items() if places}


def _refusal(file: Path, table: str, kind: str, field: msgspec.structs.FieldInfo) -> str | None:
    """Return the code with which a section of some kind is refused for having the setting; None where it may."""
    setting, text = f"{table}.{field.name}", KINDS[table][kind]
    written = WRITTEN.get(f"{setting}:{kind}") or WRITTEN.get(setting) or f"{field.name} = {_value(field)}"
    # A setting that makes the kind what it is stands there once.
    own = {line.partition(" = ")[0] for line in written.splitlines()}
    kept = [line for line in text.splitlines() if line.partition(" = ")[0] not in own]
    file.write_text("\n".join([AROUND, f"[{table}.asked]", *kept, written, ""]), encoding="utf-8")
    path = f"{table}.asked.{field.name}"
    try:
        load_config(file, environ={})
    except ConfigError as error:
        found = [mistake for mistake in error.mistakes if mistake.path.startswith(path)]
        codes = [getattr(mistake, "code", "") for mistake in found]
        assert all(codes), f"{written} is no example of {path}: {found}"
        return codes[0] if codes else None
    return None


def _value(field: msgspec.structs.FieldInfo) -> str:
    """Return a value that a setting takes, as TOML."""
    match describe(field.type):
        case Said(type=inspect.BoolType()):
            return "true"
        case Said(type=inspect.IntType(ge=lowest) | inspect.FloatType(ge=lowest)):
            return str(max(lowest or 1, 2))
        case Said(type=inspect.LiteralType(values=values)):
            return f'"{values[0]}"'
        case Said(type=inspect.VarTupleType(item_type=inspect.LiteralType(values=values))):
            return f'["{values[0]}"]'
        case Said(type=inspect.VarTupleType()):
            return '["a"]'
        case _:
            return '"a"'

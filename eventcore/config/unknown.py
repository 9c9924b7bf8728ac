"""What to say about a key that the pipeline file does not have.

Most such keys are known elsewhere: they are misspelt, written as AWS writes them, stand in the wrong table, or belong
to something that eventcore does not do. Each is told apart, because each needs another hint.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping

import msgspec

from eventcore.config.describe import describe
from eventcore.config.structs import TABLES, RedrivePolicy, Section, Settings

#: Where a word begins inside AWS's spelling: `BatchSize`, `KMSKeyArn`.
_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")

#: Likeness from which a key counts as a misspelling of another.
SIMILARITY_MIN = 0.75

_NOT_YET = "eventcore does not do this yet"
_NO_CLOUD = "this belongs to AWS's cloud and has no meaning here"
_LONG_POLL = "mappings always wait for messages: a queue here is never asked in a hurry"
_NO_KEYS = "state lies in files of your own: encrypt their disk"

#: What Lambda, SQS, Kinesis, Kafka or their templates have and eventcore refuses: table, key, why.
REFUSED: Mapping[str, Mapping[str, str]] = {
    "": {
        "aliases": _NOT_YET,
        "archives": _NOT_YET,
        "buckets": _NOT_YET,
        "buses": _NOT_YET,
        "notifications": _NOT_YET,
        "rules": _NOT_YET,
        "schedules": _NOT_YET,
        "topics": _NOT_YET,
        "layers": "there are no layers: install packages where the engine runs, or put them into `code`",
    },
    "functions": {
        "architectures": _NO_CLOUD,
        "code_signing_config_arn": _NO_CLOUD,
        "durable_config": _NOT_YET,
        "event_invoke_config": "its settings stand in the function: maximum_retry_attempts, on_failure and others",
        "file_system_configs": "functions see the machine's own files",
        "function_url_config": _NOT_YET,
        "image_config": _NO_CLOUD,
        "image_uri": _NO_CLOUD,
        "kms_key_arn": _NO_KEYS,
        "layers": "there are no layers: install packages where the engine runs, or put them into `code`",
        "logging_config": _NOT_YET,
        "package_type": _NO_CLOUD,
        "policies": _NO_CLOUD,
        "provisioned_concurrency_config": _NOT_YET,
        "role": _NO_CLOUD,
        "snap_start": _NO_CLOUD,
        "tags": _NO_CLOUD,
        "tenancy_config": _NOT_YET,
        "tracing_config": "tracing is set up by the OTEL_* environment variables",
        "vpc_config": _NO_CLOUD,
    },
    "mappings": {
        "consumption_mode": _NOT_YET,
        "document_db_event_source_config": _NOT_YET,
        "kms_key_arn": _NO_KEYS,
        "logging_config": _NOT_YET,
        "metrics_config": "metrics are set up by the OTEL_* environment variables",
        "on_success": "a mapping has no on_success destination, in Lambda neither",
        "provisioned_poller_config": "a poller costs nothing here and needs no provisioning",
        "schema_registry_config": _NOT_YET,
        "source_access_configurations": "credentials belong to the connection: [kafka.NAME]",
        "tags": _NO_CLOUD,
    },
    "queues": {
        "receive_message_wait_time": _LONG_POLL,
        "receive_message_wait_time_seconds": _LONG_POLL,
        "fifo_throughput_limit": "there is no quota on sends and receives here, of a queue or of a group",
        "kms_data_key_reuse_period_seconds": _NO_KEYS,
        "kms_key": _NO_KEYS,
        "kms_master_key_id": _NO_KEYS,
        "policy": _NO_CLOUD,
        "redrive_allow_policy": _NOT_YET,
        "sqs_managed_sse_enabled": _NO_KEYS,
        "tags": _NO_CLOUD,
    },
    "streams": {
        "kms_key_id": _NO_KEYS,
        "stream_encryption": _NO_KEYS,
        "stream_mode_details": "a stream has the shards that it is given: write shards, and split or merge them later",
        "tags": _NO_CLOUD,
    },
    "kafka": {
        "acks": "sends wait for every replica: no destination may lose what it has taken",
        "api_version": "the client asks the broker",
        "auto_commit_interval_ms": "progress is committed at most a second behind what is settled",
        "auto_offset_reset": "where to begin belongs to the mapping: starting_position",
        "enable_auto_commit": "progress is committed as it is settled, never before",
        "group_id": "the consumer group belongs to the mapping: consumer_group_id",
        "max_poll_records": "how many records are invoked together belongs to the mapping: batch_size",
        "partition_assignment_strategy": _NOT_YET,
        "sasl_kerberos_service_name": _NOT_YET,
        "sasl_oauth_token_provider": "whoever renews the token writes it into a file: sasl_oauth_token_file",
        "ssl_context": "it is made of ssl_cafile, ssl_certfile and ssl_keyfile",
    },
    "http": {
        "auth": 'write an Authorization header: headers = { Authorization = "Bearer ${env:NAME}" }',
        "method": "results are always sent by POST",
    },
}

#: Names that are not ours with another word behind them: table, AWS's or a client's name in snake_case, ours.
RENAMED: Mapping[str, Mapping[str, str]] = {
    "settings": {"account": "account_id", "aws_region": "region", "shutdown_timeout": "drain_timeout"},
    "functions": {
        "code_uri": "code",
        "env": "environment",
        "environment_variables": "environment",
        "isolation": "runtime",
        "memory": "memory_size",
        "dead_letter_config": "dead_letter_queue",
        "destination_config": "on_failure",
    },
    "mappings": {
        "amazon_managed_kafka_event_source_config": "consumer_group_id",
        "batch_window": "maximum_batching_window_in_seconds",
        "bisect_on_function_error": "bisect_batch_on_function_error",
        "destination_config": "on_failure",
        "event_source_arn": "source",
        "function_arn": "function",
        "function_name": "function",
        "group_id": "consumer_group_id",
        "max_concurrency": "maximum_concurrency",
        "maximum_batching_window": "maximum_batching_window_in_seconds",
        "maximum_record_age": "maximum_record_age_in_seconds",
        "queue": "source",
        "retries": "maximum_retry_attempts",
        "scaling_config": "maximum_concurrency",
        "self_managed_kafka_event_source_config": "consumer_group_id",
        "stream": "source",
        "topic": "source",
        "topics": "source",
    },
    "queues": {
        "dead_letter_queue": "redrive_policy",
        "delay_seconds": "delay",
        "fifo": "fifo_queue",
        "max_receive_count": "redrive_policy",
    },
    "redrive_policy": {"dead_letter_target_arn": "dead_letter_queue", "target": "dead_letter_queue"},
    "streams": {"partitions": "shards", "retention_period_hours": "retention_period", "shard_count": "shards"},
    "kafka": {"brokers": "bootstrap_servers", "endpoints": "bootstrap_servers", "url": "bootstrap_servers"},
    "http": {"endpoint": "url"},
}


def snake_case(key: str) -> str:
    """Return AWS's spelling of a name in ours: `BatchSize` is `batch_size`."""
    return _WORD.sub("_", key).replace("-", "_").replace(" ", "_").lower()


def find_meant(section: type[Section], key: str) -> str | None:
    """Return the setting of the section that an unknown key stands for; None when there is no such guess."""
    known = section.__struct_fields__
    name = snake_case(key)
    if name in known:
        return name
    renamed = RENAMED.get(_kind_of(section), {}).get(name)
    return renamed or next(iter(difflib.get_close_matches(name, known, n=1, cutoff=SIMILARITY_MIN)), None)


def explain_unknown(section: type[Section], key: str) -> tuple[str, str]:
    """Return what is wrong with a key that its table does not have, and what to write instead."""
    kind = _kind_of(section)
    name = snake_case(key)
    refused = REFUSED.get(kind, {}).get(name)
    if refused is not None:
        return f"`{key}` is refused: {refused}", "take it out"
    meant = find_meant(section, key)
    if meant is not None and (meant == name or meant == RENAMED.get(kind, {}).get(name)):
        return f"there is no `{key}`: eventcore calls it `{meant}`", f"write `{meant}`{_meaning(section, meant)}"
    if meant is not None:
        return f"there is no `{key}`", f"did you mean `{meant}`?"
    owners = _owners(name, besides=section)
    if owners:
        return f"there is no `{key}` here", f"it belongs to {' or '.join(owners)}"
    return f"there is no `{key}`", f"known are {', '.join(section.__struct_fields__)}"


def _owners(name: str, *, besides: type[Section]) -> list[str]:
    """Return the other tables that have a setting of this name."""
    sections: dict[str, type[Section]] = {
        "[settings]": Settings,
        **{f"[{table}.NAME]": held for table, held in TABLES.items()},
    }
    return [table for table, held in sections.items() if name in held.__struct_fields__ and held is not besides]


def _meaning(section: type[Section], setting: str) -> str:
    """Return a setting's description, which names its unit: AWS's setting of a like name may have another."""
    field = next(field for field in msgspec.structs.fields(section) if field.name == setting)
    description = describe(field.type).description
    return f": {description}" if description else ""


def _kind_of(section: type[Section]) -> str:
    """Return under which name the tables above hold a section: its table's, or "" for the document itself."""
    if section is Settings:
        return "settings"
    if section is RedrivePolicy:
        return "redrive_policy"
    return next((table for table, held in TABLES.items() if held is section), "")

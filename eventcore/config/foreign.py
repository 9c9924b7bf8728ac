"""Names that AWS, its templates and Kafka's clients have for settings, and what becomes of them here.

All stand in snake_case. Each of the parameters of Lambda, SQS and Kinesis is a setting of ours, renamed, or refused
with its reason and what to do instead: a test goes through them all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Refusal(NamedTuple):
    """Why a setting is refused, and what to do instead."""

    reason: str
    instead: str = "take it out"


_NOT_YET = Refusal("eventcore does not do this yet")
_NO_CLOUD = Refusal("this belongs to AWS's cloud and has no meaning here")
_LONG_POLL = Refusal("mappings always wait for messages: a queue here is never asked in a hurry")
_NO_KEYS = Refusal("state lies in files of your own: encrypt their disk")
_NO_LAYERS = Refusal("there are no layers: install packages where the engine runs, or put them into `code`")
_NO_TAGS = Refusal("nothing here is listed or billed by tags", "take it out, or write a comment: # team: orders")
_NO_VERSIONS = Refusal("a function has no versions or aliases yet: what `code` holds is what runs")
_RECORD_SIZE = Refusal("a record of a stream may have 1 MiB, always")
_THROUGHPUT = Refusal("a stream here is as fast as its disk, and is not billed by throughput")


def _heading(table: str) -> Refusal:
    return Refusal(f"the name stands in the table's heading: [{table}.NAME]")


#: What Lambda, SQS, Kinesis, Kafka or their templates have and eventcore refuses: by table and key.
REFUSED: Mapping[str, Mapping[str, Refusal]] = {
    "": {
        "aliases": _NOT_YET,
        "archives": _NOT_YET,
        "buses": _NOT_YET,
        "notifications": _NOT_YET,
        "rules": _NOT_YET,
        "schedules": _NOT_YET,
        "topics": _NOT_YET,
        "layers": _NO_LAYERS,
    },
    "functions": {
        "architectures": _NO_CLOUD,
        "capacity_provider_config": _NO_CLOUD,
        "code_signing_config_arn": _NO_CLOUD,
        "description": Refusal("nothing shows it", "write a comment: # what the function does"),
        "durable_config": _NOT_YET,
        "event_invoke_config": Refusal(
            "its settings stand in the function itself",
            "write maximum_retry_attempts, maximum_event_age_in_seconds, on_success and on_failure",
        ),
        "events": Refusal("what a function reads is a table of its own", 'write [mappings.NAME] with source = "..."'),
        "file_system_configs": Refusal("functions see the machine's own files"),
        "function_name": _heading("functions"),
        "function_url_config": _NOT_YET,
        "image_config": _NO_CLOUD,
        "image_uri": _NO_CLOUD,
        "kms_key_arn": _NO_KEYS,
        "layers": _NO_LAYERS,
        "logging_config": Refusal(
            "what a function prints goes to a log of its own", "take it out; `eventcore logs` shows it"
        ),
        "package_type": _NO_CLOUD,
        "policies": _NO_CLOUD,
        "provisioned_concurrency_config": _NOT_YET,
        "publish": _NO_VERSIONS,
        "publish_to": _NO_VERSIONS,
        "qualifier": _NO_VERSIONS,
        "role": _NO_CLOUD,
        "s3_bucket": _NO_CLOUD,
        "s3_key": _NO_CLOUD,
        "s3_object_version": _NO_CLOUD,
        "snap_start": _NO_CLOUD,
        "source_kms_key_arn": _NO_KEYS,
        "tags": _NO_TAGS,
        "tenancy_config": _NOT_YET,
        "tracing_config": Refusal(
            "tracing is set up outside of the pipeline", "set the OTEL_* environment variables of the engine"
        ),
        "vpc_config": _NO_CLOUD,
        "zip_file": Refusal("code is a folder", "unpack it, and write code = FOLDER"),
    },
    "mappings": {
        "consumption_mode": _NOT_YET,
        "document_db_event_source_config": _NOT_YET,
        "kms_key_arn": _NO_KEYS,
        "logging_config": Refusal(
            "the engine logs for all mappings", "take it out; `eventcore run -v` tells of each batch"
        ),
        "metrics_config": Refusal(
            "every mapping is counted, always", "take it out; `eventcore -o json status` has the counters"
        ),
        "on_success": Refusal(
            "a mapping has no on_success destination, in Lambda neither",
            "send from the function; a Kafka mapping has results",
        ),
        "provisioned_poller_config": Refusal("a poller costs nothing here and needs no provisioning"),
        "schema_registry_config": _NOT_YET,
        "self_managed_event_source": Refusal(
            "brokers belong to the connection", "write [kafka.NAME] bootstrap_servers, and source = kafka:NAME/TOPIC"
        ),
        "source_access_configurations": Refusal(
            "credentials belong to the connection", "write [kafka.NAME] sasl_mechanism and others"
        ),
        "tags": _NO_TAGS,
    },
    "queues": {
        "receive_message_wait_time": _LONG_POLL,
        "receive_message_wait_time_seconds": _LONG_POLL,
        "fifo_throughput_limit": Refusal("there is no quota on sends and receives here, of a queue or of a group"),
        "kms_data_key_reuse_period_seconds": _NO_KEYS,
        "kms_key": _NO_KEYS,
        "kms_master_key_id": _NO_KEYS,
        "policy": _NO_CLOUD,
        "queue_name": _heading("queues"),
        "queue_url": _heading("queues"),
        "redrive_allow_policy": Refusal(
            "the pipeline file says which queues have one as their dead-letter queue, and no other may"
        ),
        "sqs_managed_sse_enabled": _NO_KEYS,
        "tags": _NO_TAGS,
    },
    "streams": {
        "encryption_type": _NO_KEYS,
        "key_id": _NO_KEYS,
        "kms_key_id": _NO_KEYS,
        "max_record_size_in_ki_b": _RECORD_SIZE,
        "max_record_size_in_kib": _RECORD_SIZE,
        "stream_encryption": _NO_KEYS,
        "stream_mode_details": Refusal(
            "a stream has the shards that it is given", "write shards, and split or merge them later"
        ),
        "stream_name": _heading("streams"),
        "tags": _NO_TAGS,
        "warm_throughput_mi_bps": _THROUGHPUT,
        "warm_throughput_mibps": _THROUGHPUT,
    },
    "kafka": {
        "acks": Refusal("sends wait for every replica: no destination may lose what it has taken"),
        "api_version": Refusal("the client asks the broker"),
        "auto_commit_interval_ms": Refusal("progress is committed at most a second behind what is settled"),
        "auto_offset_reset": Refusal(
            "where to begin belongs to the mapping", "write [mappings.NAME] starting_position"
        ),
        "enable_auto_commit": Refusal("progress is committed as it is settled, never before"),
        "group_id": Refusal("the consumer group belongs to the mapping", "write [mappings.NAME] consumer_group_id"),
        "max_poll_records": Refusal(
            "how many records are invoked together belongs to the mapping", "write [mappings.NAME] batch_size"
        ),
        "partition_assignment_strategy": _NOT_YET,
        "sasl_kerberos_service_name": _NOT_YET,
        "sasl_oauth_token_provider": Refusal(
            "whoever renews the token writes it into a file", "write sasl_oauth_token_file"
        ),
        "ssl_context": Refusal("it is made of files", "write ssl_cafile, ssl_certfile and ssl_keyfile"),
    },
    "http": {
        "auth": Refusal("it is a header", 'write headers = { Authorization = "Bearer ${env:NAME}" }'),
        "method": Refusal("results are always sent by POST"),
    },
    "buckets": {
        "bucket_policy": _NO_CLOUD,
        "events": _NOT_YET,
        "notifications": _NOT_YET,
        "tags": _NO_TAGS,
        "versioning": Refusal("no object is written twice but with the same content"),
    },
    "s3": {
        "bucket": Refusal("a connection may serve several buckets", 'write [buckets.NAME] bucket = "..."'),
        "profile": Refusal("credentials stand here alone", "write access_key_id and secret_access_key"),
        "session_token": Refusal("temporary credentials would expire under a running engine", "write lasting ones"),
        "use_ssl": Refusal("the endpoint says so", "write https:// or http:// in endpoint"),
        "verify": Refusal("a certificate is always looked at"),
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
        "queues": "source",
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
    "buckets": {"bucket_name": "bucket", "directory": "folder", "path": "folder", "s3": "connection"},
    "s3": {
        "access_key": "access_key_id",
        "aws_access_key_id": "access_key_id",
        "aws_secret_access_key": "secret_access_key",
        "endpoint_url": "endpoint",
        "region_name": "region",
        "secret_key": "secret_access_key",
        "url": "endpoint",
    },
}

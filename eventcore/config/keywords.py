"""The keyword arguments of a pipeline written in Python: the settings of `config.structs`, for type checkers.

A left-out argument is a default; so these are dictionaries without required keys, and not parameters with values.
A test keeps them equal to the structs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Required, TypedDict


class SettingsKeywords(TypedDict, total=False):
    """Of `Pipeline.settings`."""

    region: str
    account_id: str
    drain_timeout: float
    failures_maximum_bytes: int
    failures_retention_period: int


class FunctionKeywords(TypedDict, total=False):
    """Of `Pipeline.function` around a callable, whose `handler` is found by itself."""

    code: str
    runtime: Literal["process", "inline"]
    timeout: int
    memory_size: int
    ephemeral_storage: int
    environment: Mapping[str, str]
    concurrency: int
    reserved_concurrent_executions: int | None
    preload: Sequence[str]
    start: Literal["fork", "spawn"]
    idle_timeout: float
    maximum_retry_attempts: int
    maximum_event_age_in_seconds: int
    on_success: str | None
    on_failure: str | None
    dead_letter_queue: str | None
    recursive_loop: Literal["Terminate", "Allow"]


class FilterKeywords(TypedDict):
    """One of the `filters` of `filter_criteria`."""

    pattern: str | Mapping[str, Any]


class FilterCriteriaKeywords(TypedDict):
    """Of a mapping's `filter_criteria`."""

    filters: Sequence[FilterKeywords]


class RetryScheduleKeywords(TypedDict, total=False):
    """Of a mapping's `retry_schedule`."""

    kind: Required[Literal["exponential", "linear", "list"]]
    initial: float | None
    factor: float | None
    maximum: float | None
    seconds: Sequence[float]
    jitter: Literal["none", "full"]


class RetryExceptionKeywords(TypedDict, total=False):
    """One of a mapping's `retry_exceptions`."""

    error_type: Required[str]
    retry_schedule: RetryScheduleKeywords | None
    maximum_retry_attempts: int | None
    give_up: bool


class IdempotencyKeywords(TypedDict, total=False):
    """Of a mapping's `idempotency`."""

    key: str | Sequence[str]
    key_function: str | None
    payload: str | Sequence[str]
    require_key: bool
    expires_after: int
    in_progress_timeout: int | None
    maximum_result_bytes: int | None


class CircuitBreakerKeywords(TypedDict, total=False):
    """Of a mapping's `circuit_breaker`."""

    failures: Required[int]
    pause: float
    maximum_pause: float
    error_types: Sequence[str]


class MappingKeywords(TypedDict, total=False):
    """Of `Pipeline.mapping`, beside source and function."""

    enabled: bool
    batch_size: int | None
    maximum_batching_window_in_seconds: float | None
    function_response_types: Sequence[Literal["ReportBatchItemFailures"]]
    filter_criteria: FilterCriteriaKeywords | None
    retry_schedule: RetryScheduleKeywords | None
    retry_exceptions: Sequence[RetryExceptionKeywords]
    idempotency: IdempotencyKeywords | None
    circuit_breaker: CircuitBreakerKeywords | None
    maximum_records_per_second: float | None
    starting_position: Literal["TRIM_HORIZON", "LATEST", "AT_TIMESTAMP"] | None
    starting_position_timestamp: float | None
    maximum_retry_attempts: int | None
    maximum_record_age_in_seconds: int | None
    bisect_batch_on_function_error: bool | None
    on_failure: str | None
    parallelization_factor: int | None
    tumbling_window_in_seconds: int | None
    lanes: int | None
    parking: str | None
    results: str | None
    delivery: Literal["at_least_once", "exactly_once"] | None
    maximum_concurrency: int | None
    consumer_group_id: str | None


class RedrivePolicyKeywords(TypedDict, total=False):
    """Of a queue's `redrive_policy`."""

    dead_letter_queue: str
    max_receive_count: int


class QueueKeywords(TypedDict, total=False):
    """Of `Pipeline.queue`."""

    visibility_timeout: int
    message_retention_period: int
    delay: int
    maximum_message_size: int
    redrive_policy: RedrivePolicyKeywords | None
    fifo_queue: bool
    content_based_deduplication: bool
    deduplication_scope: Literal["queue", "messageGroup"]


class StreamKeywords(TypedDict, total=False):
    """Of `Pipeline.stream`."""

    shards: int
    retention_period: int
    retention_bytes: int


class KafkaKeywords(TypedDict, total=False):
    """Of `Pipeline.kafka`, beside the brokers."""

    client_id: str
    client: Literal["aiokafka", "librdkafka"]
    group_protocol: Literal["classic", "consumer"]
    session_timeout_ms: int
    heartbeat_interval_ms: int
    max_poll_interval_ms: int
    rebalance_timeout_ms: int
    request_timeout_ms: int
    metadata_max_age_ms: int
    fetch_max_bytes: int
    max_partition_fetch_bytes: int
    isolation_level: Literal["read_uncommitted", "read_committed"]
    group_instance_id: str
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None
    sasl_plain_username: str
    sasl_plain_password: str
    sasl_oauth_token_file: str
    ssl_cafile: str
    ssl_certfile: str
    ssl_keyfile: str
    ssl_password: str
    ssl_check_hostname: bool


class BucketKeywords(TypedDict, total=False):
    """Of `Pipeline.bucket`."""

    folder: str | None
    connection: str | None
    bucket: str | None


class S3Keywords(TypedDict, total=False):
    """Of `Pipeline.s3`, beside the endpoint and the credentials."""

    region: str
    allow_http: bool


class HttpKeywords(TypedDict, total=False):
    """Of `Pipeline.http`, beside the address."""

    headers: Mapping[str, str]
    timeout: float

"""The pipeline file as structs. `config.load` reads them from TOML, `eventcore.App` builds them in Python.

Settings carry Lambda's parameter names in snake_case with Lambda's units. msgspec's constructors do not validate:
a struct enters through `config.load` or ``msgspec.convert`` alone.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Seconds = Annotated[int, Meta(ge=0)]

#: Letters, digits, `-` and `_`: what Lambda, SQS and Kafka all allow.
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,80}$")]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A table of the pipeline file."""


class Settings(Section, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`[settings]`: what holds for the whole pipeline."""

    region: Annotated[str, Meta(description="AWS Region written into ARNs and events")] = "us-east-1"
    account_id: Annotated[str, Meta(pattern=r"^\d{12}$", description="AWS account written into ARNs and events")] = (
        "000000000000"
    )
    drain_timeout: Annotated[
        float, Meta(ge=0, le=900, description="seconds that running invocations get after the first Ctrl-C or SIGTERM")
    ] = 25.0
    failures_maximum_bytes: Annotated[
        int, Meta(ge=1_048_576, description="bytes of kept failures; the oldest go first")
    ] = 1_073_741_824
    failures_retention_period: Annotated[int, Meta(ge=60, description="seconds that failures are kept")] = 1_209_600


class FunctionConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`[functions.NAME]`."""

    handler: Annotated[str, Meta(description="`module.attribute` below `code`", examples=["orders.enrich"])]
    code: Annotated[str, Meta(description="folder, relative to the pipeline file")] = "."
    runtime: Annotated[
        Literal["process", "inline"],
        Meta(
            description="process: isolated, with a hard deadline; inline: in the engine's loop, for trusted async code"
        ),
    ] = "process"
    timeout: Annotated[int, Meta(ge=1, le=900, description="seconds that one invocation may take")] = 3
    memory_size: Annotated[
        int, Meta(ge=128, le=10_240, description="MB of resident memory of an environment and its descendants")
    ] = 512
    ephemeral_storage: Annotated[int, Meta(ge=512, le=10_240, description="MB in the environment's TMPDIR")] = 512
    environment: Annotated[dict[str, str], Meta(description="environment variables; `${env:NAME}` for secrets")] = {}
    concurrency: Annotated[
        int, Meta(ge=1, le=1000, description="environments, and so invocations, at the same time")
    ] = 10
    preload: Annotated[
        tuple[str, ...], Meta(description="modules imported once, in a zygote of the function's own")
    ] = ()
    start: Annotated[Literal["fork", "spawn"], Meta(description="how an environment's process begins")] = "fork"
    idle_timeout: Annotated[
        float, Meta(ge=1, le=86_400, description="seconds after which an idle environment is ended")
    ] = 600.0


class MappingConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`[mappings.NAME]`: an event source mapping."""

    source: Annotated[str, Meta(description="`kind:name[/part]`", examples=["kafka:local/orders", "queue:orders"])]
    function: Annotated[str, Meta(description="the function's name")]
    enabled: bool = True
    batch_size: (
        Annotated[int, Meta(ge=1, le=10_000, description="records of one invocation; 100 for streams, 10 for queues")]
        | None
    ) = None
    maximum_batching_window_in_seconds: (
        Annotated[
            float,
            Meta(ge=0, le=300, description="how long a first record may wait for others; 0, for Kafka 0.5"),
        ]
        | None
    ) = None
    function_response_types: Annotated[
        tuple[Literal["ReportBatchItemFailures"], ...], Meta(description="read `batchItemFailures` out of responses")
    ] = ()
    # -- streams
    starting_position: (
        Annotated[
            Literal["TRIM_HORIZON", "LATEST", "AT_TIMESTAMP"],
            Meta(description="required for streams; where a mapping without a checkpoint begins"),
        ]
        | None
    ) = None
    starting_position_timestamp: (
        Annotated[float, Meta(ge=0, description="seconds since the epoch, for AT_TIMESTAMP")] | None
    ) = None
    maximum_retry_attempts: (
        Annotated[int, Meta(ge=-1, le=10_000, description="retries after the first invocation; -1: without end")] | None
    ) = None
    maximum_record_age_in_seconds: (
        Annotated[int, Meta(ge=-1, le=604_800, description="records older than this are given up; -1: never")] | None
    ) = None
    bisect_batch_on_function_error: (
        Annotated[bool, Meta(description="split a failing batch in two; costs no attempts")] | None
    ) = None
    on_failure: (
        Annotated[
            str, Meta(description="destination for what is given up", examples=["queue:failed", "kafka:local/failed"])
        ]
        | None
    ) = None
    # -- queues
    maximum_concurrency: (
        Annotated[int, Meta(ge=2, le=1000, description="batches of a queue at the same time")] | None
    ) = None
    # -- kafka
    consumer_group_id: (
        Annotated[
            str, Meta(min_length=1, max_length=200, description="the consumer group; `eventcore-NAME` without one")
        ]
        | None
    ) = None


class RedrivePolicy(Section, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`redrive_policy` of a queue."""

    dead_letter_queue: Annotated[str, Meta(description="the queue's name")]
    max_receive_count: Annotated[int, Meta(ge=1, le=1000, description="receives before a message goes there")] = 10


class QueueConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`[queues.NAME]`: an embedded queue (Lambda semantics §3.2)."""

    visibility_timeout: Annotated[int, Meta(ge=0, le=43_200, description="seconds")] = 30
    message_retention_period: Annotated[int, Meta(ge=60, le=1_209_600, description="seconds")] = 345_600
    delay: Annotated[int, Meta(ge=0, le=900, description="seconds before a new message shows")] = 0
    receive_message_wait_time: Annotated[int, Meta(ge=0, le=20, description="seconds a receive waits")] = 0
    maximum_message_size: Annotated[int, Meta(ge=1024, le=1_048_576, description="bytes")] = 1_048_576
    redrive_policy: RedrivePolicy | None = None


class StreamConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`[streams.NAME]`: an embedded stream."""

    shards: Annotated[int, Meta(ge=1, le=1000, description="ordered shards; fixed when the stream is made")] = 4
    retention_period: Annotated[int, Meta(ge=60, le=31_536_000, description="seconds that records are kept")] = 86_400
    retention_bytes: Annotated[
        int, Meta(ge=0, description="bytes of records kept, the oldest go first; 0: no limit")
    ] = 0


class KafkaConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`[kafka.NAME]`: a connection. Settings keep aiokafka's names."""

    bootstrap_servers: Annotated[str, Meta(min_length=1, description="`host:port`, comma-separated")]
    client_id: str = "eventcore"
    session_timeout_ms: Annotated[int, Meta(ge=1000, le=1_800_000)] = 45_000
    heartbeat_interval_ms: Annotated[int, Meta(ge=100, le=600_000)] = 3_000
    max_poll_interval_ms: Annotated[int, Meta(ge=1000, le=86_400_000)] = 300_000
    rebalance_timeout_ms: Annotated[
        int, Meta(ge=1000, le=86_400_000, description="how long a rebalance waits for running batches")
    ] = 60_000
    request_timeout_ms: Annotated[int, Meta(ge=1000, le=3_600_000)] = 40_000
    fetch_max_bytes: Annotated[int, Meta(ge=1024, description="bytes of one fetch")] = 52_428_800
    max_partition_fetch_bytes: Annotated[int, Meta(ge=1024, description="bytes of one partition in a fetch")] = (
        1_048_576
    )
    isolation_level: Literal["read_uncommitted", "read_committed"] = "read_committed"


class HttpConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`[http.NAME]`: an HTTP endpoint that takes results."""

    url: Annotated[str, Meta(pattern=r"^https?://", description="receives a POST for each result")]
    headers: Annotated[dict[str, str], Meta(description="sent with each; `${env:NAME}` for secrets")] = {}
    timeout: Annotated[float, Meta(gt=0, le=900, description="seconds for one request")] = 10.0


class PipelineConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The whole pipeline file."""

    settings: Settings = Settings()
    functions: dict[Name, FunctionConfig] = {}
    mappings: dict[Name, MappingConfig] = {}
    queues: dict[Name, QueueConfig] = {}
    streams: dict[Name, StreamConfig] = {}
    kafka: dict[Name, KafkaConfig] = {}
    http: dict[Name, HttpConfig] = {}

"""The pipeline file as structs. `config.load` reads them from TOML, `eventcore.App` builds them in Python.

Settings carry Lambda's parameter names in snake_case with Lambda's units. msgspec's constructors do not validate:
a struct enters through `config.load` or ``msgspec.convert`` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import msgspec
from msgspec import Meta

from eventcore.config.reference import DISCARDS_QUEUE, PARKED_QUEUE
from eventcore.config.substitute import MASK

#: Letters, digits, `-` and `_`: what Lambda, SQS and Kafka all allow.
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,80}$")]

_MASKS = "masks"


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, dict=True):
    """A table of the pipeline file.

    A value that came from the environment may be a secret: `repr` shows a mask in its place. The masks are no field,
    so that sections compare equal by their settings alone; ``msgspec.structs.replace`` loses them.
    """

    #: Settings whose value is never shown, wherever it came from.
    SECRETS: ClassVar[frozenset[str]] = frozenset()

    def hide(self, masks: Mapping[str, Any]) -> None:
        """Show ``masks`` instead of the settings that they name; called once, by `config.load`."""
        self.__dict__[_MASKS] = dict(masks)

    def shown(self, setting: str) -> Any:
        """Return a setting as people may see it."""
        masks: Mapping[str, Any] = self.__dict__.get(_MASKS, {})
        if setting in masks:
            return masks[setting]
        value = getattr(self, setting)
        return MASK if value and setting in self.SECRETS else value

    def masked(self) -> Self:
        """Return a copy that holds the masks in the values' place, in all that it contains."""
        return msgspec.structs.replace(
            self, **{setting: _mask_within(self.shown(setting)) for setting in self.__struct_fields__}
        )

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [(setting, self.shown(setting)) for setting in self.__struct_fields__]

    def __repr__(self) -> str:
        settings = ", ".join(f"{setting}={value!r}" for setting, value in self.__rich_repr__())
        return f"{type(self).__name__}({settings})"


def _mask_within(value: Any) -> Any:
    if isinstance(value, Section):
        return value.masked()
    if isinstance(value, dict):
        return {key: _mask_within(inner) for key, inner in value.items()}
    return value


class Settings(Section, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`[settings]`: what holds for the whole pipeline."""

    region: Annotated[
        str,
        Meta(min_length=1, description="AWS Region written into ARNs and events", examples=["eu-central-1"]),
    ] = "us-east-1"
    account_id: Annotated[
        str,
        Meta(pattern=r"^\d{12}$", description="AWS account written into ARNs and events", examples=["123456789012"]),
    ] = "000000000000"
    drain_timeout: Annotated[
        float, Meta(ge=0, le=900, description="seconds that running invocations get after the first Ctrl-C or SIGTERM")
    ] = 25.0
    failures_maximum_bytes: Annotated[
        int, Meta(ge=1_048_576, description="bytes of kept failures; the oldest go first")
    ] = 1_073_741_824
    failures_retention_period: Annotated[int, Meta(ge=60, description="seconds that failures are kept")] = 1_209_600


class FunctionConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`[functions.NAME]`: what is run."""

    handler: Annotated[str, Meta(description="`module.attribute` below `code`", examples=["orders.enrich"])]
    code: Annotated[str, Meta(min_length=1, description="folder, relative to the pipeline file", examples=["src"])] = (
        "."
    )
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
    reserved_concurrent_executions: (
        Annotated[
            int,
            Meta(
                ge=0,
                le=1000,
                description="Lambda's name for the same limit, written instead of `concurrency`; 0: none runs at all",
            ),
        ]
        | None
    ) = None
    preload: Annotated[
        tuple[str, ...], Meta(description="modules imported once, in a zygote of the function's own")
    ] = ()
    start: Annotated[Literal["fork", "spawn"], Meta(description="how an environment's process begins")] = "fork"
    idle_timeout: Annotated[
        float, Meta(ge=1, le=86_400, description="seconds after which an idle environment is ended")
    ] = 600.0
    # -- asynchronous invocation
    maximum_retry_attempts: Annotated[
        int, Meta(ge=0, le=2, description="retries of an event that waited for the function; after 1 and 2 minutes")
    ] = 2
    maximum_event_age_in_seconds: Annotated[
        int, Meta(ge=60, le=21_600, description="an event whose next try would come later than this is given up")
    ] = 21_600
    on_success: (
        Annotated[
            str,
            Meta(
                description="destination for the record of an event that succeeded",
                examples=["queue:done", "function:next-step"],
            ),
        ]
        | None
    ) = None
    on_failure: (
        Annotated[
            str,
            Meta(
                description="destination for the record of an event that was given up",
                examples=["queue:failed", "kafka:local/failed"],
            ),
        ]
        | None
    ) = None
    dead_letter_queue: (
        Annotated[
            str, Meta(description="the queue that gets the event itself when it is given up", examples=["failed"])
        ]
        | None
    ) = None
    recursive_loop: Annotated[
        Literal["Terminate", "Allow"],
        Meta(description="Terminate: what came through the function 16 times in one chain is given up"),
    ] = "Terminate"

    @property
    def invocations_max(self) -> int:
        """How many invocations may run at the same time."""
        reserved = self.reserved_concurrent_executions
        return self.concurrency if reserved is None else reserved


#: Settings of a function's own processes: an inline function has none.
PROCESS_SETTINGS = ("memory_size", "ephemeral_storage", "environment", "preload", "start", "idle_timeout")


class FilterConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One of the `filters` of `filter_criteria`."""

    pattern: Annotated[
        str | dict[str, Any],
        Meta(
            description="an event pattern: a table, or its JSON text",
            examples=['{"value": {"status": ["paid"]}}'],
        ),
    ]


class FilterCriteriaConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`filter_criteria` of a mapping: which records reach the function."""

    filters: Annotated[
        tuple[FilterConfig, ...],
        Meta(description="a record must match one of them; at most 10"),
    ]


class RetryScheduleConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`retry_schedule` of a mapping: the pauses between the tries of what keeps failing."""

    kind: Annotated[
        Literal["exponential", "linear", "list"],
        Meta(description="how pauses grow; list: as `seconds` says"),
    ]
    initial: (
        Annotated[
            float,
            Meta(ge=0.01, le=43_200, description="seconds before the first retry; linear: so much longer each time"),
        ]
        | None
    ) = None
    factor: (
        Annotated[float, Meta(ge=1, le=100, description="exponential: so many times longer each time; 2 without one")]
        | None
    ) = None
    maximum: (
        Annotated[float, Meta(ge=0.01, le=43_200, description="seconds of the longest pause; 60 without one")] | None
    ) = None
    seconds: Annotated[
        tuple[Annotated[float, Meta(ge=0, le=43_200)], ...],
        Meta(description="list: the pauses one by one; the last one again and again", examples=[[1, 10, 60, 600]]),
    ] = ()
    jitter: Annotated[
        Literal["none", "full"],
        Meta(description="full: each pause is anything from none to the whole, so that failures do not come together"),
    ] = "none"


class RetryExceptionConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One of a mapping's `retry_exceptions`: failures of one error type."""

    error_type: Annotated[
        str, Meta(min_length=1, description="the exception's name as the handler raises it", examples=["ValueError"])
    ]
    retry_schedule: (
        Annotated[RetryScheduleConfig, Meta(description="its pauses; without one as all others'")] | None
    ) = None
    maximum_retry_attempts: (
        Annotated[int, Meta(ge=-1, le=10_000, description="its retries instead of the mapping's; -1: without end")]
        | None
    ) = None
    give_up: Annotated[bool, Meta(description="true: given up at once")] = False


class IdempotencyConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`idempotency` of a mapping: a record whose key was processed before is not given to the function again."""

    key: Annotated[
        str | tuple[str, ...],
        Meta(
            description="path into the record's JSON; a list: all of them together are the key",
            examples=["$.order_id", "order.id"],
        ),
    ]
    payload: Annotated[
        str | tuple[str, ...],
        Meta(
            description="paths to what must be the same when a key comes again, or the record has failed; `$` is all",
            examples=["$.amount"],
        ),
    ] = ()
    require_key: Annotated[
        bool,
        Meta(description="true: a record without a key has failed; false: it is invoked each time it comes"),
    ] = False
    expires_after: Annotated[
        int, Meta(ge=1, le=31_536_000, description="seconds for which a processed key is remembered")
    ] = 3_600
    in_progress_timeout: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=43_200,
                description="seconds after which a key is free whose engine died; 5 more than the function's timeout",
            ),
        ]
        | None
    ) = None
    maximum_result_bytes: (
        Annotated[
            int,
            Meta(
                ge=0,
                le=1_048_576,
                description="with results: bytes kept of a record's; one with more is not remembered; 65,536",
            ),
        ]
        | None
    ) = None


class CircuitBreakerConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`circuit_breaker` of a mapping: when it stops pulling, and for how long."""

    failures: Annotated[int, Meta(ge=1, le=10_000, description="failed invocations in a row that open it")]
    pause: Annotated[
        float,
        Meta(ge=1, le=86_400, description="seconds until one batch is tried; twice as long after each that fails"),
    ] = 30.0
    maximum_pause: Annotated[float, Meta(ge=1, le=86_400, description="seconds of the longest pause")] = 600.0
    error_types: Annotated[
        tuple[str, ...], Meta(description="exceptions that count, by their names; without any, all do")
    ] = ()


class MappingConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`[mappings.NAME]`: an event source mapping, which joins a source to a function."""

    source: Annotated[
        str,
        Meta(
            description="where records come from: `kind:name[/part]`; a topic may be an expression for several",
            examples=["stream:orders", "kafka:local/orders", "kafka:local/^orders-.*"],
        ),
    ]
    function: Annotated[str, Meta(description="the function's name", examples=["enrich-order"])]
    enabled: Annotated[bool, Meta(description="false: nothing is read until it is switched on")] = True
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
    filter_criteria: (
        Annotated[
            FilterCriteriaConfig,
            Meta(description="records that match none of its filters are settled without an invocation"),
        ]
        | None
    ) = None
    retry_schedule: (
        Annotated[
            RetryScheduleConfig,
            Meta(description="pauses between tries; without one 0.2 s, doubling to 60 s; a queue's visibility timeout"),
        ]
        | None
    ) = None
    retry_exceptions: Annotated[
        tuple[RetryExceptionConfig, ...], Meta(description="error types that are retried otherwise; at most 100")
    ] = ()
    idempotency: (
        Annotated[
            IdempotencyConfig,
            Meta(description="records whose key was processed before are settled without an invocation"),
        ]
        | None
    ) = None
    circuit_breaker: (
        Annotated[
            CircuitBreakerConfig,
            Meta(description="stops pulling while what the function needs is down; without one, never"),
        ]
        | None
    ) = None
    maximum_records_per_second: (
        Annotated[
            float,
            Meta(ge=0.001, le=1_000_000, description="handed to the function over time, retries included; no limit"),
        ]
        | None
    ) = None
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
        Annotated[int, Meta(ge=-1, le=604_800, description="records older than this are given up, from 60; -1: never")]
        | None
    ) = None
    bisect_batch_on_function_error: (
        Annotated[bool, Meta(description="split a failing batch in two; costs no attempts")] | None
    ) = None
    on_failure: (
        Annotated[
            str,
            Meta(description="destination for what is given up", examples=["queue:failed", "kafka:local/failed"]),
        ]
        | None
    ) = None
    parallelization_factor: (
        Annotated[
            int,
            Meta(ge=1, le=10, description="embedded streams: batches of one shard at the same time, in order per key"),
        ]
        | None
    ) = None
    tumbling_window_in_seconds: (
        Annotated[
            int,
            Meta(ge=0, le=900, description="embedded streams: length of windows with a state; 0: none"),
        ]
        | None
    ) = None
    lanes: (
        Annotated[
            int,
            Meta(ge=1, le=1000, description="keys of one shard that are worked on at the same time, each in order"),
        ]
        | None
    ) = None
    parking: (
        Annotated[
            str,
            Meta(
                description="with lanes: where the records of a key wait that holds the others up",
                examples=["queue:parked-orders", "kafka:local/parked-orders"],
            ),
        ]
        | None
    ) = None
    results: (
        Annotated[
            str,
            Meta(
                description="Kafka: the topic that gets what the function returns, in the same cluster",
                examples=["kafka:local/enriched-orders"],
            ),
        ]
        | None
    ) = None
    delivery: (
        Annotated[
            Literal["at_least_once", "exactly_once"],
            Meta(description="exactly_once, Kafka: results, discards and offsets in one transaction"),
        ]
        | None
    ) = None
    # -- queues
    maximum_concurrency: (
        Annotated[int, Meta(ge=2, le=1000, description="batches of a queue at the same time; 1,250 without one")] | None
    ) = None
    # -- kafka
    consumer_group_id: (
        Annotated[
            str, Meta(min_length=1, max_length=200, description="the consumer group; `eventcore-NAME` without one")
        ]
        | None
    ) = None


class RedrivePolicy(Section, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`redrive_policy` of a queue: when a message goes to the dead-letter queue."""

    dead_letter_queue: Annotated[str, Meta(description="the queue's name", examples=["failed-orders"])]
    max_receive_count: Annotated[int, Meta(ge=1, le=1000, description="receives before a message goes there")] = 10


class QueueConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`[queues.NAME]`: an embedded queue (Lambda semantics §3.2)."""

    visibility_timeout: Annotated[
        int, Meta(ge=0, le=43_200, description="seconds that a received message stays hidden")
    ] = 30
    message_retention_period: Annotated[
        int, Meta(ge=60, le=1_209_600, description="seconds that a message is kept")
    ] = 345_600
    delay: Annotated[int, Meta(ge=0, le=900, description="seconds before a new message shows")] = 0
    maximum_message_size: Annotated[int, Meta(ge=1024, le=1_048_576, description="bytes of one message")] = 1_048_576
    redrive_policy: (
        Annotated[RedrivePolicy, Meta(description="`{ dead_letter_queue, max_receive_count }`; without one, never")]
        | None
    ) = None
    fifo_queue: Annotated[
        bool, Meta(description="messages of a group come in order, one batch of it at a time; fixed when it is made")
    ] = False
    content_based_deduplication: Annotated[
        bool, Meta(description="FIFO: a message without a deduplication id has the SHA-256 of its body as one")
    ] = False
    deduplication_scope: Annotated[
        Literal["queue", "messageGroup"],
        Meta(description="FIFO: within what a message of a known deduplication id is taken and not delivered"),
    ] = "queue"


class StreamConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`[streams.NAME]`: an embedded stream."""

    shards: Annotated[
        int,
        Meta(ge=1, le=1000, description="ordered shards of a new stream; they may be split and merged later"),
    ] = 4
    retention_period: Annotated[int, Meta(ge=60, le=31_536_000, description="seconds that records are kept")] = 86_400
    retention_bytes: Annotated[
        int, Meta(ge=0, description="bytes of records kept, the oldest go first; 0: no limit")
    ] = 0


class KafkaConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`[kafka.NAME]`: a connection. Settings keep aiokafka's names, whichever client reads."""

    bootstrap_servers: Annotated[
        str, Meta(min_length=1, description="`host:port`, comma-separated", examples=["127.0.0.1:9092"])
    ]
    client_id: Annotated[str, Meta(min_length=1, description="how the broker's logs call this client")] = "eventcore"
    client: Annotated[
        Literal["aiokafka", "librdkafka"],
        Meta(description="what reads topics; librdkafka keeps heartbeats off the loop and comes with an extra"),
    ] = "aiokafka"
    group_protocol: Annotated[
        Literal["classic", "consumer"],
        Meta(description="`consumer`: KIP-848's, which moves single shards and which librdkafka speaks; Kafka >= 4.0"),
    ] = "classic"
    session_timeout_ms: Annotated[
        int, Meta(ge=1000, le=1_800_000, description="silence after which the broker gives the shards to others")
    ] = 45_000
    heartbeat_interval_ms: Annotated[
        int, Meta(ge=100, le=600_000, description="pause between heartbeats; at most a third of the session's timeout")
    ] = 3_000
    max_poll_interval_ms: Annotated[
        int, Meta(ge=1000, le=86_400_000, description="longest pause between two polls")
    ] = 300_000
    rebalance_timeout_ms: Annotated[
        int, Meta(ge=1000, le=86_400_000, description="how long a rebalance waits for running batches")
    ] = 60_000
    request_timeout_ms: Annotated[
        int, Meta(ge=1000, le=3_600_000, description="how long the broker may take to answer one request")
    ] = 40_000
    metadata_max_age_ms: Annotated[
        int, Meta(ge=100, le=3_600_000, description="pause between two looks for new partitions and moved leaders")
    ] = 300_000
    fetch_max_bytes: Annotated[int, Meta(ge=1024, description="bytes of one fetch")] = 52_428_800
    max_partition_fetch_bytes: Annotated[int, Meta(ge=1024, description="bytes of one partition in a fetch")] = (
        1_048_576
    )
    isolation_level: Annotated[
        Literal["read_uncommitted", "read_committed"],
        Meta(description="read_committed: records of aborted transactions are never seen"),
    ] = "read_committed"
    group_instance_id: Annotated[
        str,
        Meta(
            max_length=249,
            description="static membership: a restart within the session moves no shard; another one for each engine",
            examples=["${env:HOSTNAME}"],
        ),
    ] = ""
    security_protocol: Annotated[
        Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"], Meta(description="what the brokers' port speaks")
    ] = "PLAINTEXT"
    sasl_mechanism: Annotated[
        Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None,
        Meta(description="how this client says who it is; with a SASL_ protocol"),
    ] = None
    sasl_plain_username: Annotated[str, Meta(description="for PLAIN and SCRAM", examples=["eventcore"])] = ""
    sasl_plain_password: Annotated[
        str, Meta(description="for PLAIN and SCRAM; never shown", examples=["${env:KAFKA_PASSWORD}"])
    ] = ""
    sasl_oauth_token_file: Annotated[
        str, Meta(description="for OAUTHBEARER: holds the token, read anew for each connection", examples=["token.jwt"])
    ] = ""
    ssl_cafile: Annotated[
        str,
        Meta(description="PEM certificates to trust; without it the machine's authorities", examples=["ca.pem"]),
    ] = ""
    ssl_certfile: Annotated[str, Meta(description="PEM certificate of this client", examples=["client.pem"])] = ""
    ssl_keyfile: Annotated[
        str, Meta(description="its PEM key, where the certificate's file does not hold it", examples=["client.key"])
    ] = ""
    ssl_password: Annotated[
        str, Meta(description="of an encrypted key; never shown", examples=["${env:KEY_PASSWORD}"])
    ] = ""
    ssl_check_hostname: Annotated[bool, Meta(description="the certificate must be for the broker's name")] = True

    SECRETS: ClassVar[frozenset[str]] = frozenset({"sasl_plain_password", "ssl_password"})
    #: Paths; relative ones lead from the pipeline's folder.
    FILES: ClassVar[tuple[str, ...]] = ("sasl_oauth_token_file", "ssl_cafile", "ssl_certfile", "ssl_keyfile")

    def below(self, folder: Path) -> Self:
        """Return the connection with its relative paths leading from ``folder``."""
        files = {name: str(folder / written) for name in self.FILES if (written := getattr(self, name))}
        placed = msgspec.structs.replace(self, **files)
        placed.hide(self.__dict__.get(_MASKS, {}))
        return placed


class HttpConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`[http.NAME]`: an HTTP endpoint that takes results."""

    url: Annotated[
        str,
        Meta(
            pattern=r"^https?://",
            description="receives a POST for each result",
            examples=["https://example.org/failed-orders"],
        ),
    ]
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


#: The tables of named sections, and what each holds.
TABLES: Mapping[str, type[Section]] = {
    "functions": FunctionConfig,
    "mappings": MappingConfig,
    "queues": QueueConfig,
    "streams": StreamConfig,
    "kafka": KafkaConfig,
    "http": HttpConfig,
}

#: Queues that are there without being declared; a declaration of the same name replaces them. What was given up, or
#: parked, is kept for as long as a queue can keep anything.
BUILT_IN_QUEUES: Mapping[str, QueueConfig] = {
    name: msgspec.convert({"message_retention_period": 1_209_600}, QueueConfig)
    for name in (DISCARDS_QUEUE, PARKED_QUEUE)
}

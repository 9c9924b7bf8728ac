"""The struct of a `[mappings.NAME]` table."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from eventcore.config.section import Section
from eventcore.config.structs_policies import (
    CircuitBreakerConfig,
    FilterCriteriaConfig,
    IdempotencyConfig,
    RetryExceptionConfig,
    RetryScheduleConfig,
)


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
        Annotated[
            int,
            Meta(
                ge=2,
                le=1000,
                description="batches of a queue at the same time; without one as many as its function may have",
            ),
        ]
        | None
    ) = None
    # -- kafka
    consumer_group_id: (
        Annotated[
            str, Meta(min_length=1, max_length=200, description="the consumer group; `eventcore-NAME` without one")
        ]
        | None
    ) = None

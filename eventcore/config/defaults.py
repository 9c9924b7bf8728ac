"""Defaults that depend on what else a mapping says, and the defaults in which eventcore is not Lambda."""

from __future__ import annotations

from collections.abc import Mapping

from eventcore.config.reference import DISCARDS_QUEUE, PARKED_QUEUE, Reference
from eventcore.config.structs import MappingConfig, RetryScheduleConfig
from eventcore.delivery.breaker import BreakerPolicy
from eventcore.delivery.retry import (
    BACKOFF_FIRST_S,
    KAFKA_ATTEMPTS_WITH_DESTINATION,
    SCHEDULE_FACTOR,
    SCHEDULE_MAX_S,
    ErrorRetry,
    RetryPlan,
    RetrySchedule,
    StreamRetry,
)

#: Records of one invocation (Lambda semantics §3.1, §4, §5.1).
QUEUE_BATCH_SIZE = 10
STREAM_BATCH_SIZE = 100
#: How long Kafka's first record waits for others, seconds (§5.1).
KAFKA_WINDOW_S = 0.5
#: A claim on an idempotency key outlasts the function's timeout by this, seconds: an environment's start (10), its kill
#: after the deadline (1), the commit that completes the key (10), and what a busy machine adds.
CLAIM_MARGIN_S = 25
#: What is kept of one record's results, bytes: most are a few hundred.
RESULT_BYTES_MAX = 65_536
#: What is given up without a destination of its own (design §5).
ON_FAILURE = Reference("queue", DISCARDS_QUEUE)

#: Whose rules a source's filters follow, by its kind (Lambda semantics §6.4).
FILTER_SOURCES: Mapping[str, str] = {"queue": "sqs", "stream": "kinesis", "kafka": "kafka"}
#: Where the records of a key wait that is parked, where the mapping does not say.
PARKING = Reference("queue", PARKED_QUEUE)

#: Where a default is not Lambda's, by table and setting, and why (design §5).
DIFFERENCES: Mapping[tuple[str, str], str] = {
    ("functions", "concurrency"): "there is one machine, not an account's thousand environments",
    ("functions", "memory_size"): "Lambda's 128 MB are too few for a Python process with a few libraries",
    ("mappings", "on_failure"): "Lambda forgets what it gives up",
}


def default_batch_size(source: Reference) -> int:
    """Return how many records an invocation gets at most."""
    return STREAM_BATCH_SIZE if source.is_stream else QUEUE_BATCH_SIZE


def default_window_s(source: Reference, lanes: int | None) -> float:
    """Return how long a first record waits for others, seconds; with lanes, whose batches hold one key, it does not."""
    return KAFKA_WINDOW_S if source.kind == "kafka" and lanes in {None, 1} else 0.0


def default_group(mapping: str) -> str:
    """Return the consumer group of a mapping that names none."""
    return f"eventcore-{mapping}"


def is_unlimited(mapping: MappingConfig) -> bool:
    """Tell whether neither attempts nor age end the retries of a stream's batch."""
    return mapping.maximum_retry_attempts in {None, -1} and mapping.maximum_record_age_in_seconds in {None, -1}


def has_default_attempts(source: Reference, mapping: MappingConfig) -> bool:
    """Tell whether the limit holds that Lambda gives Kafka mappings with a destination and none of their own (§5.1)."""
    return source.kind == "kafka" and mapping.on_failure is not None and is_unlimited(mapping)


def effective_retry(source: Reference, mapping: MappingConfig) -> StreamRetry:
    """Return when a stream's failing batch is given up."""
    attempts, age = mapping.maximum_retry_attempts, mapping.maximum_record_age_in_seconds
    if has_default_attempts(source, mapping):
        attempts = KAFKA_ATTEMPTS_WITH_DESTINATION
    return StreamRetry(
        maximum_retry_attempts=-1 if attempts is None else attempts,
        maximum_record_age_in_seconds=-1 if age is None else age,
        bisect_batch_on_function_error=bool(mapping.bisect_batch_on_function_error),
        plan=_plan(mapping),
    )


def effective_breaker(mapping: MappingConfig) -> BreakerPolicy | None:
    """Return when a mapping stops pulling; None: never."""
    config = mapping.circuit_breaker
    if config is None:
        return None
    return BreakerPolicy(
        failures=config.failures,
        pause_s=config.pause,
        pause_max_s=config.maximum_pause,
        error_types=frozenset(config.error_types),
    )


def _plan(mapping: MappingConfig) -> RetryPlan:
    errors = [
        ErrorRetry(
            error_type=each.error_type,
            schedule=_schedule(each.retry_schedule),
            maximum_retry_attempts=each.maximum_retry_attempts,
            gives_up=each.give_up,
        )
        for each in mapping.retry_exceptions
    ]
    return RetryPlan(schedule=_schedule(mapping.retry_schedule), errors=tuple(errors))


def _schedule(config: RetryScheduleConfig | None) -> RetrySchedule | None:
    if config is None:
        return None
    return RetrySchedule(
        kind=config.kind,
        first_s=BACKOFF_FIRST_S if config.initial is None else config.initial,
        factor=config.factor or SCHEDULE_FACTOR,
        max_s=config.maximum or SCHEDULE_MAX_S,
        pauses_s=config.seconds,
        is_spread=config.jitter == "full",
    )

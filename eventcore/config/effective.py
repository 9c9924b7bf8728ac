"""What a pipeline means: every default resolved, and where each value comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from eventcore.config import defaults
from eventcore.config.lint_idempotency import paths_of
from eventcore.config.load import LoadedConfig
from eventcore.config.provenance import KeyPath, dotted
from eventcore.config.reference import Reference, StartingPosition, parse_reference
from eventcore.config.structs import (
    BUILT_IN_QUEUES,
    PROCESS_SETTINGS,
    TABLES,
    FunctionConfig,
    HttpConfig,
    KafkaConfig,
    MappingConfig,
    QueueConfig,
    Section,
    Settings,
    StreamConfig,
)
from eventcore.delivery.asynchronous import EventRetry
from eventcore.delivery.breaker import BreakerPolicy
from eventcore.delivery.idempotency import IdempotencyPolicy
from eventcore.delivery.retry import StreamRetry


class EffectiveMapping(msgspec.Struct, frozen=True, kw_only=True):
    """A mapping as the engine runs it."""

    name: str
    source: Reference
    function: str  #: the function's name
    kind: Literal["stream", "queue"]
    enabled: bool
    batch_size: int  #: records
    window_s: float  #: how long a first record waits for others
    #: Patterns, of which a record must match one; None: every record reaches the function.
    filters: tuple[str | dict[str, Any], ...] | None
    idempotency: IdempotencyPolicy | None  #: None: every record is invoked each time it comes
    breaker: BreakerPolicy | None
    records_per_second: float  #: handed to the function, over time; 0: no limit
    reports_failures: bool  #: `batchItemFailures` are read out of responses
    retry: StreamRetry  #: streams only; its `plan` of queues too
    on_failure: Reference
    is_on_failure_default: bool  #: the built-in queue, since the mapping names none
    lanes: int  #: streams only: keys of a shard at a time
    parallelization_factor: int  #: embedded streams only: batches of a shard at a time
    parking: Reference  #: with lanes
    window_length_s: int  #: of tumbling windows; 0: none; embedded streams only
    results: Reference | None  #: Kafka only: what gets the function's results; None: nothing does
    is_exactly_once: bool  #: Kafka only: results, discards and offsets are one transaction
    starting_position: StartingPosition  #: streams only
    consumer_group_id: str  #: Kafka only
    maximum_concurrency: int  #: batches at the same time, never more than the function may have; queues only

    @property
    def destinations(self) -> tuple[Reference, ...]:
        """Where the engine itself hands the mapping's records over: what a transaction writes is left out."""
        discards = () if self.is_exactly_once else (self.on_failure,)
        return (*discards, self.parking) if self.lanes > 1 else discards


class EffectiveEvents(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for events that wait for a function (Lambda semantics §2)."""

    retry: EventRetry
    on_success: Reference | None
    on_failure: Reference | None
    dead_letter_queue: Reference | None

    @property
    def destinations(self) -> tuple[Reference, ...]:
        """Where the engine hands results over."""
        named = (self.on_success, self.on_failure, self.dead_letter_queue)
        return tuple([reference for reference in named if reference is not None])


class EffectivePipeline(msgspec.Struct, frozen=True, kw_only=True):
    """A pipeline as the engine runs it."""

    loaded: LoadedConfig
    folder: Path
    settings: Settings
    functions: Mapping[str, FunctionConfig]
    events: Mapping[str, EffectiveEvents]  #: by function
    mappings: Mapping[str, EffectiveMapping]
    queues: Mapping[str, QueueConfig]  #: the built-in ones too
    streams: Mapping[str, StreamConfig]
    kafka: Mapping[str, KafkaConfig]
    http: Mapping[str, HttpConfig]

    @property
    def destinations(self) -> tuple[Reference, ...]:
        """Where the engine itself hands anything over; some more than once."""
        of_mappings = [reference for mapping in self.mappings.values() for reference in mapping.destinations]
        return (*of_mappings, *[reference for events in self.events.values() for reference in events.destinations])


class Explained(msgspec.Struct, frozen=True, kw_only=True):
    """One value and where it comes from."""

    path: str  #: as `mappings.orders.batch_size`
    value: Any  #: as people may see it: what came from the environment is masked
    origin: str  #: "file:line", "environment NAME", "default", or "default, differs from Lambda: why"


def resolve(loaded: LoadedConfig) -> EffectivePipeline:
    """Return what a pipeline means. Pure: the same pipeline gives the same result."""
    config = loaded.config
    return EffectivePipeline(
        loaded=loaded,
        folder=loaded.folder,
        settings=config.settings,
        functions=config.functions,
        events={name: _resolve_events(function) for name, function in config.functions.items()},
        mappings={name: _resolve_mapping(name, mapping, config.functions) for name, mapping in config.mappings.items()},
        queues={**BUILT_IN_QUEUES, **config.queues},
        streams=config.streams,
        kafka=config.kafka,
        http=config.http,
    )


def _resolve_events(function: FunctionConfig) -> EffectiveEvents:
    queue = function.dead_letter_queue
    return EffectiveEvents(
        retry=EventRetry(
            maximum_retry_attempts=function.maximum_retry_attempts,
            maximum_event_age_in_seconds=function.maximum_event_age_in_seconds,
        ),
        on_success=None if function.on_success is None else parse_reference(function.on_success),
        on_failure=None if function.on_failure is None else parse_reference(function.on_failure),
        dead_letter_queue=None if queue is None else Reference("queue", queue),
    )


def _patterns(mapping: MappingConfig) -> tuple[str | dict[str, Any], ...] | None:
    if mapping.filter_criteria is None:
        return None
    return tuple(each.pattern for each in mapping.filter_criteria.filters)


def _resolve_idempotency(mapping: MappingConfig, function: FunctionConfig) -> IdempotencyPolicy | None:
    written = mapping.idempotency
    if written is None:
        return None
    claim_s, result_bytes_max = written.in_progress_timeout, written.maximum_result_bytes
    return IdempotencyPolicy(
        key=paths_of(written.key),
        key_function=written.key_function or "",
        payload=paths_of(written.payload),
        requires_key=written.require_key,
        expires_after_s=written.expires_after,
        in_progress_timeout_s=function.timeout + defaults.CLAIM_MARGIN_S if claim_s is None else claim_s,
        result_bytes_max=defaults.RESULT_BYTES_MAX if result_bytes_max is None else result_bytes_max,
    )


def _resolve_mapping(name: str, mapping: MappingConfig, functions: Mapping[str, FunctionConfig]) -> EffectiveMapping:
    source = parse_reference(mapping.source)
    window_s = mapping.maximum_batching_window_in_seconds
    timestamp_s = mapping.starting_position_timestamp or 0
    invocations_max = functions[mapping.function].invocations_max
    return EffectiveMapping(
        name=name,
        source=source,
        function=mapping.function,
        kind="stream" if source.is_stream else "queue",
        enabled=mapping.enabled,
        batch_size=mapping.batch_size or defaults.default_batch_size(source),
        window_s=defaults.default_window_s(source, mapping.lanes) if window_s is None else window_s,
        filters=_patterns(mapping),
        idempotency=_resolve_idempotency(mapping, functions[mapping.function]),
        reports_failures="ReportBatchItemFailures" in mapping.function_response_types,
        retry=defaults.effective_retry(source, mapping),
        breaker=defaults.effective_breaker(mapping),
        records_per_second=mapping.maximum_records_per_second or 0.0,
        on_failure=defaults.ON_FAILURE if mapping.on_failure is None else parse_reference(mapping.on_failure),
        is_on_failure_default=mapping.on_failure is None,
        lanes=mapping.lanes or 1,
        parallelization_factor=mapping.parallelization_factor or 1,
        window_length_s=mapping.tumbling_window_in_seconds or 0,
        parking=defaults.PARKING if mapping.parking is None else parse_reference(mapping.parking),
        results=None if mapping.results is None else parse_reference(mapping.results),
        is_exactly_once=mapping.delivery == "exactly_once",
        starting_position=StartingPosition(mapping.starting_position or "TRIM_HORIZON", round(timestamp_s * 1000)),
        consumer_group_id=mapping.consumer_group_id or defaults.default_group(name),
        # More would wait for the function with hidden messages in their hands.
        maximum_concurrency=min(mapping.maximum_concurrency or invocations_max, invocations_max),
    )


def explain(pipeline: EffectivePipeline) -> list[Explained]:
    """Return every effective value of a pipeline and where it comes from, in the pipeline's order.

    Settings that have no meaning for a mapping's source are left out.
    """
    rows = list(_explain_section(pipeline, ("settings",), pipeline.settings))
    for table in TABLES:
        sections = pipeline.queues if table == "queues" else getattr(pipeline.loaded.config, table)
        for name, section in sections.items():
            rows.extend(_explain_section(pipeline, (table, name), section))
    return rows


def _explain_section(pipeline: EffectivePipeline, path: KeyPath, section: Section) -> Iterator[Explained]:
    for setting, value in _values(pipeline, path, section).items():
        inner: KeyPath = (*path, setting)
        if isinstance(value, Section):
            yield from _explain_section(pipeline, inner, value)
        elif isinstance(value, dict) and value:
            for key, entry in value.items():
                yield Explained(path=dotted((*inner, key)), value=entry, origin=_origin(pipeline, (*inner, key)))
        else:
            yield Explained(path=dotted(inner), value=value, origin=_origin(pipeline, inner))


def _values(pipeline: EffectivePipeline, path: KeyPath, section: Section) -> dict[str, Any]:
    """Return a section's settings as they hold; those that mean nothing here are left out."""
    values = {setting: section.shown(setting) for setting in section.__struct_fields__}
    if isinstance(section, MappingConfig):
        mapping = pipeline.mappings[str(path[1])]
        for setting, value in _mapping_defaults(mapping).items():
            if values[setting] is None:
                values[setting] = value
        if defaults.has_default_attempts(mapping.source, section):
            values["maximum_retry_attempts"] = mapping.retry.maximum_retry_attempts
    if isinstance(section, FunctionConfig):
        if section.runtime == "inline":
            values.update(dict.fromkeys(PROCESS_SETTINGS))
        if section.reserved_concurrent_executions is not None:
            values["concurrency"] = None
    return {setting: value for setting, value in values.items() if value is not None}


def _mapping_defaults(mapping: EffectiveMapping) -> dict[str, Any]:
    """Return what holds where a mapping says nothing, for the settings that its source has."""
    always = {"batch_size": mapping.batch_size, "maximum_batching_window_in_seconds": mapping.window_s}
    if mapping.kind == "queue":
        return {**always, "maximum_concurrency": mapping.maximum_concurrency}
    delivery = "exactly_once" if mapping.is_exactly_once else "at_least_once"
    is_kafka = mapping.source.kind == "kafka"
    group = {"consumer_group_id": mapping.consumer_group_id, "delivery": delivery} if is_kafka else {}
    lanes: dict[str, Any] = {"lanes": mapping.lanes}
    if not is_kafka:
        lanes["parallelization_factor"] = mapping.parallelization_factor
        lanes["tumbling_window_in_seconds"] = mapping.window_length_s
    if mapping.lanes > 1:
        lanes["parking"] = str(mapping.parking)
    limits = msgspec.structs.asdict(mapping.retry)
    del limits["plan"]
    return {**always, **limits, "on_failure": str(mapping.on_failure), **lanes, **group}


def _origin(pipeline: EffectivePipeline, path: KeyPath) -> str:
    provenance = pipeline.loaded.provenance
    table, name, setting = str(path[0]), str(path[1]), str(path[-1])
    if path == ("mappings", name, "maximum_retry_attempts"):
        mapping = pipeline.loaded.config.mappings[name]
        if defaults.has_default_attempts(parse_reference(mapping.source), mapping):
            return "default, as in Lambda: Kafka with on_failure and no limit"
    if path == ("mappings", name, "maximum_concurrency") and not provenance.is_written(path):
        function = pipeline.mappings[name].function
        return f"default: functions.{function}.{pipeline.functions[function].limit_setting}"
    # A list is one row, and its variables stand at its entries.
    inside = [names for place, names in provenance.variables.items() if place[: len(path)] == path]
    variables = [name for names in inside for name in names]
    if variables:
        return f"environment {', '.join(variables)}"
    if provenance.is_written(path):
        return str(provenance.find(path))
    difference = defaults.DIFFERENCES.get((table, setting))
    return f"default, differs from Lambda: {difference}" if difference else "default"

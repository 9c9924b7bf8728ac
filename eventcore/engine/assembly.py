"""Builds what runs a mapping from its settings: the source, the batching, the context of its tasks."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import anyio
import msgspec

from eventcore.clock import Clock
from eventcore.config.defaults import FILTER_SOURCES
from eventcore.config.effective import EffectiveMapping
from eventcore.config.reference import Reference
from eventcore.delivery.batching import BatchPolicy
from eventcore.delivery.idempotency import IdempotencyPolicy, KeyReader
from eventcore.delivery.retry import NO_PLAN
from eventcore.delivery.scaling import QueueScaling
from eventcore.delivery.windows import STATE_BYTES_MAX
from eventcore.embedded.queue import EmbeddedQueue
from eventcore.embedded.stream import EmbeddedStream
from eventcore.engine.batcher import records_ahead_max
from eventcore.engine.breaker import MappingBreaker
from eventcore.engine.dispatcher import Dispatcher
from eventcore.engine.filtering import RecordFilter
from eventcore.engine.gate import Gate
from eventcore.engine.idempotency import IdempotentDispatcher, RecordKeys
from eventcore.engine.mapping import RunningMapping
from eventcore.engine.outbox import Outbox
from eventcore.engine.own_marks import OwnMarks
from eventcore.engine.parked import ParkedQueue, ParkedReader, ParkedTopic
from eventcore.engine.parking import ParkingContext
from eventcore.engine.queue_context import QueueContext
from eventcore.engine.queue_mapping import QueueMapping
from eventcore.engine.rate import MappingRate
from eventcore.engine.record_keys import KeyFunction, KeyPaths
from eventcore.engine.reporter import Reporter
from eventcore.engine.results import Results
from eventcore.engine.router import Router
from eventcore.engine.settler import Settler, SettlerContext
from eventcore.engine.shard_context import ShardContext
from eventcore.engine.stream_mapping import StreamMapping
from eventcore.errors import HandlerError, Throttled
from eventcore.ids import IdFactory
from eventcore.model import PAYLOAD_BYTES_MAX
from eventcore.patterns import FilterCriteria
from eventcore.ports.connectors import REVOKE_BUDGET_SHARE, Connector, ConnectorContext, StreamRequest
from eventcore.ports.recorder import Recorder
from eventcore.ports.runtime import HandlerForm
from eventcore.ports.sources import EventShape, ResultSource, StreamSource
from eventcore.ports.store import Store
from eventcore.registry import Function
from eventcore.telemetry.tracing import Tracing

#: What a revoked shard's batch gets to finish where the connection does not say, seconds.
REVOKE_BUDGET_DEFAULT_S = 30.0


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What every mapping of an engine shares."""

    store: Store
    router: Router
    recorder: Recorder
    outbox: Outbox
    clock: Clock
    ids: IdFactory
    tracing: Tracing
    region: str
    account_id: str
    #: Connections by (kind, name), as their config structs.
    connections: Mapping[tuple[str, str], Any]
    connectors: Mapping[str, Connector]
    visibility_timeouts_s: Mapping[str, int]  #: of the embedded queues, by name
    fifo_queues: frozenset[str]  #: names of those that are FIFO queues
    suspects: anyio.Lock  #: see `ShardContext`
    own_marks: OwnMarks


async def build_mapping(
    settings: EffectiveMapping, function: Function, reporter: Reporter, gate: Gate, around: Surroundings
) -> RunningMapping:
    """Make a mapping ready to run: the function is imported, the source is not connected yet.

    Raises:
        InvocationError: the function does not import, or its handler can't do what the mapping asks for.
        Throttled: it may have no invocation at all.
        ConnectorUnavailable: the source's client library is missing.
    """
    if not function.concurrency:
        raise Throttled(
            f"the function {settings.function} may not run: its reserved_concurrent_executions is 0; nothing is taken"
        )
    form = await function.prepare()
    if settings.idempotency is not None and settings.idempotency.key_function:
        await _key_function(settings.idempotency, function).prepare()
    if settings.reports_failures and form is not HandlerForm.EVENT:
        raise HandlerError(
            f"the handler of `{settings.function}` takes records, and says which have failed by what it returns or "
            f"raises: batchItemFailures are never read. Take function_response_types out of mappings.{settings.name}"
        )
    if settings.source.kind == "queue":
        return _queue_mapping(settings, function, form, reporter, gate, around)
    return _stream_mapping(settings, function, form, reporter, gate, around)


def cut_batches(batch_size: int, window_s: float, form: HandlerForm, shape: EventShape) -> BatchPolicy:
    """Return a batch's limits: only a Lambda-shaped event is JSON, with its base64 and its keys around each record."""
    is_event = form is HandlerForm.EVENT
    return BatchPolicy(
        batch_size=batch_size,
        window_s=window_s,
        record_overhead_bytes=shape.record_overhead_bytes if is_event else 0,
        is_base64=shape.is_base64 if is_event else False,
    )


def make_filter(settings: EffectiveMapping, shape: EventShape) -> RecordFilter | None:
    """Return what keeps records from the function; None: every record reaches it."""
    if settings.filters is None:
        return None
    return RecordFilter(FilterCriteria(settings.filters, source=FILTER_SOURCES[settings.source.kind]), shape)


def _settler(settings: EffectiveMapping, function: Function, shape: EventShape, around: Surroundings) -> Settler:
    return Settler(
        SettlerContext(
            mapping=settings.name,
            function=function.spec.name,
            function_arn=function.spec.arn,
            source=str(settings.source),
            shape=shape,
            on_failure=settings.on_failure,
            hands_over=not settings.is_exactly_once,
            store=around.store,
            router=around.router,
            recorder=around.recorder,
            outbox=around.outbox,
            clock=around.clock,
        )
    )


def _dispatcher(
    settings: EffectiveMapping,
    function: Function,
    shape: EventShape,
    reporter: Reporter,
    around: Surroundings,
    *,
    is_ordered: bool,
) -> Dispatcher:
    reports_failures, wants_results = settings.reports_failures, settings.results is not None
    policy = settings.idempotency
    if policy is None:
        return Dispatcher(
            function,
            shape,
            around.tracing,
            reporter=reporter,
            reports_failures=reports_failures,
            wants_results=wants_results,
        )
    keys = RecordKeys(
        policy=policy,
        source=_key_function(policy, function)
        if policy.key_function
        else KeyPaths(KeyReader(function.spec.name, policy)),
        is_ordered=is_ordered,
        is_stream=settings.source.is_stream,
        store=around.store,
        clock=around.clock,
        ids=around.ids,
    )
    return IdempotentDispatcher(
        function, shape, around.tracing, reporter, keys, reports_failures=reports_failures, wants_results=wants_results
    )


def _key_function(policy: IdempotencyPolicy, function: Function) -> KeyFunction:
    return KeyFunction(KeyReader(function.spec.name, policy), policy.key_function, function)


def _stream_mapping(
    settings: EffectiveMapping,
    function: Function,
    form: HandlerForm,
    reporter: Reporter,
    gate: Gate,
    around: Surroundings,
) -> StreamMapping:
    if settings.results is not None and form is HandlerForm.EVENT:
        raise HandlerError(
            f"the handler of `{settings.function}` takes a Lambda event, whose response is no result to send on: take "
            f"a eventcore.Batch or a typed record, or take `results` out of mappings.{settings.name}"
        )
    if settings.window_length_s and form is not HandlerForm.EVENT:
        raise HandlerError(
            f"the handler of `{settings.function}` takes records, and has no response that a window's state could "
            f"stand in: take a Lambda event, or take tumbling_window_in_seconds out of mappings.{settings.name}"
        )
    source = _open_stream(settings, around)
    assert source.capabilities.keeps_windows or not settings.window_length_s, "lint refuses windows elsewhere"
    batching = cut_batches(settings.batch_size, settings.window_s, form, source.shape)
    if settings.window_length_s:
        # The window's state stands in the same event.
        batching = msgspec.structs.replace(batching, size_bytes_max=PAYLOAD_BYTES_MAX - STATE_BYTES_MAX)
    record_bytes_max = PAYLOAD_BYTES_MAX - batching.record_overhead_bytes
    settler = _settler(settings, function, source.shape, around)
    context = ShardContext(
        mapping=settings.name,
        source_reference=str(settings.source),
        source=source,
        dispatcher=_dispatcher(settings, function, source.shape, reporter, around, is_ordered=True),
        settler=settler,
        retry=settings.retry,
        filter=make_filter(settings, source.shape),
        batching=batching,
        record_bytes_max=record_bytes_max // 4 * 3 if batching.is_base64 else record_bytes_max,
        gate=gate,
        breaker=_breaker(settings, gate, reporter, around),
        rate=_rate(settings),
        results=_results(settings, source),
        lanes=max(settings.lanes, settings.parallelization_factor),
        is_hashed=settings.parallelization_factor > 1,
        window_length_s=settings.window_length_s,
        suspects=around.suspects,
        own_marks=around.own_marks,
        clock=around.clock,
        ids=around.ids,
        reporter=reporter,
        tracing=around.tracing,
    )
    parking = ParkingContext(
        mapping=settings.name,
        source=str(settings.source),
        place=settings.parking,
        batch_size=settings.batch_size,
        router=around.router,
        outbox=around.outbox,
        settler=settler,
        reader=_parked_reader(settings, around),
        clock=around.clock,
    )
    return StreamMapping(source, context, parking, revoke_budget_s=_revoke_budget_s(settings.source, around))


def _rate(settings: EffectiveMapping) -> MappingRate | None:
    return MappingRate(settings.records_per_second) if settings.records_per_second else None


def _breaker(settings: EffectiveMapping, gate: Gate, reporter: Reporter, around: Surroundings) -> MappingBreaker | None:
    return None if settings.breaker is None else MappingBreaker(settings.breaker, gate, around.clock, reporter)


def _topics_written(settings: EffectiveMapping) -> tuple[str, ...]:
    topics = (settings.results, settings.on_failure if settings.is_exactly_once else None)
    return tuple(topic.part for topic in topics if topic is not None)


def _results(settings: EffectiveMapping, source: StreamSource) -> Results | None:
    if not _topics_written(settings):
        return None
    assert source.capabilities.takes_results, "the checks of the pipeline file allow results for such sources alone"
    return Results(
        cast("ResultSource", source),
        function=settings.function,
        topic=settings.results.part if settings.results is not None else "",
        discards_topic=settings.on_failure.part if settings.is_exactly_once else "",
    )


def _parked_reader(settings: EffectiveMapping, around: Surroundings) -> ParkedReader:
    place = settings.parking
    if place.kind == "queue":
        return ParkedQueue(around.store, place.name, mapping=settings.name)
    connector, connection = around.connectors[place.kind], around.connections[place.kind, place.name]
    return ParkedTopic(partial(connector.open_range, place, connection), mapping=settings.name)


def _open_stream(settings: EffectiveMapping, around: Surroundings) -> StreamSource:
    if settings.source.kind == "stream":
        return EmbeddedStream(
            settings.source.name,
            mapping=settings.name,
            starting_position=settings.starting_position,
            store=around.store,
            region=around.region,
            account_id=around.account_id,
        )
    connector = around.connectors[settings.source.kind]
    return connector.open_stream(
        StreamRequest(
            reference=settings.source,
            connection=around.connections[settings.source.kind, settings.source.name],
            mapping=settings.name,
            starting_position=settings.starting_position,
            consumer_group_id=settings.consumer_group_id,
            topics_written=_topics_written(settings),
            is_exactly_once=settings.is_exactly_once,
            records_ahead_max=records_ahead_max(settings.batch_size),
            context=ConnectorContext(
                clock=around.clock, ids=around.ids, region=around.region, account_id=around.account_id
            ),
        )
    )


def _revoke_budget_s(source: Reference, around: Surroundings) -> float:
    """Return how long a revoked shard's batch may go on: below the connection's own limit for a rebalance."""
    connection = around.connections.get((source.kind, source.name))
    timeout_ms = getattr(connection, "rebalance_timeout_ms", None)
    return REVOKE_BUDGET_DEFAULT_S if timeout_ms is None else timeout_ms / 1000 * REVOKE_BUDGET_SHARE


def _queue_mapping(
    settings: EffectiveMapping,
    function: Function,
    form: HandlerForm,
    reporter: Reporter,
    gate: Gate,
    around: Surroundings,
) -> QueueMapping:
    source = EmbeddedQueue(
        settings.source.name,
        store=around.store,
        clock=around.clock,
        region=around.region,
        account_id=around.account_id,
        is_fifo=settings.source.name in around.fifo_queues,
    )
    return QueueMapping(
        QueueContext(
            mapping=settings.name,
            source_reference=str(settings.source),
            source=source,
            shape=source.shape,
            dispatcher=_dispatcher(
                settings, function, source.shape, reporter, around, is_ordered=source.capabilities.keeps_groups
            ),
            settler=_settler(settings, function, source.shape, around),
            recorder=around.recorder,
            filter=make_filter(settings, source.shape),
            batching=cut_batches(settings.batch_size, settings.window_s, form, source.shape),
            scaling=QueueScaling(
                maximum=settings.maximum_concurrency,
                is_fifo=source.capabilities.keeps_groups,
                cuts_on_errors=not settings.reports_failures,
            ),
            visibility_timeout_s=around.visibility_timeouts_s[settings.source.name],
            retry=settings.retry.plan if settings.retry.plan != NO_PLAN else None,
            gate=gate,
            breaker=_breaker(settings, gate, reporter, around),
            rate=_rate(settings),
            clock=around.clock,
            ids=around.ids,
            reporter=reporter,
            tracing=around.tracing,
        )
    )

"""Tracing by the OpenTelemetry SDK; imported only when it is switched on.

A span costs some 15 µs, so there are none per record; and what is not sampled gets none, neither links nor attributes:
whether it is, is decided first, from the trace's id. It has its place in the handler's context all the same, made of as
few calls as can be: behind a batch of records nothing of them is in the processor's caches any more, and they take
three times as long as one after another. Exporters run on the SDK's own thread, behind its bounded queue: when that is
full, spans are dropped, never the engine delayed.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Mapping
from functools import cached_property, lru_cache
from random import Random
from types import TracebackType
from typing import Self

import anyio
import anyio.to_thread
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace import sampling as samplers
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    ConsoleSpanExporter,
    SimpleSpanProcessor,
    SpanExporter,
)
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import AttributeValue

from eventcore.config.reference import parse_reference
from eventcore.delivery.decide import Decision
from eventcore.errors import ConnectorUnavailable
from eventcore.model import Batch, Fault, VerdictKind
from eventcore.patterns.topics import SIGN
from eventcore.telemetry import attributes as names
from eventcore.telemetry.events import fault_text
from eventcore.telemetry.propagation import TraceContext, contexts_of
from eventcore.telemetry.settings import TraceSettings

#: How long closing waits for what is not yet exported, seconds. A collector that is there answers within one; one that
#: is not must not hold up Ctrl-C. One that takes a request and never answers holds up the process's end for as long as
#: `OTEL_EXPORTER_OTLP_TIMEOUT` says.
FLUSH_S = 2.0
#: Process spans whose batch is not yet settled: more than batches can be in flight. Beyond, a settle span begins a
#: trace of its own.
OPEN_BATCHES_MAX = 4_096
#: A span tells this much of a stack trace, characters: its end, where the error is.
STACK_TEXT_MAX = 8_192
#: Batches come from as many sources as a pipeline has; names are parsed once for each.
SOURCES_MAX = 1_024

#: Bits of a trace's id, and of a span's.
_TRACE_BITS, _SPAN_BITS = 128, 64
_TRACE_MASK = (1 << _TRACE_BITS) - 1
#: What a sampler of a share of all traces looks at in a trace's id.
_SAMPLED_MASK = samplers.TraceIdRatioBased.TRACE_ID_LIMIT

_SETTLE_COUNTS = {
    VerdictKind.SETTLE: names.SETTLED_COUNT,
    VerdictKind.RETRY: names.RETRIED_COUNT,
    VerdictKind.BISECT: names.RETRIED_COUNT,
    VerdictKind.DISCARD: names.DISCARDED_COUNT,
    VerdictKind.RELEASE: names.RELEASED_COUNT,
}


class OtelTracing:
    """Implements `Tracing`."""

    def __init__(self, settings: TraceSettings, exporter: SpanExporter | None = None) -> None:
        self._has_context = settings.has_context
        self._ids = _Ids()
        self._sampled_below = _sampled_below(settings)
        self._provider = TracerProvider(
            sampler=samplers.ALWAYS_ON,  # what is not sampled gets no span to begin with
            resource=_resource(settings),
            shutdown_on_exit=False,
            id_generator=self._ids,
        )
        self._exporters: tuple[SpanExporter, ...] = ()
        if exporter is not None:
            self._provider.add_span_processor(SimpleSpanProcessor(exporter))
        else:
            self._exporters = tuple(_exporter(name, settings) for name in settings.exporters)
            for own in self._exporters:
                self._provider.add_span_processor(BatchSpanProcessor(own))
        self._tracer = self._provider.get_tracer("eventcore")
        self._processed: OrderedDict[str, _Step] = OrderedDict()

    def receive(self, mapping: str, source: str) -> _Step:
        """Trace one receive; see `Tracing.receive`."""
        drawn = self._ids.draw()
        if not self._is_sampled(drawn):
            return _Step(_UnsampledSpan(drawn), is_handed_on=self._has_context)
        step = self._start("receive", source, SpanKind.CLIENT, {names.MAPPING: mapping})
        step.is_kept = False
        return step

    def process(self, batch: Batch, function: str) -> _Step:
        """Trace an invocation; see `Tracing.process`."""
        step: _Step
        drawn = self._ids.draw()
        if self._is_sampled(drawn):
            own = _batch_attributes(batch)
            own[names.FAAS_INVOKED_NAME] = function
            own[names.FAAS_TRIGGER] = "pubsub"
            recorded = self._start("process", batch.source, SpanKind.CONSUMER, own, links=self._links(batch))
            step, place = recorded, recorded.without_span()
        else:
            step = place = _Step(_UnsampledSpan(drawn), is_handed_on=self._has_context)
        self._processed[batch.request_id] = place
        if len(self._processed) > OPEN_BATCHES_MAX:
            self._processed.popitem(last=False)
        return step

    def settle(self, batch: Batch, decision: Decision) -> _Step:
        """Trace the settling of a batch; see `Tracing.settle`."""
        processed = self._processed.pop(batch.request_id, None)
        parent: SpanContext | None = None
        if processed is not None:
            if isinstance(processed.span, _UnsampledSpan):
                return processed  # in the place of the process step, which is over
            parent = processed.span.get_span_context()
        elif not self._is_sampled(drawn := self._ids.draw()):
            return _Step(_UnsampledSpan(drawn), is_handed_on=self._has_context)
        own = _batch_attributes(batch)
        for run in decision.runs:
            name = _SETTLE_COUNTS[run.verdict.kind]
            own[name] = int(own.get(name, 0)) + run.stop - run.start
        links = self._links(batch) if parent is None else []
        return self._start("settle", batch.source, SpanKind.CLIENT, own, links=links, parent=parent)

    async def aclose(self) -> None:
        """Hand out what is not yet exported, within `FLUSH_S`; see `Tracing.aclose`."""
        if not self._exporters:
            self._provider.shutdown()
            return
        with anyio.move_on_after(FLUSH_S) as scope:
            await anyio.to_thread.run_sync(self._provider.shutdown, abandon_on_cancel=True)
        if scope.cancelled_caught:
            # An exporter that is told ends its pauses between tries, and with them the thread.
            for exporter in self._exporters:
                exporter.shutdown()

    def _is_sampled(self, drawn: int) -> bool:
        """Tell whether the trace that has been drawn is sampled, as any sampler of the same share decides on it."""
        return drawn & _SAMPLED_MASK < self._sampled_below

    def _start(
        self,
        operation: str,
        source: str,
        kind: SpanKind,
        own: dict[str, str | int],
        *,
        links: list[Link] | None = None,
        parent: SpanContext | None = None,
    ) -> _RecordedStep:
        system, destination = _name_source(source)
        attributes: Mapping[str, AttributeValue] = {
            names.MESSAGING_SYSTEM: system,
            names.MESSAGING_DESTINATION_NAME: destination,
            names.MESSAGING_OPERATION_NAME: operation,
            names.MESSAGING_OPERATION_TYPE: operation,
            **own,
        }
        # An empty context: whatever span the engine itself may run in is not this one's parent.
        context = Context()
        if parent is not None:
            context = trace.set_span_in_context(trace.NonRecordingSpan(parent), context)
        name = f"{operation} {destination}"
        span = self._tracer.start_span(name, context=context, kind=kind, attributes=attributes, links=links)
        return _RecordedStep(span, is_handed_on=self._has_context)

    def _links(self, batch: Batch) -> list[Link]:
        if not self._has_context:
            return []
        return [Link(_span_context(context)) for context in contexts_of(batch.records)]


class _Ids(IdGenerator):
    """Random ids, of which a trace's are drawn before it is known whether it gets a span.

    From a source of their own: a handler that seeds Python's, as its tests may, would have the same traces twice.
    """

    def __init__(self) -> None:
        self._bits = Random().getrandbits
        self._drawn = 0

    def draw(self) -> int:
        """Draw the next trace's id, in the lower bits, and that of its first span where it is not sampled."""
        self._drawn = drawn = self._bits(_TRACE_BITS + _SPAN_BITS)
        return drawn

    def is_trace_id_random(self) -> bool:
        """Tell that all bits are, which a span's context says of it (W3C Trace Context, level 2)."""
        return True

    def generate_trace_id(self) -> int:
        """Return the id that was drawn last."""
        return _trace_id(self._drawn)

    def generate_span_id(self) -> int:
        """Return a new one."""
        return self._bits(_SPAN_BITS) or 1


def _trace_id(drawn: int) -> int:
    return drawn & _TRACE_MASK or 1  # zero is no id


class _UnsampledSpan(trace.NonRecordingSpan):
    """A span that leaves nothing, and tells what runs within to do the same; its ids are told to who asks."""

    def __init__(self, drawn: int) -> None:
        self._drawn = drawn

    def get_span_context(self) -> SpanContext:
        """Return the same context each time, made when it is asked for first."""
        return self._known

    @cached_property
    def _known(self) -> SpanContext:
        return SpanContext(_trace_id(self._drawn), self._drawn >> _TRACE_BITS or 1, is_remote=False)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._known!r})"


class _Step:
    """A step and its ``with`` block, in which its span is the current one; by itself one that leaves no span.

    It may be entered again once it was left.
    """

    def __init__(self, span: trace.Span, *, is_handed_on: bool) -> None:
        self.span = span
        self._is_handed_on = is_handed_on

    @cached_property
    def traceparent(self) -> str:
        """As `Span.traceparent`; made when it is asked for."""
        if not self._is_handed_on:
            return ""
        context = self.span.get_span_context()
        return str(TraceContext(context.trace_id, context.span_id, context.trace_flags))

    def fail(self, fault: Fault) -> None:
        """Do nothing."""

    def count(self, records: int) -> None:
        """Do nothing."""

    def __enter__(self) -> Self:
        self._token = otel_context.attach(trace.set_span_in_context(self.span))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        otel_context.detach(self._token)
        del self._token  # it keeps all that is bound to the task's context


class _RecordedStep(_Step):
    """A step with a span that is exported."""

    def __init__(self, span: trace.Span, *, is_handed_on: bool) -> None:
        super().__init__(span, is_handed_on=is_handed_on)
        self.is_kept = True

    def without_span(self) -> _Step:
        """Return a step in the same place, which holds on to nothing that is exported."""
        return _Step(trace.NonRecordingSpan(self.span.get_span_context()), is_handed_on=self._is_handed_on)

    def fail(self, fault: Fault) -> None:
        """Mark the step failed."""
        self.span.set_attribute(names.ERROR_TYPE, fault.error_type)
        if fault.location:
            self.span.set_attribute(names.CODE_LOCATION, fault.location)
        self.span.add_event(
            names.EXCEPTION_EVENT,
            {
                names.EXCEPTION_TYPE: fault.error_type,
                names.EXCEPTION_MESSAGE: fault_text(fault),
                names.EXCEPTION_STACKTRACE: "".join(fault.stack_trace)[-STACK_TEXT_MAX:],
            },
        )
        self.span.set_status(Status(StatusCode.ERROR, fault_text(fault)))

    def count(self, records: int) -> None:
        """Note how many records the step concerns."""
        self.is_kept = self.is_kept or records > 0
        self.span.set_attribute(names.MESSAGING_BATCH_MESSAGE_COUNT, records)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, traceback)
        # A cancelled step has not failed: it was ended by us.
        if isinstance(error, Exception):
            self.is_kept = True
            self.span.set_attribute(names.ERROR_TYPE, type(error).__qualname__)
            self.span.set_status(Status(StatusCode.ERROR, str(error)))
        if self.is_kept:
            self.span.end()


def _batch_attributes(batch: Batch) -> dict[str, str | int]:
    attributes: dict[str, str | int] = {
        names.MAPPING: batch.mapping,
        names.MESSAGING_BATCH_MESSAGE_COUNT: len(batch),
        names.FAAS_INVOCATION_ID: batch.request_id,
        names.ATTEMPT: batch.attempt,
    }
    if batch.records:
        attributes[names.FIRST_POSITION] = batch.first.position
        attributes[names.LAST_POSITION] = batch.last.position
    if batch.shard:
        attributes[names.MESSAGING_DESTINATION_PARTITION_ID] = batch.shard
    if _name_source(batch.source)[1].startswith(SIGN):
        # The source is all topics that match an expression; a shard is of one of them.
        attributes[names.MESSAGING_DESTINATION_NAME] = batch.shard.rpartition("-")[0]
    return attributes


@lru_cache(maxsize=SOURCES_MAX)
def _name_source(source: str) -> tuple[str, str]:
    """Return a source's messaging system and its name there."""
    reference = parse_reference(source)
    return ("kafka" if reference.kind == "kafka" else "eventcore", reference.part or reference.name)


def _span_context(context: TraceContext) -> SpanContext:
    return SpanContext(context.trace_id, context.span_id, is_remote=True, trace_flags=TraceFlags(context.flags))


def _exporter(name: str, settings: TraceSettings) -> SpanExporter:
    if name == "console":
        # Standard output belongs to data.
        return ConsoleSpanExporter(out=sys.stderr)
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise ConnectorUnavailable(requirement='"eventcore-engine[otlp]"') from error
    return OTLPSpanExporter(endpoint=settings.otlp_endpoint or None)


def _sampled_below(settings: TraceSettings) -> int:
    """Return the bound that the lower half of a sampled trace's id stays below, as the SDK's samplers have it.

    No step has a parent but a settle, whose trace was decided on before: with `parentbased_` it is the same.
    """
    root = settings.sampler.removeprefix("parentbased_")
    ratio = {"always_on": 1.0, "always_off": 0.0, "traceidratio": settings.sampler_ratio}[root]
    return samplers.TraceIdRatioBased.get_bound_for_rate(ratio)


def _resource(settings: TraceSettings) -> Resource:
    """Return the resource: `OTEL_RESOURCE_ATTRIBUTES` as the SDK reads them, and a service name in any case."""
    resource = Resource.create()
    if settings.service_name:
        return resource.merge(Resource({SERVICE_NAME: settings.service_name}))
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        return resource.merge(Resource({SERVICE_NAME: "eventcore"}))
    return resource

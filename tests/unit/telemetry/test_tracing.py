"""Spans: receive, process, settle; at most three a batch; links to the records' contexts (design §6)."""

from __future__ import annotations

import gc
import random
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from contextvars import ContextVar, copy_context
from http.server import BaseHTTPRequestHandler, HTTPServer

import anyio
import pytest
from opentelemetry import trace
from opentelemetry.context import attach, set_value
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode, TraceFlags

from eventcore.delivery.decide import decide_queue
from eventcore.errors import ConnectorUnavailable, SourceUnavailable
from eventcore.model import Batch, Fault, FaultCause, Outcome, OutcomeKind, Record
from eventcore.telemetry import otel
from eventcore.telemetry.otel import STACK_TEXT_MAX
from eventcore.telemetry.propagation import LINKS_MAX, read_context
from eventcore.telemetry.tracing import NULL_TRACING, Tracing, open_tracing
from eventcore.testing.virtual_loop import run_virtual
from tests.unit.delivery.naive_shard import reported

FAULT = Fault(
    cause=FaultCause.HANDLER,
    error_type="OrderError",
    message="no such order",
    stack_trace=("  File orders.py\n" * 2_000, "OrderError: no such order\n"),
    location="orders.py:7",
)


def _traceparent(number: int) -> str:
    return f"00-{number + 1:032x}-{number + 1:016x}-01"


def _batch(count: int = 3, *, contexts: int = 0, request_id: str = "r-1", source: str = "kafka:local/orders") -> Batch:
    records = [
        Record(
            position=10 + number,
            body=b"",
            headers=(("traceparent", _traceparent(number).encode()),) if number < contexts else (),
        )
        for number in range(count)
    ]
    return Batch(source=source, shard="orders-3", records=records, mapping="orders", attempt=2, request_id=request_id)


class _Bound:
    """Something that a task has bound to its context."""


class _Dropping(SpanExporter):
    """Keeps none."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Take them, and drop them."""
        return SpanExportResult.SUCCESS


class Traced:
    """Tracing whose spans are looked at."""

    def __init__(self, **environ: str) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracing: Tracing = open_tracing(environ, exporter=self._exporter)

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        finished = self._exporter.get_finished_spans()
        named = {span.name.split()[0]: span for span in finished}
        assert len(named) == len(finished)
        return named


def test_a_batch_has_three_spans() -> None:
    traced = Traced()
    batch = _batch(contexts=2)
    with traced.tracing.receive("orders", "kafka:local/orders") as receive:
        receive.count(3)
    with traced.tracing.process(batch, "enrich") as process:
        pass
    decision = decide_queue(3, *reported(1))
    with traced.tracing.settle(batch, decision):
        pass
    spans = traced.spans
    assert {name: span.kind for name, span in spans.items()} == {
        "receive": SpanKind.CLIENT,
        "process": SpanKind.CONSUMER,
        "settle": SpanKind.CLIENT,
    }
    assert {span.name for span in spans.values()} == {"receive orders", "process orders", "settle orders"}
    of_all = {"messaging.system": "kafka", "messaging.destination.name": "orders", "eventcore.mapping": "orders"}
    of_batch = of_all | {
        "messaging.destination.partition.id": "orders-3",
        "messaging.batch.message_count": 3,
        "faas.invocation_id": "r-1",
        "eventcore.attempt": 2,
        "eventcore.first": 10,
        "eventcore.last": 12,
    }

    def operation(name: str) -> dict[str, str]:
        return {"messaging.operation.name": name, "messaging.operation.type": name}

    assert spans["receive"].attributes == of_all | operation("receive") | {"messaging.batch.message_count": 3}
    assert spans["process"].attributes == of_batch | operation("process") | {
        "faas.invoked_name": "enrich",
        "faas.trigger": "pubsub",
    }
    assert spans["settle"].attributes == of_batch | operation("settle") | {
        "eventcore.settled_count": 2,
        "eventcore.retried_count": 1,
    }
    context = read_context(process.traceparent.encode())
    assert context is not None
    assert (context.trace_id, context.span_id) == (spans["process"].context.trace_id, spans["process"].context.span_id)
    assert context.flags == TraceFlags.SAMPLED | TraceFlags.RANDOM_TRACE_ID


def test_a_batch_of_a_source_of_several_topics_names_its_own() -> None:
    """The span's name stays the source's: few names, as OpenTelemetry asks for."""
    traced = Traced()
    with traced.tracing.process(_batch(source="kafka:local/^orders"), "enrich"):
        pass
    (span,) = traced.spans.values()
    assert span.name == "process ^orders"
    assert span.attributes is not None
    assert span.attributes["messaging.destination.name"] == "orders"


def test_a_batch_is_linked_to_its_records_and_continues_none_of_them() -> None:
    """Lambda semantics §8.2: batch sources get span links, not one parent."""
    traced = Traced()
    with traced.tracing.process(_batch(count=5, contexts=2), "enrich"):
        pass
    span = traced.spans["process"]
    assert span.parent is None
    assert [f"00-{link.context.trace_id:032x}-{link.context.span_id:016x}-01" for link in span.links] == [
        _traceparent(0),
        _traceparent(1),
    ]
    assert all(link.context.is_remote for link in span.links)


def test_links_are_bounded() -> None:
    traced = Traced()
    with traced.tracing.process(_batch(count=1_000, contexts=1_000), "enrich"):
        pass
    assert len(traced.spans["process"].links) == LINKS_MAX


def test_a_process_span_is_not_the_child_of_whatever_runs_around_it() -> None:
    traced = Traced()
    with traced.tracing.receive("orders", "queue:orders") as receive:
        receive.count(1)
        with traced.tracing.process(_batch(), "enrich"):
            pass
    assert traced.spans["process"].parent is None


def test_a_settle_span_is_the_child_of_its_process_span() -> None:
    traced = Traced()
    one, other = _batch(request_id="one"), _batch(request_id="other")
    spans = []
    for batch in (one, other):
        with traced.tracing.process(batch, "enrich") as span:
            spans.append(span.traceparent)
    with traced.tracing.settle(one, decide_queue(3, *reported())) as settle:
        pass
    assert settle.traceparent.split("-")[1] == spans[0].split("-")[1] != spans[1].split("-")[1]


def test_batches_that_are_never_settled_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard that is lost in the middle of an invocation; the oldest go first."""
    monkeypatch.setattr(otel, "OPEN_BATCHES_MAX", 2)
    traced = Traced()
    batches = [_batch(request_id=name) for name in ("lost", "one", "other")]
    traces = []
    for batch in batches:
        with traced.tracing.process(batch, "enrich") as span:
            traces.append(span.traceparent.split("-")[1])
    settled = []
    for batch in batches:
        with traced.tracing.settle(batch, decide_queue(3, *reported())) as span:
            settled.append(span.traceparent.split("-")[1])
    assert settled[0] not in traces
    assert settled[1:] == traces[1:]


def test_a_batch_that_is_given_up_uninvoked_is_traced_all_the_same() -> None:
    traced = Traced()
    with traced.tracing.settle(_batch(contexts=1), decide_queue(3, *reported())):
        pass
    span = traced.spans["settle"]
    assert span.parent is None
    assert len(span.links) == 1


def test_within_the_invocation_the_span_is_the_current_one() -> None:
    """So that what an inline handler's own instrumentation does is part of its trace."""
    traced = Traced()
    with traced.tracing.process(_batch(), "enrich") as process:
        context = trace.get_current_span().get_span_context()
        assert read_context(process.traceparent.encode()).trace_id == context.trace_id  # type: ignore[union-attr]
    assert not trace.get_current_span().get_span_context().is_valid


def test_a_fault_marks_the_span() -> None:
    traced = Traced()
    with traced.tracing.process(_batch(), "enrich") as process:
        process.fail(FAULT)
    span = traced.spans["process"]
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == "OrderError: no such order"
    assert span.attributes is not None
    assert span.attributes["error.type"] == "OrderError"
    assert span.attributes["eventcore.fault.location"] == "orders.py:7"
    (event,) = span.events
    assert event.name == "exception"
    assert event.attributes is not None
    stack = str(event.attributes["exception.stacktrace"])
    assert len(stack) == STACK_TEXT_MAX
    assert stack.endswith("OrderError: no such order\n")


def test_a_receive_that_brings_nothing_leaves_no_span() -> None:
    """An idle mapping polls for ever."""
    traced = Traced()
    with traced.tracing.receive("orders", "queue:orders") as receive:
        receive.count(0)
    with traced.tracing.receive("orders", "queue:orders"):
        pass
    assert traced.spans == {}


def test_a_receive_that_fails_leaves_one() -> None:
    traced = Traced()
    with pytest.raises(SourceUnavailable), traced.tracing.receive("orders", "queue:orders"):
        raise SourceUnavailable("no broker at 127.0.0.1:9")
    span = traced.spans["receive"]
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes is not None
    assert span.attributes["error.type"] == "SourceUnavailable"
    assert span.attributes["messaging.system"] == "eventcore"


def test_a_cancelled_step_has_not_failed() -> None:
    traced = Traced()

    async def main() -> None:
        with anyio.move_on_after(1), traced.tracing.process(_batch(), "enrich"):
            await anyio.sleep_forever()

    run_virtual(main)
    assert traced.spans["process"].status.status_code is StatusCode.UNSET


def test_context_is_neither_read_nor_handed_on_without_its_propagator() -> None:
    traced = Traced(OTEL_PROPAGATORS="none")
    with traced.tracing.process(_batch(contexts=1), "enrich") as process:
        pass
    assert len(traced.spans["process"].links) == 0
    assert process.traceparent == ""


def test_what_is_not_sampled_is_not_exported_but_handed_on() -> None:
    """The flag tells the handler not to sample either."""
    traced = Traced(OTEL_TRACES_SAMPLER="always_off")
    with traced.tracing.process(_batch(), "enrich") as process:
        process.fail(FAULT)
    assert traced.spans == {}
    context = read_context(process.traceparent.encode())
    assert context is not None
    assert not context.flags & TraceFlags.SAMPLED


def test_a_trace_is_sampled_as_a_whole_or_not_at_all() -> None:
    """Which it is follows from its id, as anybody's sampler of the same share decides on it."""
    exporter = InMemorySpanExporter()
    environ = {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"}
    tracing = open_tracing(environ, exporter=exporter)
    sampler = TraceIdRatioBased(0.5)
    sampled = []
    for number in range(200):
        batch = _batch(request_id=f"r-{number}")
        with tracing.process(batch, "enrich") as process:
            current = trace.get_current_span().get_span_context()
        with tracing.receive("orders", batch.source):
            """Another trace begins meanwhile, which leaves nothing."""
        with tracing.settle(batch, decide_queue(3, *reported())):
            assert trace.get_current_span().get_span_context().trace_id == current.trace_id
        assert process.traceparent == f"00-{current.trace_id:032x}-{current.span_id:016x}-{current.trace_flags:02x}"
        decision = sampler.should_sample(None, current.trace_id, "process").decision
        assert decision.is_sampled() == current.trace_flags.sampled
        sampled += [current.trace_id] * 2 if current.trace_flags.sampled else []
    assert 0 < len(sampled) < 400
    assert [span.context.trace_id for span in exporter.get_finished_spans() if span.context] == sampled


@pytest.mark.parametrize("sampler", ["always_on", "always_off"])
def test_a_handler_that_seeds_its_random_numbers_does_not_repeat_traces(sampler: str) -> None:
    traced, found = Traced(OTEL_TRACES_SAMPLER=sampler).tracing, set()
    for number in range(3):
        random.seed(1)
        with traced.process(_batch(request_id=f"r-{number}"), "enrich") as process:
            found.add(process.traceparent)
    assert len(found) == 3


def test_what_is_not_sampled_tells_its_context_to_who_asks() -> None:
    """A handler logs it, and a client library hands it on, both from whatever thread they are in."""
    traced = Traced(OTEL_TRACES_SAMPLER="always_off")
    with traced.tracing.process(_batch(), "enrich") as process:
        span = trace.get_current_span()
    context = span.get_span_context()
    assert context.is_valid
    assert span.get_span_context() == context
    assert repr(context) in repr(span)
    assert process.traceparent == f"00-{context.trace_id:032x}-{context.span_id:016x}-00"


@pytest.mark.parametrize("sampler", ["always_on", "always_off"])
def test_an_invocation_that_is_never_settled_leaves_nothing_behind(sampler: str) -> None:
    """Neither what its span tells nor what was bound to its task: there are as many as engines lose shards."""
    tracing = open_tracing({"OTEL_TRACES_SAMPLER": sampler}, exporter=_Dropping())
    bound: ContextVar[_Bound] = ContextVar("bound")

    def invoke() -> tuple[weakref.ref[_Bound], weakref.ref[trace.Span] | None]:
        held = _Bound()
        bound.set(held)
        attach(set_value("bound", held))
        with tracing.process(_batch(), "enrich") as process:
            process.fail(FAULT)
            span = trace.get_current_span()
        return weakref.ref(held), weakref.ref(span) if sampler == "always_on" else None

    held, span = copy_context().run(invoke)
    gc.collect()
    assert held() is None
    assert span is None or span() is None


@pytest.mark.parametrize(
    ("sampler", "argument", "count"),
    [
        ("always_on", "", 50),
        ("parentbased_always_off", "", 0),
        ("traceidratio", "0", 0),
        ("parentbased_traceidratio", "1", 50),
    ],
)
def test_the_sampler_decides(sampler: str, argument: str, count: int) -> None:
    exporter = InMemorySpanExporter()
    environ = {"OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": argument}
    tracing = open_tracing(environ, exporter=exporter)
    for _ in range(50):
        with tracing.process(_batch(), "enrich"):
            pass
    assert len(exporter.get_finished_spans()) == count


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({}, "eventcore"),
        ({"OTEL_SERVICE_NAME": "orders"}, "orders"),
    ],
)
def test_spans_name_their_service(environ: dict[str, str], name: str) -> None:
    traced = Traced(**environ)
    with traced.tracing.process(_batch(), "enrich"):
        pass
    assert traced.spans["process"].resource.attributes["service.name"] == name


def test_resource_attributes_name_the_service_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are read by the SDK, from the process's own environment."""
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=orders,team=returns")
    traced = Traced()
    with traced.tracing.process(_batch(), "enrich"):
        pass
    attributes = traced.spans["process"].resource.attributes
    assert (attributes["service.name"], attributes["team"]) == ("orders", "returns")


# -- off ---------------------------------------------------------------------------------------------------------------


def test_off_is_the_default_and_does_nothing() -> None:
    tracing = open_tracing({})
    assert tracing is NULL_TRACING
    batch = _batch()
    with tracing.receive("orders", "queue:orders") as receive:
        receive.count(1)
    with tracing.process(batch, "enrich") as process:
        process.fail(FAULT)
    with tracing.settle(batch, decide_queue(3, Outcome(kind=OutcomeKind.RELEASED), reported()[1])):
        pass
    assert process.traceparent == ""
    run_virtual(tracing.aclose)


def test_off_hides_no_exception() -> None:
    with pytest.raises(KeyError), NULL_TRACING.process(_batch(), "enrich"):
        raise KeyError


def test_off_nothing_of_opentelemetry_is_imported() -> None:
    """It would cost every start 150 ms."""
    code = (
        "import sys, eventcore.telemetry.tracing as t; t.open_tracing({});"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_sdk_may_be_disabled_over_an_exporter() -> None:
    assert open_tracing({"OTEL_SDK_DISABLED": "true"}, exporter=InMemorySpanExporter()) is NULL_TRACING


# -- exporters ---------------------------------------------------------------------------------------------------------


def test_a_missing_exporter_is_refused_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConnectorUnavailable) as raised:
        open_tracing({"OTEL_TRACES_EXPORTER": "otlp"})
    assert str(raised.value) == 'pip install "eventcore-engine[otlp]"'


def test_the_console_is_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    """Standard output belongs to data. Closing hands out what is not yet exported."""

    async def main() -> None:
        tracing = open_tracing({"OTEL_TRACES_EXPORTER": "console"})
        with tracing.process(_batch(), "enrich"):
            pass
        await tracing.aclose()

    anyio.run(main)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert '"name": "process orders"' in captured.err


def test_spans_go_to_the_collector() -> None:
    """Closing hands them out: the request is there when it returns."""
    requests: list[tuple[str, str | None]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            requests.append((self.path, self.headers["content-type"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    async def main(port: int) -> None:
        tracing = open_tracing({"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"})
        with tracing.process(_batch(), "enrich"):
            pass
        await tracing.aclose()

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        server.timeout = 30
        thread = threading.Thread(target=server.handle_request, daemon=True)
        thread.start()
        anyio.run(main, server.server_port)
        thread.join()
    assert requests == [("/v1/traces", "application/x-protobuf")]


def test_closing_shuts_an_injected_exporter() -> None:
    traced = Traced()
    with traced.tracing.process(_batch(), "enrich"):
        pass
    run_virtual(traced.tracing.aclose)
    with traced.tracing.process(_batch(), "enrich"):
        pass
    assert len(traced.spans) == 1

"""Spans of a batch's way: receive, process, settle; at most three a batch, none a record.

A batch mixes records of many traces, so that its spans do not continue one of them: the process span begins a trace of
its own and carries links to the contexts found in its records' headers (Lambda semantics §8.2). Its `traceparent` goes
to the handler, and into what eventcore writes because of the batch. The settle span is its child.

Off, tracing costs a method call: nothing of OpenTelemetry is imported before `open_tracing` finds it switched on.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from eventcore.delivery.decide import Decision
from eventcore.model import Batch, Fault
from eventcore.telemetry.settings import read_trace_settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter


class Span(Protocol):
    """What a step may say of itself while it lasts."""

    @property
    def traceparent(self) -> str:
        """The W3C header for what is done because of this step; empty without tracing."""
        ...

    def fail(self, fault: Fault) -> None:
        """Mark the step failed."""
        ...

    def count(self, records: int) -> None:
        """Note how many records the step concerns; a receive that notes none leaves no span."""
        ...


class Tracing(Protocol):
    """What the engine tells of a batch's way. A span lasts as long as the ``with`` block."""

    def receive(self, mapping: str, source: str) -> AbstractContextManager[Span]:
        """Trace one receive; ``source`` is the reference."""
        ...

    def process(self, batch: Batch, function: str) -> AbstractContextManager[Span]:
        """Trace the invocation of a function with a batch; within, it is the current span of this task."""
        ...

    def settle(self, batch: Batch, decision: Decision) -> AbstractContextManager[Span]:
        """Trace the settling of a batch, under the last process span of its request id."""
        ...

    async def aclose(self) -> None:
        """Hand out what is not yet exported, within a few seconds; cancelled, that is lost."""
        ...


class _NullSpan:
    """A span and its ``with`` block that do nothing."""

    traceparent = ""

    def fail(self, fault: Fault) -> None:
        """Do nothing."""

    def count(self, records: int) -> None:
        """Do nothing."""

    def __enter__(self) -> Span:
        return self

    def __exit__(self, *_: object) -> None:
        return None


NULL_SPAN = _NullSpan()


class _NullTracing:
    """Tracing that is off."""

    def receive(self, mapping: str, source: str) -> AbstractContextManager[Span]:  # noqa: ARG002
        """Trace nothing."""
        return NULL_SPAN

    def process(self, batch: Batch, function: str) -> AbstractContextManager[Span]:  # noqa: ARG002
        """Trace nothing."""
        return NULL_SPAN

    def settle(self, batch: Batch, decision: Decision) -> AbstractContextManager[Span]:  # noqa: ARG002
        """Trace nothing."""
        return NULL_SPAN

    async def aclose(self) -> None:
        """Do nothing."""


NULL_TRACING: Tracing = _NullTracing()


def open_tracing(environ: Mapping[str, str], *, exporter: SpanExporter | None = None) -> Tracing:
    """Return tracing as the `OTEL_*` variables say; `NULL_TRACING` when they say nothing.

    Args:
        environ: the process's environment.
        exporter: takes every span at once, in place of the exporters that ``environ`` names; for tests.

    Raises:
        ConfigError: variables have values that are wrong or not supported.
        ConnectorUnavailable: the OTLP exporter is not installed.
    """
    if exporter is not None:
        environ = {"OTEL_TRACES_EXPORTER": "console"} | dict(environ)
    settings = read_trace_settings(environ)
    if settings is None:
        return NULL_TRACING
    from eventcore.telemetry.otel import OtelTracing

    return OtelTracing(settings, exporter)

"""Hop 4: a batch gets a concurrency slot and is invoked; what came back is read into a report."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from eventcore import signals
from eventcore.delivery.lineage import find_recursive
from eventcore.delivery.partial import SUCCESS, Report, read_report
from eventcore.engine.event_value import event_value
from eventcore.engine.reporter import Reporter
from eventcore.model import Batch, Invocation, Outcome, OutcomeKind, Record
from eventcore.ports.sources import EventShape
from eventcore.registry import Function
from eventcore.telemetry.tracing import Tracing

#: What an invocation becomes that was ended by us.
RELEASED = Outcome(kind=OutcomeKind.RELEASED)


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What became of a batch, and what the function itself said."""

    outcome: Outcome  #: of the whole batch
    own: Outcome | None  #: what the function returned; None: it was not called, or ended by us
    given: Batch  #: what it was called with


class Dispatcher:
    """The way into one function, for the batches of one mapping."""

    def __init__(
        self,
        function: Function,
        shape: EventShape,
        tracing: Tracing,
        *,
        reporter: Reporter | None = None,
        reports_failures: bool,
        wants_results: bool = False,
    ) -> None:
        """Prepare the way; ``reporter`` hears of each invocation, where anybody does."""
        self.function = function
        self._shape = shape
        self._tracing = tracing
        self._reporter = reporter
        self._reports_failures = reports_failures
        self._wants_results = wants_results

    async def invoke(self, batch: Batch, *, now_ms: int | None = None) -> Answer:
        """Run the function once with a batch. The caller holds one of the function's slots.

        Cancelled, the environment that serves the invocation is killed first.

        Args:
            batch: its records.
            now_ms: wall time, for the iterator age; None where there is none.
        """
        if self._reporter is not None:
            self._reporter.invoked(batch, now_ms)
        await signals.reach("dispatcher.before_invoke")
        with self._tracing.process(batch, self.function.spec.name) as span:
            invocation = Invocation(
                request_id=batch.request_id,
                build_event=lambda: event_value(batch, self._shape),
                batch=batch,
                build_trace_header=lambda: span.traceparent,
                wants_results=self._wants_results,
            )
            outcome = await self.function.runtime.invoke(self.function.spec, invocation)
            if outcome.fault is not None:
                span.fail(outcome.fault)
        await signals.reach("dispatcher.after_invoke")
        if self._reporter is not None:
            self._reporter.finished(batch, outcome)
        return Answer(outcome, outcome, batch)

    def find_loops(self, records: Sequence[Record]) -> Sequence[int]:
        """Return the indices of the records that came through the function too often in one chain (§2.3), rising."""
        return find_recursive(records, self.function.spec.name) if self.function.stops_loops else ()

    def read(self, batch: Batch, outcome: Outcome) -> Report:
        """Return which records of the batch the outcome names failed (Lambda semantics §3.1)."""
        if outcome.kind is not OutcomeKind.SUCCESS:
            return SUCCESS
        if outcome.failed is not None:
            return Report(failed=outcome.failed) if outcome.failed else SUCCESS
        if not self._reports_failures:
            return SUCCESS
        if outcome.response in {b"null", b"{}"}:
            return SUCCESS
        return read_report(outcome.response, self._known(batch.records, batch.shard), self._shape.read_identifier)

    def _known(self, records: Sequence[Record], shard: str) -> dict[object, int]:
        return {self._shape.identifier(record, shard): index for index, record in enumerate(records)}

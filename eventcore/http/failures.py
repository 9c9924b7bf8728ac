"""Looks at kept failures, runs them again, forgets them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from eventcore.config.effective import EffectiveMapping
from eventcore.config.reference import parse_reference
from eventcore.delivery.partial import read_report
from eventcore.errors import CommandError
from eventcore.http.code import StartedCode
from eventcore.http.contract import (
    FAILURES_MAX,
    DropFailures,
    Dropped,
    FailedRecord,
    FailureReport,
    FailureSummary,
    Header,
    Invoked,
    ListFailures,
    Retried,
    RetryFailure,
    ShowFailure,
    as_text,
)
from eventcore.http.functions import RunFunction
from eventcore.ids import IdFactory
from eventcore.model import Batch, Invocation, OutcomeKind, Record
from eventcore.ports.store import DropFailures as Drop
from eventcore.ports.store import DropMessages, Failure, Store

_records = msgspec.msgpack.Decoder(tuple[Record, ...])


class FailureOperations:
    """What people may do with the failures of a store."""

    def __init__(
        self,
        store: Store,
        ids: IdFactory,
        mappings: Mapping[str, EffectiveMapping],
        runner: RunFunction,
        started_code: StartedCode | None = None,
    ) -> None:
        """Prepare.

        Args:
            store: holds the failures.
            ids: identifiers of invocations.
            mappings: of the pipeline, by name.
            runner: runs functions with the code that stands there now.
            started_code: what the running engine runs; None without one.
        """
        self._store = store
        self._ids = ids
        self._mappings = mappings
        self._runner = runner
        self._started_code = started_code

    async def ls(self, request: ListFailures) -> Sequence[FailureSummary]:
        """Return failures, newest first."""
        failures = await self._store.failures(
            mapping=request.mapping or None,
            count_max=min(request.count_max, FAILURES_MAX),
            before_id=request.before_id,
        )
        return [FailureSummary(**_summary(failure)) for failure in failures]

    async def show(self, request: ShowFailure) -> FailureReport:
        """Return one failure, whole.

        Raises:
            CommandError: there is none of this id.
        """
        failure = await self._find(request.id)
        return FailureReport(
            **_summary(failure),
            stack_trace=failure.stack_trace,
            request_id=failure.request_id,
            code_hash=failure.code_hash,
            environment_names=failure.environment_names,
            event=msgspec.Raw(failure.event or b"null"),
            is_event_kept=bool(failure.event),
            records=[_describe(record) for record in _records.decode(failure.records)] if failure.records else [],
        )

    async def retry(self, request: RetryFailure) -> Retried:
        """Run the function again with exactly the event and records that were kept.

        The failure is forgotten once the function succeeds, and never before; with it the messages of a queue, where
        they still stand there or in its dead-letter queue. What was told to a destination stays there, and nothing is
        told to it again. A message that the engine is working on meanwhile is processed twice.

        Raises:
            CommandError: there is none of this id, what it was given was not kept, or its function is gone.
            Throttled: all environments of the function are busy.
        """
        failure = await self._find(request.id)
        if not failure.event and not failure.records:
            reason = "its records were lost before they could be read" if not failure.attempts else "it was too large"
            raise CommandError(f"failure {failure.id} can't be run again: what it was given is not kept ({reason})")
        invoked = await self._runner.run(failure.function, self._invocation(failure))
        problem = self._judge(failure, invoked)
        dropped_from = [] if problem else await self._forget(failure)
        mapping = self._mappings.get(failure.mapping)
        return Retried(
            id=failure.id,
            invoked=invoked,
            is_settled=not problem,
            problem=problem,
            destination=str(mapping.on_failure) if mapping is not None and mapping.kind == "stream" else "",
            dropped_from=dropped_from,
            stale_pid=await self._find_stale(failure.function),
        )

    async def _forget(self, failure: Failure) -> Sequence[str]:
        """Delete a failure that has succeeded, and its messages; return the queues that still had one."""
        queues = await self._queues_of(failure)
        ids = tuple([record.id for record in _records.decode(failure.records)]) if queues and failure.records else ()
        ids = ids or (failure.first,)
        drops = [DropMessages(queue=queue, ids=ids) for queue in queues]
        counts = await self._store.commit([*drops, Drop(ids=(failure.id,))])
        return [queue for queue, count in zip(queues, counts, strict=False) if count]

    async def _queues_of(self, failure: Failure) -> Sequence[str]:
        """Return the queue that a failure's message came from and its dead-letter queue; none for other sources."""
        source = parse_reference(failure.source)
        if source.kind != "queue":
            return ()
        for depth in await self._store.queue_depths():
            if depth.queue == source.name:
                dead = depth.settings.dead_letter_queue
                return (source.name, dead) if dead else (source.name,)
        return ()

    async def _find_stale(self, function: str) -> int:
        return 0 if self._started_code is None else await self._started_code.find_stale(function)

    async def drop(self, request: DropFailures) -> Dropped:
        """Forget failures.

        Raises:
            CommandError: there is none of one of these ids; nothing was forgotten.
            StoreUnavailable: nothing was forgotten.
        """
        ids = tuple([(await self._find(given)).id for given in request.ids])
        await self._store.commit([Drop(ids=ids)])
        return Dropped(ids=ids)

    def _invocation(self, failure: Failure) -> Invocation:
        request_id = self._ids.new_id()
        event: Any = msgspec.json.decode(failure.event) if failure.event else None
        batch = None
        if failure.records:
            batch = Batch(
                source=failure.source,
                shard=failure.shard,
                records=_records.decode(failure.records),
                mapping=failure.mapping,
                attempt=failure.attempts + 1,
                request_id=request_id,
            )
        return Invocation(request_id=request_id, build_event=lambda: event, batch=batch)

    def _judge(self, failure: Failure, invoked: Invoked) -> str:
        """Return why a failure still fails; empty when all of its records were processed."""
        if invoked.fault is not None:
            return f"{invoked.fault.error_type}: {invoked.fault.message}"
        if invoked.kind is not OutcomeKind.SUCCESS:
            return "the invocation was ended before it finished"
        if invoked.failed_count:
            return f"the function reports {invoked.failed_count} of {failure.count} records as failed"
        mapping = self._mappings.get(failure.mapping)
        if mapping is not None and mapping.reports_failures:
            # Which records a report names makes no difference here: one is enough to fail.
            report = read_report(bytes(invoked.response), {}, lambda _: None)
            if report.is_unusable:
                return "the response reports failed records"
        return ""

    async def _find(self, failure_id: str) -> Failure:
        failure = await self._store.failure(failure_id)
        if failure is None:
            raise CommandError(
                f"there is no failure `{failure_id}`", hint="eventcore failures ls shows what is kept; 6 digits will do"
            )
        return failure


def _describe(record: Record) -> FailedRecord:
    return FailedRecord(
        position=record.position,
        id=record.id,
        key=None if record.key is None else as_text(record.key),
        body=None if record.body is None else as_text(record.body),
        headers=[Header(name=name, value=as_text(value)) for name, value in record.headers],
    )


def _summary(failure: Failure) -> dict[str, Any]:
    return {name: getattr(failure, name) for name in FailureSummary.__struct_fields__}

"""Tells what one mapping does: events for whoever subscribed, and what `status` shows of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from eventcore.delivery.decide import Decision
from eventcore.engine.event_value import window_span
from eventcore.engine.settler import Discarded
from eventcore.loop import loop_time
from eventcore.model import Batch, DiscardReason, Fault, Outcome, OutcomeKind, Record, VerdictKind
from eventcore.telemetry.counters import MappingCounters
from eventcore.telemetry.events import (
    BatchBisected,
    BatchInvoked,
    BatchRetried,
    BatchSettled,
    BreakerChanged,
    EngineEvent,
    EngineEvents,
    InvocationFinished,
    MappingStateChanged,
    OutboxBlocked,
    RecordsDiscarded,
    RecordsFiltered,
    RecordsLost,
    RecordsNotRemembered,
    RecordsParked,
    RecordsReceived,
    RecordsRepeated,
    RecordsReturned,
    ShardReleased,
    ShardTaken,
    WindowCalled,
    WindowClosed,
    WindowRetried,
    fault_text,
)

#: The rate is over this many seconds: long enough to be steady, short enough to show a stop.
RATE_WINDOW_S = 10


class Reporter:
    """What one mapping says of itself."""

    def __init__(self, mapping: str, function: str, events: EngineEvents) -> None:
        self.mapping = mapping
        self.function = function
        self.counters = MappingCounters(mapping)
        self.last_result = ""
        self._events = events
        #: Second of the loop's time, and records settled in it.
        self._settled: deque[list[int]] = deque(maxlen=RATE_WINDOW_S + 1)

    def _emit(self, event: EngineEvent) -> None:
        self.counters(event)
        self._events.emit(event)

    # -- mapping and shards --------------------------------------------------------------------------------------------

    def state(self, state: str, why: str = "") -> None:
        """Tell a change of the mapping's state."""
        self._emit(MappingStateChanged(mapping=self.mapping, state=state, why=why))

    def breaker(self, state: str, why: str, pause_ms: int) -> None:
        """Tell that the circuit breaker is in another state."""
        self._emit(BreakerChanged(mapping=self.mapping, state=state, why=why, pause_ms=pause_ms))

    def taken(self, shard: str, epoch: int, checkpoint: int) -> None:
        """Tell that a shard is ours."""
        self._emit(ShardTaken(mapping=self.mapping, shard=shard, epoch=epoch, checkpoint=checkpoint))

    def released(self, shard: str, why: str) -> None:
        """Tell that a shard is no longer ours."""
        self._emit(ShardReleased(mapping=self.mapping, shard=shard, why=why))

    def received(self, shard: str, count: int) -> None:
        """Tell that records came."""
        if count:
            self._emit(RecordsReceived(mapping=self.mapping, shard=shard, count=count))

    def filtered(self, shard: str, count: int) -> None:
        """Tell that records match no filter, and are settled without an invocation."""
        if count:
            self._emit(RecordsFiltered(mapping=self.mapping, shard=shard, count=count))

    def repeated(self, shard: str, count: int) -> None:
        """Tell that records were processed before, and are settled without an invocation."""
        if count:
            self._emit(RecordsRepeated(mapping=self.mapping, shard=shard, count=count))

    def not_remembered(self, count: int, result_bytes_max: int) -> None:
        """Tell that records were processed, and would be invoked again: their results are too large to be kept."""
        if count:
            self._emit(RecordsNotRemembered(mapping=self.mapping, count=count, result_bytes_max=result_bytes_max))

    def returned(self, shard: str, count: int, why: str) -> None:
        """Tell that records went back to their source."""
        if count:
            self._emit(RecordsReturned(mapping=self.mapping, shard=shard, count=count, why=why))

    def lost(self, shard: str, entry: Discarded) -> None:
        """Tell that the source dropped records unread."""
        self._emit(
            RecordsLost(
                mapping=self.mapping,
                shard=shard,
                count=entry.count,
                reason=entry.reason,
                first=entry.first,
                last=entry.last,
                destination=entry.destination,
            )
        )

    def outbox_blocked(self, destination: str) -> None:
        """Tell that the destination has no room, and the mapping waits."""
        self._emit(OutboxBlocked(destination=destination, rows=0, error="", retry_in_ms=0, is_at_bound=True))

    # -- batches -------------------------------------------------------------------------------------------------------

    def invoked(self, batch: Batch, now_ms: int | None = None) -> None:
        """Tell that the function is about to be invoked.

        Args:
            batch: of a stream or a queue; without records it is the final call of a window.
            now_ms: wall time, for the iterator age; None where there is none.
        """
        if not batch.records:
            self._emit(
                WindowCalled(
                    mapping=self.mapping,
                    shard=batch.shard,
                    function=self.function,
                    window=window_span(batch),
                    attempt=batch.attempt,
                    is_early=batch.window is not None and batch.window.is_early,
                    request_id=batch.request_id,
                )
            )
            return
        self._emit(
            BatchInvoked(
                mapping=self.mapping,
                shard=batch.shard,
                function=self.function,
                first=batch.first.position,
                last=batch.last.position,
                count=len(batch),
                attempt=batch.attempt,
                request_id=batch.request_id,
                iterator_age_ms=None if now_ms is None else _age_ms(batch.last, now_ms),
            )
        )

    def finished(self, batch: Batch, outcome: Outcome) -> None:
        """Tell that an invocation came back."""
        if outcome.kind in {OutcomeKind.RELEASED, OutcomeKind.THROTTLED}:
            return
        # A handler of typed records succeeds as a call, and its fault tells of the record that did not.
        has_failed = outcome.kind is OutcomeKind.FAILURE or outcome.fault is not None
        self.last_result = "PROBLEM: Function call failed" if has_failed else "OK"
        self._emit(
            InvocationFinished(
                mapping=self.mapping,
                function=self.function,
                request_id=batch.request_id,
                duration_ms=outcome.usage.duration_ms,
                fault=outcome.fault,
            )
        )

    def discarded(self, batch: Batch, entries: list[Discarded]) -> None:
        """Tell what was given up, now that it is durable."""
        for entry in entries:
            self._emit(
                RecordsDiscarded(
                    mapping=self.mapping,
                    shard=batch.shard,
                    first=entry.first,
                    last=entry.last,
                    count=entry.count,
                    reason=entry.reason,
                    failure_id=entry.failure_id,
                    destination=entry.destination,
                    error=fault_text(entry.fault),
                    location=entry.fault.location if entry.fault else "",
                )
            )

    def parked(self, shard: str, records: Sequence[Record], destination: str) -> None:
        """Tell what was parked, now that it is durable."""
        first, last = records[0].position, records[-1].position
        self._emit(
            RecordsParked(
                mapping=self.mapping,
                shard=shard,
                first=first,
                last=last,
                count=len(records),
                destination=destination,
            )
        )

    def decided(self, batch: Batch, decision: Decision, outcome: Outcome | None, *, is_returned: bool = False) -> None:
        """Tell what was settled, what is retried and what was split, now that it is durable."""
        for run in decision.runs:
            kind = run.verdict.kind
            records = batch.records[run.start : run.stop]
            first, last, count = records[0].position, records[-1].position, len(records)
            if kind is VerdictKind.SETTLE:
                self._count_settled(count)
                self._emit(BatchSettled(mapping=self.mapping, shard=batch.shard, first=first, last=last, count=count))
            elif kind is VerdictKind.RETRY:
                self._retried(batch, first, last, count, decision, outcome, is_returned=is_returned)
            elif kind is VerdictKind.BISECT:
                self._bisected(batch, first, last, count, decision, outcome)

    def _retried(
        self,
        batch: Batch,
        first: int,
        last: int,
        count: int,
        decision: Decision,
        outcome: Outcome | None,
        *,
        is_returned: bool,
    ) -> None:
        fault = outcome.fault if outcome is not None else None
        head = decision.state.parts[0] if decision.state.parts else None
        self._emit(
            BatchRetried(
                mapping=self.mapping,
                shard=batch.shard,
                first=first,
                last=last,
                count=count,
                attempt=head.attempt if head is not None else batch.attempt,
                delay_ms=decision.delay_ms,
                error=fault_text(fault) or "the response reports failed records",
                location=fault.location if fault else "",
                is_returned=is_returned,
            )
        )

    def _bisected(
        self, batch: Batch, first: int, last: int, count: int, decision: Decision, outcome: Outcome | None
    ) -> None:
        fault = outcome.fault if outcome is not None else None
        middle = decision.state.parts[0].last
        left_count = sum(1 for record in batch.records if record.position <= middle)
        self._emit(
            BatchBisected(
                mapping=self.mapping,
                shard=batch.shard,
                first=first,
                middle=middle,
                last=last,
                left_count=left_count,
                right_count=count - left_count,
                error=fault_text(fault),
                location=fault.location if fault else "",
            )
        )

    def window_retried(self, batch: Batch, attempt: int, delay_ms: int, fault: Fault | None) -> None:
        """Tell that the final call of a window will be made again, now that it is durable."""
        self._emit(
            WindowRetried(
                mapping=self.mapping,
                shard=batch.shard,
                window=window_span(batch),
                attempt=attempt,
                delay_ms=delay_ms,
                error=fault_text(fault),
                location=fault.location if fault else "",
            )
        )

    def window_closed(self, batch: Batch) -> None:
        """Tell that a window has ended, now that it is durable."""
        self._emit(
            WindowClosed(
                mapping=self.mapping,
                shard=batch.shard,
                window=window_span(batch),
                is_early=batch.window is not None and batch.window.is_early,
            )
        )

    def redriven(self, shard: str, message_id: str, target: str) -> None:
        """Tell that a queue's redrive policy took a message away."""
        self._emit(
            RecordsLost(
                mapping=self.mapping,
                shard=shard,
                count=1,
                reason=DiscardReason.RECEIVES_EXHAUSTED,
                first=message_id,
                last=message_id,
                destination=f"queue:{target}",
            )
        )

    def expired(self, count: int) -> None:
        """Tell that a queue's retention dropped messages."""
        if count:
            self._emit(RecordsLost(mapping=self.mapping, shard="", count=count, reason=DiscardReason.RECORD_EXPIRED))

    # -- the rate ------------------------------------------------------------------------------------------------------

    @property
    def rate(self) -> float:
        """Records settled a second, over the last `RATE_WINDOW_S` seconds."""
        now_s = int(loop_time())
        return sum(count for second, count in self._settled if second > now_s - RATE_WINDOW_S) / RATE_WINDOW_S

    def _count_settled(self, count: int) -> None:
        now_s = int(loop_time())
        if self._settled and self._settled[-1][0] == now_s:
            self._settled[-1][1] += count
        else:
            self._settled.append([now_s, count])


def _age_ms(record: Record, now_ms: int) -> int | None:
    """Return how old a record is; None for one that says nothing of its time. A clock may be behind another's."""
    return None if record.arrived_ms < 0 else max(0, now_ms - record.arrived_ms)

"""Runs what a stream still keeps once more, to find out why it failed or to make good what is missing.

Nobody's checkpoint moves and no group is joined. Each shard is worked through in order, shards side by side; a batch is
cut as a mapping cuts it, and runs once: what fails is told and passed by, neither retried nor discarded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Protocol

import anyio
import msgspec

from eventcore.delivery.batching import BatchPolicy, cut
from eventcore.engine.dispatcher import Dispatcher
from eventcore.ids import IdFactory
from eventcore.model import Batch, Fault, Outcome, OutcomeKind, Record
from eventcore.ports.ranges import RangeSource

#: Records that a shard reads ahead of the batch that runs.
READ_STEP = 1000
#: Failures that a report names, of all that it counts.
FAILURES_MAX = 100


class ReplayShard(msgspec.Struct, frozen=True, kw_only=True):
    """What is run of one shard."""

    shard: str
    position: int  #: the first that is run, or looked for
    end: int  #: the first that is not

    @property
    def count(self) -> int:
        """How many records there are at most: some positions may be gaps."""
        return max(self.end - self.position, 0)


class ReplayFailure(msgspec.Struct, frozen=True, kw_only=True):
    """A batch, or a record of one, that failed."""

    shard: str
    first: int  #: position
    last: int
    count: int
    request_id: str
    error_type: str
    error_message: str
    location: str  #: `file:line` in the user's code
    stack_trace: str = ""


class ReplayReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a replay has done so far."""

    records: int  #: that ran
    invocations: int
    failed: int  #: records
    failures: Sequence[ReplayFailure]  #: the first `FAILURES_MAX`
    left: Sequence[ReplayShard]  #: what has not run yet; empty at the end


class ReplayListener(Protocol):
    """What a replay tells as it goes."""

    def on_done(self, shard: str, position: int, count: int) -> None:
        """Hear that records ran, and where their shard goes on."""
        ...

    def on_failure(self, failure: ReplayFailure) -> None:
        """Hear of a failure."""
        ...


class Replay:
    """One replay. Not reusable; `report` may be asked for at any time, also when `run` was cancelled."""

    def __init__(
        self,
        source: RangeSource,
        dispatcher: Dispatcher,
        batching: BatchPolicy,
        ids: IdFactory,
        listener: ReplayListener,
        *,
        reference: str,
        speed: float,
    ) -> None:
        """Prepare.

        Args:
            source: open.
            dispatcher: of the function that is run.
            batching: of the mapping that is imitated.
            ids: request ids.
            listener: hears what happens.
            reference: of the source, for the function.
            speed: 1 keeps the records' own distances in time, 10 a tenth of them; 0: as fast as it goes.
        """
        self._source = source
        self._dispatcher = dispatcher
        self._batching = batching
        self._ids = ids
        self._listener = listener
        self._reference = reference
        self._speed = speed
        self._left: dict[str, ReplayShard] = {}
        self._records = self._invocations = self._failed = 0
        self._failures: list[ReplayFailure] = []
        self._reading = anyio.Lock()
        self._began_s = 0.0
        self._first_ms: int | None = None

    @property
    def report(self) -> ReplayReport:
        """What was done so far."""
        return ReplayReport(
            records=self._records,
            invocations=self._invocations,
            failed=self._failed,
            failures=tuple(self._failures),
            left=tuple(shard for shard in self._left.values() if shard.count),
        )

    async def run(self, shards: Sequence[ReplayShard]) -> None:
        """Run ranges of shards to their ends.

        Cancelled, a batch that was running may have had its effects, and counts as not run.

        Raises:
            SourceUnavailable: the source can't be read; what is left stands in `report`.
        """
        self._left = {shard.shard: shard for shard in shards}
        waiting = {shard.shard: _Waiting(shard) for shard in shards}
        if self._speed:
            await self._find_begin(waiting)
        self._began_s = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            for shard in waiting.values():
                tasks.start_soon(self._run_shard, shard)

    async def _find_begin(self, waiting: Mapping[str, _Waiting]) -> None:
        """Read the first records of every shard: the oldest one is where the time begins."""
        for shard in waiting.values():
            await self._fill(shard)
        arrived = [shard.records[0].arrived_ms for shard in waiting.values() if shard.records]
        self._first_ms = min(arrived, default=None)

    async def _run_shard(self, shard: _Waiting) -> None:
        while await self._fill(shard):
            if self._first_ms is not None:
                await anyio.sleep_until(self._due_s(shard.records[0]))
            ready = self._ready(shard.records)
            count, _ = cut(ready, self._batching)
            await self._run_batch(shard.name, [shard.records.popleft() for _ in range(count)])
        self._go_on(shard.name, shard.end, 0)

    async def _fill(self, shard: _Waiting) -> bool:
        """Read on when a batch's worth is not there; tell whether there is something to run."""
        while len(shard.records) < self._batching.batch_size and shard.next < shard.end:
            # One after the other: a source has one connection.
            async with self._reading:
                read = await self._source.read(shard.name, shard.next, shard.end, count_max=READ_STEP)
            shard.next = read.next
            shard.records.extend(read.records)
        return bool(shard.records)

    def _due_s(self, record: Record) -> float:
        """Return the loop's time at which a record is to run."""
        assert self._first_ms is not None
        return self._began_s + max(record.arrived_ms - self._first_ms, 0) / 1000 / self._speed

    def _ready(self, records: deque[Record]) -> Sequence[Record]:
        """Return the leading records that go into one batch: with a speed, those that are due within its window."""
        if self._first_ms is None:
            return records
        until_s = self._due_s(records[0]) + self._batching.window_s
        count = 1
        while count < min(len(records), self._batching.batch_size) and self._due_s(records[count]) <= until_s:
            count += 1
        return [records[index] for index in range(count)]

    async def _run_batch(self, shard: str, records: Sequence[Record]) -> None:
        """Run records in order; behind one that is reported failed the rest is run as a batch of its own."""
        while records:
            batch = Batch(source=self._reference, shard=shard, records=records, request_id=self._ids.new_id())
            async with self._dispatcher.function.slots:
                outcome = await self._dispatcher.invoke(batch)
            self._invocations += 1
            done, failed = self._judge(batch, outcome)
            if failed:
                self._fail(batch, done, failed, outcome)
            passed = done + failed
            self._records += passed
            self._go_on(shard, records[passed - 1].position + 1, passed)
            records = records[passed:]

    def _judge(self, batch: Batch, outcome: Outcome) -> tuple[int, int]:
        """Return how many leading records succeeded, and how many behind them failed."""
        report = self._dispatcher.read(batch, outcome)
        if outcome.kind is not OutcomeKind.SUCCESS or report.is_unusable:
            return 0, len(batch)
        return (report.failed[0], 1) if report.failed else (len(batch), 0)

    def _fail(self, batch: Batch, done: int, failed: int, outcome: Outcome) -> None:
        fault: Fault | None = outcome.fault_of(done) or outcome.fault
        failure = ReplayFailure(
            shard=batch.shard,
            first=batch.records[done].position,
            last=batch.records[done + failed - 1].position,
            count=failed,
            request_id=batch.request_id,
            error_type=fault.error_type if fault else "",
            error_message=fault.message if fault else "the response reports failed records",
            location=fault.location if fault else "",
            stack_trace="".join(fault.stack_trace) if fault else "",
        )
        self._failed += failed
        if len(self._failures) < FAILURES_MAX:
            self._failures.append(failure)
        self._listener.on_failure(failure)

    def _go_on(self, shard: str, position: int, count: int) -> None:
        self._left[shard] = msgspec.structs.replace(self._left[shard], position=position)
        self._listener.on_done(shard, position, count)


class _Waiting:
    """Records of a shard that were read and did not run yet."""

    def __init__(self, shard: ReplayShard) -> None:
        self.name = shard.shard
        self.next = shard.position
        self.end = shard.end
        self.records: deque[Record] = deque()

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
from eventcore.engine.filtering import RecordFilter
from eventcore.ids import IdFactory
from eventcore.model import Batch, Fault, Outcome, OutcomeKind, Record
from eventcore.ports.ranges import RangeSource

#: Records that a shard reads ahead of the batch that runs.
READ_STEP = 1000
#: Failures that a report names, of all that it counts.
FAILURES_MAX = 100
#: A wait for the next record that is told, seconds: who watches would think that it hangs.
WAIT_TOLD_S = 30.0
#: Shards that run side by side: each holds up to two batches' worth of records, some 12 MB, and no more invocations can
#: run at once than the function has slots. With a speed all do, for each record has its time.
SHARDS_AT_ONCE = 16


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
    filtered: int = 0  #: that were read and match no filter
    invocations: int
    failed: int  #: records
    failures: Sequence[ReplayFailure]  #: the first `FAILURES_MAX`
    left: Sequence[ReplayShard]  #: what has not run yet; empty at the end


class ReplayListener(Protocol):
    """What a replay tells as it goes."""

    def on_done(self, shard: str, position: int) -> None:
        """Hear where a shard goes on."""
        ...

    def on_failure(self, failure: ReplayFailure) -> None:
        """Hear of a failure."""
        ...

    def on_wait(self, shard: str, wait_s: float) -> None:
        """Hear that nothing of a shard is due for so long, seconds: at least `WAIT_TOLD_S`."""
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
        keeps: RecordFilter | None = None,
    ) -> None:
        """Prepare.

        Args:
            source: open.
            dispatcher: of the function that is run.
            batching: of the mapping that is imitated.
            ids: request ids.
            listener: hears what happens.
            reference: of the source, for the function.
            keeps: of the mapping that is imitated: what matches no filter does not run.
            speed: 1 keeps the records' own distances in time, 10 a tenth of them; 0: as fast as it goes.
        """
        self._source = source
        self._dispatcher = dispatcher
        self._batching = batching
        self._ids = ids
        self._listener = listener
        self._reference = reference
        self._speed = speed
        self._keeps = keeps
        self._left: dict[str, ReplayShard] = {}
        self._records = self._filtered = self._invocations = self._failed = 0
        self._failures: list[ReplayFailure] = []
        self._reading = anyio.Lock()
        self._side_by_side = anyio.Semaphore(SHARDS_AT_ONCE)
        self._stopping = anyio.Event()
        self._began_s = 0.0
        self._first_ms: int | None = None

    @property
    def report(self) -> ReplayReport:
        """What was done so far."""
        return ReplayReport(
            records=self._records,
            filtered=self._filtered,
            invocations=self._invocations,
            failed=self._failed,
            failures=tuple(self._failures),
            left=tuple(shard for shard in self._left.values() if shard.count),
        )

    async def run(self, shards: Sequence[ReplayShard]) -> None:
        """Run ranges of shards to their ends, or, once `stop` was called, until what runs has ended.

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
                tasks.start_soon(self._run_shard if self._speed else self._run_side_by_side, shard)

    def stop(self) -> None:
        """Begin no other batch. Called again, nothing changes."""
        self._stopping.set()

    async def _find_begin(self, waiting: Mapping[str, _Waiting]) -> None:
        """Read the first records of every shard: the oldest one is where the time begins."""
        for shard in waiting.values():
            await self._fill(shard)
        arrived = [shard.records[0].arrived_ms for shard in waiting.values() if shard.records]
        self._first_ms = min(arrived, default=None)

    async def _run_side_by_side(self, shard: _Waiting) -> None:
        async with self._side_by_side:
            await self._run_shard(shard)

    async def _run_shard(self, shard: _Waiting) -> None:
        while not self._stopping.is_set() and await self._fill(shard):
            if self._first_ms is not None:
                await self._wait_due(shard)
            ready = self._ready(shard.records)
            count, _ = cut(ready, self._batching)
            await self._run_batch(shard.name, shard.take(count))
        if not self._stopping.is_set():
            self._go_on(shard.name, shard.end)

    async def _wait_due(self, shard: _Waiting) -> None:
        """Wait until the next record of a shard is to run, or for `stop`."""
        due_s = self._due_s(shard.records[0])
        wait_s = due_s - anyio.current_time()
        if wait_s >= WAIT_TOLD_S:
            self._listener.on_wait(shard.name, wait_s)
        with anyio.CancelScope(deadline=due_s):
            await self._stopping.wait()

    async def _fill(self, shard: _Waiting) -> bool:
        """Read on when a batch's worth is not there; tell whether there is something to run."""
        while not self._is_enough(shard) and shard.next < shard.end:
            # One after the other: a source has one connection.
            async with self._reading:
                read = await self._source.read(shard.name, shard.next, shard.end, count_max=READ_STEP)
            shard.next = read.next
            shard.add(self._matching(read.records, shard.name))
        return bool(shard.records)

    def _matching(self, records: Sequence[Record], shard: str) -> Sequence[Record]:
        if self._keeps is None:
            return records
        matching, others = self._keeps.sort(records, shard)
        self._filtered += len(others)
        return matching

    def _is_enough(self, shard: _Waiting) -> bool:
        """Tell whether a whole batch waits: an event is never smaller than its records."""
        policy = self._batching
        return len(shard.records) >= policy.batch_size or shard.size_bytes >= policy.size_bytes_max

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
                if self._stopping.is_set():
                    return
                outcome = (await self._dispatcher.invoke(batch)).outcome
            self._invocations += 1
            done, failed = self._judge(batch, outcome)
            if failed:
                self._fail(batch, done, failed, outcome)
            passed = done + failed
            self._records += passed
            self._go_on(shard, records[passed - 1].position + 1)
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

    def _go_on(self, shard: str, position: int) -> None:
        self._left[shard] = msgspec.structs.replace(self._left[shard], position=position)
        self._listener.on_done(shard, position)


class _Waiting:
    """Records of a shard that were read and did not run yet."""

    def __init__(self, shard: ReplayShard) -> None:
        self.name = shard.shard
        self.next = shard.position
        self.end = shard.end
        self.records: deque[Record] = deque()
        self.size_bytes = 0

    def add(self, records: Sequence[Record]) -> None:
        """Put what was read behind what waits."""
        self.records.extend(records)
        self.size_bytes += sum(record.size_bytes for record in records)

    def take(self, count: int) -> Sequence[Record]:
        """Take the leading records out."""
        taken = [self.records.popleft() for _ in range(count)]
        self.size_bytes -= sum(record.size_bytes for record in taken)
        return taken

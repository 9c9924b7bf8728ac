"""Gives the parked records of a shard back to its function, in order per key, until the key is as any other again."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence

import anyio

from eventcore.delivery.batching import cut
from eventcore.delivery.decide import SETTLE, Decision, Run
from eventcore.delivery.lanes import LaneStates
from eventcore.engine.dispatcher import RELEASED, Answer
from eventcore.engine.parked import ParkedReader, ParkedRecord
from eventcore.engine.parking import Parking
from eventcore.engine.shard_context import ShardContext
from eventcore.engine.status import ParkedRedriven
from eventcore.model import Batch, Outcome, OutcomeKind, Record
from eventcore.telemetry.events import fault_text

BROKEN_OFF = "the redrive was broken off: it stays parked"
IN_PROGRESS = "another invocation works on its key: it stays parked"


class Redrive:
    """One step of a redrive: at most so many records of one shard. Not reusable.

    A key that fails stays parked at the record that failed; nothing is tried twice, and no attempts are counted.
    """

    def __init__(
        self,
        context: ShardContext,
        shard: str,
        states: LaneStates,
        parking: Parking,
        reader: ParkedReader,
        epoch: int,
        write: Callable[[], Awaitable[None]],
    ) -> None:
        """Prepare a step.

        Args:
            context: of the mapping.
            shard: its name.
            states: of the shard's lanes, changed in place.
            parking: of the shard.
            reader: of where its records wait.
            epoch: in which the shard was taken.
            write: tells the source of changed states, at once.
        """
        self._context = context
        self._shard = shard
        self._states = states
        self._parking = parking
        self._reader = reader
        self._epoch = epoch
        self._write = write
        self._redriven_count = 0
        self._failed: dict[str, Outcome] = {}

    async def run(
        self, *, count_max: int, besides: Sequence[str], is_settled: Callable[[int], bool], gives_up_missing: bool
    ) -> ParkedRedriven:
        """Run what is parked, and release keys of which nothing is left.

        A key whose first record is not where parked records are stays as it is: it may be elsewhere, as when the
        mapping's `parking` was changed, and what is behind it must not overtake it.

        Cancelled, what was redriven stays so; a batch that was running may run again.

        Args:
            count_max: records at most.
            besides: names of keys to leave out: those that an earlier step found failing.
            is_settled: tells whether the shard has settled a position; what it has not may be on its way.
            gives_up_missing: go on without records that are not there.

        Raises:
            ShardLost: the shard has another owner.
            StoreUnavailable, SourceUnavailable: progress could not be written; what ran may run again.
        """
        wanted = {name: first for name, first in self._states.parked.items() if name not in besides}
        redriven = {name for name in wanted if self._states.is_redriven(name)}
        self._parking.listen(wanted)
        settled = {name for name, first in wanted.items() if is_settled(first)}
        read = await self._reader.read(self._shard, wanted, count_max=count_max)
        keys: dict[str, deque[ParkedRecord]] = {}
        for entry in read.records:
            keys.setdefault(entry.name, deque()).append(entry)
        found = dict(read.left) | {name: entries[0].record.position for name, entries in keys.items()}
        absent = {name for name, at in wanted.items() if found.get(name) != at and name not in redriven}
        missing = absent & settled if read.is_complete else set()
        if gives_up_missing:
            absent -= missing
            missing = set()
        room = anyio.Semaphore(max(self._context.lanes, 1))
        async with anyio.create_task_group() as tasks:
            for name, entries in keys.items():
                if name not in absent:
                    tasks.start_soon(self._run_key, name, entries, read.left.get(name), room)
        if read.is_complete:
            await self._release(name for name in wanted if name not in found and name not in absent)
        first = next(iter(self._failed.values()), None)
        fault = first.fault if first is not None else None
        return ParkedRedriven(
            shard=self._shard,
            redriven=self._redriven_count,
            failed=tuple(self._failed),
            missing=tuple(sorted(missing)),
            keys=len(self._states.parked),
            error=_why_failed(first) if first is not None else "",
            location=fault.location if fault is not None else "",
        )

    async def _release(self, names: Iterable[str]) -> None:
        """Let keys be worked on by lanes again of which nothing was found, and nothing is on its way."""
        released = [name for name in names if self._parking.is_quiet(name)]
        for name in released:
            self._states.release(name)
        if released:
            await self._write()

    async def _run_key(self, name: str, entries: deque[ParkedRecord], left: int | None, room: anyio.Semaphore) -> None:
        async with room:
            while entries:
                records = [entry.record for entry in entries]
                count, _ = cut(records, self._context.batching)
                done = await self._run_batch(name, records[:count])
                taken = [entries.popleft() for _ in range(done)]
                if taken:
                    last = taken[-1].record.position
                    following = entries[0].record.position if entries else left
                    if following is None:
                        following = self._parking.first_behind(name, last)
                    self._states.redrive(name, last, following)
                    await self._write()
                    await self._reader.drop(taken)
                    self._redriven_count += done
                if done < count:
                    return

    async def _run_batch(self, name: str, records: Sequence[Record]) -> int:
        """Invoke the function; return how many leading records succeeded, now or before; none while it is held."""
        context = self._context
        batch = Batch(
            mapping=context.mapping,
            source=context.source_reference,
            shard=self._shard,
            records=records,
            request_id=context.ids.new_id(),
        )
        function = context.dispatcher.function
        if context.rate is not None:
            await context.rate.wait(len(records))
        async with function.slots:
            if context.gate.find(self._shard) is not None:
                return 0
            outcome, done = await self._invoke_counted(batch)
        if done:
            context.reporter.decided(batch, Decision((Run(0, done, SETTLE),)), outcome)
        if done < len(records):
            self._failed[name] = outcome
            context.reporter.returned(self._shard, len(records) - done, _why_parked(outcome, done))
        return done

    async def _invoke_counted(self, batch: Batch) -> tuple[Outcome, int]:
        """Invoke a batch, send on what it made, and tell how many leading records are done.

        Where that is broken off, its records count as handed back.
        """
        reporter, results, count = self._context.reporter, self._context.results, len(batch)
        reporter.received(self._shard, count)
        done = None
        try:
            outcome = await self._invoke(batch)
            found = self._count_done(batch, outcome)
            if found and results is not None:
                await results.write(self._shard, self._epoch, outcome, batch.records[:found], ())
            done = found
        finally:
            if done is None:
                reporter.returned(self._shard, count, BROKEN_OFF)
        return outcome, done

    async def _invoke(self, batch: Batch) -> Outcome:
        """Invoke a batch that the gate has let in: where one is let in to find out, it is that one."""
        context = self._context
        answer = Answer(RELEASED, None, batch)
        if context.breaker is not None:
            context.breaker.begin(batch)
        try:
            answer = await context.dispatcher.invoke(batch)
        finally:
            if context.breaker is not None:
                context.breaker.end(batch, answer, context.dispatcher.read)
        return answer.outcome

    def _count_done(self, batch: Batch, outcome: Outcome) -> int:
        report = self._context.dispatcher.read(batch, outcome)
        if outcome.kind is not OutcomeKind.SUCCESS or report.is_unusable:
            return 0
        return min([len(batch), *report.failed[:1], *outcome.deferred[:1]])


def _why_parked(outcome: Outcome, done: int) -> str:
    """Return why a batch stays parked from a record on."""
    return IN_PROGRESS if done in outcome.deferred else "it failed again and stays parked"


def _why_failed(outcome: Outcome) -> str:
    """Return what a key failed with."""
    if outcome.fault is not None:
        return fault_text(outcome.fault)
    return IN_PROGRESS if outcome.deferred else "the response reports failed records"

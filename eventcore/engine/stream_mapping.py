"""A mapping that reads a stream: one poller, and one worker for each shard that is ours.

Hop 2 is `_poll`: it asks the source for what there is room for (full shards are paused) and puts records into the
buffers of their shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import anyio
import anyio.abc
import anyio.lowlevel

from eventcore import signals
from eventcore.delivery.ordering import EMPTY
from eventcore.engine.batcher import BUFFER_BYTES_MAX, SHARD_BYTES_MIN
from eventcore.engine.breaker import guarded
from eventcore.engine.laned_shard import LanedShard
from eventcore.engine.parking import ParkingContext
from eventcore.engine.settler import Discarded
from eventcore.engine.shard import ShardWorker
from eventcore.engine.shard_context import ShardContext
from eventcore.engine.status import MappingState, ParkedRedriven, ShardStatus
from eventcore.errors import CommandError, ShardLost, SourceError, SourceUnavailable
from eventcore.ports.sources import ShardLag, StreamSource, TakenShard

#: One receive waits this long for a first record, seconds; a stop does not wait for it.
RECEIVE_WAIT_S = 5.0
#: Clean-up of a source may take this long when the mapping is cancelled, seconds.
CLOSE_GRACE_S = 10.0
#: Why a shard is not ours any more, as people are told.
ANOTHER_OWNER = "another owner may take it"


class StreamMapping:
    """Runs one stream mapping; also the source's `ShardListener`. Not reusable."""

    def __init__(
        self, source: StreamSource, context: ShardContext, parking: ParkingContext, *, revoke_budget_s: float
    ) -> None:
        self._source = source
        self._context = context
        self._parking = parking
        self._revoke_budget_s = revoke_budget_s
        self._workers: dict[str, ShardWorker | LanedShard] = {}
        self._ending: dict[str, list[anyio.Event]] = {}  #: by shard: each set when a worker before has ended
        self._tasks: anyio.abc.TaskGroup | None = None
        self._polling = anyio.CancelScope()
        self._is_stopping = False
        self.waits_for = ""  #: as `StreamSource.waits_for`, when it was last looked at
        self._moving = anyio.Lock()  #: held while a shard is moved by hand
        self._unmoved: SourceUnavailable | None = None  #: a shard that nobody works on, as it could not be moved

    # -- life ----------------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Read until `drain`, or until something fails; then give the shards up.

        Raises:
            SourceUnavailable, SourceClosed: the source failed.
            StoreUnavailable: what had to be written could not be.
        """
        try:
            async with anyio.create_task_group() as beside:
                try:
                    await self._run_workers(beside, task_status)
                finally:
                    self._tasks = None
                beside.cancel_scope.cancel()
        finally:
            with anyio.move_on_after(CLOSE_GRACE_S, shield=True):
                await self._source.aclose()

    async def _run_workers(self, beside: anyio.abc.TaskGroup, task_status: anyio.abc.TaskStatus[None]) -> None:
        async with anyio.create_task_group() as self._tasks:
            await self._source.open(self)
            beside.start_soon(self._write_behind, name=f"checkpoints {self._context.mapping}")
            self.waits_for = self._source.waits_for
            task_status.started()
            with self._polling:
                await guarded(self._context.breaker, self._poll)
            if self._unmoved is not None:
                raise self._unmoved
            # Drained: the workers end by themselves; the group waits for them.

    async def _write_behind(self) -> None:
        """Have the source write checkpoints behind the batches.

        Raises:
            SourceUnavailable: it ended by itself; without it, all since the last urgent one would come again one day.
        """
        await self._source.write_behind()
        if not self._source.capabilities.is_settle_durable:
            raise SourceUnavailable("checkpoints are not written any more", source=self._context.source_reference)

    def drain(self) -> None:
        """Take nothing new; let the batches that run be settled."""
        self._is_stopping = True
        self._polling.cancel()
        for worker in self._workers.values():
            worker.stop()

    def abort(self) -> None:
        """Kill what runs, and release it."""
        self.drain()
        for worker in self._workers.values():
            worker.abort()

    async def _poll(self) -> None:
        context = self._context
        while True:
            with context.tracing.receive(context.mapping, context.source_reference) as span:
                arrived = await self._source.receive(wait_s=RECEIVE_WAIT_S)
                span.count(sum([len(received.records) for received in arrived]))
            self._look_whether_it_waits()
            for received in arrived:
                worker = self._workers.get(received.shard)
                if worker is None:
                    continue
                offered = worker.offer(received.records, received.lost)
                if received.is_end:
                    worker.end()
                context.reporter.received(received.shard, offered.count)
                context.reporter.filtered(received.shard, offered.filtered)
            await signals.reach("poller.received")
            # The workers first: a record that is here waits for no receive that is made ready.
            await anyio.lowlevel.checkpoint()

    def _look_whether_it_waits(self) -> None:
        if self._source.waits_for != self.waits_for:
            self.waits_for = self._source.waits_for
            self._context.reporter.state(MappingState.ENABLED.value, self.waits_for)

    # -- ShardListener -------------------------------------------------------------------------------------------------

    async def on_taken(self, shards: Sequence[TakenShard]) -> None:
        """Begin work on shards. Returns at once.

        Raises:
            SourceUnavailable: a shard has what only other settings of the mapping can finish.
        """
        if self._tasks is None:
            # The last worker has ended: the source is closed next, and the shards' next owner begins where we were.
            return
        for taken in shards:
            self._refuse_parked(taken)
        for taken in [self._context.own_marks.take_back(each) for each in shards]:
            before = self._still_ending(taken.shard)
            worker = self._make_worker(taken)
            self._workers[taken.shard] = worker
            self._context.reporter.taken(taken.shard, taken.epoch, taken.checkpoint)
            if self._is_stopping:
                worker.stop()
            # One worker a shard: those that were abandoned a moment ago may still be killing their invocations.
            run = partial(worker.run, after=tuple(before))
            self._tasks.start_soon(run, name=f"shard {self._context.mapping}/{taken.shard}")
        self._look_whether_it_waits()
        self._share_buffers()

    def _make_worker(self, taken: TakenShard) -> ShardWorker | LanedShard:
        # Keys that were parked under other settings keep their order.
        if self._context.lanes > 1 or taken.state.parked:
            return LanedShard(self._context, self._parking, taken, buffer_bytes_max=BUFFER_BYTES_MAX)
        return ShardWorker(self._context, taken, buffer_bytes_max=BUFFER_BYTES_MAX)

    def _refuse_parked(self, taken: TakenShard) -> None:
        """Refuse a shard with parked keys, which needs lanes, where none can be.

        They would give the function no window, and drop its state; and a transaction moves one position of its shard.

        Raises:
            SourceUnavailable: until they are redriven.
        """
        context = self._context
        if not taken.state.parked:
            return
        if context.window_length_s:
            why, setting = "windows can't keep their order", "tumbling_window_in_seconds"
        elif context.results is not None and context.results.is_exactly_once:
            why, setting = "a transaction can't keep their order", 'delivery = "exactly_once"'
        else:
            return
        raise SourceUnavailable(
            f"keys of {taken.shard} are parked from when `{context.mapping}` had lanes ({len(taken.state.parked)}), "
            f"and {why}: take out {setting} until `eventcore mapping redrive {context.mapping}` has given them back",
            source=context.source_reference,
        )

    async def on_revoked(self, shards: Sequence[str], *, why: str = "") -> None:
        """Stop work on shards: settled or handed back when this returns, within the budget."""
        workers = [self._workers[shard] for shard in shards if shard in self._workers]
        for worker in workers:
            worker.stop()
        with anyio.move_on_after(self._revoke_budget_s):
            for worker in workers:
                await worker.finished.wait()
        for worker in workers:
            worker.abort()
        with anyio.move_on_after(CLOSE_GRACE_S):
            for worker in workers:
                await worker.finished.wait()
        self._abandon(shards, why or ANOTHER_OWNER)

    async def on_lost(self, shards: Sequence[str]) -> None:
        """Abandon shards at once."""
        self._abandon(shards, ANOTHER_OWNER)

    def _abandon(self, shards: Sequence[str], why: str) -> None:
        for shard in shards:
            worker = self._workers.pop(shard, None)
            if worker is not None:
                worker.abandon()
                self._still_ending(shard).append(worker.finished)
                self._context.reporter.released(shard, why)
        self._share_buffers()

    def _still_ending(self, shard: str) -> list[anyio.Event]:
        """Return the ends of a shard's workers that have not come yet; also of those before one that never began."""
        ending = [each for each in self._ending.get(shard, ()) if not each.is_set()]
        self._ending[shard] = ending
        return ending

    def _share_buffers(self) -> None:
        share = max(BUFFER_BYTES_MAX // max(len(self._workers), 1), SHARD_BYTES_MIN)
        for worker in self._workers.values():
            worker.limit(share)

    # -- what people ask of it -----------------------------------------------------------------------------------------

    async def redrive(
        self, shard: str, *, count_max: int, besides: Sequence[str] = (), gives_up_missing: bool = False
    ) -> ParkedRedriven:
        """Give parked records of a shard back to the function; see `LanedShard.redrive`.

        Raises:
            CommandError: the shard is not ours, or nothing of it can be parked.
        """
        worker = self._find(shard)
        if not isinstance(worker, LanedShard):
            raise CommandError(f"nothing is parked of {shard}: `{self._context.mapping}` has no lanes")
        return await worker.redrive(count_max=count_max, besides=besides, gives_up_missing=gives_up_missing)

    async def skip(self, shard: str, count: int) -> Sequence[Discarded]:
        """Give up the first records of the batch that holds up a shard; see `Lane.skip`.

        Raises:
            CommandError: the shard is not ours, or nothing holds it up.
        """
        return await self._find(shard).skip(count)

    async def seek(self, shard: str, position: int) -> int:
        """Move a shard's position: what runs is finished or handed back, what fails is forgotten, and it begins anew.

        A shard that was split or merged and read to its end is read again before those that it became.

        Returns:
            Where it was, once what ran was settled; -1: nothing was ever settled.

        Raises:
            CommandError: the shard is not ours.
            ShardLost: another owner has it.
            SourceUnavailable, StoreUnavailable: it may or may not have been moved.
        """
        async with self._moving:
            while shard not in self._workers and (held := await self._find_held(shard)) is not None:
                if await self._move_held(shard, position):
                    return held.checkpoint
            worker = self._find(shard)
            try:
                taken = await self._move(worker, shard, position)
            finally:
                if self._workers.get(shard) is worker and not self._is_stopping:
                    self._begin_anew(shard)
            self._context.reporter.released(shard, "its position was moved by hand")
            if not self._is_stopping:
                await self.on_taken([taken])
        return worker.status(-1).checkpoint

    async def _move(self, worker: ShardWorker | LanedShard, shard: str, position: int) -> TakenShard:
        """End a shard's worker and move the shard; it has no worker when this returns."""
        await self._end(worker)
        await self._context.settler.forget(shard)
        if self._workers.get(shard) is not worker:
            raise ShardLost(source=self._context.source_reference, shard=shard)
        taken = await self._source.seek(shard, position, worker.kept_by_seek)
        if taken is None:
            raise ShardLost(source=self._context.source_reference, shard=shard)
        # What came while it was moved is void: its books are closed once more.
        self._workers.pop(shard).abandon()
        return taken

    async def _find_held(self, shard: str) -> ShardLag | None:
        """Return a shard that nobody works on, for it waits or is drained; None for any other."""
        held = [lag for lag in await self._source.lag() if lag.shard == shard and (lag.waits_for or lag.is_drained)]
        return held[0] if held else None

    async def _move_held(self, shard: str, position: int) -> bool:
        """Move a shard that nobody works on; the source says which are worked on after that.

        False when it was begun meanwhile, and has not been moved.
        """
        await self._context.settler.forget(shard)
        if shard in self._workers:
            return False
        is_known = False
        try:
            await self._source.seek(shard, position, EMPTY)
            is_known = True
        except ShardLost:
            is_known = shard in self._workers
            if not is_known:
                raise
            return False
        finally:
            if not is_known and not self._is_stopping:
                self._begin_anew(shard)
        return True

    async def _end(self, worker: ShardWorker | LanedShard) -> None:
        """Let what runs be settled, or released when it takes longer than a rebalance would wait."""
        worker.stop()
        with anyio.move_on_after(self._revoke_budget_s):
            await worker.finished.wait()
        worker.abort()
        await worker.finished.wait()

    def _begin_anew(self, shard: str) -> None:
        """Have the mapping start again, where the source says: nobody works on a shard that could not be moved."""
        what = f"the position of {shard} could not be moved"
        self._unmoved = SourceUnavailable(what, source=self._context.source_reference)
        self._polling.cancel()

    def _find(self, shard: str) -> ShardWorker | LanedShard:
        worker = self._workers.get(shard)
        if worker is None:
            owned = ", ".join(sorted(self._workers)) or "none"
            raise CommandError(f"this engine does not have the shard {shard}", hint=f"it has: {owned}")
        return worker

    # -- snapshots -----------------------------------------------------------------------------------------------------

    @property
    def running(self) -> int:
        """How many batches are being worked on."""
        return sum(worker.running for worker in self._workers.values())

    async def shards(self) -> Sequence[ShardStatus]:
        """Return the owned shards, and behind them those that wait for others to be read to their ends."""
        lags: dict[str, ShardLag] = {}
        # A source that is away must not hide the others' status.
        with suppress(SourceError):
            lags = {lag.shard: lag for lag in await self._source.lag()}
        owned = [
            worker.status(lags[shard].lag if shard in lags else -1) for shard, worker in sorted(self._workers.items())
        ]
        waiting = [
            ShardStatus(shard=lag.shard, checkpoint=lag.checkpoint, lag=lag.lag, buffered=0, waits_for=lag.waits_for)
            for lag in lags.values()
            if lag.waits_for and lag.shard not in self._workers
        ]
        return [*owned, *waiting]

"""One shard of a stream, worked through by many lanes side by side: in order per key, one checkpoint for all.

Every key that has records gets a lane (`engine/lane.py`) of its own while there is room, at most `lanes` at a time.
With a parallelization factor there are so many lanes, and keys are hashed to them.
What lanes settle moves the shard's checkpoint when nothing in front of it is left. A key that keeps failing is parked
when it would hold the others up: at the bound of the skew, or when too many fail (`delivery/lanes.py`).

Until the first batch after the shard was taken is settled, it runs alone and marked: in whatever order an engine dies,
each start gets further by one batch at least, and the batch that kills engines is found.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import anyio
import anyio.abc

from eventcore.delivery.decide import SETTLE, Decision, Run
from eventcore.delivery.lanes import LaneKey, LaneStates, LaneWindow, hashed_key, lane_key, skew_max
from eventcore.delivery.ordering import ShardState
from eventcore.engine.arrivals import Arrival, Arrivals
from eventcore.engine.books import Books
from eventcore.engine.checkpoint import ShardCheckpoint
from eventcore.engine.covered import LaneCovered
from eventcore.engine.filtering import Offered
from eventcore.engine.key_intake import KeyIntake
from eventcore.engine.lane import Lane
from eventcore.engine.left_window import give_up_window
from eventcore.engine.parking import Parking, ParkingContext
from eventcore.engine.redrive import Redrive
from eventcore.engine.relief import Relief
from eventcore.engine.settler import Discarded
from eventcore.engine.shard_context import ShardContext
from eventcore.engine.status import Blocked, ParkedRedriven, ShardStatus
from eventcore.engine.unless import unless
from eventcore.errors import CommandError, ShardLost, find_cause
from eventcore.model import Batch, Record
from eventcore.ports.sources import LostRange, StreamCapabilities, TakenShard
from eventcore.ports.store import Operation

#: With a rate limit a step of a redrive has no more records than may begin within so many seconds: a person waits.
REDRIVE_STEP_S = 60.0


class LanedShard:
    """Works through one owned shard in lanes. `run` ends after `stop`, `abort` or a lost shard; not reusable."""

    def __init__(
        self, context: ShardContext, parking: ParkingContext, taken: TakenShard, *, buffer_bytes_max: int
    ) -> None:
        self._context = context
        self._shard = taken.shard
        self._taken = taken
        self._epoch = taken.epoch
        self._lanes_max = lanes = context.lanes
        self._is_hashed = context.is_hashed
        batch_size = context.batching.batch_size
        self._find_lane: Callable[[Record], LaneKey] = (
            partial(hashed_key, factor=lanes, batch_size=batch_size)
            if context.is_hashed
            else partial(lane_key, batch_size=batch_size)
        )
        self._skew_max = skew_max(lanes)
        self._size_bytes_max = buffer_bytes_max
        self.capabilities = context.source.capabilities
        self._gate = context.gate
        self.finished = anyio.Event()
        self._books = Books(context.reporter, taken.shard)
        self._covered = context.settler.covered(taken.shard, runs_max=self._skew_max)
        self._lane_covered = LaneCovered(self._covered)
        self._window = LaneWindow(taken.checkpoint)
        self._states = LaneStates(taken.state)
        self._parking = Parking(parking, taken.shard, taken.epoch, self._lane_covered, self._on_parked)
        self._reader = parking.reader
        self._redriving = anyio.Lock()
        self._intakes: dict[LaneKey, KeyIntake] = {}
        self._ready: deque[KeyIntake] = deque()  #: have records and no lane
        self._lanes: dict[LaneKey, Lane] = {}
        self._leaving: set[LaneKey] = set()  #: are parked as soon as their lane has ended
        self._relief = Relief(taken.shard, context.gate, self._states, lanes=lanes)
        self._arrivals = Arrivals()
        self._size_bytes = 0  #: of records that were taken and are not settled
        self._is_paused = False
        self._is_probing = True  #: the first batch is not settled yet
        self._written: tuple[int, ShardState] = (taken.checkpoint, taken.state)
        self._is_abandoned = False
        self._stopping = anyio.Event()
        self._scope = anyio.CancelScope()
        self._tasks: anyio.abc.TaskGroup | None = None

    # -- called by the mapping -----------------------------------------------------------------------------------------

    @property
    def running(self) -> int:
        """How many batches are with the function."""
        return sum(lane.is_invoking for lane in self._lanes.values())

    def status(self, lag: int) -> ShardStatus:
        """Return a snapshot.

        Args:
            lag: records behind the end; -1 unknown.
        """
        blocked = [lane.blocked for lane in self._lanes.values() if lane.blocked is not None]
        return ShardStatus(
            shard=self._shard,
            checkpoint=self._window.checkpoint,
            lag=lag,
            iterator_age_ms=self._context.reporter.counters.iterator_ages_ms.get(self._shard),
            pause=self._gate.find(self._shard),
            buffered=sum(len(intake) for intake in self._intakes.values()),
            blocked=min(blocked, key=_position, default=None),
            parked=len(self._states.parked),
        )

    def offer(self, records: Sequence[Record], lost: LostRange | None) -> Offered:
        """Take records that the source returned; those that are settled already are dropped."""
        if records and records[0].position < self._window.checkpoint:
            records = [record for record in records if record.position >= self._window.checkpoint]
        matching, end = records, -1
        if self._context.filter is not None and records:
            matching = self._context.filter.sort(records, self._shard).matching
            end = records[-1].position + 1
        self._books.open(len(matching))
        self._size_bytes += sum([record.size_bytes for record in matching])
        self._arrivals.put(Arrival(matching, lost, end))
        self._update_pause()
        return Offered(len(records), len(records) - len(matching))

    def end(self) -> None:
        """Note that nothing more comes: nothing waits for it, a batching window apart, which passes."""

    def limit(self, size_bytes_max: int) -> None:
        """Change how many bytes may wait."""
        self._size_bytes_max = size_bytes_max

    def stop(self) -> None:
        """End after the batches that are being invoked; pending retries stay for the next owner."""
        self._stopping.set()
        for lane in self._lanes.values():
            lane.stop()

    def abort(self) -> None:
        """End now: running invocations' environments are killed, their batches released."""
        self.stop()
        for lane in self._lanes.values():
            lane.abort()

    def abandon(self) -> None:
        """End now, and write nothing: another owner has the shard."""
        self._is_abandoned = True
        self.stop()
        self._books.close()
        self._scope.cancel()

    async def skip(self, count: int) -> Sequence[Discarded]:
        """Give up the first records of the failing batch that is furthest behind; see `Lane.skip`."""
        blocked = [lane for lane in self._lanes.values() if lane.blocked is not None]
        if not blocked:
            raise CommandError(f"nothing is to be skipped of {self._shard}: no batch of it keeps failing")
        return await min(blocked, key=_blocked_at).skip(count)

    @property
    def kept_by_seek(self) -> ShardState:
        """What of its state holds whatever its position is: the keys that are parked."""
        return self._states.of_parked

    async def redrive(
        self, *, count_max: int, besides: Sequence[str] = (), gives_up_missing: bool = False
    ) -> ParkedRedriven:
        """Give parked records back to the function, in order per key; see `Redrive`.

        Args:
            count_max: records at most; one redrive of a shard runs at a time.
            besides: names of keys to leave out.
            gives_up_missing: go on without parked records that are not found.

        Raises:
            CommandError: it is paused, or the mapping's circuit breaker is open: nothing is begun.
            ShardLost: the shard has another owner, or gets one meanwhile.
            StoreUnavailable, SourceUnavailable: progress could not be written; what ran may run again.
        """
        async with self._redriving:
            if (pause := self._gate.find(self._shard)) is not None:
                raise CommandError(
                    f"nothing of {self._shard} is begun while it is paused by {pause.by}",
                    hint=f"eventcore mapping resume {self._context.mapping} ends that",
                )
            step = Redrive(
                self._context,
                self._shard,
                self._states,
                self._parking,
                self._reader,
                self._epoch,
                partial(self._write, is_urgent=True),
            )
            if (rate := self._context.rate) is not None:
                count_max = min(count_max, max(1, rate.room(REDRIVE_STEP_S)))
            run = partial(
                step.run,
                count_max=count_max,
                besides=besides,
                is_settled=self._window.is_settled,
                gives_up_missing=gives_up_missing,
            )
            try:
                return await self._unless_lost(run)
            finally:
                self._parking.listen(())

    async def _unless_lost(self, work: Callable[[], Awaitable[ParkedRedriven]]) -> ParkedRedriven:
        """Do something that must not outlive our owning the shard."""
        done: list[ParkedRedriven] = []

        async def finish() -> None:
            done.append(await work())

        try:
            await unless(self._stopping, finish)
        except BaseExceptionGroup as group:
            # That keys run side by side is none of the caller's business.
            raise find_cause(group) from None
        if not done:
            raise ShardLost(source=self._context.source_reference, shard=self._shard, epoch=self._epoch)
        return done[0]

    async def run(self, *, after: Sequence[anyio.Event] = ()) -> None:
        """Work until stopped.

        Args:
            after: each set when a worker that had this shard before has ended.

        Raises:
            StoreUnavailable, SourceUnavailable: what had to be written could not be; the mapping starts anew.
        """
        try:
            with self._scope, self._gate.listening(self._relief.look_at_gate):
                self._relief.look_at_gate()
                for each in after:
                    await each.wait()
                await self._covered.load(self._window.checkpoint)
                await give_up_window(self._context, self._taken)
                async with anyio.create_task_group() as services:
                    services.start_soon(self._let_in, name=f"arrivals {self._shard}")
                    services.start_soon(self._parking.run, name=f"parking {self._shard}")
                    async with anyio.create_task_group() as self._tasks:
                        await self._stopping.wait()
                    # Every lane has ended: what is not parked by now comes again.
                    services.cancel_scope.cancel()
        except* ShardLost:
            # The source tells the mapping too; nothing of this shard may be written any more.
            self._is_abandoned = True
        finally:
            self._books.close()
            self.finished.set()

    # -- records come --------------------------------------------------------------------------------------------------

    async def _let_in(self) -> None:
        """Give arriving records to their lanes; a range that the source lost waits until all before it is settled."""
        if self._covered.is_loaded:
            # What was given up before is passed as soon as its records come: the destination must have it by then.
            await self._context.settler.wait_taken(self._shard)
        while True:
            while (arrival := self._arrivals.first) is not None:
                if arrival.lost is not None and len(self._window):
                    break
                records, lost, end = arrival
                if lost is not None:
                    await self._discard_lost(lost)
                self._arrivals.pop()
                is_settled = self._admit(records)
                if self._window.reach(end) or is_settled:
                    await self._write(is_urgent=False)
            self._update_pause()
            await self._arrivals.wait()

    async def _discard_lost(self, lost: LostRange) -> None:
        """Tell a range that the source dropped unread, and go on behind it."""
        entry = await self._context.settler.discard_lost(lost)
        self._context.reporter.lost(self._shard, entry)
        self._window.skip_to(lost.last + 1)
        await self._write(is_urgent=True)

    def _admit(self, records: Sequence[Record]) -> bool:
        """Hand records to their keys; tell whether some are settled by that."""
        given_up: list[Record] = []
        for record in records:
            key = self._find_lane(record)
            self._window.add(record.position)
            if self._covered.is_loaded and self._covered.pass_by(record.position):
                given_up.append(record)
            elif self._is_hashed and self._is_parked_before(record):
                self._parking.add(record)
            elif (intake := self._intakes.get(key)) is not None:
                intake.put(record)
            elif self._states.is_parked(key):
                self._states.park(key, record.position)
                self._parking.add(record)
            else:
                intake = KeyIntake(key, self._context.batching)
                self._intakes[key] = intake
                intake.put(record)
                self._ready.append(intake)
        if given_up:
            self._settle_covered(given_up)
        self._schedule()
        return bool(given_up)

    def _is_parked_before(self, record: Record) -> bool:
        """Tell whether a key was parked when the mapping had lanes, and so has to stay parked to keep its order."""
        key = lane_key(record, self._context.batching.batch_size)
        if not self._states.is_parked(key):
            return False
        self._states.park(key, record.position)
        return True

    def _settle_covered(self, records: Sequence[Record]) -> None:
        """Settle what was given up before a crash that lost its ack (design §3)."""
        context = self._context
        batch = Batch(mapping=context.mapping, source=context.source_reference, shard=self._shard, records=records)
        context.reporter.decided(batch, Decision((Run(0, len(records), SETTLE),)), None)
        self._books.done(len(records))
        self._release(records)

    def _update_pause(self) -> None:
        """Pause the source at the bound of the skew or of the bytes; resume it well below, not to do so each time."""
        count = len(self._window) + self._arrivals.count
        if not self._is_paused and (
            self._arrivals.is_barrier or count >= self._skew_max or self._size_bytes >= self._size_bytes_max
        ):
            self._is_paused = True
            self._context.source.pause(self._shard)
            self._relieve()
        elif self._is_paused and not (
            self._arrivals.is_barrier or count > self._skew_max // 2 or self._size_bytes > self._size_bytes_max // 2
        ):
            self._is_paused = False
            self._context.source.resume(self._shard)

    # -- lanes ---------------------------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        """Give lanes to keys that have records, while there are any."""
        if self._tasks is None or self._stopping.is_set():
            return
        lanes_max = 1 if self._is_probing else self._lanes_max
        while self._ready and len(self._lanes) < lanes_max:
            intake = self._ready.popleft()
            stopping = anyio.Event()
            # What was settled behind the shard's checkpoint comes again, in batches of its own.
            intake.serve(stopping, until=self._states.repeated_before(intake.key, intake.first))
            state = self._states.take_over(intake.key, intake.first)
            taken = TakenShard(shard=self._shard, epoch=self._epoch, checkpoint=intake.first, state=state)
            checkpoint = ShardCheckpoint(_LaneKeeper(self, intake), taken, stopping, self._context.own_marks)
            lane = Lane(
                self._context,
                self._shard,
                intake=intake,
                checkpoint=checkpoint,
                covered=self._lane_covered,
                books=self._books,
                stopping=stopping,
                is_first=self._is_probing,
            )
            self._lanes[intake.key] = lane
            self._tasks.start_soon(self._run_lane, intake, lane, checkpoint)

    async def _run_lane(self, intake: KeyIntake, lane: Lane, checkpoint: ShardCheckpoint) -> None:
        """Work through a key's records until none is left; then the lane is another key's."""
        key = intake.key
        try:
            await lane.run()
            if key in self._leaving and not self._stopping.is_set() and self._states.is_failing(key):
                await self._park(intake, lane)
        finally:
            if not self._is_abandoned:
                await checkpoint.unmark()
            self._leaving.discard(key)
            del self._lanes[key]
        if len(intake):
            self._ready.append(intake)
        else:
            del self._intakes[key]
        self._schedule()

    async def settle_lane(self, intake: KeyIntake, checkpoint: int, state: ShardState, *, is_urgent: bool) -> None:
        """Settle a key's records before a position and keep its failing work; see `StreamSource.settle`."""
        self._release(intake.settle(checkpoint))
        self._states.keep(intake.key, state, checkpoint)
        if self._is_probing and not state.marked:
            self._is_probing = False
            self._schedule()
        await self._write(is_urgent=is_urgent)
        self._relieve()
        self._update_pause()

    def _release(self, records: Sequence[Record]) -> None:
        """Let records go that are settled here."""
        self._window.settle([record.position for record in records])
        self._size_bytes -= sum([record.size_bytes for record in records])
        if self._arrivals.is_barrier and not len(self._window):
            self._arrivals.wake()

    async def _write(self, *, is_urgent: bool) -> None:
        """Tell the source how far all is settled, and what is kept of the lanes, if it does not know."""
        checkpoint = self._window.checkpoint
        wanted = checkpoint, self._states.compose(checkpoint)
        if not is_urgent and wanted == self._written:
            return
        # What was given up is forgotten with it: were it written later, a crash would have that invoked again.
        is_urgent = is_urgent or self._covered.reaches_below(checkpoint)
        await self._context.source.settle(self._shard, self._epoch, *wanted, is_urgent=is_urgent)
        self._written = wanted
        await self._covered.settle(checkpoint)

    # -- parking -------------------------------------------------------------------------------------------------------

    def _relieve(self) -> None:
        """Have a failing key parked that holds the others up: at the bound of the skew, or one too many."""
        if self._stopping.is_set() or self._is_hashed:
            # A lane of several keys blocks, as in Lambda: then the shard does, at the bound of the skew.
            return
        for key in self._relief.choose(self._can_leave, self._is_at_bound):
            if self._states.can_park:
                self._leaving.add(key)
                self._lanes[key].stop()

    def _can_leave(self, key: LaneKey) -> bool:
        """Tell whether a key has a lane that is not being parked already."""
        return key in self._lanes and key not in self._leaving

    def _is_at_bound(self, key: LaneKey) -> bool:
        """Tell whether a key keeps the shard at the bound of its skew."""
        return self._is_paused and self._intakes[key].first == self._window.checkpoint

    async def _park(self, intake: KeyIntake, lane: Lane) -> None:
        """Park the records of a key, and later ones of it.

        The state goes first: whoever takes the shard after a crash parks them too, and keeps their order.
        """
        state = self._states.take_over(intake.key, intake.first)
        self._states.park(intake.key, intake.first)
        await self._write(is_urgent=True)
        operations: Sequence[Operation] = ()
        if lane.failed is not None:
            head = state.parts[0]
            operations = self._context.settler.keep_parked(
                *lane.failed, attempts=head.attempt, first_failure_ms=head.first_failure_ms
            )
        for record in intake.take_all():
            self._parking.add(record, operations)
            operations = ()

    async def _on_parked(self, records: Sequence[Record]) -> None:
        """Settle at the source what is durable elsewhere."""
        self._books.done(len(records))
        self._context.reporter.parked(self._shard, records, self._parking.destination)
        self._release(records)
        await self._write(is_urgent=False)
        self._update_pause()


class _LaneKeeper:
    """Keeps the checkpoint of one lane: a part of its shard's."""

    def __init__(self, shard: LanedShard, intake: KeyIntake) -> None:
        self._laned = shard
        self._intake = intake
        self.capabilities: StreamCapabilities = shard.capabilities

    async def settle(self, shard: str, epoch: int, checkpoint: int, state: ShardState, *, is_urgent: bool) -> None:
        """Settle the lane's records before a position; see `StreamSource.settle`."""
        del shard, epoch
        await self._laned.settle_lane(self._intake, checkpoint, state, is_urgent=is_urgent)


def _blocked_at(lane: Lane) -> int:
    return lane.blocked.position if lane.blocked is not None else -1


def _position(blocked: Blocked) -> int:
    return blocked.position

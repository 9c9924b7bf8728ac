"""One shard of a stream, worked through by one lane (`engine/lane.py`): taken, stopped, lost, given up."""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from eventcore.delivery.decide import find_mark
from eventcore.delivery.ordering import EMPTY, ShardState
from eventcore.engine.batcher import RecordBuffer
from eventcore.engine.books import Books
from eventcore.engine.checkpoint import ShardCheckpoint
from eventcore.engine.filtering import Offered
from eventcore.engine.intake import ShardIntake
from eventcore.engine.lane import Lane
from eventcore.engine.left_window import give_up_window, without_window
from eventcore.engine.settler import Discarded
from eventcore.engine.shard_context import ShardContext
from eventcore.engine.status import ShardStatus
from eventcore.engine.windowed_lane import WindowedLane
from eventcore.engine.windows import ShardWindows, WindowBuffer, WindowIntake
from eventcore.errors import ShardLost
from eventcore.model import Record
from eventcore.ports.sources import LostRange, TakenShard


class ShardWorker:
    """Works through one owned shard. `run` ends after `stop`, `abort` or a lost shard; not reusable."""

    def __init__(self, context: ShardContext, taken: TakenShard, *, buffer_bytes_max: int) -> None:
        self._shard = taken.shard
        self._taken = taken
        self._context = context
        self._gate = context.gate
        self._reporter = context.reporter
        self._filter = context.filter
        self.finished = anyio.Event()
        self._books = Books(context.reporter, taken.shard)
        self._covered = context.settler.covered(taken.shard)
        self._is_abandoned = False
        self._scope = anyio.CancelScope()
        self._make_lane(context, taken, buffer_bytes_max)

    def _make_lane(self, context: ShardContext, taken: TakenShard, buffer_bytes_max: int) -> None:
        stopping = anyio.Event()
        self._intake: ShardIntake
        self._lane: Lane
        if context.window_length_s:
            windows = ShardWindows(context.window_length_s, find_mark(taken.state).window, context.clock)
            windowed = WindowBuffer(context.batching, windows, size_bytes_max=buffer_bytes_max)
            self._intake = intake = WindowIntake(context.source, taken.shard, windowed, windows)
            self._checkpoint = ShardCheckpoint(context.source, taken, stopping, context.own_marks, windows)
            self._lane = WindowedLane(
                context,
                taken.shard,
                intake=intake,
                checkpoint=self._checkpoint,
                covered=self._covered,
                books=self._books,
                stopping=stopping,
                windows=windows,
            )
            return
        buffer = RecordBuffer(context.batching, size_bytes_max=buffer_bytes_max)
        self._intake = ShardIntake(context.source, taken.shard, buffer)
        self._checkpoint = ShardCheckpoint(context.source, without_window(taken), stopping, context.own_marks)
        self._lane = Lane(
            context,
            taken.shard,
            intake=self._intake,
            checkpoint=self._checkpoint,
            covered=self._covered,
            books=self._books,
            stopping=stopping,
            is_first=True,
        )

    @property
    def running(self) -> int:
        """How many batches are with the function."""
        return int(self._lane.is_invoking)

    def status(self, lag: int) -> ShardStatus:
        """Return a snapshot.

        Args:
            lag: records behind the end; -1 unknown.
        """
        return ShardStatus(
            shard=self._shard,
            checkpoint=self._checkpoint.position,
            lag=lag,
            iterator_age_ms=self._reporter.counters.iterator_ages_ms.get(self._shard),
            pause=self._gate.find(self._shard),
            buffered=len(self._intake),
            blocked=self._lane.blocked,
        )

    # -- called by the mapping -----------------------------------------------------------------------------------------

    def offer(self, records: Sequence[Record], lost: LostRange | None) -> Offered:
        """Take records that the source returned; those that are settled already are dropped."""
        if records and records[0].position < self._checkpoint.position:
            records = [record for record in records if record.position >= self._checkpoint.position]
        matching = records if self._filter is None else self._filter.sort(records, self._shard).matching
        self._intake.offer(matching, lost)
        if self._filter is not None and records:
            self._intake.pass_to(records[-1].position + 1)
        self._books.open(len(matching))
        return Offered(len(records), len(records) - len(matching))

    def end(self) -> None:
        """Note that nothing more comes: an open window is closed when all that waits is settled."""
        self._intake.end()

    def limit(self, size_bytes_max: int) -> None:
        """Change how many bytes may wait."""
        self._intake.limit(size_bytes_max)

    def stop(self) -> None:
        """End after the batch that is being invoked; pending retries stay for the next owner."""
        self._lane.stop()

    def abort(self) -> None:
        """End now: the running invocation's environment is killed, its batch released."""
        self._lane.abort()

    def abandon(self) -> None:
        """End now, and write nothing: another owner has the shard."""
        self._is_abandoned = True
        self.stop()
        self._books.close()
        self._scope.cancel()

    async def skip(self, count: int) -> Sequence[Discarded]:
        """Give up the first records of the batch that holds up the shard; see `Lane.skip`."""
        return await self._lane.skip(count)

    @property
    def kept_by_seek(self) -> ShardState:
        """What of its state holds whatever its position is: nothing."""
        return EMPTY

    async def run(self, *, after: Sequence[anyio.Event] = ()) -> None:
        """Work until stopped.

        Args:
            after: each set when a worker that had this shard before has ended.

        Raises:
            StoreUnavailable, SourceUnavailable: what had to be written could not be; the mapping starts anew.
        """
        try:
            with self._scope:
                for each in after:
                    await each.wait()
                await self._covered.load(self._checkpoint.position)
                if not self._context.window_length_s:
                    await give_up_window(self._context, self._taken)
                await self._lane.run()
        except ShardLost:
            # The source tells the mapping too; nothing of this shard may be written any more.
            self._is_abandoned = True
        finally:
            if not self._is_abandoned:
                await self._checkpoint.unmark()
            self._books.close()
            self.finished.set()

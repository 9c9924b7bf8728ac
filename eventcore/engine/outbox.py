"""Hands results over to destinations outside the store, until each has taken them.

Rows are durable before the source is told (hop 7), kept in order per (destination, lane), retried without end, and
bounded: a mapping whose destination has no room stops pulling. A row may be handed over twice (a lost answer, a crash
between the hand-over and its mark); its key tells.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import groupby

import anyio

from eventcore import signals
from eventcore.clock import Clock
from eventcore.delivery.retry import backoff_ms
from eventcore.engine.status import DestinationStatus
from eventcore.errors import DestinationError, DestinationRefused, DestinationUnavailable
from eventcore.ids import IdFactory
from eventcore.ports.destinations import OUTBOX_BYTES_MAX, OUTBOX_ROWS_MAX, Destination
from eventcore.ports.store import MarkSent, Operation, OutboxRow, PostponeOutbox, PutOutbox, Store, Watch

#: Rows handed over in one go: enough to fill a producer's batch, few enough to repeat after a crash.
ROWS_PER_DELIVERY = 500
#: The first pause after a failed hand-over, and the longest, seconds.
PAUSE_FIRST_S = 0.5
PAUSE_MAX_S = 60.0
#: Far enough ahead that every row is due.
_ALWAYS_MS = 2**62


def _lane(row: OutboxRow) -> str:
    return row.lane


class _Pending:
    """What waits for one destination."""

    def __init__(self) -> None:
        self.rows = 0
        self.size_bytes = 0
        self.lanes: dict[str, int] = defaultdict(int)
        self.last_error = ""
        self.changed = anyio.Event()

    def add(self, row: OutboxRow) -> None:
        self.rows += 1
        self.size_bytes += len(row.payload)
        self.lanes[row.lane] += 1

    def remove(self, row: OutboxRow) -> None:
        self.rows -= 1
        self.size_bytes -= len(row.payload)
        self.lanes[row.lane] -= 1
        if not self.lanes[row.lane]:
            del self.lanes[row.lane]
        self.changed.set()
        self.changed = anyio.Event()

    @property
    def has_room(self) -> bool:
        return self.rows < OUTBOX_ROWS_MAX and self.size_bytes < OUTBOX_BYTES_MAX


class Outbox:
    """Serves every destination that is not on the store, one task each."""

    def __init__(self, store: Store, destinations: Mapping[str, Destination], clock: Clock, ids: IdFactory) -> None:
        self._store = store
        self._destinations = destinations
        self._clock = clock
        self._ids = ids
        self._pending = {reference: _Pending() for reference in destinations}

    async def load(self) -> None:
        """Learn what an earlier engine left; call once, before anything is added."""
        for reference, pending in self._pending.items():
            for row in await self._store.due_outbox(reference, now_ms=_ALWAYS_MS, count_max=OUTBOX_ROWS_MAX * 2):
                pending.add(row)

    async def run(self) -> None:
        """Hand rows over until cancelled."""
        async with anyio.create_task_group() as tasks:
            for reference, destination in self._destinations.items():
                tasks.start_soon(self._serve, reference, destination)

    def added(self, operations: Sequence[Operation], results: Sequence[object]) -> None:
        """Count the rows that a commit has added."""
        for operation, is_new in zip(operations, results, strict=True):
            if isinstance(operation, PutOutbox) and is_new:
                self._pending[operation.row.destination].add(operation.row)

    def has_room(self, destination: str) -> bool:
        """Tell whether another row may be added for a destination."""
        pending = self._pending.get(destination)
        return pending is None or pending.has_room

    async def wait_room(self, destination: str) -> None:
        """Wait until another row may be added for a destination."""
        pending = self._pending[destination]
        while not pending.has_room:
            await pending.changed.wait()

    async def wait_lane(self, destination: str, lane: str) -> None:
        """Wait until the destination has taken everything of a lane."""
        pending = self._pending.get(destination)
        while pending is not None and lane in pending.lanes:
            await pending.changed.wait()

    async def wait_idle(self) -> None:
        """Wait until every destination has taken everything."""
        for pending in self._pending.values():
            while pending.rows:
                await pending.changed.wait()

    def statistics(self) -> Sequence[DestinationStatus]:
        """Return what waits for each destination."""
        return [
            DestinationStatus(
                destination=reference, rows=entry.rows, size_bytes=entry.size_bytes, last_error=entry.last_error
            )
            for reference, entry in self._pending.items()
        ]

    async def _serve(self, reference: str, destination: Destination) -> None:
        pending = self._pending[reference]
        is_open = False
        async with self._store.watch("outbox") as watch:
            while True:
                rows = await self._store.due_outbox(reference, now_ms=self._clock.now_ms(), count_max=ROWS_PER_DELIVERY)
                if not rows:
                    await self._wait_for_rows(reference, watch)
                    continue
                try:
                    if not is_open:
                        await destination.open()
                        is_open = True
                except DestinationError as error:
                    await anyio.sleep(await self._postpone(rows[0], error))
                    continue
                # Sorting is stable: a lane's rows keep their order.
                for _, lane in groupby(sorted(rows, key=_lane), key=_lane):
                    pause_s = await self._deliver(destination, pending, list(lane))
                    if pause_s:
                        # The destination as a whole is away: trying the other lanes would only add to its load.
                        await anyio.sleep(pause_s)
                        break

    async def _wait_for_rows(self, reference: str, watch: Watch) -> None:
        next_ms = await self._store.next_outbox_ms(reference)
        pause_s = max(0.0, (next_ms - self._clock.now_ms()) / 1000) if next_ms else None
        with anyio.move_on_after(pause_s):
            await watch.wait()

    async def _deliver(self, destination: Destination, pending: _Pending, rows: list[OutboxRow]) -> float:
        """Hand over the rows of one lane; return for how many seconds to leave the destination alone."""
        await signals.reach("outbox.before_send")
        try:
            await destination.deliver(rows)
        except DestinationError as error:
            await self._mark(pending, rows[: error.taken_count])
            pause_s = await self._postpone(rows[error.taken_count], error)
            # One row that is refused says nothing of the others; a destination that is away does.
            return 0.0 if isinstance(error, DestinationRefused) else pause_s
        await signals.reach("outbox.after_send")
        await self._mark(pending, rows)
        pending.last_error = ""
        return 0.0

    async def _mark(self, pending: _Pending, rows: Sequence[OutboxRow]) -> None:
        """Take out rows that the destination has."""
        if not rows:
            return
        await self._store.commit([MarkSent(keys=tuple(row.key for row in rows), now_ms=self._clock.now_ms())])
        await signals.reach("outbox.after_mark")
        for row in rows:
            pending.remove(row)

    async def _postpone(self, row: OutboxRow, error: DestinationError) -> float:
        """Note a failed hand-over; return the pause until the next one, seconds."""
        pause_ms = backoff_ms(row.attempts + 1, self._ids.jitter(), first_s=PAUSE_FIRST_S, max_s=PAUSE_MAX_S)
        if isinstance(error, DestinationUnavailable) and error.retry_after_s is not None:
            pause_ms = int(error.retry_after_s * 1000)
        elif isinstance(error, DestinationRefused):
            pause_ms = int(PAUSE_MAX_S * 1000)
        self._pending[row.destination].last_error = str(error)
        due_ms = self._clock.now_ms() + pause_ms
        await self._store.commit([PostponeOutbox(key=row.key, due_ms=due_ms, error=str(error))])
        return pause_ms / 1000

"""Hands results over to destinations outside the store, until each has taken them.

Rows are durable before the source is told (hop 7), kept in order per (destination, lane), retried without end, and
bounded: a mapping whose destination has no room stops pulling. A row may be handed over twice (a lost answer, a crash
between the hand-over and its mark); its key tells.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import anyio

from eventcore import signals
from eventcore.clock import Clock
from eventcore.delivery.retry import backoff_ms
from eventcore.engine.status import DestinationStatus
from eventcore.engine.supervision import attempt, explain
from eventcore.errors import DestinationError, DestinationRefused, DestinationUnavailable, EventcoreError
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


class _Pending:
    """What waits for one destination: rows by key, so that none is counted twice."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[str, int]] = {}  #: key: lane and size
        self._lanes: Counter[str] = Counter()
        self.size_bytes = 0
        self.last_error = ""
        self.changed = anyio.Event()

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, lane: str) -> bool:
        return self._lanes[lane] > 0

    def add(self, row: OutboxRow) -> None:
        if row.key in self._rows:
            return
        self._rows[row.key] = (row.lane, len(row.payload))
        self._lanes[row.lane] += 1
        self.size_bytes += len(row.payload)

    def remove(self, row: OutboxRow) -> None:
        known = self._rows.pop(row.key, None)
        if known is None:
            return
        lane, size_bytes = known
        self.size_bytes -= size_bytes
        self._lanes[lane] -= 1
        if not self._lanes[lane]:
            del self._lanes[lane]
        self.changed.set()
        self.changed = anyio.Event()

    @property
    def has_room(self) -> bool:
        return len(self) < OUTBOX_ROWS_MAX and self.size_bytes < OUTBOX_BYTES_MAX


class Outbox:
    """Serves every destination that is not on the store, one task each; one that fails takes no other down."""

    def __init__(self, store: Store, destinations: Mapping[str, Destination], clock: Clock, ids: IdFactory) -> None:
        self._store = store
        self._destinations = destinations
        self._clock = clock
        self._ids = ids
        self._pending = {reference: _Pending() for reference in destinations}
        self._abandoned: list[DestinationStatus] = []

    async def load(self) -> None:
        """Learn what an earlier engine left; call once, before anything is added."""
        for reference, pending in self._pending.items():
            for row in await self._store.due_outbox(reference, now_ms=_ALWAYS_MS, count_max=OUTBOX_ROWS_MAX * 2):
                pending.add(row)
        self._abandoned = [
            DestinationStatus(
                destination=depth.destination,
                rows=depth.rows,
                size_bytes=depth.size_bytes,
                last_error="no mapping of this pipeline writes there any more: name it again, and it is served",
            )
            for depth in await self._store.outbox_depths()
            if depth.rows and depth.destination not in self._pending
        ]

    async def run(self) -> None:
        """Hand rows over until cancelled."""
        async with anyio.create_task_group() as tasks:
            for reference, destination in self._destinations.items():
                tasks.start_soon(self._keep_serving, reference, destination)

    # -- what others ask -----------------------------------------------------------------------------------------------

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
        while pending is not None and lane in pending:
            await pending.changed.wait()

    async def wait_idle(self) -> None:
        """Wait until every destination has taken everything."""
        for pending in self._pending.values():
            while len(pending):
                await pending.changed.wait()

    def statistics(self) -> Sequence[DestinationStatus]:
        """Return what waits for each destination."""
        served = [
            DestinationStatus(
                destination=reference, rows=len(entry), size_bytes=entry.size_bytes, last_error=entry.last_error
            )
            for reference, entry in self._pending.items()
        ]
        return [*served, *self._abandoned]

    # -- handing over --------------------------------------------------------------------------------------------------

    async def _keep_serving(self, reference: str, destination: Destination) -> None:
        """Serve a destination for good: a store that is away, or a connector's defect, is waited out."""
        failures = 0
        while True:
            error = await attempt(lambda: self._serve(reference, destination), f"destination {reference}")
            if error is None:
                return
            failures += 1
            self._pending[reference].last_error = explain(error)
            pause_ms = backoff_ms(failures, self._ids.jitter(), first_s=PAUSE_FIRST_S, max_s=PAUSE_MAX_S)
            await anyio.sleep(pause_ms / 1000)

    async def _serve(self, reference: str, destination: Destination) -> None:
        pending = self._pending[reference]
        is_open = False
        async with self._store.watch("outbox") as watch:
            while True:
                rows = await self._store.due_outbox(reference, now_ms=self._clock.now_ms(), count_max=ROWS_PER_DELIVERY)
                if not rows:
                    await self._wait_for_rows(reference, watch)
                    continue
                for row in rows:
                    # A commit that came too late for its settler is counted here.
                    pending.add(row)
                try:
                    if not is_open:
                        await destination.open()
                        is_open = True
                except DestinationError as error:
                    await anyio.sleep(await self._postpone(rows[0], error))
                    continue
                for lane in _lanes(rows):
                    if not await self._deliver(destination, pending, lane):
                        # It may be away as a whole: the other lanes come after a moment, this one after its own pause.
                        await anyio.sleep(PAUSE_FIRST_S)
                        break

    async def _wait_for_rows(self, reference: str, watch: Watch) -> None:
        next_ms = await self._store.next_outbox_ms(reference)
        pause_s = max(0.0, (next_ms - self._clock.now_ms()) / 1000) if next_ms else None
        with anyio.move_on_after(pause_s):
            await watch.wait()

    async def _deliver(self, destination: Destination, pending: _Pending, rows: list[OutboxRow]) -> bool:
        """Hand over the rows of one lane; False when the destination could not take them now."""
        await signals.reach("outbox.before_send")
        try:
            await destination.deliver(rows)
        except DestinationError as error:
            taken_count = min(error.taken_count, len(rows) - 1)
            await self._mark(pending, rows[:taken_count])
            await self._postpone(rows[taken_count], error)
            # One row that is refused says nothing of the others.
            return isinstance(error, DestinationRefused)
        await signals.reach("outbox.after_send")
        await self._mark(pending, rows)
        pending.last_error = ""
        return True

    async def _mark(self, pending: _Pending, rows: Sequence[OutboxRow]) -> None:
        """Take out rows that the destination has."""
        if not rows:
            return
        await self._store.commit([MarkSent(keys=tuple(row.key for row in rows), now_ms=self._clock.now_ms())])
        await signals.reach("outbox.after_mark")
        for row in rows:
            pending.remove(row)

    async def _postpone(self, row: OutboxRow, error: EventcoreError) -> float:
        """Note a failed hand-over; return the pause until the row's next one, seconds."""
        pause_s = backoff_ms(row.attempts + 1, self._ids.jitter(), first_s=PAUSE_FIRST_S, max_s=PAUSE_MAX_S) / 1000
        if isinstance(error, DestinationUnavailable) and error.retry_after_s is not None:
            pause_s = max(error.retry_after_s, PAUSE_FIRST_S)
        elif isinstance(error, DestinationRefused):
            pause_s = PAUSE_MAX_S
        self._pending[row.destination].last_error = str(error)
        due_ms = self._clock.now_ms() + int(pause_s * 1000)
        await self._store.commit([PostponeOutbox(key=row.key, due_ms=due_ms, error=str(error))])
        return pause_s


def _lanes(rows: Sequence[OutboxRow]) -> list[list[OutboxRow]]:
    """Return the rows by lane, each lane in order; the lane whose head failed least comes first, so none starves."""
    lanes: dict[str, list[OutboxRow]] = {}
    for row in rows:
        lanes.setdefault(row.lane, []).append(row)
    return sorted(lanes.values(), key=lambda lane: (lane[0].attempts, lane[0].number))

"""The outbox in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from eventcore.ports import store as port
from eventcore.ports.store import OutboxDepth, OutboxRow
from eventcore.store.memory.tokens import Tokens
from eventcore.store.rules import FOREVER_MS, TOKEN_KEPT_MS, due_rows, outbox_size_bytes
from eventcore.store.watches import OUTBOX_TOPIC


class _Destination:
    """What waits for one destination: rows by number, in each of its lanes."""

    def __init__(self) -> None:
        self.lanes: dict[str, dict[int, OutboxRow]] = {}
        self.rows = 0
        self.size_bytes = 0
        self.last_error = ""

    @property
    def heads(self) -> list[OutboxRow]:
        return [next(iter(lane.values())) for lane in self.lanes.values()]


class MemoryOutbox:
    """Every row that waits."""

    def __init__(self, tokens: Tokens, wake: Callable[[str], None]) -> None:
        self._destinations: dict[str, _Destination] = {}
        self._by_key: dict[str, OutboxRow] = {}
        self._number = 0
        self._tokens = tokens
        self._wake = wake

    # -- writes --------------------------------------------------------------------------------------------------------

    def put(self, operation: port.PutOutbox) -> bool:
        """Carry out `PutOutbox`."""
        row = operation.row
        if not self._tokens.take(OUTBOX_TOPIC, row.key, now_ms=row.created_ms, forget_ms=FOREVER_MS):
            return False
        self._number += 1
        destination = self._destinations.setdefault(row.destination, _Destination())
        destination.rows += 1
        destination.size_bytes += outbox_size_bytes(row)
        self._store(msgspec.structs.replace(row, number=self._number))
        return True

    def mark_sent(self, operation: port.MarkSent) -> None:
        """Carry out `MarkSent`."""
        for key in operation.keys:
            row = self._by_key.pop(key, None)
            if row is None:
                continue
            self._tokens.keep(OUTBOX_TOPIC, key, operation.now_ms + TOKEN_KEPT_MS)
            destination = self._destinations[row.destination]
            destination.rows -= 1
            destination.size_bytes -= outbox_size_bytes(row)
            destination.last_error = ""
            lane = destination.lanes[row.lane]
            del lane[row.number]
            if not lane:
                del destination.lanes[row.lane]
            if not destination.rows:
                del self._destinations[row.destination]
        self._wake(OUTBOX_TOPIC)

    def postpone(self, operation: port.PostponeOutbox) -> None:
        """Carry out `PostponeOutbox`."""
        row = self._by_key.get(operation.key)
        if row is None:
            return
        self._destinations[row.destination].last_error = operation.error
        self._store(
            msgspec.structs.replace(row, attempts=row.attempts + 1, due_ms=operation.due_ms, last_error=operation.error)
        )

    def _store(self, row: OutboxRow) -> None:
        self._by_key[row.key] = row
        self._destinations[row.destination].lanes.setdefault(row.lane, {})[row.number] = row
        self._wake(OUTBOX_TOPIC)

    # -- reads ---------------------------------------------------------------------------------------------------------

    def due(self, name: str, *, now_ms: int, count_max: int) -> Sequence[OutboxRow]:
        """Return a destination's rows that may be handed over now; see `Store.due_outbox`."""
        destination = self._destinations.get(name)
        if destination is None:
            return []
        lanes = [((row.number, row.due_ms, row) for row in lane.values()) for lane in destination.lanes.values()]
        return due_rows(lanes, now_ms=now_ms, count_max=count_max)

    def next_ms(self, name: str) -> int:
        """Return when a destination's next row becomes due; 0 when none waits."""
        destination = self._destinations.get(name)
        return max(1, min(row.due_ms for row in destination.heads)) if destination else 0

    def depths(self) -> Sequence[OutboxDepth]:
        """Return what waits, by destination."""
        return [
            OutboxDepth(
                destination=name,
                rows=destination.rows,
                size_bytes=destination.size_bytes,
                oldest_ms=min(destination.heads, key=lambda row: row.number).created_ms,
                last_error=destination.last_error,
            )
            for name, destination in sorted(self._destinations.items())
        ]

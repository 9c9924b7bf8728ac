"""A heap from which any entry can be taken out, in constant time."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Generic, TypeVar

Entry = TypeVar("Entry", int, tuple[int, int])

#: Entries that are gone may stay in the heap up to this number, and up to as many as are live: rebuilding costs as
#: much as the pushes since the last time.
GONE_MAX = 64


class LazyHeap(Generic[Entry]):
    """Distinct entries, smallest first. Taking one out of the middle only marks it; the heap is rebuilt in time."""

    def __init__(self) -> None:
        self._heap: list[Entry] = []
        self._live: set[Entry] = set()

    def __len__(self) -> int:
        return len(self._live)

    def __contains__(self, entry: Entry) -> bool:
        return entry in self._live

    def push(self, entry: Entry) -> None:
        """Add an entry that is not in it."""
        self._live.add(entry)
        heapq.heappush(self._heap, entry)

    def discard(self, entry: Entry) -> None:
        """Take an entry out, wherever it stands."""
        self._live.discard(entry)
        if len(self._heap) > 2 * len(self._live) + GONE_MAX:
            self._heap = sorted(self._live)

    def first(self) -> Entry | None:
        """Return the smallest entry; None when there is none."""
        while self._heap:
            if self._heap[0] in self._live:
                return self._heap[0]
            heapq.heappop(self._heap)
        return None

    def ascending(self) -> Iterator[Entry]:
        """Yield the entries, smallest first, at a cost for each that is asked for; none may come or go meanwhile."""
        reached = [(self._heap[0], 0)] if self._heap else []
        last: Entry | None = None
        while reached:
            entry, place = heapq.heappop(reached)
            for below in (2 * place + 1, 2 * place + 2):
                if below < len(self._heap):
                    heapq.heappush(reached, (self._heap[below], below))
            if entry in self._live and entry != last:  # one that came back stands there twice
                last = entry
                yield entry

    def pop(self) -> Entry | None:
        """Take the smallest entry out and return it; None when there is none."""
        entry = self.first()
        if entry is not None:
            heapq.heappop(self._heap)
            self._live.remove(entry)
        return entry

    def clear(self) -> None:
        """Take every entry out."""
        self._heap.clear()
        self._live.clear()

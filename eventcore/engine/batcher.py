"""Hop 3: records wait here until they make a batch; one buffer a shard, or one for a queue.

A batch is cut by count, by bytes or by the window, whichever comes first (Lambda semantics §3.1, §4); and when the
buffer holds as much as it may, so that its bound never keeps a batch waiting.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import anyio

from eventcore.delivery.batching import BatchPolicy, cut
from eventcore.loop import loop_time
from eventcore.model import Record

#: What a mapping buffers beyond the batches it works on, bytes: a few full fetches of a few shards.
BUFFER_BYTES_MAX = 64 * 1024 * 1024
#: The least that one shard may buffer, however many shards there are, bytes: one fetch of one partition.
SHARD_BYTES_MIN = 1024 * 1024
#: Batches that a shard reads ahead: the next one is ready when one is done.
BATCHES_AHEAD = 2
#: The least number of records that a shard reads ahead: small batches must not mean small fetches.
RECORDS_AHEAD_MIN = 500


def records_ahead_max(batch_size: int) -> int:
    """Return how many records a shard may buffer."""
    return max(batch_size * BATCHES_AHEAD, RECORDS_AHEAD_MIN)


class RecordBuffer:
    """Records of one shard, or of a queue, in order.

    One task waits to take, another one puts; others may take what is ready. `close` ends all waiting: `take` then
    returns nothing.
    """

    def __init__(self, policy: BatchPolicy, *, size_bytes_max: int = BUFFER_BYTES_MAX) -> None:
        self._policy = policy
        self._count_max = records_ahead_max(policy.batch_size)
        self._size_bytes_max = size_bytes_max
        # A list: few wait, and what is taken in front is a slice, not a step for each.
        self._records: list[Record] = []
        self._size_bytes = 0
        #: When records were put, and how many of them wait: the window of a batch begins with its oldest record.
        self._arrivals: deque[list[float]] = deque()
        self._changed = anyio.Event()
        self._is_closed = False
        self._is_interrupted = False

    def __len__(self) -> int:
        return len(self._records)

    @property
    def first(self) -> Record:
        """The record that has waited for longest; there must be one."""
        return self._records[0]

    @property
    def size_bytes(self) -> int:
        """Bytes that wait."""
        return self._size_bytes

    @property
    def is_full(self) -> bool:
        """Whether no more should be put."""
        return len(self._records) >= self._count_max or self._size_bytes >= self._size_bytes_max

    def limit(self, size_bytes_max: int) -> None:
        """Change how many bytes may wait."""
        self._size_bytes_max = size_bytes_max

    def put(self, records: Sequence[Record]) -> None:
        """Add records behind the others; never waits: the bound is kept by pausing the source."""
        if not records:
            return
        self._arrivals.append([loop_time(), len(records)])
        self._records.extend(records)
        self._size_bytes += sum([record.size_bytes for record in records])
        self._wake()

    def give_back(self, records: Sequence[Record]) -> None:
        """Put records that were taken back in front."""
        if not records:
            return
        self._arrivals.appendleft([loop_time(), len(records)])
        self._records[:0] = records
        self._size_bytes += sum([record.size_bytes for record in records])
        self._wake()

    def interrupt(self) -> None:
        """Let the `take` that waits, or else the next one, return nothing once."""
        self._is_interrupted = True
        self._wake()

    def close(self) -> None:
        """Let every `take` return nothing, now and later."""
        self._is_closed = True
        self._wake()

    async def take(self) -> Sequence[Record]:
        """Wait for a batch and take it; empty when closed or interrupted. Cancelled, it takes nothing."""
        while not self._is_over():
            pause_s: float | None = None
            if self._records:
                count, pause_s = self._find_batch()
                if count:
                    return self._pop(count)
            await self._wait(pause_s)
        return ()

    def take_ready(self) -> Sequence[Record]:
        """Take a batch that is ready now; empty when none is, or when closed. For another task than that which takes.

        An interruption is left to that one.
        """
        if not self._records or self._is_closed or self._is_interrupted:
            return ()
        count, _ = self._find_batch()
        return self._pop(count) if count else ()

    def take_everything(self) -> Sequence[Record]:
        """Take all that waits."""
        return self._pop(len(self._records)) if self._records else ()

    async def take_through(self, last: int, *, patience_s: float) -> Sequence[Record] | None:
        """Wait for the records up to position ``last`` and take them; empty when closed or interrupted.

        None when later ones are there and none of them: they are gone.

        A compacted or expired record never comes: when nothing arrives for ``patience_s``, or no more may, what is
        there is taken.
        """
        while not self._is_over():
            if self._records and self._records[0].position > last:
                return None
            if self._records and (self._records[-1].position >= last or self.is_full):
                return self._pop(sum(1 for record in self._records if record.position <= last))
            waiting = len(self._records)
            await self._wait(patience_s)
            if waiting and waiting == len(self._records) and not (self._is_closed or self._is_interrupted):
                return self._pop(waiting)
        return ()

    def _find_batch(self) -> tuple[int, float]:
        """Return how many of the records that wait make a batch now, or 0 and for how long its window is still open."""
        count, is_full = cut(self._records, self._policy, self._size_bytes)
        if is_full:
            return count, 0.0
        pause_s = self._arrivals[0][0] + self._policy.window_s - loop_time()
        return (count, 0.0) if pause_s <= 0 or self.is_full else (0, pause_s)

    def _is_over(self) -> bool:
        """Tell whether a `take` is to return nothing."""
        is_interrupted, self._is_interrupted = self._is_interrupted, False
        return self._is_closed or is_interrupted

    def _pop(self, count: int) -> Sequence[Record]:
        if count == len(self._records):
            taken, self._records = self._records, []
            self._arrivals.clear()
            self._size_bytes = 0
            return taken
        taken = self._records[:count]
        del self._records[:count]
        self._size_bytes -= sum([record.size_bytes for record in taken])
        self._forget_arrivals(count)
        return taken

    def _forget_arrivals(self, count: int) -> None:
        while count:
            oldest = self._arrivals[0]
            if oldest[1] > count:
                oldest[1] -= count
                return
            count -= int(oldest[1])
            self._arrivals.popleft()

    async def _wait(self, pause_s: float | None) -> None:
        if self._changed.is_set():
            self._changed = anyio.Event()
        if pause_s is None:
            await self._changed.wait()
            return
        with anyio.move_on_after(pause_s):
            await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()

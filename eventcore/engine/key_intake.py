"""Hop 3, for one key of a shard with lanes: its records, and which of them were handed out and are not settled."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice

import anyio

from eventcore.delivery.batching import BatchPolicy, cut
from eventcore.delivery.lanes import LaneKey
from eventcore.delivery.ordering import ShardState
from eventcore.loop import loop_time
from eventcore.model import Record
from eventcore.ports.sources import LostRange


class KeyIntake:
    """Records of one key on their way into batches. A lane that has emptied it ends; a later one may go on."""

    def __init__(self, key: LaneKey, policy: BatchPolicy) -> None:
        self.key = key
        self._policy = policy
        self._records: deque[Record] = deque()
        self._handed_out: deque[Record] = deque()
        self._since_s = 0.0  #: when the first of the records came
        self._changed = anyio.Event()
        self._stopping = anyio.Event()
        self._until: int | None = None

    def __len__(self) -> int:
        """Return how many records wait."""
        return len(self._records)

    @property
    def is_source_next(self) -> bool:
        """Never: while this key has none, others may."""
        return False

    @property
    def first(self) -> int:
        """The first position that is not settled; -1 without one."""
        if self._handed_out:
            return self._handed_out[0].position
        return self._records[0].position if self._records else -1

    def serve(self, stopping: anyio.Event, *, until: int | None = None) -> None:
        """Begin to hand out batches to a lane.

        Args:
            stopping: of the lane; set here when nothing is left.
            until: position at which nothing is left for this lane, and a later one goes on.
        """
        self._stopping = stopping
        self._until = until

    def put(self, record: Record) -> None:
        """Add a record behind the others."""
        if not self._records:
            self._since_s = loop_time()
        self._records.append(record)
        if self._policy.window_s:
            self._changed.set()

    def close(self) -> None:
        """Let every `take` of this lane return nothing."""
        self._stopping.set()
        self._changed.set()

    def take_all(self) -> list[Record]:
        """Take what waits: the key is parked."""
        records = list(self._records)
        self._records.clear()
        return records

    def settle(self, checkpoint: int) -> list[Record]:
        """Return the records before a checkpoint that were handed out, and forget them."""
        settled: list[Record] = []
        while self._handed_out and self._handed_out[0].position < checkpoint:
            settled.append(self._handed_out.popleft())
        return settled

    def reach(self, checkpoint: int) -> int:
        """Return the checkpoint: how far that of the shard may go, the shard knows."""
        return checkpoint

    # -- what the lane asks --------------------------------------------------------------------------------------------

    @property
    def barrier(self) -> LostRange | None:
        """None: lost ranges are told by the shard, once all of its lanes are empty."""
        return None

    def pass_barrier(self) -> None:
        """Do nothing: there is no barrier."""

    def give_back(self, records: Sequence[Record]) -> None:
        """Put records that were taken back in front."""
        for record in reversed(records):
            self._records.appendleft(record)
            self._handed_out.pop()

    async def take(self, state: ShardState) -> Sequence[Record] | None:
        """Take what is tried next: the first part of the state, or a new batch; the window is waited for.

        Empty when closed, and at the end of the key's records, which closes it; None when every record of the part is
        gone.
        """
        if state.parts:
            last = state.parts[0].last
            count = sum(1 for record in self._records if record.position <= last)
            return self._pop(count) if count else None
        while not self._stopping.is_set():
            count, is_full = self._cut()
            if not count:
                self._stopping.set()
                break
            pause_s = self._since_s + self._policy.window_s - loop_time()
            if is_full or pause_s <= 0:
                return self._pop(count)
            self._changed = anyio.Event()
            with anyio.move_on_after(pause_s):
                await self._changed.wait()
        return ()

    def _cut(self) -> tuple[int, bool]:
        """Return how many records the next batch has, and whether it waits for no other; 0 when none is left."""
        until = self._until
        if until is None or not self._records or self._records[-1].position < until:
            return cut(self._records, self._policy) if self._records else (0, False)
        before = [record for record in islice(self._records, self._policy.batch_size) if record.position < until]
        return (cut(before, self._policy)[0], True) if before else (0, False)

    def _pop(self, count: int) -> Sequence[Record]:
        taken = list(islice(self._records, count))
        for _ in range(count):
            self._records.popleft()
        self._handed_out.extend(taken)
        return taken

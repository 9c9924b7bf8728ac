"""Hop 3, for one shard: its buffer, when its source is paused, and what must wait for a lost range to be told."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

from eventcore.delivery.ordering import ShardState, Window
from eventcore.engine.batcher import RecordBuffer
from eventcore.model import Record
from eventcore.ports.sources import LostRange, StreamSource

#: A part of a batch that was tried before is looked for this long after its last record came, seconds: records that
#: compaction or retention took meanwhile never come.
PART_PATIENCE_S = 5.0


class Intake(Protocol):
    """Where a lane's batches come from."""

    def __len__(self) -> int:
        """Return how many records wait."""
        ...

    @property
    def is_source_next(self) -> bool:
        """Whether the shard has no record until its source brings more."""
        ...

    @property
    def barrier(self) -> LostRange | Window | None:
        """What is to be done before the next records: a lost range is told, a tumbling window closed."""
        ...

    def pass_barrier(self) -> None:
        """Hand out what came behind a lost range."""
        ...

    async def take(self, state: ShardState) -> Sequence[Record] | None:
        """Wait for what is tried next and take it: the first part of the state, or a new batch.

        Empty when closed, and when a barrier has to be passed first; None when every record of the part is gone.
        """
        ...

    def give_back(self, records: Sequence[Record]) -> None:
        """Put records that were taken back in front."""
        ...

    def reach(self, checkpoint: int) -> int:
        """Return how far a checkpoint may go: over records that no filter has let in, to the first that waits."""
        ...

    def close(self) -> None:
        """Let every `take` return nothing, now and later."""
        ...


class ShardIntake:
    """Records of one shard on their way into batches.

    A range that the source lost is a barrier: what came before it is settled first, then the range is told
    (`barrier`, `pass_barrier`), then what came after it is handed out. So the checkpoint never passes an unsettled
    record.
    """

    def __init__(self, source: StreamSource, shard: str, buffer: RecordBuffer) -> None:
        self._source = source
        self._shard = shard
        self._buffer = buffer
        self._behind: deque[tuple[LostRange, list[Record]]] = deque()
        self._is_paused = False
        self._is_filtered = False
        self._end = -1  #: behind what was offered last, whether a filter has let it in or not

    def __len__(self) -> int:
        """Return how many records wait."""
        return len(self._buffer) + sum(len(records) for _, records in self._behind)

    @property
    def is_source_next(self) -> bool:
        """Whether the shard has no record until its source brings more."""
        return not len(self)

    def limit(self, size_bytes_max: int) -> None:
        """Change how many bytes may wait."""
        self._buffer.limit(size_bytes_max)

    def close(self) -> None:
        """Let every `take` return nothing, now and later."""
        self._buffer.close()

    def end(self) -> None:
        """Note that nothing more is offered."""

    def pass_to(self, end: int) -> None:
        """Note that no record before a position is to be expected but those that were offered."""
        self._is_filtered, self._end = True, end
        if not len(self):
            # The lane may be waiting for a first record, and has a checkpoint to move.
            self._buffer.interrupt()

    def reach(self, checkpoint: int) -> int:
        """Return how far a checkpoint may go: over records that no filter has let in, to the first that waits."""
        if not self._is_filtered or self._behind:
            return checkpoint
        return self._buffer.first.position if len(self._buffer) else max(checkpoint, self._end)

    def offer(self, records: Sequence[Record], lost: LostRange | None) -> None:
        """Take what the source returned, in order; pauses it when there is no room for more."""
        if lost is not None:
            self._behind.append((lost, list(records)))
            self._buffer.interrupt()
        elif self._behind:
            self._behind[-1][1].extend(records)
        else:
            self._buffer.put(records)
        if (self._behind or self._buffer.is_full) and not self._is_paused:
            self._is_paused = True
            self._source.pause(self._shard)

    def give_back(self, records: Sequence[Record]) -> None:
        """Put records that were taken back in front."""
        self._buffer.give_back(records)

    @property
    def barrier(self) -> LostRange | Window | None:
        """The lost range that is to be told now: nothing in front of it waits any more."""
        return self._behind[0][0] if self._behind and not len(self._buffer) else None

    def pass_barrier(self) -> None:
        """Hand out what came behind the barrier."""
        _, records = self._behind.popleft()
        self._buffer.put(records)

    async def take(self, state: ShardState) -> Sequence[Record] | None:
        """Wait for what is tried next and take it: the first part of the state, or a new batch.

        Empty when closed, and when a barrier has to be passed first; None when every record of the part is gone.
        """
        if self._is_paused and not self._behind and not self._buffer.is_full:
            # Before waiting: a batch that waits for its window must be able to fill.
            self._is_paused = False
            self._source.resume(self._shard)
        if state.parts:
            return await self._buffer.take_through(state.parts[0].last, patience_s=PART_PATIENCE_S)
        return await self._buffer.take()

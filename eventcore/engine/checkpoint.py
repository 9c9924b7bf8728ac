"""The checkpoint of one owned shard, and what is kept with it; the ack of hop 7 for streams."""

from __future__ import annotations

from contextlib import suppress
from typing import Protocol

import anyio
import msgspec

from eventcore import signals
from eventcore.delivery.decide import find_mark
from eventcore.delivery.ordering import ShardState
from eventcore.engine.own_marks import OwnMarks
from eventcore.engine.windows import ShardWindows
from eventcore.errors import SourceError, SourceUnavailable
from eventcore.loop import loop_time
from eventcore.ports.sources import StreamCapabilities, TakenShard

#: The pause before a checkpoint is written again to a source that was away, seconds.
WRITE_RETRY_S = 1.0
#: A source outside may be away for so long while a checkpoint waits, seconds: a broker restarts in less. Past it the
#: mapping shows the problem, and starts anew.
WRITE_PATIENCE_S = 30.0
#: Taking back the mark of a batch whose settling failed may take so long, seconds.
UNMARK_GRACE_S = 5.0


class Keeper(Protocol):
    """What keeps a checkpoint: a source, or a shard that has many lanes."""

    capabilities: StreamCapabilities

    async def settle(self, shard: str, epoch: int, checkpoint: int, state: ShardState, *, is_urgent: bool) -> None:
        """Move the checkpoint and keep the failing work; see `StreamSource.settle`."""
        ...


class ShardCheckpoint:
    """Writes the progress and failing work of a shard, or of one lane of it, to what keeps it."""

    def __init__(
        self,
        source: Keeper,
        taken: TakenShard,
        stopping: anyio.Event,
        own_marks: OwnMarks,
        windows: ShardWindows | None = None,
    ) -> None:
        """Begin where the owner before ended.

        Args:
            source: what keeps it.
            taken: the shard as it was taken.
            stopping: ends the patience with a source that is away.
            own_marks: remembers those that are written.
            windows: of the shard; the open one is written with every checkpoint. None without any.
        """
        self._source = source
        self._shard = taken.shard
        self.epoch = taken.epoch
        self._stopping = stopping
        self._own_marks = own_marks
        self._windows = windows
        self.position = taken.checkpoint
        #: What the source keeps of the failing work, as far as we wrote it. The mark that the owner before left is
        #: counted here, and stays there until we write: whoever comes before that has to find it too.
        self.kept = find_mark(taken.state)

    async def write(self, position: int, state: ShardState, *, is_urgent: bool) -> None:
        """Tell the source; one outside that is away is asked again for `WRITE_PATIENCE_S`.

        Raises:
            ShardLost: another owner has the shard.
            SourceUnavailable: it stayed away, or the shard is being stopped.
        """
        give_up_s = loop_time() + (0 if self._source.capabilities.is_settle_durable else WRITE_PATIENCE_S)
        if self._windows is not None:
            state = msgspec.structs.replace(state, window=self._windows.current)
        # Noted first: a write that fails may have been made all the same, and a mark must then be taken back.
        # A mark claims nothing: all before its batch is settled, also where nothing ever was.
        if state.marked:
            self.kept, self.position = state, position
            self._own_marks.note(state)
        await signals.reach("settler.before_ack")
        while True:
            try:
                await self._source.settle(self._shard, self.epoch, position, state, is_urgent=is_urgent)
                break
            except SourceUnavailable as error:
                if self._stopping.is_set() or loop_time() >= give_up_s:
                    raise
                with anyio.move_on_after(error.retry_after_s or WRITE_RETRY_S):
                    await self._stopping.wait()
        await signals.reach("settler.after_ack")
        if self.kept.marked and not state.marked:
            self._own_marks.forget(self.kept)
        self.position = position
        self.kept = state

    async def mark(self, position: int, state: ShardState) -> None:
        """Note that a batch is being invoked: found by the next owner, it means that the engine died in it."""
        await self.write(position, msgspec.structs.replace(state, marked=True), is_urgent=True)

    async def unmark(self) -> None:
        """Take a mark back: the engine is alive, and a later owner must not take it for its death. Never raises."""
        if not self.kept.marked:
            return
        self.kept = msgspec.structs.replace(self.kept, marked=False)
        with anyio.move_on_after(UNMARK_GRACE_S, shield=True), suppress(SourceError):
            await self._source.settle(self._shard, self.epoch, self.position, self.kept, is_urgent=True)

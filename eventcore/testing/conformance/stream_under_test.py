"""What the kit for streams needs of an implementation, and what drives its sources."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

import anyio

from eventcore.delivery.ordering import EMPTY, ShardState
from eventcore.model import Record
from eventcore.ports.connectors import StartingPosition
from eventcore.ports.sources import LostRange, StreamSource, TakenShard

#: Whatever a test waits for has happened by then, seconds: ten times what a rebalance on a busy machine takes.
HAPPENS_WITHIN_S = 30.0
#: One receive of the reader, seconds: short, so that a test that has seen enough ends soon.
RECEIVE_WAIT_S = 0.5

TRIM_HORIZON = StartingPosition("TRIM_HORIZON")


class StreamUnderTest(Protocol):
    """One stream, made for one test, and the sources that read it."""

    #: Names of the stream's shards, as the source gives them: at least two.
    shards: Sequence[str]

    def source(self, *, mapping: str = "first", starting_position: StartingPosition = TRIM_HORIZON) -> StreamSource:
        """Return a new source for a mapping, not opened. Sources of one mapping share its checkpoints."""
        ...

    def missing_source(self) -> tuple[StreamSource, Sequence[str]]:
        """Return a source of a stream that does not exist, and the words that its error must contain."""
        ...

    async def send(
        self,
        shard: str,
        bodies: Sequence[bytes],
        *,
        key: bytes | None = None,
        headers: tuple[tuple[str, bytes], ...] = (),
    ) -> Sequence[int]:
        """Append records to one shard, and return their positions."""
        ...

    async def checkpoint(self, shard: str, *, mapping: str = "first") -> tuple[int, ShardState]:
        """Return what the next owner would find, read past the source: (-1, EMPTY) when nothing was ever settled."""
        ...

    async def pass_time(self, ms: int) -> None:
        """Let the stream's wall time pass: records sent later arrive later."""
        ...

    async def trim(self, shard: str, before: int) -> None:
        """Drop the records of a shard before a position, as retention would."""
        ...

    async def restart(self) -> None:
        """Restart what holds the stream; asked for where `StreamCapabilities.survives_restart` is claimed."""
        ...


class Reader:
    """Drives a source as an engine does, and notes what it is told; settles nothing by itself."""

    def __init__(self, source: StreamSource) -> None:
        self.source = source
        self.taken: dict[str, TakenShard] = {}  #: shards owned now
        self.history: list[tuple[str, str]] = []  #: ("taken" | "revoked" | "lost", shard), in order
        self.records: dict[str, list[Record]] = {}  #: by shard, since the reader began
        self.lost: list[LostRange] = []
        self.settles_on_revoke = False
        self._changed = anyio.Event()

    # -- ShardListener -------------------------------------------------------------------------------------------------

    async def on_taken(self, shards: Sequence[TakenShard]) -> None:
        """Note shards that are owned."""
        for taken in shards:
            self.taken[taken.shard] = taken
            self.history.append(("taken", taken.shard))
        self._notify()

    async def on_revoked(self, shards: Sequence[str], *, why: str = "") -> None:
        """Settle all that was received of shards, if told to, and let them go."""
        del why
        for shard in shards:
            if self.settles_on_revoke and self.records.get(shard):
                await self.settle(shard, self.records[shard][-1].position + 1)
        self._drop("revoked", shards)

    async def on_lost(self, shards: Sequence[str]) -> None:
        """Let shards go."""
        self._drop("lost", shards)

    def _drop(self, how: str, shards: Sequence[str]) -> None:
        for shard in shards:
            self.taken.pop(shard, None)
            self.history.append((how, shard))
        self._notify()

    # -- what tests do -------------------------------------------------------------------------------------------------

    async def receive(self, wait_s: float = RECEIVE_WAIT_S) -> int:
        """Receive once and note what came; return how many records it was."""
        count = 0
        for received in await self.source.receive(wait_s=wait_s):
            assert received.shard in self.taken, "records of a shard that is not ours"
            if received.lost is not None:
                self.lost.append(received.lost)
            self.records.setdefault(received.shard, []).extend(received.records)
            count += len(received.records)
        self._notify()
        return count

    async def receive_until(self, condition: Callable[[], bool]) -> None:
        """Receive again and again until something has happened; for readers that nobody runs."""
        with anyio.fail_after(HAPPENS_WITHIN_S):
            while not condition():
                await self.receive()

    async def run(self) -> None:
        """Receive until cancelled, or until the source raises."""
        while True:
            await self.receive()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that the reader is told."""
        with anyio.fail_after(HAPPENS_WITHIN_S):
            while not condition():
                await self._changed.wait()

    async def settle(self, shard: str, checkpoint: int, state: ShardState = EMPTY, *, is_urgent: bool = False) -> None:
        """Settle as the shard's owner."""
        await self.source.settle(shard, self.taken[shard].epoch, checkpoint, state, is_urgent=is_urgent)

    async def seek(self, shard: str, position: int, state: ShardState = EMPTY) -> int:
        """Move a shard as its owner; return how many of its records had come by then."""
        taken = await self.source.seek(shard, position, state)
        assert taken is not None, "an owned shard is taken again"
        self.taken[shard] = taken
        return len(self.positions(shard))

    def bodies(self, shard: str) -> list[bytes | None]:
        """Return the bodies received of a shard."""
        return [record.body for record in self.records.get(shard, ())]

    def positions(self, shard: str) -> list[int]:
        """Return the positions received of a shard."""
        return [record.position for record in self.records.get(shard, ())]

    def owns(self, shards: Sequence[str]) -> bool:
        """Tell whether exactly these shards are owned."""
        return set(self.taken) == set(shards)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


@asynccontextmanager
async def reading(source: StreamSource) -> AsyncIterator[Reader]:
    """Open a source, receive in the background, and close it at the end."""
    async with opened(source) as reader, anyio.create_task_group() as tasks:
        tasks.start_soon(reader.run)
        yield reader
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def opened(source: StreamSource, reader: Reader | None = None) -> AsyncIterator[Reader]:
    """Open a source for a test that receives by itself, and close it at the end."""
    reader = reader or Reader(source)
    await source.open(reader)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(source.write_behind)
            yield reader
            tasks.cancel_scope.cancel()
    finally:
        with anyio.move_on_after(HAPPENS_WITHIN_S, shield=True):
            await source.aclose()

"""The embedded stream: a stream of the store, read as a `StreamSource`.

Invariant: a position is handed out once by one open source, and what retention took before that is named as lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import anyio
import msgspec

from eventcore.delivery.ordering import ShardState, decode_window, encode_window
from eventcore.embedded.family import ShardFamily
from eventcore.embedded.reading import READ_BYTES_MAX, READ_RECORDS_MAX, read_stored
from eventcore.embedded.shapes import KinesisShape, stream_arn
from eventcore.embedded.sharding import shard_name
from eventcore.embedded.starting import StartingPoint
from eventcore.errors import (
    FencedOut,
    ProgrammingError,
    ShardLost,
    SourceClosed,
    SourceUnavailable,
    StoreUnavailable,
)
from eventcore.loop import loop_time
from eventcore.ports.connectors import StartingPosition
from eventcore.ports.sources import (
    EventShape,
    LostRange,
    ShardLag,
    ShardListener,
    ShardRecords,
    StreamCapabilities,
    TakenShard,
)
from eventcore.ports.store import (
    Checkpoint,
    Operation,
    PutNote,
    SaveCheckpoint,
    SeekCheckpoint,
    ShardExtent,
    Store,
    StoredRecord,
    TakeShard,
)

#: Reads of one receive, one a shard: a thousand shards must not keep the first one's records waiting.
READS_MAX = 16


def checkpoint_shard(stream: str, shard: str) -> str:
    """Return the name under which a mapping's checkpoint of a shard is kept in the store: `orders/shardId-…`.

    It names the stream too, so that a mapping which is pointed at another stream does not go on there from the
    first one's position.
    """
    return f"{stream}/{shard}"


def window_note(mapping: str, shard: str) -> str:
    """Return the name of the store's note that holds the open window of a mapping's shard.

    A note and not the checkpoint's row: that is read and cached as a whole, and a state may have a megabyte.
    """
    return f"window/{mapping}/{shard}"


class EmbeddedStream:
    """One stream of the store, read for one mapping. Open → closed; not reusable.

    Takes every shard when it is opened; reads each from its checkpoint on. One receive at a time.
    """

    shape: EventShape

    def __init__(
        self,
        name: str,
        *,
        store: Store,
        mapping: str,
        starting_position: StartingPosition,
        region: str,
        account_id: str,
    ) -> None:
        """Make a source.

        Args:
            name: of the stream.
            store: holds it.
            mapping: whose checkpoints it keeps.
            starting_position: of a mapping that was never here.
            region: for ARNs.
            account_id: for ARNs.
        """
        self.name = name
        self.shape = KinesisShape(stream_arn(name, region=region, account_id=account_id))
        self.waits_for = ""
        self.capabilities = StreamCapabilities(survives_restart=store.capabilities.is_durable, keeps_windows=True)
        self._store = store
        self._mapping = mapping
        self._start = StartingPoint(name, starting_position, store=store)
        self._shards: dict[str, _Shard] = {}
        self._noted: set[str] = set()  #: names of checkpoints that the store has an open window beside
        self._family = ShardFamily(())
        self._turn = 0
        self._resharding = anyio.Lock()  #: held while shards make way for others
        self._listener: ShardListener | None = None
        #: Shards that a settle found in another's hands; the next receive says so and takes them again.
        self._fenced: list[str] = []
        self._is_closed = False
        self._pause: anyio.CancelScope | None = None
        self._has_changed = False

    # -- opening -------------------------------------------------------------------------------------------------------

    async def open(self, listener: ShardListener) -> None:
        """Take every shard; a mapping that never was here starts at its starting position, which is made durable.

        So a crash before the first settle moves it neither forward nor back.

        Raises:
            SourceUnavailable: there is no such stream, or the store can't write.
            ProgrammingError: it was opened before.
        """
        if self._listener is not None:
            raise ProgrammingError(f"the stream {self.name} was opened before")
        self._listener = listener
        with self._translated():
            settings = (await self._store.streams()).get(self.name)
        if settings is None:
            raise SourceUnavailable(f"there is no stream {self.name}: define [streams.{self.name}]", source=self.name)
        with self._translated():
            extents = await self._store.extents(self.name)
        self._family = ShardFamily(extents)
        await self._take(listener, [shard_name(extent.shard) for extent in extents])

    async def _take(self, listener: ShardListener, names: Sequence[str]) -> None:
        """Become the owner of shards; say so of those whose parents are drained, and keep the others back."""
        with self._translated():
            checkpoints: list[Checkpoint] = await self._store.commit(
                [TakeShard(mapping=self._mapping, shard=checkpoint_shard(self.name, name)) for name in names]
            )
            if any(checkpoint.position < 0 for checkpoint in checkpoints):
                is_here = any(checkpoint.position >= 0 for checkpoint in checkpoints) or bool(self._shards)
                checkpoints = await self._start.begin(names, checkpoints, is_here=is_here)
        taken = [
            TakenShard(
                shard=name,
                epoch=checkpoint.epoch,
                checkpoint=checkpoint.position,
                state=await self._with_window(checkpoint),
            )
            for name, checkpoint in zip(names, checkpoints, strict=True)
        ]
        self._fenced = [name for name in self._fenced if name not in names]
        await self._announce(listener, self._family.hold(taken))

    async def _announce(self, listener: ShardListener, taken: Sequence[TakenShard]) -> None:
        self._shards.update({shard.shard: _Shard(shard) for shard in taken})
        if taken:
            await listener.on_taken(taken)

    async def _follow(self, extents: Sequence[ShardExtent]) -> None:
        """Take shards that were made by a split or merge, let drained parents go, and begin with their children."""
        assert self._listener is not None, "it is open"
        async with self._resharding:
            await self._follow_now(extents, self._listener)

    async def _follow_now(self, extents: Sequence[ShardExtent], listener: ShardListener) -> None:
        family = self._family
        if new := family.learn(extents):
            await self._take(listener, new)
        while drained := [name for name, shard in self._shards.items() if family.is_drained(shard.kept)]:
            await listener.on_revoked(drained, why="all of it is settled, and its children go on")
            left = [self._shards.pop(name).kept for name in drained if name in self._shards]
            await self._announce(listener, family.release(left))

    async def _with_window(self, checkpoint: Checkpoint) -> ShardState:
        """Return a checkpoint's state with the window that is open there."""
        with self._translated():
            note = await self._store.note(window_note(self._mapping, checkpoint.shard))
        self._note(checkpoint.shard, is_noted=bool(note))
        window = decode_window(note, checkpoint.position)
        return msgspec.structs.replace(checkpoint.state, window=window)

    def _note(self, name: str, *, is_noted: bool) -> None:
        (self._noted.add if is_noted else self._noted.discard)(name)

    async def write_behind(self) -> None:
        """Return at once: what is settled is in the store."""

    # -- reading -------------------------------------------------------------------------------------------------------

    async def receive(self, *, wait_s: float) -> Sequence[ShardRecords]:
        """Return records of shards that are not paused, each shard's in order; see `StreamSource.receive`.

        A shard whose unread records were all dropped by retention comes without records, with `ShardRecords.lost`.

        Raises:
            SourceClosed: the source was closed.
        """
        deadline = loop_time() + wait_s
        while True:
            reads = await self._find(deadline)
            # Shards move on only here, where nothing waits any more: a receive that was cancelled has lost no records.
            found = [
                shard.advance(records, extent)
                for shard, extent, records in reads
                if self._shards.get(shard.name) is shard and not shard.is_paused
            ]
            if found or not reads:
                return found

    async def _find(self, deadline: float) -> Sequence[_Read]:
        """Wait until something can be read, and read it; empty when the deadline came first."""
        async with self._store.watch(f"stream:{self.name}") as watch:
            while not self._is_closed:
                self._has_changed = False
                await self._take_back()
                reads = await self._read()
                pause_s = deadline - loop_time()
                if reads or pause_s <= 0:
                    return reads
                if not self._has_changed:
                    with anyio.move_on_after(pause_s) as self._pause:
                        await watch.wait()
                    if self._pause.cancelled_caught and not self._has_changed:
                        # Nobody has written meanwhile: another look would find as little.
                        return []
        raise SourceClosed(f"the stream {self.name} was closed", source=self.name)

    async def _take_back(self) -> None:
        """Take shards again that were found in another's hands, as after their checkpoint was moved by hand.

        Cancelled, the next receive begins anew.
        """
        if self._fenced and self._listener is not None:
            names = list(self._fenced)
            await self._listener.on_lost(names)
            await self._take(self._listener, names)

    async def _read(self) -> Sequence[_Read]:
        """Read what there is in some shards, in turns, up to one read's worth of records and bytes in all."""
        reads: list[_Read] = []
        records_left, bytes_left = READ_RECORDS_MAX, READ_BYTES_MAX
        with self._translated():
            for shard, extent in await self._find_readable():
                records = await self._store.read(
                    self.name, extent.shard, shard.next, count_max=records_left, size_bytes_max=bytes_left
                )
                if records or extent.first > shard.next or extent.is_closed:
                    reads.append((shard, extent, records))
                self._turn = extent.shard + 1
                records_left -= len(records)
                bytes_left -= sum([len(record.body) for record in records])
                if records_left <= 0 or bytes_left <= 0:
                    break
        return reads

    async def _find_readable(self) -> list[tuple[_Shard, ShardExtent]]:
        """Return some shards that have something to read; who was not served last time comes first."""
        extents = await self._store.extents(self.name)
        if self._family.is_concerned(extents):
            await self._follow(extents)
        begin = self._turn % len(extents)
        return [
            (shard, extent)
            for extent in (*extents[begin:], *extents[:begin])
            if (shard := self._shards.get(shard_name(extent.shard)))
            and not shard.is_paused
            and (extent.end > shard.next or (extent.is_closed and not shard.is_ended))
        ][:READS_MAX]

    def pause(self, shard: str) -> None:
        """Return no more records of a shard until `resume`; a no-op for a shard that is not owned."""
        if shard in self._shards:
            self._shards[shard].is_paused = True

    def resume(self, shard: str) -> None:
        """Return records of a shard again; a no-op for a shard that is not owned or not paused."""
        if shard in self._shards and self._shards[shard].is_paused:
            self._shards[shard].is_paused = False
            self._wake()

    def _wake(self) -> None:
        self._has_changed = True
        if self._pause is not None:
            self._pause.cancel()

    # -- settling ------------------------------------------------------------------------------------------------------

    async def settle(self, shard: str, epoch: int, checkpoint: int, state: ShardState, *, is_urgent: bool) -> None:
        """Move a shard's checkpoint and keep its failing work; durable when it returns, urgent or not.

        Raises:
            ShardLost: the shard has another owner, or its checkpoint was moved by hand; nothing was written. The next
                receive tells the listener, and takes the shard again from where its checkpoint stands then.
            SourceUnavailable: the store can't write; nothing was written.
        """
        del is_urgent
        owned = self._shards.get(shard)
        if owned is None or owned.epoch != epoch:
            raise self._lost(shard, epoch)
        save = SaveCheckpoint(
            mapping=self._mapping,
            shard=checkpoint_shard(self.name, shard),
            epoch=epoch,
            position=checkpoint,
            state=state,
        )
        operations: list[Operation] = [save]
        is_noted = state.window is not None
        if is_noted or save.shard in self._noted:
            # One transaction with the checkpoint: a state stands for exactly the records before it.
            note = encode_window(checkpoint, state.window)
            operations.append(PutNote(name=window_note(self._mapping, save.shard), value=note))
        try:
            with self._translated():
                await self._store.commit(operations)
        except FencedOut as error:
            self._fence(owned)
            raise self._lost(shard, epoch) from error
        if len(operations) > 1:
            self._note(save.shard, is_noted=is_noted)
        owned.checkpoint = checkpoint
        owned.kept = msgspec.structs.replace(owned.kept, checkpoint=checkpoint, state=state)
        if owned.is_ended:
            # Its children may be waiting for this.
            self._wake()

    async def seek(self, shard: str, position: int, state: ShardState) -> TakenShard | None:
        """Move a shard's checkpoint, and begin there anew; see `StreamSource.seek`."""
        if shard not in self._shards:
            async with self._resharding:
                await self._seek_back(shard, position)
            return None
        owned = self._shards[shard]
        taken = TakenShard(shard=shard, epoch=owned.epoch + 1, checkpoint=position, state=state)
        try:
            await self._move(taken)
        except FencedOut as error:
            self._fence(owned)
            raise self._lost(shard, owned.epoch) from error
        if self._shards.get(shard) is not owned:
            raise self._lost(shard, owned.epoch)
        self._shards[shard] = _Shard(taken)
        self._wake()
        return taken

    async def _seek_back(self, shard: str, position: int) -> None:
        """Move a shard that waits for its parents, or that is drained: then those wait that it was split into.

        They are told to the listener as they come: nothing of them runs before what is in front of it.
        """
        assert self._listener is not None, "it is open"
        family, listener = self._family, self._listener
        held = family.find(shard)
        if held is None:
            raise self._lost(shard, 0)
        state = ShardState(parked=held.state.parked, redriven=held.state.redriven)
        taken = TakenShard(shard=shard, epoch=held.epoch + 1, checkpoint=position, state=state)
        if family.has_drained(shard):
            if family.is_drained(taken):
                return
            line = sorted(family.descendants(shard))
            if running := [name for name in line if name in self._shards]:
                await listener.on_revoked(running, why=f"{shard} is read again before it")
            family.keep_back([self._shards.pop(name).kept for name in running if name in self._shards], line)
        try:
            await self._move(taken)
        except FencedOut as error:
            raise self._lost(shard, held.epoch) from error
        family.move(taken)
        await self._announce(listener, family.hold(()))
        self._wake()

    async def _move(self, taken: TakenShard) -> None:
        """Write where a shard was moved by hand.

        Raises:
            FencedOut: somebody else has it.
            SourceUnavailable: it may or may not have been written.
        """
        name = checkpoint_shard(self.name, taken.shard)
        # One transaction, which the store refuses when somebody else has raised the epoch.
        moves: list[Operation] = [
            SeekCheckpoint(mapping=self._mapping, shard=name, position=taken.checkpoint),
            SaveCheckpoint(
                mapping=self._mapping, shard=name, epoch=taken.epoch, position=taken.checkpoint, state=taken.state
            ),
        ]
        if name in self._noted:
            moves.append(PutNote(name=window_note(self._mapping, name), value=b""))
        with self._translated():
            await self._store.commit(moves)
        self._note(name, is_noted=False)

    def _fence(self, owned: _Shard) -> None:
        """Give up a shard that another has; the next receive says so, and takes it again."""
        if self._shards.get(owned.name) is owned:
            del self._shards[owned.name]
            self._fenced.append(owned.name)
            self._wake()

    def _lost(self, shard: str, epoch: int) -> ShardLost:
        message = f"{shard} of the stream {self.name} has another owner"
        return ShardLost(message, source=self.name, shard=shard, epoch=epoch)

    async def lag(self) -> Sequence[ShardLag]:
        """Return how far behind each shard is: exactly, for the store is asked."""
        with self._translated():
            extents = await self._store.extents(self.name)
        lags = [self._lag_of(extent) for extent in extents]
        return [lag for lag in lags if lag is not None]

    def _lag_of(self, extent: ShardExtent) -> ShardLag | None:
        """Return how far behind a shard is: an owned one, a drained one, or one that waits for its parents."""
        name = shard_name(extent.shard)
        owned = self._shards.get(name)
        if owned is None and not extent.parents and not self._family.has_drained(name):
            return None
        held = owned or self._family.find(name)
        checkpoint = held.checkpoint if held is not None else extent.first  # made a moment ago
        is_drained = self._family.has_drained(name)
        return ShardLag(
            shard=name,
            checkpoint=checkpoint,
            end=extent.end,
            lag=max(0, extent.end - max(checkpoint, extent.first)),
            waits_for="" if owned is not None or is_drained else " ".join(map(shard_name, extent.parents)),
            is_drained=is_drained,
        )

    async def aclose(self) -> None:
        """Give up the shards and end a waiting receive with `SourceClosed`. Every checkpoint is durable already."""
        self._is_closed = True
        self._shards = {}
        self._wake()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Raise the store's errors as a source's."""
        try:
            yield
        except StoreUnavailable as error:
            raise SourceUnavailable(error.message, source=self.name) from error
        except KeyError as error:
            raise SourceClosed(f"there is no stream {self.name}", source=self.name) from error


class _Shard:
    """A shard that is ours: how far it was handed out, and how far it is settled."""

    def __init__(self, taken: TakenShard) -> None:
        self.name = taken.shard
        self.epoch = taken.epoch
        self.checkpoint = taken.checkpoint
        self.kept = taken  #: as it was settled last
        self.next = taken.checkpoint
        self.is_paused = False
        self.is_ended = False  #: it is closed, and the engine was told that nothing more comes

    def advance(self, stored: Sequence[StoredRecord], extent: ShardExtent) -> ShardRecords:
        """Move behind records that were read, or behind what is lost when there are none; return them.

        Args:
            stored: from `next` on, or from the oldest that is kept.
            extent: of the shard, when ``stored`` was asked for.
        """
        begin = stored[0].position if stored else max(extent.first, self.next)
        lost = LostRange(shard=self.name, first=self.next, last=begin - 1) if begin > self.next else None
        self.next = stored[-1].position + 1 if stored else begin
        self.is_ended = extent.is_closed and self.next >= extent.end
        return ShardRecords(self.name, [read_stored(record) for record in stored], lost, self.is_ended)


#: What was read of a shard, and where it began and ended just before.
_Read = tuple[_Shard, ShardExtent, Sequence[StoredRecord]]

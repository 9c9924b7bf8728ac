"""What people do to mappings while they run, and the book that is kept of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import anyio
import msgspec

from eventcore.clock import Clock
from eventcore.config.effective import EffectiveMapping
from eventcore.embedded.sharding import shard_name
from eventcore.embedded.stream import checkpoint_shard
from eventcore.engine.covered import forget_given_up
from eventcore.engine.engine import Engine
from eventcore.engine.gate import ALL, keep_pauses, read_pauses
from eventcore.engine.status import Pause
from eventcore.errors import CommandError
from eventcore.http.contract import (
    ControlEntry,
    GetMappingLog,
    PauseMapping,
    ResumeMapping,
    SeekMapping,
    Skipped,
    SkipRecords,
)
from eventcore.http.targets import name_known
from eventcore.ports.store import Operation, PutNote, SeekCheckpoint, Store
from eventcore.telemetry.events import MappingControlled

#: Entries that a mapping's book holds; the oldest go first.
ENTRIES_MAX = 200

_book = msgspec.json.Decoder(list[ControlEntry])


class MappingOperations:
    """Pauses, resumes, moves and skips; each is written down with who did it."""

    def __init__(
        self, store: Store, clock: Clock, mappings: Mapping[str, EffectiveMapping], engine: Engine | None
    ) -> None:
        """Prepare.

        Args:
            store: holds what is paused, and the book.
            clock: wall time.
            mappings: of the pipeline, by name.
            engine: the running one; None without.
        """
        self._store = store
        self._clock = clock
        self._mappings = mappings
        self._engine = engine
        #: Notes are read, changed and written: two people at once must not undo each other's.
        self._writing = anyio.Lock()

    async def pause(self, request: PauseMapping) -> None:
        """Pause a mapping, or one shard of it, until it is resumed; it survives restarts.

        Raises:
            CommandError: there is no such mapping, it has not the shard that is named, or it is paused already.
            StoreUnavailable: nothing was changed.
        """
        mapping = self._find(request.mapping)
        if request.shard and mapping.kind == "queue":
            raise CommandError(f"a queue has no shards, and `{mapping.name}` reads one", hint="pause the mapping")
        if request.shard:
            await self._check_shard(mapping, request.shard)
        async with self._writing:
            pauses = await read_pauses(self._store, mapping.name)
            held = pauses.get(request.shard) or pauses.get(ALL)
            if held is not None:
                raise CommandError(f"{_name(mapping.name, request.shard)} is paused already, by {held.by}")
            pauses[request.shard] = Pause(by=request.by, since_ms=self._clock.now_ms())
            await self._replace(mapping.name, pauses, self._entry(request.by, "pause", request.shard))

    async def _check_shard(self, mapping: EffectiveMapping, shard: str) -> None:
        """Refuse a shard that is not there: its pause would hold nothing, and nobody would see that."""
        known: Sequence[str] = ()
        if mapping.source.kind == "stream":
            known = [shard_name(extent.shard) for extent in await self._store.extents(mapping.source.name)]
        elif self._engine is not None:
            known = [status.shard for status in (await self._engine.mapping(mapping.name).status()).shards]
        if shard not in known:
            raise CommandError(
                f"`{mapping.name}` does not have the shard {shard} here",
                hint=f"it has: {', '.join(known)}" if known else "which ones it has is known while an engine runs it",
            )

    async def resume(self, request: ResumeMapping) -> None:
        """End the pause of a shard; without one, that of the mapping and of all its shards, and close its breaker.

        Raises:
            CommandError: there is no such mapping, or it is not paused.
            StoreUnavailable: nothing was changed.
        """
        mapping = self._find(request.mapping)
        async with self._writing:
            pauses = await read_pauses(self._store, mapping.name)
            if request.shard and request.shard not in pauses and ALL in pauses:
                raise CommandError(
                    f"the whole of `{mapping.name}` is paused, not {request.shard} alone",
                    hint=f"resume all of it: eventcore mapping resume {mapping.name}",
                )
            is_closed = not request.shard and self._close_breaker(mapping.name)
            if (not pauses and not is_closed) or (request.shard and request.shard not in pauses):
                raise CommandError(f"{_name(mapping.name, request.shard)} is not paused")
            left = {shard: pause for shard, pause in pauses.items() if request.shard and shard != request.shard}
            await self._replace(mapping.name, left, self._entry(request.by, "resume", request.shard))

    def _close_breaker(self, mapping: str) -> bool:
        """Close the mapping's circuit breaker; tell whether it was not closed."""
        breaker = self._engine.mapping(mapping).gate.breaker if self._engine is not None else None
        return breaker is not None and breaker.close()

    async def _replace(self, mapping: str, pauses: Mapping[str, Pause], entry: ControlEntry) -> None:
        await self._store.commit([keep_pauses(mapping, pauses), await self._write_down(mapping, entry)])
        if self._engine is not None:
            self._engine.mapping(mapping).gate.replace(pauses)
        self._tell(mapping, entry)

    async def seek(self, request: SeekMapping) -> None:
        """Move the positions of shards; without an engine, those of an embedded stream alone.

        Raises:
            CommandError: there is no such mapping, it has no positions, or they can't be moved from here.
            SourceError, StoreError: some may have been moved; the book says which.
        """
        mapping = self._find(request.mapping)
        if mapping.kind == "queue":
            raise CommandError(f"a queue has no positions, and `{mapping.name}` reads one")
        if self._engine is None and mapping.source.kind != "stream":
            raise CommandError(
                f"`{mapping.name}` keeps its positions in its consumer group, and no engine runs that is a member",
                hint="start it: eventcore run",
            )
        # By name parents come before their children, which must not begin meanwhile.
        for shard, position in sorted(request.positions.items()):
            if self._engine is not None:
                before = await self._engine.mapping(mapping.name).seek(shard, position)
                entry = self._entry(request.by, "seek", shard, f"from {before} to {position}")
                await self._note(mapping.name, entry)
            else:
                await self._seek_here(mapping, shard, position, request.by)

    async def _seek_here(self, mapping: EffectiveMapping, shard: str, position: int, by: str) -> None:
        """Move the checkpoint of an embedded stream's shard that nobody works on."""
        await self._check_shard(mapping, shard)
        name = checkpoint_shard(mapping.source.name, shard)
        before = {each.shard: each.position for each in await self._store.checkpoints(mapping.name)}.get(name, -1)
        entry = self._entry(by, "seek", shard, f"from {before} to {position}")
        forgotten = await forget_given_up(self._store, mapping.name, str(mapping.source), shard)
        move = SeekCheckpoint(mapping=mapping.name, shard=name, position=position)
        await self._note(mapping.name, entry, move, *forgotten)

    async def skip(self, request: SkipRecords) -> Skipped:
        """Give up what holds up a shard: a discard like any other, with its failure and its destination.

        Raises:
            CommandError: there is no such mapping, no engine runs it, or nothing holds it up.
        """
        mapping = self._find(request.mapping)
        if self._engine is None:
            raise CommandError(
                "what holds up a shard is skipped by the engine that tries it, and none runs here",
                hint="start it: eventcore run",
            )
        discarded = await self._engine.mapping(mapping.name).skip(request.shard, request.count)
        count = sum(entry.count for entry in discarded)
        if discarded:
            told = self._entry(request.by, "skip", request.shard, f"[{discarded[0].first}-{discarded[-1].last}]")
            await self._note(mapping.name, told)
        return Skipped(
            shard=request.shard,
            count=count,
            failure_ids=tuple(entry.failure_id for entry in discarded),
            destination=discarded[0].destination if discarded else "",
        )

    async def log(self, request: GetMappingLog) -> Sequence[ControlEntry]:
        """Return what people did to a mapping, the oldest first.

        Raises:
            CommandError: there is no such mapping.
        """
        return await self._read_book(self._find(request.mapping).name)

    # -- the book ------------------------------------------------------------------------------------------------------

    async def _read_book(self, mapping: str) -> list[ControlEntry]:
        note = await self._store.note(_book_name(mapping))
        return _book.decode(note) if note is not None else []

    async def _note(self, mapping: str, entry: ControlEntry, *operations: Operation) -> None:
        """Write down what was done, in one transaction with what is done by that, and tell it."""
        async with self._writing:
            await self._store.commit([*operations, await self._write_down(mapping, entry)])
        self._tell(mapping, entry)

    async def _write_down(self, mapping: str, entry: ControlEntry) -> PutNote:
        entries = [*await self._read_book(mapping), entry][-ENTRIES_MAX:]
        return PutNote(name=_book_name(mapping), value=msgspec.json.encode(entries))

    def _entry(self, by: str, action: str, shard: str, detail: str = "") -> ControlEntry:
        return ControlEntry(at_ms=self._clock.now_ms(), by=by, action=action, shard=shard, detail=detail)

    def _tell(self, mapping: str, entry: ControlEntry) -> None:
        if self._engine is not None:
            event = MappingControlled(
                mapping=mapping, shard=entry.shard, action=entry.action, by=entry.by, detail=entry.detail
            )
            self._engine.events.emit(event)

    def _find(self, name: str) -> EffectiveMapping:
        mapping = self._mappings.get(name)
        if mapping is None:
            raise CommandError(f"there is no mapping `{name}`", hint=name_known(name, list(self._mappings)))
        return mapping


def _book_name(mapping: str) -> str:
    return f"controlled/{mapping}"


def _name(mapping: str, shard: str) -> str:
    return f"{shard} of `{mapping}`" if shard else f"`{mapping}`"

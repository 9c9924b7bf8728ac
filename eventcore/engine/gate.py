"""Whether a mapping, or one shard of it, is paused by hand: what runs is finished, and nothing is begun."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import anyio
import msgspec

from eventcore.engine.status import BreakerStatus, Pause
from eventcore.ports.store import PutNote, Store

#: The name under which the whole mapping is paused.
ALL = ""


_pauses = msgspec.json.Decoder(dict[str, Pause])


async def read_pauses(store: Store, mapping: str) -> dict[str, Pause]:
    """Return what is paused of a mapping, by shard; `ALL` stands for all of it.

    Raises:
        StoreUnavailable: the note can't be read.
    """
    note = await store.note(_note_name(mapping))
    return _pauses.decode(note) if note is not None else {}


def keep_pauses(mapping: str, pauses: Mapping[str, Pause]) -> PutNote:
    """Return the write that makes pauses outlive the engine."""
    return PutNote(name=_note_name(mapping), value=msgspec.json.encode(pauses))


def _note_name(mapping: str) -> str:
    return f"paused/{mapping}"


class BreakerAtGate(Protocol):
    """The circuit breaker that holds a gate."""

    def close(self) -> bool:
        """Close it by hand; tell whether it was not closed."""
        ...

    def status(self) -> BreakerStatus:
        """Return a snapshot."""
        ...


class Gate:
    """What is paused of one mapping now."""

    def __init__(self, pauses: Mapping[str, Pause]) -> None:
        self._pauses = dict(pauses)
        self._changed = anyio.Event()
        self._listeners: list[Callable[[], None]] = []
        self.held: Pause | None = None  #: by the mapping's circuit breaker
        self._held_shards: frozenset[str] = frozenset()  #: of that; empty: all
        self._waiting: Counter[str] = Counter()
        self.breaker: BreakerAtGate | None = None

    def find(self, shard: str) -> Pause | None:
        """Return what holds a shard: its own pause, the mapping's, or its circuit breaker."""
        if self.held is None and not self._pauses:
            # Asked for every batch, several times.
            return None
        held = None if self._held_shards and shard not in self._held_shards else self.held
        return self.find_by_hand(shard) or held

    def find_by_hand(self, shard: str) -> Pause | None:
        """Return the pause that somebody has made for a shard, or for the mapping."""
        return self._pauses.get(shard) or self._pauses.get(ALL)

    def hold(self, held: Pause | None, shards: frozenset[str] = frozenset()) -> None:
        """Hold the mapping, or only some shards of it, besides what is paused by hand; or let go of it."""
        self.held, self._held_shards = held, shards
        self._tell()

    @property
    def waiting(self) -> frozenset[str]:
        """The shards that wait for it to open."""
        return frozenset(self._waiting)

    def replace(self, pauses: Mapping[str, Pause]) -> None:
        """Take over what is paused from now on."""
        self._pauses = dict(pauses)
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
        for listener in self._listeners:
            listener()

    @contextmanager
    def listening(self, listener: Callable[[], None]) -> Iterator[None]:
        """Call something within the block whenever what is paused has changed."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    async def wait_open(self, shard: str) -> None:
        """Wait until nothing holds a shard."""
        self._waiting[shard] += 1
        try:
            while self.find(shard) is not None:
                await self._changed.wait()
        finally:
            self._waiting[shard] -= 1
            self._waiting += Counter()  # without those that are none any more

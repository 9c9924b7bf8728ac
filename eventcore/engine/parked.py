"""What a parked record is where it waits, and how it is read back: from an embedded queue, or from a topic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from eventcore.model import UNREADABLE_JSON, Record, TimestampKind
from eventcore.ports.ranges import RangeSource
from eventcore.ports.store import DropMessages, Store

#: The header that makes a message a parked record: an `Envelope` as JSON.
PARKED_HEADER = "eventcore-parked"
#: Messages, or records of a topic, that are read at a time.
READ_STEP = 500
#: Parked records that one read looks at, and bytes of their bodies: they are put in order in memory.
READ_RECORDS_MAX = 10_000
READ_BYTES_MAX = 64 * 1024 * 1024


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """What a parked record was, beside its body."""

    mapping: str
    source: str
    shard: str
    position: int
    name: str  #: of what keeps it in order, see `delivery.lanes.lane_name`
    key: bytes | None
    arrived_ms: int
    timestamp_kind: TimestampKind
    headers: tuple[tuple[str, bytes], ...]
    size_bytes: int
    is_tombstone: bool = False


_envelopes = msgspec.json.Decoder(Envelope)


class ParkedRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A record that waits elsewhere."""

    name: str  #: of its key
    record: Record  #: as it was
    ids: tuple[str, ...]  #: of its messages: a crash may have left two


class ParkedRead(msgspec.Struct, frozen=True, kw_only=True):
    """What one read of parked records found."""

    records: Sequence[ParkedRecord]  #: by position, each once
    left: Mapping[str, int]  #: by key, the position of the first record that is there and was not returned
    is_complete: bool  #: all that is parked was looked at


class ParkedReader(Protocol):
    """Reads what is parked, and takes out what has been redriven."""

    async def read(self, shard: str, wanted: Mapping[str, int], *, count_max: int) -> ParkedRead:
        """Return parked records of a shard.

        Args:
            shard: its name.
            wanted: the keys' names, each with the position to begin at.
            count_max: records at most; of every key the first ones.
        """
        ...

    async def drop(self, parked: Sequence[ParkedRecord]) -> None:
        """Take records out, where the place can do that."""
        ...


def read_envelope(headers: Sequence[tuple[str, bytes]]) -> Envelope | None:
    """Return what a message or a topic's record was before it was parked; None for anything else."""
    text = next((value for name, value in headers if name == PARKED_HEADER), None)
    if text is None:
        return None
    try:
        return _envelopes.decode(text)
    except UNREADABLE_JSON:
        return None


def restore(envelope: Envelope, body: bytes | None) -> Record:
    """Return a record as it was before it was parked."""
    return Record(
        position=envelope.position,
        body=None if envelope.is_tombstone else body or b"",
        key=envelope.key,
        arrived_ms=envelope.arrived_ms,
        headers=envelope.headers,
        size_bytes=envelope.size_bytes,
        timestamp_kind=envelope.timestamp_kind,
    )


class ParkedQueue:
    """What is parked in an embedded queue."""

    def __init__(self, store: Store, queue: str, *, mapping: str) -> None:
        """Read a mapping's parked records from a queue."""
        self._store = store
        self._queue = queue
        self._mapping = mapping

    async def read(self, shard: str, wanted: Mapping[str, int], *, count_max: int) -> ParkedRead:
        """Return parked records; see `ParkedReader`. Nothing about their messages changes."""
        found = _Found(self._mapping, shard, wanted)
        after = 0
        while not found.is_full:
            messages = await self._store.peek(self._queue, count_max=READ_STEP, after_number=after)
            if not messages:
                break
            after = messages[-1].number
            for message in messages:
                found.look_at(message.headers, message.body, message.id)
        return found.first(count_max)

    async def drop(self, parked: Sequence[ParkedRecord]) -> None:
        """Delete the messages of records."""
        ids = tuple(message_id for entry in parked for message_id in entry.ids)
        await self._store.commit([DropMessages(queue=self._queue, ids=ids)])


class ParkedTopic:
    """What is parked in a topic. It stays there: the state of the shard's lanes says from where on it counts."""

    def __init__(self, open_range: Callable[[], RangeSource], *, mapping: str) -> None:
        """Read a mapping's parked records from a topic."""
        self._open_range = open_range
        self._mapping = mapping

    async def read(self, shard: str, wanted: Mapping[str, int], *, count_max: int) -> ParkedRead:
        """Return parked records; see `ParkedReader`. The whole topic is read.

        Raises:
            SourceUnavailable: the topic can't be read.
        """
        found = _Found(self._mapping, shard, wanted)
        topic = self._open_range()
        try:
            for extent in await topic.open():
                position = extent.first
                while position < extent.end and not found.is_full:
                    read = await topic.read(extent.shard, position, extent.end, count_max=READ_STEP)
                    position = read.next
                    for record in read.records:
                        found.look_at(record.headers, record.body)
        finally:
            await topic.aclose()
        return found.first(count_max)

    async def drop(self, parked: Sequence[ParkedRecord]) -> None:
        """Do nothing: a topic forgets by its retention alone."""
        del parked


class _Found:
    """Parked records of some keys of one shard, each once however often it stands there."""

    def __init__(self, mapping: str, shard: str, wanted: Mapping[str, int]) -> None:
        self._owner = mapping, shard
        self._wanted = wanted
        self._found: dict[int, ParkedRecord] = {}
        self._size_bytes = 0

    @property
    def is_full(self) -> bool:
        """Whether no more may be looked at."""
        return len(self._found) >= READ_RECORDS_MAX or self._size_bytes >= READ_BYTES_MAX

    def look_at(self, headers: Sequence[tuple[str, bytes]], body: bytes | None, message_id: str = "") -> None:
        """Keep what is wanted."""
        envelope = read_envelope(headers)
        if envelope is None or (envelope.mapping, envelope.shard) != self._owner:
            return
        if envelope.name not in self._wanted or envelope.position < self._wanted[envelope.name]:
            return
        known = self._found.get(envelope.position)
        self._size_bytes += len(body or b"")
        self._found[envelope.position] = ParkedRecord(
            name=envelope.name,
            record=restore(envelope, body),
            ids=(*(known.ids if known else ()), *((message_id,) if message_id else ())),
        )

    def first(self, count_max: int) -> ParkedRead:
        """Return the first ones by position."""
        positions = sorted(self._found)
        left: dict[str, int] = {}
        for position in positions[count_max:]:
            left.setdefault(self._found[position].name, position)
        return ParkedRead(
            records=[self._found[position] for position in positions[:count_max]],
            left=left,
            is_complete=not self.is_full,
        )

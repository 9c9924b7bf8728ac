"""The small rows that nearly every operation needs, in memory: written back once a transaction.

Definitions, counters, next numbers, checkpoints. They are the writer's alone, read once and kept for as long as the
file's `data_version` says that nobody else has written. Invariant: what is in memory is what the transaction at hand
would read, and after a rollback nothing is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from typing import ClassVar, Protocol

from eventcore.delivery.ordering import EMPTY, ShardState, decode_state, encode_state
from eventcore.ports.store import Checkpoint, QueueSettings, ShardLineage, StreamSettings
from eventcore.store.admission import NEVER_TAKEN
from eventcore.store.resharding import Shards
from eventcore.store.rules import first_key
from eventcore.store.sqlite.codec import (
    decode_lineage,
    decode_queue_settings,
    decode_stream_settings,
    encode_lineage,
    encode_settings,
)
from eventcore.store.sqlite.segments import Segment
from eventcore.store.tenants import Tenants
from eventcore.store.watches import queue_topic, stream_topic

_FAILURE_BYTES = "failure_size_bytes"


class _Row(Protocol):
    """A row that is written as a whole."""

    SAVE: ClassVar[str]

    def values(self) -> tuple[object, ...]:
        """Return what `SAVE` binds."""
        ...


class QueueRow:
    """A queue: its settings, its keys, its counters."""

    # Not REPLACE where there is a second index: that deletes and inserts in it too.
    SAVE: ClassVar[str] = (
        "INSERT INTO queue VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (number) DO UPDATE SET"
        " settings = excluded.settings, next_key = excluded.next_key, fresh_key = excluded.fresh_key,"
        " visible = excluded.visible, ready = excluded.ready, hidden = excluded.hidden, delayed = excluded.delayed"
    )

    def __init__(
        self,
        number: int,
        name: str,
        settings: QueueSettings,
        next_key: int,
        fresh_key: int,
        visible: int = 0,
        ready: int = 0,
        hidden: int = 0,
        delayed: int = 0,
    ) -> None:
        self.number = number
        self.name = name
        self.settings = settings
        self.next_key = next_key
        self.fresh_key = fresh_key
        self.visible = visible
        self.ready = ready
        self.hidden = hidden
        self.delayed = delayed
        self.topic = queue_topic(name)
        self.low = first_key(number)  #: its keys are from here on
        self.high = first_key(number + 1)  #: and below this
        #: The segment in which the last receive of fresh messages has ended: it is not read again for the next one.
        self.opened: Segment | None = None
        self.tenants = Tenants()  #: of a standard queue

    def show(self, count: int, *, delayed: int) -> None:
        """Count messages as visible that were hidden; ``delayed`` of them for the first time."""
        self.visible += count
        self.hidden -= count - delayed
        self.delayed -= delayed

    def values(self) -> tuple[object, ...]:
        """Return what `SAVE` binds."""
        settings = encode_settings(self.settings)
        counters = (self.visible, self.ready, self.hidden, self.delayed)
        return (self.number, self.name, settings, self.next_key, self.fresh_key, *counters)


class ShardRow:
    """A shard of a stream: where it begins and ends, and what it was split or merged from and into."""

    SAVE: ClassVar[str] = (
        "INSERT INTO shard VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (number) DO UPDATE SET"
        " first_key = excluded.first_key, end_key = excluded.end_key, lineage = excluded.lineage"
    )

    def __init__(self, number: int, stream: int, shard: int, first: int, end: int, lineage: str = "") -> None:
        self.number = number
        self.stream = stream
        self.shard = shard
        self.first = first  #: key of the oldest record kept
        self.end = end  #: key of the next record
        self._lineage = lineage
        self.lineage = decode_lineage(lineage)

    def change_lineage(self, lineage: ShardLineage) -> None:
        """Take over what it was split or merged from and into."""
        self._lineage, self.lineage = encode_lineage(lineage), lineage

    def values(self) -> tuple[object, ...]:
        """Return what `SAVE` binds."""
        return (self.number, self.stream, self.shard, self.first, self.end, self._lineage)


class StreamRow:
    """A stream: its settings, its shards, its size."""

    SAVE: ClassVar[str] = (
        "INSERT INTO stream VALUES (?, ?, ?, ?)"
        " ON CONFLICT (number) DO UPDATE SET settings = excluded.settings, size_bytes = excluded.size_bytes"
    )

    def __init__(self, number: int, name: str, settings: StreamSettings, size_bytes: int = 0) -> None:
        self.number = number
        self.name = name
        self.settings = settings
        self.size_bytes = size_bytes
        self.topic = stream_topic(name)
        self.shards: list[ShardRow] = []

    def find_lineage(self, shard: int) -> ShardLineage | None:
        """Return a shard's lineage."""
        return self.shards[shard].lineage

    def values(self) -> tuple[object, ...]:
        """Return what `SAVE` binds."""
        return (self.number, self.name, encode_settings(self.settings), self.size_bytes)


class CheckpointRow:
    """A shard's progress for one mapping."""

    SAVE: ClassVar[str] = "INSERT OR REPLACE INTO checkpoint VALUES (?, ?, ?, ?, ?)"

    def __init__(self, mapping: str, shard: str, epoch: int, position: int, state: ShardState = EMPTY) -> None:
        self.mapping = mapping
        self.shard = shard
        self.epoch = epoch
        self.position = position
        self.state = state

    def values(self) -> tuple[object, ...]:
        """Return what `SAVE` binds."""
        return (self.mapping, self.shard, self.epoch, self.position, encode_state(self.state))

    def snapshot(self) -> Checkpoint:
        """Return it as readers would see it."""
        return Checkpoint(
            mapping=self.mapping,
            shard=self.shard,
            epoch=self.epoch,
            position=self.position,
            state=decode_state(encode_state(self.state)),
        )


class DestinationRow:
    """What waits for a destination."""

    SAVE: ClassVar[str] = "INSERT OR REPLACE INTO destination VALUES (?, ?, ?, ?)"

    def __init__(self, name: str, rows: int = 0, size_bytes: int = 0, last_error: str = "") -> None:
        self.name = name
        self.rows = rows
        self.size_bytes = size_bytes
        self.last_error = last_error

    def values(self) -> tuple[object, ...]:
        """Return what `SAVE` binds."""
        return (self.name, self.rows, self.size_bytes, self.last_error)


class FailureTotal:
    """What all failures count toward their bound."""

    SAVE: ClassVar[str] = "INSERT OR REPLACE INTO counter VALUES (?, ?)"

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes

    def values(self) -> tuple[object, ...]:
        """Return what `SAVE` binds."""
        return (_FAILURE_BYTES, self.size_bytes)


class Ledger:
    """Every small row of the file."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.queues = {row.name: row for row in _read_queues(connection)}
        _read_aside(connection, {row.number: row for row in self.queues.values()})
        self.streams = {row.name: row for row in _read_streams(connection)}
        self.checkpoints = {(row.mapping, row.shard): row for row in _read_checkpoints(connection)}
        self.destinations = {
            name: DestinationRow(name, *columns)
            for name, *columns in connection.execute("SELECT name, rows, size_bytes, last_error FROM destination")
        }
        total = connection.execute("SELECT value FROM counter WHERE name = ?", (_FAILURE_BYTES,)).fetchone()
        self.failure_total = FailureTotal(total[0] if total else 0)
        self.shard_count = sum(len(stream.shards) for stream in self.streams.values())
        self._changed: dict[_Row, None] = {}

    def change(self, row: _Row) -> None:
        """Have a row written at the end of the transaction."""
        self._changed[row] = None

    def flush(self, connection: sqlite3.Connection) -> None:
        """Write what has changed, in the order it was changed first."""
        for row in self._changed:
            connection.execute(row.SAVE, row.values())
        self._changed.clear()

    # -- what admission asks -------------------------------------------------------------------------------------------

    def queue_settings(self, queue: str) -> QueueSettings | None:
        """Return a queue's settings; None when it is not defined."""
        row = self.queues.get(queue)
        return row.settings if row else None

    def stream_settings(self, stream: str) -> StreamSettings | None:
        """Return a stream's settings; None when it is not defined."""
        row = self.streams.get(stream)
        return row.settings if row else None

    def shards(self, name: str) -> Shards:
        """Return what a stream's shards are; none when it is not defined."""
        row = self.streams.get(name)
        if row is None:
            return Shards(0, ())
        return Shards(row.settings.shards, tuple([shard.lineage for shard in row.shards]))

    def progress(self, mapping: str, shard: str) -> tuple[int, int]:
        """Return a checkpoint's epoch and position; `NEVER_TAKEN` without one."""
        row = self.checkpoints.get((mapping, shard))
        return (row.epoch, row.position) if row else NEVER_TAKEN


def _read_queues(connection: sqlite3.Connection) -> Iterator[QueueRow]:
    for number, name, settings, *numbers in connection.execute(
        "SELECT number, name, settings, next_key, fresh_key, visible, ready, hidden, delayed FROM queue"
    ):
        yield QueueRow(number, name, decode_queue_settings(settings), *numbers)


def _read_aside(connection: sqlite3.Connection, queues: Mapping[int, QueueRow]) -> None:
    for number, group, count in connection.execute(
        "SELECT queue, message_group, sum(end_key - first_key) FROM aside GROUP BY queue, message_group"
    ):
        queues[number].tenants.set_aside(group, count)


def _read_streams(connection: sqlite3.Connection) -> Iterator[StreamRow]:
    for number, name, settings, size_bytes in connection.execute(
        "SELECT number, name, settings, size_bytes FROM stream"
    ):
        stream = StreamRow(number, name, decode_stream_settings(settings), size_bytes)
        shards = connection.execute(
            "SELECT number, stream, shard, first_key, end_key, lineage FROM shard WHERE stream = ? ORDER BY shard",
            (number,),
        )
        stream.shards = [ShardRow(*row) for row in shards]
        yield stream


def _read_checkpoints(connection: sqlite3.Connection) -> Iterator[CheckpointRow]:
    for mapping, shard, epoch, position, state in connection.execute(
        "SELECT mapping, shard, epoch, position, state FROM checkpoint"
    ):
        yield CheckpointRow(mapping, shard, epoch, position, decode_state(state))

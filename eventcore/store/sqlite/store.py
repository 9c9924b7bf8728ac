"""The store on one SQLite file: one connection writes, behind a group commit, another reads."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio

from eventcore.ports.store import (
    Checkpoint,
    Failure,
    Operation,
    OutboxDepth,
    OutboxRow,
    QueueDepth,
    ShardExtent,
    StoreCapabilities,
    StoredMessage,
    StoredRecord,
    StoreStatistics,
    StreamSettings,
    Watch,
)
from eventcore.store.sqlite import checkpoints, failures, outbox, queue_reads, streams
from eventcore.store.sqlite.apply import Applier, Outcome
from eventcore.store.sqlite.connection import Connection, open_connection
from eventcore.store.sqlite.migrate import load_migrations, migrate
from eventcore.store.sqlite.writer import Writer
from eventcore.store.watches import Watches

Result = TypeVar("Result")


class SqliteStore:
    """A `Store` on a file. Open while the context of `open_sqlite_store` lasts."""

    capabilities = StoreCapabilities(is_durable=True)

    def __init__(self, path: Path, writing: Connection, reading: Connection) -> None:
        self._writing = writing
        self._reading = reading
        self._watches = Watches()
        self._applier = Applier(path)
        self._writer = Writer(self._transact)

    def commit(self, operations: Sequence[Operation]) -> Coroutine[Any, Any, list[Any]]:
        """Carry out operations in order, all or none; see `Store.commit`."""
        # Not a coroutine of its own: every send would go through it twice.
        return self._writer.commit(operations)

    async def _transact(self, lists: Sequence[Sequence[Operation]]) -> list[Outcome]:
        applied = await self._writing.run(partial(self._applier.apply, lists=lists))
        # Before the callers go on: whoever has committed finds the watches woken.
        self._watches.wake(applied.topics)
        return applied.outcomes

    async def run(self) -> None:
        """Write until `close`."""
        await self._writer.run()

    def close(self) -> None:
        """Take no more commits; `run` returns when those that wait are written."""
        self._writer.close()

    async def _read(self, function: Callable[[sqlite3.Connection], Result]) -> Result:
        """Run a function that reads, on one snapshot of the file."""

        def read(connection: sqlite3.Connection) -> Result:
            connection.execute("BEGIN")
            try:
                return function(connection)
            finally:
                connection.execute("ROLLBACK")

        return await self._reading.run(read)

    # -- see `Store` ---------------------------------------------------------------------------------------------------

    def watch(self, topic: str) -> AbstractAsyncContextManager[Watch]:
        """Watch a topic for commits that may give a reader something to do."""
        return self._watches.open(topic)

    async def queue_depths(self) -> Sequence[QueueDepth]:
        """Return all queues by name."""
        return await self._read(queue_reads.depths)

    async def peek(
        self, queue: str, *, count_max: int, after_number: int = 0, now_ms: int = 0
    ) -> Sequence[StoredMessage]:
        """Return messages in the order they were sent, without receiving them."""
        return await self._read(
            lambda connection: queue_reads.peek(
                connection, queue, count_max=count_max, after_number=after_number, now_ms=now_ms
            )
        )

    async def streams(self) -> Mapping[str, StreamSettings]:
        """Return all streams by name."""
        return await self._read(streams.all_settings)

    async def extents(self, stream: str) -> Sequence[ShardExtent]:
        """Return where each shard begins and ends."""
        return await self._read(lambda connection: streams.extents(connection, stream))

    async def read(
        self, stream: str, shard: int, position: int, *, count_max: int, size_bytes_max: int
    ) -> Sequence[StoredRecord]:
        """Return records from a position on, in order, at least one if there is one."""
        return await self._read(
            lambda connection: streams.read(
                connection, stream, shard, position, count_max=count_max, size_bytes_max=size_bytes_max
            )
        )

    async def find_position(self, stream: str, shard: int, at_ms: int) -> int:
        """Return the position of the first record that arrived at or after a time."""
        return await self._read(lambda connection: streams.find_position(connection, stream, shard, at_ms))

    async def checkpoints(self, mapping: str | None = None) -> Sequence[Checkpoint]:
        """Return checkpoints, of one mapping or of all."""
        return await self._read(lambda connection: checkpoints.checkpoints(connection, mapping))

    async def due_outbox(self, destination: str, *, now_ms: int, count_max: int) -> Sequence[OutboxRow]:
        """Return a destination's rows that may be handed over now, in order of their number."""
        return await self._read(
            lambda connection: outbox.due(connection, destination, now_ms=now_ms, count_max=count_max)
        )

    async def next_outbox_ms(self, destination: str) -> int:
        """Return when the destination's next row becomes due; 0 when none waits."""
        return await self._read(lambda connection: outbox.next_ms(connection, destination))

    async def outbox_depths(self) -> Sequence[OutboxDepth]:
        """Return what waits, by destination."""
        return await self._read(outbox.depths)

    async def failures(
        self, *, mapping: str | None = None, count_max: int = 100, before_id: str = ""
    ) -> Sequence[Failure]:
        """Return failures, newest first, without their event and records."""
        return await self._read(
            lambda connection: failures.newest(connection, mapping=mapping, count_max=count_max, before_id=before_id)
        )

    async def failure(self, failure_id: str) -> Failure | None:
        """Return one whole failure by its id or a unique prefix of it."""
        return await self._read(lambda connection: failures.find(connection, failure_id))

    async def note(self, name: str) -> bytes | None:
        """Return a small named value."""
        return await self._read(lambda connection: checkpoints.note(connection, name))

    def statistics(self) -> StoreStatistics:
        """Return a snapshot."""
        return self._writer.statistics()


@asynccontextmanager
async def open_sqlite_store(path: Path) -> AsyncIterator[SqliteStore]:
    """Open the state file, made or brought to the newest schema where needed, for the length of the context.

    At its end, commits that wait are finished and the log is copied into the file. Errors of the body leave as they
    are, not wrapped in a group.

    Raises:
        StoreUnavailable: the file can't be opened; the message says why.
        StoreCorrupt: it is damaged, or not eventcore's.
        SchemaMismatch: a newer eventcore wrote it.
    """
    failure: BaseException | None = None
    async with (
        open_connection(path, prepare=partial(_prepare, path=path)) as writing,
        open_connection(path, prepare=_prepare_nothing, is_reader=True) as reading,
    ):
        store = SqliteStore(path, writing, reading)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(store.run)
                try:
                    yield store
                finally:
                    store.close()
        except BaseExceptionGroup as group:
            if len(group.exceptions) != 1:
                raise
            failure = group.exceptions[0]
    if failure is not None:
        raise failure


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the file to the newest schema; a file that can't be written to is told now, not at the first commit."""
    migrate(connection, path, load_migrations())
    connection.execute("DELETE FROM note WHERE FALSE")


def _prepare_nothing(_connection: sqlite3.Connection) -> None:
    """Leave a connection as it is: the other one has prepared the file."""

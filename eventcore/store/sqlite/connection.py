"""The one place that knows aiosqlite: a connection on a thread of its own, which runs whole functions.

One hop to the thread a function: a hop costs as much as twenty statements. Functions run one after another.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import aiosqlite
import anyio
import anyio.to_thread

from eventcore.errors import StoreError, StoreUnavailable
from eventcore.store.sqlite.faults import translated

Result = TypeVar("Result")

#: The oldest SQLite that has what we use: STRICT tables and RETURNING.
SQLITE_VERSION_MIN = (3, 37, 0)
#: How long SQLite waits for another process's lock, seconds. We are the only writer; a backup tool may hold one.
BUSY_TIMEOUT_S = 5.0
#: Opening is not cancelled half way, for at most this long, seconds: a busy file, and recovery of a large log.
OPEN_GRACE_S = 60.0
#: Closing copies the log into the file; past this it is left to the next opening, seconds.
CLOSE_GRACE_S = 30.0
#: Prepared statements that are kept: all of ours, with twenty sizes of each insert.
STATEMENTS_CACHED = 256
#: Pages kept in memory, KiB: the inner pages of a million messages and the ends of every queue.
CACHE_KIB = 16_384
#: The log is copied into the file at this length, pages of 4 KiB: fewer copies of the same page, 16 MB at most twice.
CHECKPOINT_PAGES = 4000
#: After a burst the log's file is cut back to this, bytes.
LOG_BYTES_MAX = 64 * 1024 * 1024


class Connection:
    """A connection to a state file. Open while the context of `open_connection` lasts."""

    def __init__(self, thread: aiosqlite.Connection, native: sqlite3.Connection, path: Path) -> None:
        self._thread = thread
        self._native = native
        self._path = path

    async def run(self, function: Callable[[sqlite3.Connection], Result]) -> Result:
        """Run a function on the connection's thread and return what it returns.

        Cancelled, the function may run all the same, before those that are run later.

        Raises:
            StoreUnavailable, StoreCorrupt: see `eventcore.store.sqlite.faults`.
        """
        with translated(self._path):
            # aiosqlite has no public way to run a function on its thread.
            result: Result = await self._thread._execute(function, self._native)  # type: ignore[no-untyped-call]  # noqa: SLF001
            return result


@asynccontextmanager
async def open_connection(
    path: Path, *, prepare: Callable[[sqlite3.Connection], None], is_reader: bool = False
) -> AsyncIterator[Connection]:
    """Open a connection, run ``prepare`` on it, and close it when the context ends.

    Raises:
        StoreUnavailable: the file can't be opened or made, or SQLite is too old.
        StoreCorrupt: it is no database, or damaged.
    """
    if sqlite3.sqlite_version_info < SQLITE_VERSION_MIN:
        needed = ".".join(map(str, SQLITE_VERSION_MIN))
        raise StoreUnavailable(f"this Python has SQLite {sqlite3.sqlite_version}; eventcore needs {needed} or newer")
    native: list[sqlite3.Connection] = []

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(
            path, timeout=BUSY_TIMEOUT_S, isolation_level=None, cached_statements=STATEMENTS_CACHED
        )
        try:
            # First: it refuses files that are not ours, which must not be changed by settings either.
            prepare(connection)
            _configure(connection, path, is_reader=is_reader)
        except BaseException:
            connection.close()
            raise
        native.append(connection)
        return connection

    thread = aiosqlite.Connection(connect, iter_chunk_size=1)
    try:
        with anyio.fail_after(OPEN_GRACE_S, shield=True), translated(path):
            await thread
    except TimeoutError as error:
        raise StoreUnavailable(f"the state file {path} does not open within {OPEN_GRACE_S:.0f} s") from error
    except StoreError:
        # aiosqlite has told its thread to end, and does not wait for it: a loop that is closed before the thread has
        # answered makes it print a traceback.
        with anyio.move_on_after(CLOSE_GRACE_S, shield=True):
            await anyio.to_thread.run_sync(thread._thread.join)  # noqa: SLF001
        raise
    try:
        yield Connection(thread, native[0], path)
    finally:
        with anyio.move_on_after(CLOSE_GRACE_S, shield=True):
            await thread.close()


def _configure(connection: sqlite3.Connection, path: Path, *, is_reader: bool) -> None:
    ((mode,),) = connection.execute("PRAGMA journal_mode = WAL")
    if mode != "wal":
        raise StoreUnavailable(f"the state file {path} can't have a write-ahead log: put it on a local disk")
    # Every commit is on the disk when it returns: an acknowledged message survives a power cut.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    connection.execute(f"PRAGMA journal_size_limit = {LOG_BYTES_MAX}")
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    connection.execute("PRAGMA foreign_keys = ON")
    if is_reader:
        connection.execute("PRAGMA query_only = ON")

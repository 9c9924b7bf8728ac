"""What SQLite's errors mean for the engine, in one sentence each."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from eventcore.errors import StoreCorrupt, StoreError, StoreUnavailable

#: SQLite's primary result codes (sqlite.org/rescode.html): the low byte of an extended one.
_PRIMARY = 0xFF

_UNAVAILABLE = {
    sqlite3.SQLITE_BUSY: "is locked by another process",
    sqlite3.SQLITE_LOCKED: "is locked by another process",
    sqlite3.SQLITE_PROTOCOL: "is locked by another process",
    sqlite3.SQLITE_READONLY: "is read-only",
    sqlite3.SQLITE_PERM: "can't be opened: permission denied",
    sqlite3.SQLITE_CANTOPEN: "can't be opened: its folder is missing or read-only",
    sqlite3.SQLITE_FULL: "can't grow: its disk is full",
    sqlite3.SQLITE_IOERR: "can't be read or written: its disk fails or is full",
    sqlite3.SQLITE_NOMEM: "can't be used: out of memory",
}

_CORRUPT = {
    sqlite3.SQLITE_CORRUPT: "is damaged",
    sqlite3.SQLITE_NOTADB: "is not a database",
}


def store_error(error: Exception, path: Path) -> StoreError | None:
    """Return what an error says of the file; None for one that only our own mistake can cause."""
    if isinstance(error, msgspec.DecodeError):
        return StoreCorrupt(f"the state file {path} holds what was never written ({error})")
    code = getattr(error, "sqlite_errorcode", 0) & _PRIMARY
    if code in _UNAVAILABLE:
        return StoreUnavailable(f"the state file {path} {_UNAVAILABLE[code]} ({error})")
    if code in _CORRUPT:
        return StoreCorrupt(f"the state file {path} {_CORRUPT[code]} ({error}): restore it from a backup, or remove it")
    return None


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Raise SQLite's errors, and those of decoding, as the store's."""
    try:
        yield
    except (sqlite3.Error, msgspec.DecodeError) as error:
        meaning = store_error(error, path)
        if meaning is None:
            raise
        raise meaning from error

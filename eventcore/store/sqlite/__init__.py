"""The store on one SQLite file: `open_sqlite_store`. Its schema is told in `migrations/`."""

from __future__ import annotations

from eventcore.store.sqlite.store import SqliteStore, open_sqlite_store

__all__ = ["SqliteStore", "open_sqlite_store"]

"""The schema's version: read, refused when newer, brought forward one step a transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import msgspec

from eventcore.errors import SchemaMismatch, StoreCorrupt

#: Written into the file's header, so that another program's database is never taken for ours: "evnt".
APPLICATION_ID = 0x65766E74


class Migration(msgspec.Struct, frozen=True, kw_only=True):
    """A step from one version of the schema to the next."""

    version: int  #: that it leads to
    sql: str


def load_migrations() -> Sequence[Migration]:
    """Return every migration that this version of eventcore has, in order: versions 1, 2, 3, ..."""
    scripts = sorted(
        (entry for entry in files("eventcore.store.sqlite").joinpath("migrations").iterdir()), key=lambda it: it.name
    )
    return [
        Migration(version=int(script.name.split("_")[0]), sql=script.read_text(encoding="utf-8"))
        for script in scripts
        if script.name.endswith(".sql")
    ]


def migrate(connection: sqlite3.Connection, path: Path, migrations: Sequence[Migration]) -> None:
    """Bring a file to the newest version of the schema; an empty file is made one of ours.

    Each step is one transaction: a step that fails leaves the version before it.

    Raises:
        SchemaMismatch: a newer eventcore wrote the file; nothing was changed.
        StoreCorrupt: it is another program's database; nothing was changed.
    """
    version = _check(connection, path, newest=len(migrations))
    for migration in migrations[version:]:
        try:
            # One script: executescript would end a transaction that was begun before it.
            connection.executescript(
                f"BEGIN IMMEDIATE; {migration.sql} PRAGMA application_id = {APPLICATION_ID};"
                f"PRAGMA user_version = {migration.version}; COMMIT;"
            )
        finally:
            if connection.in_transaction:
                connection.rollback()


def _check(connection: sqlite3.Connection, path: Path, *, newest: int) -> int:
    """Return the file's version; 0 for an empty one."""
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if not tables and not version:
        return 0
    if application_id != APPLICATION_ID:
        raise StoreCorrupt(f"the state file {path} is another program's database: choose another folder with --state")
    if version > newest:
        raise SchemaMismatch(
            f"the state file {path} has schema version {version}, this eventcore knows versions up to {newest}: "
            "run the newer eventcore that wrote it, or choose another folder with --state"
        )
    return int(version)

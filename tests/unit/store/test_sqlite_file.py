"""The state file: made, brought forward, refused, full, locked, damaged. Each is one clear sentence."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from eventcore.errors import ProgrammingError, SchemaMismatch, StoreCorrupt, StoreUnavailable
from eventcore.ports.store import (
    IDEMPOTENCY_DAYS,
    DefineQueue,
    NewMessage,
    PutNote,
    QueueSettings,
    ReceiveMessages,
    SendMessages,
    TakeShard,
)
from eventcore.store.sqlite import open_sqlite_store
from eventcore.store.sqlite.migrate import APPLICATION_ID, Migration, load_migrations, migrate

NOTE = PutNote(name="n", value=b"1")


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "state.db"


async def write(path: Path) -> None:
    async with open_sqlite_store(path) as store:
        await store.commit([NOTE])


def raw(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None)


async def test_every_commit_is_on_the_disk_when_it_returns(path):
    """No power can be cut in a test: SQLite's own words for it are `synchronous` FULL (2) and a write-ahead log."""
    async with open_sqlite_store(path) as store:

        def settings(connection):
            return [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "journal_mode")]

        assert await store._writing.run(settings) == [2, "wal"]


async def test_tokens_that_are_forgotten_leave_the_file(path):
    """So that idempotency costs no more than its days."""

    def send(token: str, now_ms: int) -> SendMessages:
        new = NewMessage(id="a", body=b"", idempotency_token=token)
        return SendMessages(queue="q", messages=(new,), now_ms=now_ms)

    async with open_sqlite_store(path) as store:
        await store.commit([DefineQueue(queue="q", settings=QueueSettings())])
        await store.commit([send(str(number), 1000 + number) for number in range(100)])
        await store.commit([send("later", 1050 + IDEMPOTENCY_DAYS * 86_400_000)])
    connection = raw(path)
    assert connection.execute("SELECT count(*), min(forget_ms) FROM token").fetchone() == (
        50,
        1051 + IDEMPOTENCY_DAYS * 86_400_000,
    )
    connection.close()


async def test_an_sqlite_that_is_too_old_is_told(path, monkeypatch):
    """Before anything is written."""
    monkeypatch.setattr("sqlite3.sqlite_version_info", (3, 36, 0))
    with pytest.raises(StoreUnavailable, match=r"3\.37"):
        await write(path)
    assert not path.exists()


# -- versions ----------------------------------------------------------------------------------------------------------


async def test_a_new_file_has_the_newest_version_and_our_mark(path):
    """So that it is recognised, and a later eventcore knows where to begin."""
    await write(path)
    connection = raw(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (len(load_migrations()),)
    assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    connection.close()


def test_migrations_are_numbered_without_a_gap():
    """A file of any version finds its way."""
    assert [migration.version for migration in load_migrations()] == [*range(1, len(load_migrations()) + 1)]


async def test_a_newer_file_is_refused_and_left_alone(path):
    """The message names both versions and says what to do."""
    await write(path)
    connection = raw(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(SchemaMismatch) as caught:
        await write(path)
    assert "version 99" in str(caught.value)
    assert f"up to {len(load_migrations())}" in str(caught.value)
    assert "--state" in str(caught.value)
    assert path.read_bytes() == before


def test_an_older_file_is_brought_forward_with_its_contents(path):
    """Step by step from the version it has, each once."""
    first = Migration(version=1, sql="CREATE TABLE t (a); INSERT INTO t VALUES (1);")
    second = Migration(version=2, sql="ALTER TABLE t ADD COLUMN b DEFAULT 2;")
    third = Migration(version=3, sql="UPDATE t SET a = a + 10;")
    connection = raw(path)
    migrate(connection, path, [first])
    for _ in range(2):
        migrate(connection, path, [first, second, third])
        assert connection.execute("SELECT a, b FROM t").fetchall() == [(11, 2)]
        assert connection.execute("PRAGMA user_version").fetchone() == (3,)
    connection.close()


def test_a_step_that_fails_leaves_the_version_before_it(path):
    """Nothing of the step, everything of those before it."""
    first = Migration(version=1, sql="CREATE TABLE t (a);")
    broken = Migration(version=2, sql="CREATE TABLE u (a); INSERT INTO nowhere VALUES (1);")
    connection = raw(path)
    with pytest.raises(sqlite3.OperationalError, match="nowhere"):
        migrate(connection, path, [first, broken])
    assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    assert connection.execute("SELECT name FROM sqlite_schema").fetchall() == [("t",)]
    connection.execute("BEGIN IMMEDIATE")
    connection.close()


# -- files that are not ours, or damaged -------------------------------------------------------------------------------


async def test_another_program_s_database_is_refused_and_left_alone(path):
    """Whatever its version."""
    connection = raw(path)
    connection.execute("CREATE TABLE theirs (a)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreCorrupt, match="another program"):
        await write(path)
    assert path.read_bytes() == before


async def test_a_file_that_is_no_database_is_refused_and_left_alone(path):
    """It names the file."""
    path.write_bytes(b"this is no database at all\n" * 400)
    before = path.read_bytes()
    with pytest.raises(StoreCorrupt) as caught:
        await write(path)
    assert str(path) in str(caught.value)
    assert "not a database" in str(caught.value)
    assert isinstance(caught.value.__cause__, sqlite3.Error)
    assert path.read_bytes() == before


async def test_a_damaged_file_is_told_from_a_missing_one(path):
    """Pages that were overwritten are found when they are read."""
    await write(path)
    damaged = bytearray(path.read_bytes())
    damaged[4096:] = os.urandom(len(damaged) - 4096)
    path.write_bytes(damaged)
    with pytest.raises(StoreCorrupt) as caught:
        async with open_sqlite_store(path) as store:
            await store.commit([NOTE])
    assert str(path) in str(caught.value)
    assert "damaged" in str(caught.value)


async def test_a_value_that_was_never_written_is_damage(path):
    """Settings that can't be decoded, on the writer's side and the reader's."""
    async with open_sqlite_store(path) as store:
        await store.commit([DefineQueue(queue="q", settings=QueueSettings())])
    connection = raw(path)
    connection.execute('UPDATE queue SET settings = \'{"delay": "soon"}\'')
    connection.close()
    async with open_sqlite_store(path) as store:
        with pytest.raises(StoreCorrupt, match="never written"):
            await store.commit([NOTE])
        with pytest.raises(StoreCorrupt, match="never written"):
            await store.queue_depths()


async def test_messages_that_only_their_counter_knows_are_damage(path):
    """Rows that are gone, and a row that has lost a message: a receive tells it instead of looking for ever."""
    new = tuple(NewMessage(id=str(number), body=b"") for number in range(3))
    receive = ReceiveMessages(queue="q", count_max=10, now_ms=1)
    heads = """CAST('[["0", 1, "", 0, 0]]' AS BLOB)"""
    for change in (f"UPDATE segment SET heads = {heads}", "DELETE FROM segment"):
        async with open_sqlite_store(path) as store:
            await store.commit([DefineQueue(queue="q", settings=QueueSettings())])
            await store.commit([SendMessages(queue="q", messages=new, now_ms=1)])
        connection = raw(path)
        connection.execute(change)
        connection.close()
        async with open_sqlite_store(path) as store:
            with pytest.raises(StoreCorrupt, match="messages that its queue 'q' counts"):
                await store.commit([receive])


async def test_a_folder_that_is_missing_is_told(tmp_path):
    """The store makes files, not folders: that is the lock's."""
    with pytest.raises(StoreUnavailable, match="folder"):
        await write(tmp_path / "nowhere" / "state.db")


# -- files that can't be written ---------------------------------------------------------------------------------------

#: Root may write anywhere: so the child becomes nobody first, once everything is imported.
UNPRIVILEGED = """
import os, sys
from pathlib import Path
import anyio
from eventcore.errors import StoreUnavailable
from eventcore.ports.store import PutNote
from eventcore.store.sqlite import open_sqlite_store

async def main():
    async with open_sqlite_store(Path(sys.argv[1])):
        print("opened")

async def warm_up():
    async with open_sqlite_store(Path(sys.argv[2])) as store:
        await store.commit([PutNote(name="n", value=b"1")])

anyio.run(warm_up)
if os.getuid() == 0:
    os.setuid(65534)
try:
    anyio.run(main)
except StoreUnavailable as error:
    print(error)
"""


@pytest.mark.parametrize(("file_mode", "folder_mode"), [(0o444, 0o755), (0o444, 0o555), (0o644, 0o555)])
def test_a_read_only_file_or_folder_is_told_when_it_is_opened(world_readable, tmp_path, file_mode, folder_mode):
    """It names the file and says what is wrong with it."""
    path = world_readable / "state.db"
    anyio.run(write, path)
    path.chmod(file_mode)
    world_readable.chmod(folder_mode)
    arguments = [sys.executable, "-c", UNPRIVILEGED, str(path), str(tmp_path / "other.db")]
    child = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert str(path) in child.stdout
    assert "read-only" in child.stdout


async def test_a_file_that_another_process_writes_to_is_told(path, monkeypatch):
    """After SQLite's own wait; the commit is tried again by whoever wants it."""
    monkeypatch.setattr("eventcore.store.sqlite.connection.BUSY_TIMEOUT_S", 0.01)
    async with open_sqlite_store(path) as store:
        other = raw(path)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked by another process"):
            await store.commit([NOTE])
        other.execute("ROLLBACK")
        other.close()
        await store.commit([NOTE])
        assert await store.note("n") == b"1"


async def test_a_full_disk_is_told_and_survived(path):
    """Nothing of the commit is there; those that fit go on; all goes on when there is room."""
    async with open_sqlite_store(path) as store:
        await store.commit([DefineQueue(queue="q", settings=QueueSettings())])

        async def pages(count: int) -> None:
            await store._writing.run(lambda connection: connection.execute(f"PRAGMA max_page_count = {count}").close())

        await pages(1)  # the least it takes is what the file has
        large = NewMessage(id="a", body=b"x" * 100_000)
        send = SendMessages(queue="q", messages=(large,), now_ms=1000)
        with pytest.raises(StoreUnavailable) as caught:
            await store.commit([TakeShard(mapping="m", shard="s"), send])
        assert str(path) in str(caught.value)
        assert "full" in str(caught.value)
        assert await store.checkpoints() == []
        assert (await store.queue_depths())[0].visible == 0
        await store.commit([NOTE])
        await pages(10_000)
        await store.commit([TakeShard(mapping="m", shard="s"), send])
        (result,) = await store.commit([ReceiveMessages(queue="q", count_max=2, now_ms=1000)])
        assert [message.id for message in result.messages] == ["a"]
        assert (await store.checkpoints())[0].epoch == 1


FULL_DISK = """
import resource, sys
from pathlib import Path
import anyio
from eventcore.errors import StoreUnavailable
from eventcore.ports.store import PutNote
from eventcore.store.sqlite import open_sqlite_store

async def main():
    async with open_sqlite_store(Path(sys.argv[1])) as store:
        await store.commit([PutNote(name="small", value=b"1")])
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
        written = 0
        try:
            for number in range(100):
                await store.commit([PutNote(name=f"n{number}", value=b"x" * 20_000)])
                written += 1
        except StoreUnavailable as error:
            print(error)
        print(await store.note(f"n{written}"), await store.note("small"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        await store.commit([PutNote(name="large", value=b"y" * 500_000)])
        print(len(await store.note("large")), len(await store.note(f"n{written - 1}")))

anyio.run(main)
"""


def test_a_log_that_cannot_grow_is_told_and_survived(path):
    """The operating system refuses to extend the files: what was acknowledged stays, later commits are taken."""
    child = subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=True)
    error, nothing, later = child.stdout.splitlines()
    assert str(path) in error
    assert "full" in error
    assert nothing == "None b'1'"
    assert later == "500000 20000"


# -- what others do to the file ----------------------------------------------------------------------------------------


async def test_two_stores_on_one_file_keep_each_other_s_writes(path):
    """The lock forbids it; were it broken, counters and keys would still be right."""
    send = SendMessages(queue="q", messages=(NewMessage(id="a", body=b""),), now_ms=1000)
    async with open_sqlite_store(path) as one, open_sqlite_store(path) as two:
        await one.commit([DefineQueue(queue="q", settings=QueueSettings())])
        for store in (two, one, two, two, one):
            await store.commit([send])
        assert (await two.queue_depths())[0].visible == 5
        (result,) = await two.commit([ReceiveMessages(queue="q", count_max=9, now_ms=1000)])
        assert [message.number for message in result.messages] == [1, 2, 3, 4, 5]


async def test_the_log_is_copied_into_the_file_at_the_end(path):
    """A copy of the one file is a whole backup once the engine has stopped."""
    await write(path)
    assert [entry.name for entry in path.parent.iterdir()] == ["state.db"]


async def test_a_value_that_no_column_takes_is_the_caller_s_mistake(path):
    """It says so, and nothing of the list is written."""
    async with open_sqlite_store(path) as store:
        for value in ("a text", 1.5, None):
            with pytest.raises(ProgrammingError, match="stored"):
                await store.commit([NOTE, PutNote(name="m", value=value)])
        with pytest.raises(ProgrammingError, match="stored"):
            await store.commit([NOTE, PutNote(name="\ud800", value=b"")])
        assert await store.note("n") is None

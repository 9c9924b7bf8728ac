"""SIGKILL in the middle of commits: what was acknowledged is there, and nothing is there by half.

The child runs this file: writers that commit one list after another, each list a message, a record, a checkpoint and a
note that belong together, and tell the parent of each list that the store has acknowledged.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from eventcore.ports.store import (
    AppendRecords,
    DefineQueue,
    DefineStream,
    DeleteMessages,
    NewMessage,
    NewRecord,
    PutNote,
    QueueSettings,
    ReceiveMessages,
    SaveCheckpoint,
    SendMessages,
    Store,
    StreamSettings,
    TakeShard,
)
from eventcore.store.sqlite import open_sqlite_store

#: Tasks that commit at the same time, each on a shard of its own.
WRITERS = 8
NOW_MS = 1_767_225_600_000


async def write(path: Path) -> None:
    """Commit until killed, going on where an earlier process stopped."""
    async with open_sqlite_store(path) as store:
        await store.commit(
            [
                DefineQueue(queue="sent", settings=QueueSettings()),
                DefineQueue(queue="churn", settings=QueueSettings()),
                DefineStream(stream="s", settings=StreamSettings(shards=WRITERS)),
            ]
        )
        async with anyio.create_task_group() as tasks:
            for writer in range(WRITERS):
                tasks.start_soon(write_one, store, writer)


async def write_one(store: Store, writer: int) -> None:
    (taken,) = await store.commit([TakeShard(mapping="m", shard=str(writer))])
    begin = int(await store.note(str(writer)) or 0)
    for number in range(begin, begin + 100_000):
        await store.commit(
            [
                SendMessages(queue="sent", messages=(message(writer, number),), now_ms=NOW_MS),
                AppendRecords(stream="s", records=(NewRecord(shard=writer, body=b"%d" % number),), now_ms=NOW_MS),
                SaveCheckpoint(mapping="m", shard=str(writer), epoch=taken.epoch, position=number + 1),
                PutNote(name=str(writer), value=b"%d" % (number + 1)),
            ]
        )
        os.write(1, b"%d %d\n" % (writer, number))
        send = SendMessages(queue="churn", messages=(message(writer, number),), now_ms=NOW_MS)
        _, received = await store.commit([send, ReceiveMessages(queue="churn", count_max=1, now_ms=NOW_MS)])
        receipts = tuple(found.receipt for found in received.messages)
        await store.commit([DeleteMessages(queue="churn", receipts=receipts)])


def message(writer: int, number: int) -> NewMessage:
    return NewMessage(id=f"{writer}:{number}", body=b"x" * (number % 5000))


def run_and_kill(path: Path, acknowledged: int) -> dict[int, int]:
    """Let a child write until it has acknowledged so many lists, kill it, and return the last one of each writer."""
    child = subprocess.Popen([sys.executable, __file__, str(path)], stdout=subprocess.PIPE)
    last: dict[int, int] = {}
    try:
        for count, line in enumerate(child.stdout, 1):
            writer, number = line.split()
            last[int(writer)] = int(number)
            if count == acknowledged:
                child.send_signal(signal.SIGKILL)
    finally:
        child.kill()
        child.communicate()
    assert child.returncode == -signal.SIGKILL
    return last


async def check(path: Path, last: dict[int, int]) -> None:
    """Each writer's lists are there up to some point, whole, and every acknowledged one is among them."""
    async with open_sqlite_store(path) as store:
        sent = [found.id for found in await store.peek("sent", count_max=10**6)]
        assert len(sent) == len(set(sent))
        positions = {checkpoint.shard: checkpoint.position for checkpoint in await store.checkpoints("m")}
        for writer in range(WRITERS):
            written = int(await store.note(str(writer)) or 0)
            assert written > last.get(writer, -1)
            expected = [f"{writer}:{number}" for number in range(written)]
            assert [name for name in sent if name.startswith(f"{writer}:")] == expected
            records = await store.read("s", writer, 0, count_max=10**6, size_bytes_max=10**9)
            assert [record.body for record in records] == [b"%d" % number for number in range(written)]
            assert written == max(positions[str(writer)], 0)
        depths = {depth.queue: depth for depth in await store.queue_depths()}
        assert (depths["sent"].visible, depths["sent"].hidden) == (len(sent), 0)
        churned = await store.peek("churn", count_max=10**6)
        assert depths["churn"].visible + depths["churn"].hidden == len(churned)
        assert depths["churn"].hidden == sum(found.receive_count for found in churned)


@pytest.mark.slow
def test_a_killed_store_keeps_what_it_acknowledged(tmp_path):
    """Three times in a row on the same file, each time at another point of its life."""
    path = tmp_path / "state.db"
    last: dict[int, int] = {}
    for acknowledged in (1, 150, 1200):
        last.update(run_and_kill(path, acknowledged))
        anyio.run(check, path, last)


if __name__ == "__main__":
    anyio.run(write, Path(sys.argv[1]))

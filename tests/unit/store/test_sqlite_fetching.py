"""Rows are fetched in steps of bounded size; where a step ends is not to be seen."""

from pathlib import Path

import pytest

from eventcore.ports.store import AppendRecords, DefineStream, NewRecord, PutOutbox, StreamSettings
from eventcore.store.sqlite import open_sqlite_store
from eventcore.testing.conformance.store_outbox import row

NOW_MS = 1_767_225_600_000


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "state.db"


@pytest.mark.parametrize("step_bytes", [1, 7, 25, 10_000])
async def test_due_rows_come_whole_and_in_order(path, monkeypatch, step_bytes):
    """However many steps they take: a caller may rely on getting all that it asked for."""
    monkeypatch.setattr("eventcore.store.sqlite.outbox.FETCHED_BYTES", step_bytes)
    rows = [
        row(f"k{number}", "ab"[number % 2], payload=b"x" * number, record_key=[None, b"", b"key"][number % 3])
        for number in range(12)
    ]
    async with open_sqlite_store(path) as store:
        await store.commit([PutOutbox(row=one) for one in rows])
        due = await store.due_outbox(rows[0].destination, now_ms=NOW_MS, count_max=11)
    assert [(found.key, found.payload, found.record_key) for found in due] == [
        (one.key, one.payload, one.record_key) for one in rows[:11]
    ]


async def test_a_read_is_bounded_whatever_is_asked_for(path, monkeypatch):
    """The next read goes on behind it."""
    monkeypatch.setattr("eventcore.store.sqlite.streams.FETCHED_BYTES", 25)
    records = tuple(NewRecord(shard=0, body=b"x" * 10) for _ in range(5))
    async with open_sqlite_store(path) as store:
        await store.commit(
            [
                DefineStream(stream="s", settings=StreamSettings(shards=1)),
                AppendRecords(stream="s", records=records, now_ms=NOW_MS),
            ]
        )
        for position, count in ((0, 2), (2, 2), (4, 1)):
            assert len(await store.read("s", 0, position, count_max=9, size_bytes_max=10**9)) == count

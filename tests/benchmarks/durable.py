"""Contestants on the store: raw SQLite, many senders at once, and a queue's whole way to its durable deletion."""

from __future__ import annotations

import itertools
import sqlite3
import tempfile
from pathlib import Path

import anyio

from eventcore.app import RunOptions, run_pipeline, tune_collector
from eventcore.clock import SystemClock
from eventcore.config.load import load_config
from eventcore.embedded.sending import send_messages
from eventcore.ids import SystemIds
from eventcore.ports.connectors import OutgoingRecord
from eventcore.ports.store import DefineQueue, QueueSettings, Store
from eventcore.store.sqlite import open_sqlite_store
from eventcore.telemetry.events import BatchSettled, EngineEvent, EngineEvents, RecordsReceived
from tests.benchmarks.measure import Figures, Meter

BODY = b"x" * 256
QUEUE = "work"
#: Messages whose processor time is looked at by itself.
SLICE = 2_000
#: Messages of one call that fills a queue.
FILL = 5_000
PATIENCE_S = 300.0

PIPELINE = """
[functions.work]
handler = "bench_handlers.native"
runtime = "inline"

[queues.work]

[mappings.work]
source = "queue:work"
function = "work"
batch_size = 10
"""
HANDLERS = """
from eventcore import Batch


def native(batch: Batch) -> None:
    pass
"""


def _raw(folder: str) -> sqlite3.Connection:
    connection = sqlite3.connect(Path(folder) / "raw.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE message (id INTEGER PRIMARY KEY, visible_ms INTEGER NOT NULL, body BLOB NOT NULL)")
    connection.execute("CREATE INDEX visible ON message (visible_ms, id)")
    return connection


def raw_send(count: int) -> Figures:
    """Insert rows, each in a transaction of its own."""
    with tempfile.TemporaryDirectory(prefix="eventcore-bench-") as folder:
        connection, meter = _raw(folder), Meter()
        meter.begin()
        for _ in range(count):
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("INSERT INTO message (visible_ms, body) VALUES (0, ?)", (BODY,))
            connection.execute("COMMIT")
        meter.count = count
        figures = meter.figures()
        connection.close()
    return figures


def raw_receive(count: int, batch: int) -> Figures:
    """Receive rows a batch at a time, each hidden in one transaction and deleted in another."""
    with tempfile.TemporaryDirectory(prefix="eventcore-bench-") as folder:
        connection, meter = _raw(folder), Meter()
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO message (visible_ms, body) VALUES (0, ?)", itertools.repeat((BODY,), count))
        connection.execute("COMMIT")
        meter.begin()
        while meter.count < count:
            connection.execute("BEGIN IMMEDIATE")
            rows = connection.execute(
                "SELECT id, body FROM message WHERE visible_ms <= 1 ORDER BY visible_ms, id LIMIT ?", (batch,)
            ).fetchall()
            keys = [(row[0],) for row in rows]
            connection.executemany("UPDATE message SET visible_ms = 30000 WHERE id = ?", keys)
            connection.execute("COMMIT")
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("DELETE FROM message WHERE id = ?", keys)
            connection.execute("COMMIT")
            meter.count += len(rows)
        figures = meter.figures()
        connection.close()
    return figures


async def send(senders: int, count: int) -> Figures:
    """Send messages one by one from many tasks; each waits until its own is durable."""
    clock, ids, meter = SystemClock(), SystemIds(), Meter()
    message = [OutgoingRecord(body=BODY)]

    async def work(store: Store, times: int) -> None:
        for _ in range(times):
            await send_messages(store, QUEUE, message, clock=clock, ids=ids)

    with tempfile.TemporaryDirectory(prefix="eventcore-bench-") as folder:
        async with open_sqlite_store(Path(folder) / "state.db") as store:
            await store.commit([DefineQueue(queue=QUEUE, settings=QueueSettings())])
            await work(store, 1)
            tune_collector()  # as the command does
            meter.begin()
            async with anyio.create_task_group() as tasks:
                for _ in range(senders):
                    tasks.start_soon(work, store, count // senders)
            meter.count = count // senders * senders
            return meter.figures()


async def queue_engine(count: int, waiting: int = 0) -> Figures:
    """Run an engine on a full queue until the deletion of ``count`` messages is durable; ``waiting`` more are there."""
    meter, done = Meter(SLICE), anyio.Event()

    def on_event(event: EngineEvent) -> None:
        if isinstance(event, RecordsReceived):
            meter.begin()
        elif isinstance(event, BatchSettled):
            meter.count += event.count
            if meter.count >= count:
                done.set()

    events = EngineEvents()
    events.subscribe(on_event)
    with tempfile.TemporaryDirectory(prefix="eventcore-bench-") as name:
        folder = Path(name)
        (folder / "bench_handlers.py").write_text(HANDLERS)
        (folder / "eventcore.toml").write_text(PIPELINE)
        loaded = load_config(folder / "eventcore.toml")
        async with run_pipeline(loaded, RunOptions(state=folder / ".eventcore"), events=events) as engine:
            for first in range(0, count + waiting, FILL):
                records = [OutgoingRecord(body=BODY) for _ in range(min(FILL, count + waiting - first))]
                await send_messages(engine.store, QUEUE, records, clock=engine.clock, ids=engine.ids)
            tune_collector()  # as the command does
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(engine.run)
                with anyio.fail_after(PATIENCE_S):
                    await done.wait()
                figures = meter.figures()
                engine.drain()
    return figures

"""Operations on a pipeline in memory, whose functions run inline."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import eventcore
from eventcore.clock import SystemClock
from eventcore.config.effective import resolve
from eventcore.engine.definitions import define_sources
from eventcore.http.functions import OneTimeRunner
from eventcore.http.operations import Operations
from eventcore.ids import SystemIds
from eventcore.ports.store import Store
from eventcore.store.memory import open_memory_store

#: What the function `work` was given, and what it does with a record that says so.
received: list[object] = []


async def work(batch: eventcore.Batch) -> list[eventcore.Record]:
    """Raise for a record "raise", report a record "report"."""
    received.append([record.body for record in batch])
    if any(record.body == b"raise" for record in batch):
        raise ValueError("as asked")
    return [record for record in batch if record.body == b"report"]


async def answer(event: object, context: object) -> object:
    """Return the event; of a batch report the first record failed if it says so."""
    received.append(event)
    if isinstance(event, dict) and event.get("raise"):
        raise ValueError("as asked")
    if isinstance(event, dict) and event.get("report"):
        return {"batchItemFailures": [{"itemIdentifier": "x"}]}
    return event


def make_app() -> eventcore.App:
    """Return a pipeline with a stream, queues, and inline functions."""
    app = eventcore.App()
    app.stream("orders", shards=2)
    app.queue("orders", redrive_policy={"dead_letter_queue": "dead", "max_receive_count": 2})
    app.queue("dead")
    app.function(runtime="inline")(work)
    app.function(runtime="inline")(answer)
    app.mapping(
        "native", source="stream:orders", function=work, starting_position="TRIM_HORIZON", on_failure="queue:dead"
    )
    app.mapping(
        "reports",
        source="stream:orders",
        function=answer,
        starting_position="TRIM_HORIZON",
        function_response_types=["ReportBatchItemFailures"],
    )
    app.mapping("queued", source="queue:orders", function=work)
    return app


@asynccontextmanager
async def open_operations() -> AsyncIterator[tuple[Operations, Store]]:
    """Open operations without an engine, and the store beneath."""
    received.clear()
    app, clock, ids = make_app(), SystemClock(), SystemIds()
    loaded = app.loaded()
    runner = OneTimeRunner(loaded, app.targets, clock=clock, ids=ids)
    async with open_memory_store() as store:
        await define_sources(store, resolve(loaded))
        yield Operations(loaded, store, clock=clock, ids=ids, runner=runner, retry_runner=runner), store

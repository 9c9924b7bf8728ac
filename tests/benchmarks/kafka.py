"""Contestants on Kafka: a bare aiokafka loop, and whole engines on a pipeline file with their state on disk."""

from __future__ import annotations

import asyncio
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from eventcore.app import Engine, RunOptions, run_pipeline, tune_collector
from eventcore.config.load import load_config
from eventcore.telemetry.events import BatchSettled, EngineEvent, EngineEvents, RecordsReceived
from tests.benchmarks.collector import running_collector
from tests.benchmarks.measure import Figures, Meter

PARTITIONS = 4
RECORD_BYTES = 200
COMMIT_EVERY_S = 1.0
#: The share of a topic that is measured: the last batches of an engine wait for their window, as they should.
MEASURED = 0.95
#: A batch of the producer, bytes.
PRODUCE_BYTES = 128 * 1024
#: Nothing takes so long that works, seconds.
PATIENCE_S = 300.0
#: Of a run at a fixed rate, records that are not counted: connections and caches warm up.
WARM_UP = 500

#: Keys of the rows with lanes, and what their handler waits for each record, seconds.
LANE_KEYS = 1_000
LANE_WAIT_S = 0.01

HANDLERS = """
import asyncio
import time

import msgspec

from eventcore import Batch, OutgoingRecord

LATENCIES = []
NEWEST = {}


class Order(msgspec.Struct):
    id: int
    customer: str
    amount: float
    currency: str
    note: str


def native(batch: Batch) -> None:
    pass


def shaped(event, context):
    pass


def typed(order: Order) -> None:
    pass


def answered(batch: Batch):
    return [OutgoingRecord(body=record.body, key=record.key) for record in batch]


async def slow(order: Order) -> None:
    # Raises where a key is out of order, and the row never ends.
    assert NEWEST.get(order.customer, -1) < order.id, (order, NEWEST[order.customer])
    await asyncio.sleep(0.01)
    NEWEST[order.customer] = order.id


def timed(batch: Batch) -> None:
    now = time.perf_counter_ns()
    for record in batch:
        LATENCIES.append(now - int(record.body[:20]))
"""

PIPELINE = """
[kafka.local]
bootstrap_servers = "{address}"
client = "{client}"

[functions.work]
handler = "bench_handlers.{handler}"
runtime = "{runtime}"
timeout = 60
concurrency = {concurrency}

[mappings.orders]
source = "kafka:local/{topic}"
function = "work"
starting_position = "{start}"
consumer_group_id = "{group}"
batch_size = {batch_size}
{mapping}
"""

_numbers = itertools.count()


def _group() -> str:
    return f"bench-{time.time_ns()}-{next(_numbers)}"  # noqa: TID251 - a name, not a time


def body_of(number: int) -> bytes:
    """Return a record of five fields in JSON, of `RECORD_BYTES`."""
    text = f'{{"id":{number},"customer":"c-{number % 1000:06d}","amount":{number % 9973}.5,"currency":"EUR","note":""}}'
    return (text[:-2] + "x" * (RECORD_BYTES - len(text)) + '"}').encode()


async def produce(address: str, topic: str, count: int, partitions: int = PARTITIONS) -> Figures:
    """Create a topic and fill it, a batch at a time."""
    await _create_topic(address, topic, partitions)
    async with AIOKafkaProducer(bootstrap_servers=address, max_batch_size=PRODUCE_BYTES, linger_ms=0) as producer:
        pending = []
        batch, partition = producer.create_batch(), 0
        for number in range(count):
            key = b"%06d" % (number % 1000)
            if batch.append(key=key, value=body_of(number), timestamp=None) is None:
                pending.append(await producer.send_batch(batch, topic, partition=partition))
                batch, partition = producer.create_batch(), (partition + 1) % partitions
                batch.append(key=key, value=body_of(number), timestamp=None)
        pending.append(await producer.send_batch(batch, topic, partition=partition))
        for each in pending:
            await each
    return {"count": count}


async def _create_topic(address: str, topic: str, partitions: int = PARTITIONS) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, partitions, 1)])
    finally:
        await admin.close()


# -- the peer ----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _bare(address: str, topic: str, start: str) -> AsyncIterator[AIOKafkaConsumer]:
    client = AIOKafkaConsumer(
        topic, bootstrap_servers=address, group_id=_group(), auto_offset_reset=start, enable_auto_commit=False
    )
    await client.start()
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_commit_in_background, client)
            yield client
            tasks.cancel_scope.cancel()
    finally:
        await client.stop()


async def _commit_in_background(client: AIOKafkaConsumer) -> None:
    while True:
        await anyio.sleep(COMMIT_EVERY_S)
        if client.assignment():
            await client.commit()


async def loop(address: str, topic: str, count: int) -> Figures:
    """Read a topic with `getmany`, decoding nothing."""
    meter = Meter()
    async with _bare(address, topic, "earliest") as client:
        while meter.count < count * MEASURED:
            arrived = await client.getmany(timeout_ms=1000, max_records=None)
            if arrived:
                meter.begin()
            for records in arrived.values():
                meter.count += len(records)
        figures = meter.figures()
        await client.commit()
    return figures


# -- ours --------------------------------------------------------------------------------------------------------------


async def engine(
    address: str,
    topic: str,
    count: int,
    handler: str,
    batch_size: int,
    runtime: str = "inline",
    mapping: str = "",
    concurrency: int = 10,
    client: str = "aiokafka",
) -> Figures:
    """Run an engine until it has settled every record."""
    meter, done = Meter(), anyio.Event()

    def on_event(event: EngineEvent) -> None:
        if isinstance(event, RecordsReceived):
            meter.begin()
        elif isinstance(event, BatchSettled):
            meter.count += event.count
            if meter.count >= count * MEASURED:
                done.set()

    events = EngineEvents()
    events.subscribe(on_event)
    text = {"address": address, "topic": topic, "handler": handler, "runtime": runtime, "start": "TRIM_HORIZON"}
    more = {"batch_size": str(batch_size), "mapping": mapping, "concurrency": str(concurrency), "client": client}
    async with _running(text | more, events):
        with anyio.fail_after(PATIENCE_S):
            await done.wait()
        return meter.figures()


async def laned_engine(address: str, count: int, lanes: int) -> Figures:
    """Run an engine on one partition whose handler waits `LANE_WAIT_S` a record, and checks the order of keys."""
    topic = f"lanes-{_group()}"
    await produce(address, topic, count, partitions=1)
    mapping = f"lanes = {lanes}\nmaximum_batching_window_in_seconds = 0"
    return await engine(address, topic, count, "slow", 100, mapping=mapping, concurrency=lanes)


async def answering_engine(address: str, topic: str, count: int, delivery: str) -> Figures:
    """Run an engine whose function answers each record, in batches of 1,000."""
    results, failed = f"results-{_group()}", f"failed-{_group()}"
    await _create_topic(address, results)
    await _create_topic(address, failed)
    mapping = (
        f'results = "kafka:local/{results}"\non_failure = "kafka:local/{failed}"\ndelivery = "{delivery}"\n'
        "maximum_retry_attempts = 3"
    )
    return await engine(address, topic, count, "answered", 1000, mapping=mapping)


async def traced_engine(ratio: float, **arguments: Any) -> Figures:
    """Run an engine with its spans sampled and exported. The processor time includes the collector's."""
    with running_collector() as address:
        os.environ |= {
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_ENDPOINT": address,
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": str(ratio),
        }
        return await engine(**arguments)


@asynccontextmanager
async def _running(settings: dict[str, str], events: EngineEvents) -> AsyncIterator[Engine]:
    with tempfile.TemporaryDirectory(prefix="eventcore-bench-") as name:
        folder = Path(name)
        (folder / "bench_handlers.py").write_text(HANDLERS)
        (folder / "eventcore.toml").write_text(PIPELINE.format(group=_group(), **settings))
        loaded = load_config(folder / "eventcore.toml")
        options = RunOptions(state=folder / ".eventcore")
        async with run_pipeline(loaded, options, events=events) as running, anyio.create_task_group() as tasks:
            tune_collector()  # as the command does
            tasks.start_soon(running.run)
            yield running
            running.drain()


# -- produced to handled -----------------------------------------------------------------------------------------------


async def _send_steadily(address: str, topic: str, count: int, per_s: int) -> None:
    async with AIOKafkaProducer(bootstrap_servers=address, linger_ms=0) as producer:
        began = time.perf_counter()
        for number in range(count):
            late_s = began + number / per_s - time.perf_counter()
            if late_s > 0:
                await anyio.sleep(late_s)
            body = b"%020d" % time.perf_counter_ns()
            await producer.send(topic, body.ljust(RECORD_BYTES, b"x"), partition=number % PARTITIONS)
        await producer.flush()


def send_steadily(address: str, topic: str, count: int, per_s: int) -> Figures:
    """Send at a fixed rate, each record with the time it was sent; in a process of its own."""
    asyncio.run(_send_steadily(address, topic, count, per_s))
    return {"count": count}


def _latencies(taken_ns: list[int]) -> Figures:
    taken = sorted(taken_ns[WARM_UP:])
    return {
        "p50_ms": statistics.median(taken) / 1e6,
        "p99_ms": taken[int(len(taken) * 0.99)] / 1e6,
        "count": len(taken),
    }


def _sender(address: str, topic: str, count: int, per_s: int) -> list[str]:
    import json
    import sys

    arguments = {"address": address, "topic": topic, "count": count, "per_s": per_s}
    return [sys.executable, "-m", "tests.benchmarks.measure", "kafka:send_steadily", json.dumps(arguments)]


async def loop_latency(address: str, topic: str, count: int, per_s: int) -> Figures:
    """Measure how old records are when a bare loop has them."""
    topic = f"{topic}-{_group()}"
    await _create_topic(address, topic)
    taken: list[int] = []
    async with _bare(address, topic, "latest") as client:
        while not client.assignment():  # noqa: ASYNC110 - it has no other way to tell
            await anyio.sleep(0.05)
        await client.seek_to_end()
        async with await anyio.open_process(_sender(address, topic, count, per_s)):
            with anyio.fail_after(PATIENCE_S):
                while len(taken) < count:
                    arrived = await client.getmany(timeout_ms=1000, max_records=None)
                    now = time.perf_counter_ns()
                    for records in arrived.values():
                        taken.extend([now - int(record.value[:20]) for record in records])
    return _latencies(taken)


async def engine_latency(address: str, topic: str, count: int, per_s: int) -> Figures:
    """Measure how old records are when an inline handler has them, without a batching window."""
    topic = f"{topic}-{_group()}"
    await _create_topic(address, topic)
    events, taken, ready = EngineEvents(), anyio.Event(), anyio.Event()
    counts = {"taken": 0}

    def on_event(event: EngineEvent) -> None:
        if isinstance(event, BatchSettled):
            counts["taken"] += event.count
            if counts["taken"] >= count:
                taken.set()
        elif type(event).__name__ == "ShardTaken":
            ready.set()

    events.subscribe(on_event)
    text = {"address": address, "topic": topic, "handler": "timed", "runtime": "inline", "start": "LATEST"}
    more = {
        "batch_size": "1000",
        "mapping": "maximum_batching_window_in_seconds = 0",
        "concurrency": "10",
        "client": "aiokafka",
    }
    async with _running(text | more, events):
        with anyio.fail_after(PATIENCE_S):
            await ready.wait()
            async with await anyio.open_process(_sender(address, topic, count, per_s)):
                await taken.wait()
    import bench_handlers  # type: ignore[import-not-found]

    return _latencies(bench_handlers.LATENCIES)

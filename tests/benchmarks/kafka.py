"""Contestants on Kafka: a bare aiokafka loop, and whole engines on a pipeline file with their state on disk."""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from eventcore.app import RunOptions, run_pipeline, tune_collector
from eventcore.config.load import load_config
from eventcore.engine.engine import Engine
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


def new_group() -> str:
    """Return a name that no group or topic has."""
    return f"bench-{time.time_ns()}-{next(_numbers)}"  # noqa: TID251 - a name, not a time


def body_of(number: int) -> bytes:
    """Return a record of five fields in JSON, of `RECORD_BYTES`."""
    text = f'{{"id":{number},"customer":"c-{number % 1000:06d}","amount":{number % 9973}.5,"currency":"EUR","note":""}}'
    return (text[:-2] + "x" * (RECORD_BYTES - len(text)) + '"}').encode()


async def produce(address: str, topic: str, count: int, partitions: int = PARTITIONS) -> Figures:
    """Create a topic and fill it, a batch at a time."""
    await create_topic(address, topic, partitions)
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


async def create_topic(address: str, topic: str, partitions: int = PARTITIONS) -> None:
    """Create a topic."""
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, partitions, 1)])
    finally:
        await admin.close()


# -- the peer ----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def bare_loop(address: str, topic: str, start: str) -> AsyncIterator[AIOKafkaConsumer]:
    """Give a member of a new group, whose progress is committed in the background."""
    client = AIOKafkaConsumer(
        topic, bootstrap_servers=address, group_id=new_group(), auto_offset_reset=start, enable_auto_commit=False
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
    async with bare_loop(address, topic, "earliest") as client:
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
    async with running_engine(text | more, events):
        with anyio.fail_after(PATIENCE_S):
            await done.wait()
        return meter.figures()


async def laned_engine(address: str, count: int, lanes: int) -> Figures:
    """Run an engine on one partition whose handler waits `LANE_WAIT_S` a record, and checks the order of keys."""
    topic = f"lanes-{new_group()}"
    await produce(address, topic, count, partitions=1)
    mapping = f"lanes = {lanes}\nmaximum_batching_window_in_seconds = 0"
    return await engine(address, topic, count, "slow", 100, mapping=mapping, concurrency=lanes)


async def answering_engine(address: str, topic: str, count: int, delivery: str) -> Figures:
    """Run an engine whose function answers each record, in batches of 1,000."""
    results, failed = f"results-{new_group()}", f"failed-{new_group()}"
    await create_topic(address, results)
    await create_topic(address, failed)
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
async def running_engine(settings: dict[str, str], events: EngineEvents) -> AsyncIterator[Engine]:
    """Run an engine on `PIPELINE`, whose gaps the settings fill."""
    with tempfile.TemporaryDirectory(prefix="eventcore-bench-") as name:
        folder = Path(name)
        (folder / "bench_handlers.py").write_text(HANDLERS)
        (folder / "eventcore.toml").write_text(PIPELINE.format(group=new_group(), **settings))
        loaded = load_config(folder / "eventcore.toml")
        options = RunOptions(state=folder / ".eventcore")
        async with run_pipeline(loaded, options, events=events) as running, anyio.create_task_group() as tasks:
            tune_collector()  # as the command does
            tasks.start_soon(running.run)
            yield running
            running.drain()

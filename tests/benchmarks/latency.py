"""How old records are when a handler has them: an engine and a bare loop in the same seconds.

Each is a process with a topic of its own, and a third one sends at a fixed rate, some records to one, then some to the
other. So a busy machine is busy for both, and neither takes time from the other; with a run of each after the other,
the ratio of the slowest records was that of the machine's moods. The turns are short, and of chance lengths: a broker
stands still every two seconds to collect its garbage, and turns of half a second had that fall to the same one of the
two ten times in a row.
"""

from __future__ import annotations

import itertools
import json
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

import anyio
from aiokafka import AIOKafkaProducer
from anyio.abc import ByteReceiveStream, Process
from anyio.streams.buffered import BufferedByteReceiveStream

from eventcore.telemetry.events import BatchSettled, EngineEvent, EngineEvents, ShardTaken
from tests.benchmarks.kafka import (
    PARTITIONS,
    PATIENCE_S,
    RECORD_BYTES,
    bare_loop,
    create_topic,
    new_group,
    running_engine,
)
from tests.benchmarks.measure import MARK, Figures

#: Records at the beginning that are not counted: connections and caches warm up.
WARM_UP = 500
#: What a contestant prints when it waits for records.
READY = b"READY"
LINE_BYTES_MAX = 64 * 1024
#: Records to one topic before the other has its turn, fewest and most: a long collection of the broker's takes longer.
TURN_MIN, TURN_MAX = 25, 75


async def both(address: str, topic: str, count: int, per_s: int) -> dict[str, Figures]:
    """Have an engine and a bare loop take ``count`` records each, in turns, and return the figures of both."""
    topics = [f"{topic}-{new_group()}" for _ in range(2)]
    for each in topics:
        await create_topic(address, each)
    ours, peer = ({"address": address, "topic": each, "count": count} for each in topics)
    sending = {"address": address, "topics": topics, "count": count, "per_s": per_s}
    with anyio.fail_after(PATIENCE_S):
        async with (
            _started("engine", ours) as engine_output,
            _started("loop", peer) as loop_output,
            _started("send_steadily", sending, is_ready=True),
        ):
            return {"ours": await _figures(engine_output), "peer": await _figures(loop_output)}


@asynccontextmanager
async def _started(
    name: str, arguments: dict[str, object], *, is_ready: bool = False
) -> AsyncIterator[BufferedByteReceiveStream]:
    """Start a function of this module in a process, and give its output once it is ready."""
    command = [sys.executable, "-m", "tests.benchmarks.measure", f"latency:{name}", json.dumps(arguments)]
    async with await anyio.open_process(command, stderr=None) as process:
        output = BufferedByteReceiveStream(_output_of(process))
        while not is_ready:
            is_ready = await output.receive_until(b"\n", LINE_BYTES_MAX) == READY
        yield output


def _output_of(process: Process) -> ByteReceiveStream:
    assert process.stdout is not None
    return process.stdout


async def _figures(output: BufferedByteReceiveStream) -> Figures:
    while True:
        line = await output.receive_until(b"\n", LINE_BYTES_MAX)
        if line.startswith(MARK.encode()):
            figures: Figures = json.loads(line[len(MARK) :])
            return figures


# -- in processes of their own -----------------------------------------------------------------------------------------


async def send_steadily(address: str, topics: list[str], count: int, per_s: int) -> Figures:
    """Send ``count`` records to each topic, in turns and at a fixed rate, each with the time at which it was sent."""
    async with AIOKafkaProducer(bootstrap_servers=address, linger_ms=0) as producer:
        began = time.perf_counter()
        for number, topic in enumerate(_turns(topics, count)):
            late_s = began + number / per_s - time.perf_counter()
            if late_s > 0:
                await anyio.sleep(late_s)
            body = b"%020d" % time.perf_counter_ns()
            await producer.send(topic, body.ljust(RECORD_BYTES, b"x"), partition=number % PARTITIONS)
        await producer.flush()
    return {"count": count}


def _turns(topics: Sequence[str], count: int) -> Iterator[str]:
    """Name the topic of each record, so that each has ``count`` of them; the same in every run."""
    lengths = random.Random(0)
    left = count
    while left:
        length = min(lengths.randint(TURN_MIN, TURN_MAX), left)
        left -= length
        for topic in topics:
            yield from itertools.repeat(topic, length)


async def loop(address: str, topic: str, count: int) -> Figures:
    """Take how old records are when a bare loop has them."""
    taken: list[int] = []
    async with bare_loop(address, topic, "latest") as client:
        while not client.assignment():  # noqa: ASYNC110 - it has no other way to tell
            await anyio.sleep(0.05)
        await client.seek_to_end()
        _tell_ready()
        while len(taken) < count:
            arrived = await client.getmany(timeout_ms=1000, max_records=None)
            now = time.perf_counter_ns()
            for records in arrived.values():
                taken.extend([now - int(record.value[:20]) for record in records])
    return _latencies(taken)


async def engine(address: str, topic: str, count: int) -> Figures:
    """Take how old records are when an inline handler has them, without a batching window."""
    events, done = EngineEvents(), anyio.Event()
    counts = {"taken": 0, "shards": 0}

    def on_event(event: EngineEvent) -> None:
        if isinstance(event, BatchSettled):
            counts["taken"] += event.count
            if counts["taken"] >= count:
                done.set()
        elif isinstance(event, ShardTaken):
            counts["shards"] += 1
            if counts["shards"] == PARTITIONS:
                _tell_ready()

    events.subscribe(on_event)
    settings = {
        "address": address,
        "topic": topic,
        "handler": "timed",
        "runtime": "inline",
        "start": "LATEST",
        "batch_size": "1000",
        "mapping": "maximum_batching_window_in_seconds = 0",
        "concurrency": "10",
        "client": "aiokafka",
    }
    async with running_engine(settings, events):
        await done.wait()
    import bench_handlers  # type: ignore[import-not-found]

    return _latencies(bench_handlers.LATENCIES)


def _tell_ready() -> None:
    print(READY.decode(), flush=True)


def _latencies(taken_ns: list[int]) -> Figures:
    taken = sorted(taken_ns[WARM_UP:])
    return {
        "p50_ms": statistics.median(taken) / 1e6,
        "p99_ms": taken[int(len(taken) * 0.99)] / 1e6,
        "count": len(taken),
    }

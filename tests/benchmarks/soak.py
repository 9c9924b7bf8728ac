"""Ten minutes of trouble: `python -m tests.benchmarks.soak [--minutes 10]`.

An engine in this process reads a topic that is written all the time, one record of a hundred of which always fails.
Meanwhile a second engine of its group comes and goes, now stopped, now killed, so that shards move; and the broker is
restarted. Each ten seconds its memory, descriptors, processes and tasks are noted, and whether its books balance. At
the end everything that was sent must have been handled or given up, and nothing may have grown.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from operator import attrgetter
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import msgspec
import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError

from eventcore.app import RunOptions, run_pipeline, tune_collector
from eventcore.config.load import load_config
from eventcore.engine.engine import Engine
from eventcore.store.sqlite.connection import CACHE_KIB
from tests.servers.kafka_server import KafkaServer, find_jars

PARTITIONS = 4
PER_S = 400
SAMPLE_S = 10.0
#: How often the second engine comes and goes, and the broker is restarted, seconds.
REBALANCE_S = 15.0
RESTART_S = 75.0
#: After the last record, everything is settled by then, seconds.
DRAIN_S = 120.0
#: What may be more at the end than after the first fifth: a shared machine's noise, not a leak.
GROWTH_MB = 10.0
GROWTH_COUNT = 8

HANDLER = """
import os
from pathlib import Path

from eventcore import Batch

SEEN = (Path(__file__).parent / f"seen-{os.getpid()}.log").open("a", buffering=1)


def work(batch: Batch) -> None:
    for record in batch:
        number = int(record.body)
        if number % 100 == 7:
            raise ValueError(f"poison {number}")
    SEEN.write("".join(f"{int(record.body)}\\n" for record in batch))
"""

PIPELINE = """
[kafka.local]
bootstrap_servers = "{address}"
session_timeout_ms = 6000
heartbeat_interval_ms = 500

[functions.isolated]
handler = "soak_handlers.work"
timeout = 30

[functions.inline]
handler = "soak_handlers.work"
runtime = "inline"
timeout = 30
concurrency = 20

[mappings.batches]
source = "kafka:local/orders"
function = "isolated"
starting_position = "TRIM_HORIZON"
batch_size = 50
maximum_retry_attempts = 1
bisect_batch_on_function_error = true
on_failure = "kafka:local/failed-batches"

[mappings.lanes]
source = "kafka:local/orders"
function = "inline"
starting_position = "TRIM_HORIZON"
batch_size = 20
lanes = 20
parking = "kafka:local/parked"
maximum_retry_attempts = 1
bisect_batch_on_function_error = true
on_failure = "kafka:local/failed-lanes"
"""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """How large the engine is at one moment."""

    at_s: float
    memory_mb: float
    cached_mb: float  #: of the state's file that SQLite may hold in memory: it grows to its bound, and no further
    descriptors: int
    processes: int
    tasks: int
    received: int
    is_balanced: bool


class Soak:
    """One run."""

    def __init__(self, server: KafkaServer, folder: Path, minutes: float, seed: int) -> None:
        self._server = server
        self._folder = folder
        self._until_s = anyio.current_time() + minutes * 60
        self._random = random.Random(seed)
        self.samples: list[Sample] = []
        self.sent = 0

    @property
    def is_over(self) -> bool:
        """Whether the trouble ends."""
        return anyio.current_time() >= self._until_s

    async def send(self) -> None:
        """Write records at a steady rate; a broker that is away is waited for."""
        producer = AIOKafkaProducer(bootstrap_servers=self._server.address, enable_idempotence=True)
        await producer.start()
        try:
            while not self.is_over:
                for _ in range(PER_S // 10):
                    await self._send_one(producer, self.sent)
                    self.sent += 1
                await anyio.sleep(0.1)
            await producer.flush()
        finally:
            await producer.stop()

    async def _send_one(self, producer: AIOKafkaProducer, number: int) -> None:
        key, body = b"k%d" % (number % 97), str(number).encode()
        while True:
            try:
                await producer.send("orders", body, key=key, partition=number % 97 % PARTITIONS)
            except KafkaError:
                await anyio.sleep(0.2)
            else:
                return

    async def come_and_go(self) -> None:
        """Start and end a second engine, again and again."""
        while not self.is_over:
            process = await anyio.to_thread.run_sync(self._start_other)
            await anyio.sleep(REBALANCE_S * self._random.uniform(0.5, 1.0))
            process.send_signal(self._random.choice((signal.SIGTERM, signal.SIGKILL)))
            await anyio.to_thread.run_sync(process.wait)
            await anyio.sleep(REBALANCE_S * self._random.uniform(0.2, 0.5))

    def _start_other(self) -> subprocess.Popen[bytes]:
        with (self._folder / "other.log").open("ab") as log:
            command = [sys.executable, "-m", "eventcore", "run", "--state", str(self._folder / "other")]
            return subprocess.Popen(
                [*command, str(self._folder / "eventcore.toml")], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    async def restart_broker(self) -> None:
        """Restart the broker, again and again."""
        while not self.is_over:
            await anyio.sleep(min(RESTART_S, max(self._until_s - anyio.current_time(), 0)))
            if not self.is_over:
                await anyio.to_thread.run_sync(self._server.restart)

    async def watch(self, engine: Engine) -> None:
        """Take samples."""
        began = anyio.current_time()
        while True:
            await anyio.sleep(SAMPLE_S)
            gc.collect()
            process = psutil.Process()
            status = await engine.status()
            counters = [mapping.counters for mapping in status.mappings if mapping.counters is not None]
            sample = Sample(
                at_s=anyio.current_time() - began,
                memory_mb=process.memory_info().rss / 1e6,
                cached_mb=min((self._folder / "state" / "state.db").stat().st_size, CACHE_KIB * 1024) / 1e6,
                descriptors=process.num_fds(),
                processes=len([each for each in process.children(recursive=True) if each.name() != "java"]),
                tasks=len(asyncio.all_tasks()),
                received=sum(each.received for each in counters),
                is_balanced=all(each.is_balanced for each in counters),
            )
            self.samples.append(sample)
            print(msgspec.json.encode(sample).decode(), flush=True)

    async def wait_settled(self) -> None:
        """Wait until both groups have passed the end of the topic."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self._server.address)
        reader = AIOKafkaConsumer(bootstrap_servers=self._server.address)
        await admin.start()
        await reader.start()
        places = [TopicPartition("orders", partition) for partition in range(PARTITIONS)]
        try:
            with anyio.fail_after(DRAIN_S):
                ends = await reader.end_offsets(places)
                for group in ("eventcore-batches", "eventcore-lanes"):
                    while not await _has_passed(admin, group, ends):  # noqa: ASYNC110 - another process is waited for
                        await anyio.sleep(0.5)
        finally:
            await reader.stop()
            await admin.close()

    def handled(self) -> set[int]:
        """Return what the functions saw."""
        return {
            int(line)
            for path in self._folder.glob("seen-*.log")
            for line in path.read_text().splitlines()
            if line.isdecimal()
        }


async def _has_passed(admin: AIOKafkaAdminClient, group: str, ends: dict[TopicPartition, int]) -> bool:
    offsets = await admin.list_consumer_group_offsets(group)
    return all(place in offsets and offsets[place].offset >= end for place, end in ends.items())


async def _run(server: KafkaServer, folder: Path, minutes: float, seed: int) -> list[str]:
    admin: Any = AIOKafkaAdminClient(bootstrap_servers=server.address)
    await admin.start()
    names = ("failed-batches", "failed-lanes", "parked")
    await admin.create_topics([NewTopic("orders", PARTITIONS, 1), *(NewTopic(name, 1, 1) for name in names)])
    await admin.close()
    (folder / "soak_handlers.py").write_text(HANDLER)
    (folder / "eventcore.toml").write_text(PIPELINE.format(address=server.address))
    loaded = load_config(folder / "eventcore.toml")
    soak = Soak(server, folder, minutes, seed)
    async with run_pipeline(loaded, RunOptions(state=folder / "state")) as engine, anyio.create_task_group() as tasks:
        tune_collector()
        tasks.start_soon(engine.run)
        async with anyio.create_task_group() as watching:
            watching.start_soon(soak.watch, engine)
            async with anyio.create_task_group() as trouble:
                for make in (soak.send, soak.come_and_go, soak.restart_broker):
                    trouble.start_soon(make)
            await soak.wait_settled()
            watching.cancel_scope.cancel()
        engine.drain()
    return _judge(soak)


def _judge(soak: Soak) -> list[str]:
    """Return what is wrong."""
    wrong = [f"the books do not balance at {each.at_s:.0f} s" for each in soak.samples if not each.is_balanced]
    early = soak.samples[len(soak.samples) // 5 :][: len(soak.samples) // 5 + 1]
    late = soak.samples[-(len(soak.samples) // 5 + 1) :]
    for what, find, most in (
        ("memory beside the cache, MB", _uncached_mb, GROWTH_MB),
        ("memory, MB", attrgetter("memory_mb"), GROWTH_MB + CACHE_KIB * 1024 / 1e6),
        ("descriptors", attrgetter("descriptors"), GROWTH_COUNT),
        ("processes", attrgetter("processes"), GROWTH_COUNT),
        ("tasks", attrgetter("tasks"), GROWTH_COUNT),
    ):
        # The least of each: what comes and goes is no leak.
        before, after = (min(find(each) for each in part) for part in (early, late))
        print(f"{what}: {before:.1f} early, {after:.1f} late")
        if after > before + most:
            wrong.append(f"{what} grew from {before:.1f} to {after:.1f}")
    missing = {number for number in range(soak.sent) if number % 100 != 7} - soak.handled()
    print(f"sent {soak.sent:,}, missing {len(missing):,}")
    if missing:
        wrong.append(f"{len(missing)} records were never handled, the first {min(missing)}")
    return wrong


def _uncached_mb(sample: Sample) -> float:
    return sample.memory_mb - sample.cached_mb


def main() -> int:
    """Run, and say what is wrong; 1 when something is."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=int(time.monotonic()))
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="eventcore-soak-") as name:
        folder = Path(name)
        (folder / "kafka").mkdir()
        server = KafkaServer(find_jars(), folder / "kafka")
        server.format()
        server.start()
        try:
            wrong = anyio.run(_run, server, folder, chosen.minutes, chosen.seed)
        finally:
            server.stop()
        print(json.dumps({"minutes": chosen.minutes, "seed": chosen.seed, "wrong": wrong}))
        sys.stderr.write("\n".join((folder / "other.log").read_text().splitlines()[-20:]) if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    os.environ.setdefault("NO_COLOR", "1")
    sys.exit(main())

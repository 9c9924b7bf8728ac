"""How much memory an engine takes while a source has far more than a handler can take.

Prints one JSON line: resident memory after 100,000 records and after all, and the rates of the source alone and of the
handler. The source makes its records as fast as it can whenever it is not paused; the handler takes ten times as long
for a batch as the source. Run as `python back_pressure.py [RECORDS]`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel

import eventcore
from eventcore import Batch
from eventcore.app import open_engine
from eventcore.clock import SystemClock
from eventcore.delivery.ordering import ShardState
from eventcore.embedded.shapes import KinesisShape
from eventcore.ids import SystemIds
from eventcore.model import Record
from eventcore.ports.connectors import StreamRequest
from eventcore.ports.sources import ShardLag, ShardListener, ShardRecords, StreamCapabilities, TakenShard
from eventcore.runtime.inline import open_inline_runtime
from eventcore.store.memory import open_memory_store

SHARDS = 4
FETCH_RECORDS = 500
BODY_BYTES = 200


class EndlessSource:
    """Four shards that always have more."""

    waits_for = ""
    capabilities = StreamCapabilities(is_settle_durable=False)

    def __init__(self) -> None:
        self.shape = KinesisShape("arn:aws:kinesis:us-east-1:000000000000:stream/endless")
        self._next = dict.fromkeys((f"shard-{number}" for number in range(SHARDS)), 0)
        self._paused: set[str] = set()
        self._resumed = anyio.Event()
        self.made = 0

    async def open(self, listener: ShardListener) -> None:
        await listener.on_taken([TakenShard(shard=shard, epoch=1, checkpoint=0) for shard in self._next])

    async def receive(self, *, wait_s: float) -> Sequence[ShardRecords]:
        await anyio.lowlevel.checkpoint()
        ready = [shard for shard in self._next if shard not in self._paused]
        if not ready:
            self._resumed = anyio.Event()
            with anyio.move_on_after(wait_s):
                await self._resumed.wait()
            return []
        return [self._fetch(shard) for shard in ready]

    def _fetch(self, shard: str) -> ShardRecords:
        first = self._next[shard]
        self._next[shard] += FETCH_RECORDS
        self.made += FETCH_RECORDS
        records = [
            Record(position=position, body=b"%0200d" % position, size_bytes=BODY_BYTES)
            for position in range(first, first + FETCH_RECORDS)
        ]
        return ShardRecords(shard, records)

    async def write_behind(self) -> None:
        """Keep nothing."""
        await anyio.sleep_forever()

    def pause(self, shard: str) -> None:
        self._paused.add(shard)

    def resume(self, shard: str) -> None:
        self._paused.discard(shard)
        self._resumed.set()

    async def settle(self, shard: str, epoch: int, checkpoint: int, state: ShardState, *, is_urgent: bool) -> None:
        return None

    async def lag(self) -> Sequence[ShardLag]:
        return []

    async def aclose(self) -> None:
        return None


class EndlessConnector:
    """Stands where Kafka does."""

    kind = "kafka"

    def __init__(self) -> None:
        self.source = EndlessSource()

    def open_stream(self, request: StreamRequest) -> EndlessSource:
        return self.source


def resident_mb() -> float:
    """Return this process's resident memory, MB."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


async def source_alone(count: int) -> float:
    """Return how many records a second the source makes when nothing holds it up."""
    source = EndlessSource()
    started_s = anyio.current_time()
    while source.made < count:
        await source.receive(wait_s=1)
    return source.made / (anyio.current_time() - started_s)


async def main(total: int) -> None:
    source_rate = await source_alone(100_000)
    pause_s = FETCH_RECORDS / (source_rate / 10)
    connector = EndlessConnector()
    seen = 0
    marks: dict[int, float] = {}
    done = anyio.Event()

    async def slow(batch: Batch) -> None:
        nonlocal seen
        await anyio.sleep(pause_s * len(batch) / FETCH_RECORDS * SHARDS)
        seen += len(batch)
        if seen >= 100_000 and 100_000 not in marks:
            marks[100_000] = resident_mb()
        if seen >= total:
            marks.setdefault(total, resident_mb())
            done.set()

    app = eventcore.App()
    app.kafka("local", bootstrap_servers="127.0.0.1:9")
    app.function("slow", runtime="inline")(slow)
    app.mapping(
        "endless",
        source="kafka:local/endless",
        function=slow,
        starting_position="TRIM_HORIZON",
        batch_size=500,
        maximum_batching_window_in_seconds=0,
    )
    clock, ids = SystemClock(), SystemIds()
    connectors: dict[str, Any] = {"kafka": connector}
    async with (
        open_memory_store() as store,
        open_inline_runtime(clock, ids, lambda _line: None) as inline,
        open_engine(
            app.loaded(),
            store=store,
            runtimes={"inline": inline},
            clock=clock,
            ids=ids,
            targets=app.targets,
            connectors=connectors,
        ) as engine,
        anyio.create_task_group() as tasks,
    ):
        started_s = anyio.current_time()
        tasks.start_soon(engine.run)
        await done.wait()
        handler_rate = seen / (anyio.current_time() - started_s)
        print(
            json.dumps(
                {
                    "records": seen,
                    "source_per_s": round(source_rate),
                    "handler_per_s": round(handler_rate),
                    "made_ahead": connector.source.made - seen,
                    "resident_mb_after_100000": round(marks[100_000], 1),
                    "resident_mb_after_all": round(marks[total], 1),
                }
            )
        )
        engine.abort()


if __name__ == "__main__":
    anyio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)

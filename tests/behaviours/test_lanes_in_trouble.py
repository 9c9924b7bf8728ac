"""Lanes under random trouble: shards come and go, keys fail and are mended; nothing is lost, no key is out of order."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

import anyio
import pytest

import eventcore
from eventcore.model import Record
from eventcore.testing.harness import Harness
from tests.behaviours.scripted_source import ScriptedStream, books, play_scripted, scripted_app

RECORDS = 250
KEYS = 9
SHARD = "orders-0"
#: Trouble lasts so long, seconds of virtual time.
TROUBLE_S = 120.0


class Trouble:
    """A handler whose keys fail by chance, and a coordinator that takes the shard away by chance."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.is_over = False
        self.bad = {b"k%d" % key for key in self.random.sample(range(KEYS), 4)}
        self.done: dict[bytes | None, list[int]] = defaultdict(list)  #: each record's first success, by key
        self.running: dict[bytes | None, int] = defaultdict(int)
        self.known: set[int] = set()

    async def __call__(self, batch: eventcore.Batch) -> list[Record]:
        key = batch.first.key
        assert {record.key for record in batch} == {key}
        self.running[key] += 1
        assert self.running[key] == 1, f"{key!r} runs twice at a time"
        try:
            await anyio.sleep(self.random.uniform(0, 2))
            if not self.is_over and key in self.bad and self.random.random() < 0.7:
                if self.random.random() < 0.5:
                    raise ValueError("as it goes")
                self._count(batch.records[: len(batch) // 2])
                return list(batch.records[len(batch) // 2 :])
            self._count(batch.records)
            return []
        finally:
            self.running[key] -= 1

    def _count(self, records: Any) -> None:
        for record in records:
            if record.position not in self.known:
                self.known.add(record.position)
                self.done[record.key].append(record.position)


async def _take_and_lose(trouble: Trouble, stream: ScriptedStream) -> None:
    give_up = anyio.current_time() + TROUBLE_S
    while anyio.current_time() < give_up:
        await anyio.sleep(trouble.random.uniform(1, 15))
        if trouble.random.random() < 0.5:
            await stream.revoke()
        else:
            await stream.lose()
        await anyio.sleep(trouble.random.uniform(0, 1))
        await stream.source.take()


async def _send(trouble: Trouble, stream: ScriptedStream, log: list[Record]) -> None:
    """Let records come a few at a time, so that some do while their key is parked."""
    while log:
        count = trouble.random.randrange(1, 12)
        stream.shards[SHARD] += log[:count]
        del log[:count]
        stream.source.wake()
        await anyio.sleep(trouble.random.uniform(0, 5))


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_every_record_runs_and_each_key_in_order(seed: int) -> None:
    trouble = Trouble(seed)
    keys = [trouble.random.randrange(KEYS) for _ in range(RECORDS)]
    log = [
        Record(position=position, body=b"%d" % position, key=b"k%d" % key, size_bytes=5)
        for position, key in enumerate(keys)
    ]
    stream = ScriptedStream({SHARD: []}, receive_max=trouble.random.choice((3, 20, 1000)))

    async def scenario(harness: Harness) -> None:
        await harness.run_until_idle()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_send, trouble, stream, log)
            await _take_and_lose(trouble, stream)
        trouble.is_over = True
        for _ in range(200):
            await anyio.sleep(10)
            step = await harness.engine.redrive("orders", SHARD, count_max=trouble.random.choice((1, 7, 500)))
            (mapping,) = (await harness.status()).mappings
            if not step.keys and not mapping.running and len(trouble.known) == RECORDS:
                break
        await harness.run_until_idle()
        await books(harness)

    lanes = trouble.random.choice((2, 4, 20))
    settings = {"batch_size": trouble.random.choice((1, 5)), "maximum_retry_attempts": 10_000}
    app = scripted_app(trouble, lanes=lanes, concurrency=20, timeout=60, **settings)
    play_scripted(app, scenario, stream)
    assert trouble.known == set(range(RECORDS))
    assert {key: positions for key, positions in trouble.done.items() if positions != sorted(positions)} == {}
    assert stream.kept[SHARD][0] == RECORDS
    assert stream.kept[SHARD][1].parked == ()

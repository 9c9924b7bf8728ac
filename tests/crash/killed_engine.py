"""Engines that are killed at a named point, and what they leave in their state folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from eventcore.clock import SystemClock
from eventcore.embedded.appending import append_records
from eventcore.embedded.events import accept_event
from eventcore.embedded.resharding import split_shard
from eventcore.embedded.sending import send_messages
from eventcore.embedded.sharding import shard_name
from eventcore.ids import SystemIds
from eventcore.ports.connectors import OutgoingRecord
from eventcore.ports.store import DefineQueue, DefineStream, QueueSettings, Store, StreamSettings
from eventcore.store.sqlite import open_sqlite_store

HERE = Path(__file__).parent
COUNT = 5
POISON = 3
#: FIFO queues: the messages of each group, in order; one group has a poison message before its last.
GROUPS = {"g": (1, 2, POISON, 6), "h": (4, 5, 7, 8)}
#: Lanes: the records of each key, in order; the keys of the first and the second fail.
KEYS = {"a": (POISON,), "b": (4, 5, 6), "c": (1, 2, 7)}
#: A generous bound for one engine's life, seconds.
LIFE_S = 40


@asynccontextmanager
async def open_state(state: Path) -> AsyncIterator[Store]:
    """Open the store of a state folder."""
    async with open_sqlite_store(state / "state.db") as store:
        yield store


def _record(number: int, key: str = "k") -> OutgoingRecord:
    return OutgoingRecord(body=str(number).encode(), key=key.encode())


def sent_in_turn(keyed: dict[str, tuple[int, ...]]) -> dict[int, str]:
    """Return the keys of numbers in the order in which these are sent: the first of each key, then the second."""
    turns = range(max(map(len, keyed.values())))
    return {numbers[turn]: key for turn in turns for key, numbers in keyed.items() if turn < len(numbers)}


async def send(state: Path, kind: str) -> None:
    """Write the records of a kind of engine into a new state folder."""
    os.makedirs(state, exist_ok=True)  # noqa: PTH103 - the event loop has nothing else to do
    async with open_state(state) as store:
        if kind.startswith("stream"):
            await _append(store, kind)
        elif kind.startswith("events"):
            for number in range(1, COUNT + 1):
                await accept_event(store, "work", str(number).encode(), clock=SystemClock(), ids=SystemIds())
        elif kind.startswith("fifo"):
            settings = QueueSettings(visibility_timeout=2, fifo_queue=True)
            await store.commit([DefineQueue(queue="orders", settings=settings)])
            await send_fifo(store)
        else:
            await store.commit([DefineQueue(queue="orders", settings=QueueSettings(visibility_timeout=1))])
            records = [_record(number) for number in range(1, COUNT + 1)]
            await send_messages(store, "orders", records, clock=SystemClock(), ids=SystemIds())


async def send_fifo(store: Store) -> list[str]:
    """Send the messages of `GROUPS`, each with its number as its deduplication id; return their ids."""
    sent: list[str] = []
    for number, key in sent_in_turn(GROUPS).items():
        record, clock, ids = _record(number, key), SystemClock(), SystemIds()
        sent += await send_messages(store, "orders", [record], clock=clock, ids=ids, deduplication_id=str(number))
    return sent


async def _append(store: Store, kind: str) -> None:
    is_spread = kind == "stream-neighbours"
    records = [_record(number, str(number) if is_spread else "k") for number in range(1, COUNT + 1)]
    if kind == "stream-lanes":
        records = [_record(number, key) for number, key in sent_in_turn(KEYS).items()]
    await store.commit([DefineStream(stream="orders", settings=StreamSettings(shards=4 if is_spread else 1))])
    before = records[:POISON] if kind == "stream-split" else records
    await append_records(store, "orders", before, clock=SystemClock(), ids=SystemIds())
    if len(before) < len(records):
        await split_shard(store, "orders", shard_name(0))
        await append_records(store, "orders", records[POISON:], clock=SystemClock(), ids=SystemIds())


def run_engine(state: Path, kind: str, **environment: str) -> int:
    """Run an engine to its end and return its exit code; its output shows when the test fails."""
    command = [sys.executable, str(HERE / "engine_process.py"), str(state), kind]
    done = subprocess.run(
        command, env={**os.environ, **environment}, timeout=LIFE_S, capture_output=True, text=True, check=False
    )
    sys.stderr.write(done.stderr)
    return done.returncode


def kill_and_restart(state: Path, kind: str, point: str, times: int) -> None:
    """Run an engine that dies when it passes a point for the so-manieth time, and another one to its end."""
    assert run_engine(state, kind, EVENTCORE_KILL_AT=f"{point}:{times}") == -signal.SIGKILL
    assert run_engine(state, kind) == 0


def run_until_it_lives(state: Path, kind: str, *, deaths_max: int) -> int:
    """Run one engine after another until one ends by itself; return how many died."""
    deaths = 0
    while (code := run_engine(state, kind)) != 0:
        assert code == -signal.SIGKILL
        deaths += 1
        assert deaths <= deaths_max, "what kills the engine is never given up"
    return deaths


def read_calls(state: Path) -> list[dict[str, Any]]:
    """Return what each invocation has noted, of all engines, in order."""
    return [json.loads(line) for line in (state / "invocations.log").read_text().splitlines()]


def count_invoked(state: Path) -> Counter[int]:
    """Return how often each record was invoked."""
    return Counter(body for call in read_calls(state) for body in call["bodies"])


async def read_messages(state: Path, queue: str) -> list[Any]:
    """Return what a queue holds, decoded."""
    async with open_state(state) as store:
        return [json.loads(message.body) for message in await store.peek(queue, count_max=100)]


async def read_failed(state: Path) -> list[dict[str, Any]]:
    """Return the records of what was given up."""
    return await read_messages(state, "failed")

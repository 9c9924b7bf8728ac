"""Contestants for invocations in processes: JSON echoes of forked children, and the process runtime of an engine."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from eventcore.app import RunOptions, run_pipeline, tune_collector
from eventcore.config.load import load_config
from eventcore.engine.engine import Engine
from eventcore.model import OutcomeKind
from tests.benchmarks.measure import Figures, Meter, cpu_s

EVENT = {"id": 7, "customer": "c-000007", "amount": 12.5, "currency": "EUR", "note": "x" * 100}
WARM_UP = 200
#: In flight at once, in the rows of many.
IN_FLIGHT = 8

PIPELINE = """
[functions.echo]
handler = "bench_handlers.echo"
concurrency = 8
"""
HANDLERS = """
def echo(event, context):
    return event
"""


def _figures(taken_s: list[float]) -> Figures:
    taken = sorted(taken_s)
    return {
        "p50_us": statistics.median(taken) * 1e6,
        "p99_us": taken[int(len(taken) * 0.99)] * 1e6,
        "count": len(taken),
    }


# -- the floor ---------------------------------------------------------------------------------------------------------


def _serve_echo(end: socket.socket) -> None:
    """Answer lines of JSON until the end of file; in a forked child, which it ends."""
    with end, end.makefile("rwb") as file:
        for line in file:
            file.write(json.dumps(json.loads(line)).encode() + b"\n")
            file.flush()
    os._exit(0)


class _Echo:
    """A forked child that echoes, and asyncio's streams to it."""

    def __init__(self) -> None:
        self._end, theirs = socket.socketpair()
        self.pid = os.fork()
        if not self.pid:
            self._end.close()
            _serve_echo(theirs)
        theirs.close()
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def connect(self) -> None:
        self._reader, self._writer = await asyncio.open_connection(sock=self._end)

    async def call(self) -> None:
        self._writer.write(json.dumps(EVENT).encode() + b"\n")
        json.loads(await self._reader.readline())

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()
        os.waitpid(self.pid, 0)  # noqa: ASYNC222 - nothing else runs


async def echo_warm(count: int) -> Figures:
    """Ask one forked child again and again."""
    child = _Echo()
    await child.connect()
    taken = []
    for number in range(count + WARM_UP):
        began = time.perf_counter()
        await child.call()
        if number >= WARM_UP:
            taken.append(time.perf_counter() - began)
    await child.close()
    return _figures(taken)


async def echo_many(count: int, children: int) -> Figures:
    """Ask several forked children, with `IN_FLIGHT` calls at once in all."""
    echoes = [_Echo() for _ in range(children)]
    for echo in echoes:
        await echo.connect()

    async def ask(echo: _Echo, times: int, in_flight: int) -> None:
        # The answers of one child come in the order of its questions.
        line = json.dumps(EVENT).encode() + b"\n"
        echo._writer.write(line * in_flight)
        for _ in range(times - in_flight):
            json.loads(await echo._reader.readline())
            echo._writer.write(json.dumps(EVENT).encode() + b"\n")
        for _ in range(in_flight):
            json.loads(await echo._reader.readline())

    used_s, began = cpu_s(), time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for echo in echoes:
            tasks.start_soon(ask, echo, count // children, IN_FLIGHT // children)
    wall_s = time.perf_counter() - began
    used_s = cpu_s() - used_s
    for echo in reversed(echoes):  # each holds the ends of those before it
        await echo.close()
    return {"per_s": count / wall_s, "cpu_us": used_s / count * 1e6, "count": count}


async def echo_cold(count: int, parent_mb: int) -> Figures:
    """Fork, ask once, end; from a parent as large as a zygote."""
    ballast = bytearray(os.urandom(1024)) * (parent_mb * 1024)
    gc.freeze()
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        child = _Echo()
        await child.connect()
        await child.call()
        taken.append(time.perf_counter() - began)
        await child.close()
    del ballast
    return _figures(taken)


# -- ours --------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _engine() -> AsyncIterator[Engine]:
    with tempfile.TemporaryDirectory(prefix="eventcore-bench-") as name:
        folder = Path(name)
        (folder / "bench_handlers.py").write_text(HANDLERS)
        (folder / "eventcore.toml").write_text(PIPELINE)
        loaded = load_config(folder / "eventcore.toml")
        async with run_pipeline(loaded, RunOptions(state=folder / ".eventcore")) as engine:
            tune_collector()  # as the command does
            yield engine


async def _invoke(engine: Engine) -> None:
    outcome = await engine.invoke("echo", EVENT)
    assert outcome.kind is OutcomeKind.SUCCESS, outcome
    json.loads(outcome.response)


async def warm(count: int) -> Figures:
    """Invoke one warm environment again and again."""
    taken = []
    async with _engine() as engine:
        for number in range(count + WARM_UP):
            began = time.perf_counter()
            await _invoke(engine)
            if number >= WARM_UP:
                taken.append(time.perf_counter() - began)
    return _figures(taken)


async def many(count: int) -> Figures:
    """Invoke with `IN_FLIGHT` calls at once."""
    async with _engine() as engine:

        async def ask(times: int, meter: Meter) -> None:
            for _ in range(times):
                await _invoke(engine)
                meter.count += 1

        async def round_of(each: int, meter: Meter) -> None:
            async with anyio.create_task_group() as tasks:
                for _ in range(IN_FLIGHT):
                    tasks.start_soon(ask, each, meter)

        await round_of(WARM_UP // IN_FLIGHT, Meter())
        meter = Meter()
        meter.begin()
        await round_of(count // IN_FLIGHT, meter)
        return meter.figures()


async def cold(count: int) -> Figures:
    """Invoke without a warm environment: fork, import, answer."""
    taken = []
    async with _engine() as engine:
        await _invoke(engine)
        function = engine.registry.get("echo")
        assert function is not None
        for _ in range(count):
            await function.runtime.retire("echo")
            while function.runtime.statistics().environments:  # noqa: ASYNC110 - other processes are waited for
                await anyio.sleep(0.002)
            began = time.perf_counter()
            await _invoke(engine)
            taken.append(time.perf_counter() - began)
    return _figures(taken)

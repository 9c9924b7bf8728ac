"""Looks after environments while they run and while they idle: memory, disk, freezing, ending.

Two tasks, because disks are slow and memory must not wait for them. Asleep while nothing runs and nothing is due, so
that an idle engine costs nothing.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread

from eventcore.loop import loop_time
from eventcore.ports.runtime import FunctionSpec
from eventcore.runtime.limits import folder_bytes
from eventcore.runtime.pool import Pool
from eventcore.runtime.remote import EndReason, RemoteEnvironment
from eventcore.runtime.report import Reporter
from eventcore.runtime.tree import descendants_of, resident_kb

#: Between two samples of memory: a look takes some 20 µs, and 50 ms is promised.
SAMPLE_S = 0.04
#: Between two samples of disk: measuring a folder costs a system call a file, in a thread.
STORAGE_SAMPLE_S = 0.5
#: An environment idle for so long is frozen: its threads get no time that nobody asked for.
FREEZE_AFTER_S = 1.0
#: How long sampling goes on after the last invocation, so that a steady trickle does not wake this task each time.
_LINGER_S = 1.0

Result = TypeVar("Result")
Environments = Mapping[RemoteEnvironment, Pool]


class Watch:
    """Samples the busy environments, freezes and ends the idle ones."""

    def __init__(self, environments: Environments, reporter: Reporter) -> None:
        self._environments = environments
        self._reporter = reporter
        self._memory_nap = _Nap()
        self._disk_nap = _Nap()
        self._trash: list[Path] = []

    def wake(self) -> None:
        """Look again soon: something runs, or became idle."""
        self._memory_nap.end()
        self._disk_nap.end()

    def remove(self, folder: Path) -> None:
        """Delete a folder, in a thread and in its own time."""
        self._trash.append(folder)
        self._disk_nap.end()

    async def watch_memory(self) -> None:
        """Sample memory, freeze and end idle environments, until cancelled."""
        is_woken, last_busy = False, -math.inf
        while True:
            now = loop_time()
            if self._sample_memory() or is_woken:
                last_busy = now
            is_woken, next_due = False, self._tend_idle(now)
            if now - last_busy < _LINGER_S:
                await anyio.sleep(SAMPLE_S)
            else:
                is_woken = await self._memory_nap.take(None if next_due is None else next_due - now)

    async def watch_disk(self) -> None:
        """Sample temporary folders, and delete those that nobody needs, until cancelled."""
        is_woken = False
        while True:
            while self._trash:
                await _in_thread(partial(shutil.rmtree, self._trash.pop(), ignore_errors=True))
            if await self._sample_storage() or is_woken:
                is_woken = False
                await anyio.sleep(STORAGE_SAMPLE_S)
            elif not self._trash:
                is_woken = await self._disk_nap.take(None)

    def _busy(self) -> list[tuple[FunctionSpec, RemoteEnvironment]]:
        return [
            (pool.function, environment)
            for environment, pool in self._environments.items()
            if environment.request_id is not None and environment.is_alive
        ]

    def _sample_memory(self) -> bool:
        """Look at what every busy environment holds; tell whether there was one."""
        busy = self._busy()
        for function, environment in busy:
            if environment.pid is None:
                continue
            used_kb = resident_kb([environment.pid, *descendants_of(environment.pid)])
            environment.peak_kb = max(environment.peak_kb, used_kb)
            if used_kb > function.memory_size_mb * 1024:
                self._end(environment, function, EndReason.MEMORY, f"memory_size of {function.memory_size_mb} MB")
        return bool(busy)

    async def _sample_storage(self) -> bool:
        """Look at what every busy environment has written; tell whether there was one."""
        busy = self._busy()
        for function, environment in busy:
            used_bytes = await _in_thread(partial(folder_bytes, environment.temporary))
            if used_bytes > function.ephemeral_storage_mb * 1024 * 1024 and environment.request_id is not None:
                limit = f"ephemeral_storage of {function.ephemeral_storage_mb} MB"
                self._end(environment, function, EndReason.STORAGE, limit)
        return bool(busy)

    def _end(self, environment: RemoteEnvironment, function: FunctionSpec, reason: EndReason, limit: str) -> None:
        environment.kill(reason)
        text = f"{limit} exceeded: the environment was killed"
        self._reporter.say(function.name, environment.request_id or "", text)

    def _tend_idle(self, now: float) -> float | None:
        """Freeze and end what was idle for long enough; return when the next is due, None when nothing is."""
        due = []
        for environment, pool in list(self._environments.items()):
            if environment.request_id is not None or not environment.is_alive:
                continue
            freeze_at = environment.idle_since + FREEZE_AFTER_S
            end_at = environment.idle_since + pool.function.idle_timeout_s
            if now >= end_at:
                environment.kill(EndReason.UNUSED)
                continue
            if now >= freeze_at and not environment.is_frozen:
                environment.freeze()
            due.append(end_at if environment.is_frozen else min(freeze_at, end_at))
        return min(due, default=None)


class _Nap:
    """A sleep that can be ended; ending it while nobody sleeps costs nothing and does nothing."""

    def __init__(self) -> None:
        self._end: anyio.Event | None = None

    async def take(self, seconds: float | None) -> bool:
        """Sleep for so long, or until ended; tell whether it was ended."""
        self._end = end = anyio.Event()
        with anyio.move_on_after(seconds):
            await end.wait()
        self._end = None
        return end.is_set()

    def end(self) -> None:
        """Wake the sleeper."""
        if self._end is not None:
            self._end.set()


async def _in_thread(work: Callable[[], Result]) -> Result:
    # Abandoned by a runtime that closes: it deletes all folders itself.
    return await anyio.to_thread.run_sync(work, abandon_on_cancel=True)

"""Looks after environments while they run and while they idle: memory, disk, freezing, ending.

Asleep while nothing runs and nothing is due, so that an idle engine costs nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

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

Environments = Mapping[RemoteEnvironment, Pool]


class Watch:
    """Samples the busy environments, freezes and ends the idle ones."""

    def __init__(self, environments: Environments, reporter: Reporter) -> None:
        self._environments = environments
        self._reporter = reporter
        self._work = anyio.Event()
        self._is_asleep = False
        self._trash: list[Path] = []

    def wake(self) -> None:
        """Look again soon: something runs, or something became idle."""
        if self._is_asleep:
            self._work.set()

    def remove(self, folder: Path) -> None:
        """Delete a folder, in a thread and in its own time."""
        self._trash.append(folder)
        self.wake()

    async def run(self) -> None:
        """Watch until cancelled."""
        last_busy = storage_due = anyio.current_time()
        while True:
            now = anyio.current_time()
            if self._sample_memory() or self._work.is_set():
                last_busy = now
                self._work = anyio.Event()
            if now >= storage_due:
                await self._sample_storage()
                storage_due = anyio.current_time() + STORAGE_SAMPLE_S
            await self._empty_trash()
            next_due = self._tend_idle(now)
            if now - last_busy < _LINGER_S:
                await anyio.sleep(SAMPLE_S)
            else:
                await self._sleep(None if next_due is None else next_due - now)

    async def _sleep(self, seconds: float | None) -> None:
        self._is_asleep = True
        with anyio.move_on_after(seconds):
            await self._work.wait()
        self._is_asleep = False

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

    async def _sample_storage(self) -> None:
        for function, environment in self._busy():
            used_bytes = await anyio.to_thread.run_sync(folder_bytes, environment.temporary)
            if used_bytes > function.ephemeral_storage_mb * 1024 * 1024 and environment.request_id is not None:
                limit = f"ephemeral_storage of {function.ephemeral_storage_mb} MB"
                self._end(environment, function, EndReason.STORAGE, limit)

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

    async def _empty_trash(self) -> None:
        while self._trash:
            await anyio.to_thread.run_sync(partial(shutil.rmtree, self._trash.pop(), ignore_errors=True))

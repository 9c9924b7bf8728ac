"""Embedded queues keep the promises of their kit, on every store."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from eventcore.store.memory import open_memory_store
from eventcore.store.sqlite import open_sqlite_store
from eventcore.testing.conformance.fifo_queue import FifoQueueConformance
from eventcore.testing.conformance.queue import QueueConformance, QueueRequest, QueueUnderTest
from eventcore.testing.virtual_loop import run_virtual
from tests.conformance.embedded_sources import AdjustableClock, VirtualClock, open_queue


class InMemory:
    """In virtual time."""

    def run(self, body: Callable[[], Awaitable[None]]) -> None:
        run_virtual(body)

    def open_queue(self, request: QueueRequest) -> AbstractAsyncContextManager[QueueUnderTest]:
        return open_queue(open_memory_store, VirtualClock(), request)


class InSqlite:
    """In real time, with a wall clock that can be set forward."""

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self._path = tmp_path / "state.db"

    def open_queue(self, request: QueueRequest) -> AbstractAsyncContextManager[QueueUnderTest]:
        return open_queue(lambda: open_sqlite_store(self._path), AdjustableClock(), request)


class TestQueueInMemory(InMemory, QueueConformance):
    pass


class TestQueueInSqlite(InSqlite, QueueConformance):
    pass


class TestFifoQueueInMemory(InMemory, FifoQueueConformance):
    pass


class TestFifoQueueInSqlite(InSqlite, FifoQueueConformance):
    pass

"""Every store of eventcore keeps the promises of the store's kit."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

from eventcore.ports.store import Store
from eventcore.store.memory import open_memory_store
from eventcore.store.sqlite import open_sqlite_store
from eventcore.testing.conformance.store import StoreConformance
from eventcore.testing.virtual_loop import run_virtual


class TestMemoryStore(StoreConformance):
    """In virtual time."""

    def run(self, body: Callable[[], Awaitable[None]]) -> None:
        run_virtual(body)

    def open_store(self) -> AbstractAsyncContextManager[Store]:
        return open_memory_store()


class TestSqliteStore(StoreConformance):
    """On a file in a folder of the test's own."""

    def open_store(self) -> AbstractAsyncContextManager[Store]:
        return open_sqlite_store(self.folder / "state.db")

"""A simulated crash: what an engine does after it reaches nobody."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from eventcore.errors import StoreUnavailable
from eventcore.ports.store import Operation, Store, Watch


class FencedStore:
    """A store as one engine has it: cut off, it takes nothing any more; what it has taken stays."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.is_cut = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def cut(self) -> None:
        """End what the engine can do to the store."""
        self.is_cut = True

    async def commit(self, operations: Sequence[Operation]) -> list[Any]:
        """Carry out operations, unless the engine has crashed.

        Raises:
            StoreUnavailable: it has.
        """
        if self.is_cut:
            raise StoreUnavailable("the engine has crashed")
        return await self._store.commit(operations)

    def watch(self, topic: str) -> AbstractAsyncContextManager[Watch]:
        """Watch a topic."""
        return self._store.watch(topic)

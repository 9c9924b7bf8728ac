"""The store in memory: `open_memory_store`."""

from __future__ import annotations

from eventcore.store.memory.store import MemoryStore, open_memory_store

__all__ = ["MemoryStore", "open_memory_store"]

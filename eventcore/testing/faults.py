"""What goes wrong outside of an engine, as a test wants it: stores that fail, answers that get lost, skewed clocks.

Pass an object of a subclass of `Faults` to `open_pipeline`; its methods are asked while the pipeline runs.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from eventcore.clock import LoopClock
from eventcore.delivery.ordering import ShardState
from eventcore.errors import StoreUnavailable
from eventcore.ports.store import Operation, Store, Watch


class Fate(enum.Enum):
    """What becomes of a call that writes."""

    DONE = "done"
    REFUSED = "refused"  #: nothing is written, and the caller is told so
    LOST = "lost"  #: it is written, and the caller is told that it failed: the answer got lost


class Faults:
    """Nothing goes wrong: override what shall."""

    clock_skew_ms = 0  #: how far the wall clock is ahead, milliseconds; may change at any time

    def fate_of_commit(self, operations: Sequence[Operation]) -> Fate:
        """Return what becomes of a commit to the store."""
        del operations
        return Fate.DONE

    def fate_of_settle(self, shard: str) -> Fate:
        """Return what becomes of a checkpoint that is written to a simulated topic."""
        del shard
        return Fate.DONE

    def on_committed(self, operations: Sequence[Operation], results: Sequence[Any]) -> None:
        """Hear what was committed to the store."""

    def on_taken(self, source: str, shard: str, epoch: int) -> None:
        """Hear that somebody became the owner of a simulated topic's shard."""

    def on_settled(self, source: str, shard: str, epoch: int, checkpoint: int, state: ShardState) -> None:
        """Hear that the checkpoint of a simulated topic's shard was written."""


class SkewedClock:
    """The wall clock of virtual time, as far off as a test wants it."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._clock = LoopClock()

    def now_ms(self) -> int:
        """Return the wall time in milliseconds since the epoch, UTC."""
        return self._clock.now_ms() + self._faults.clock_skew_ms


class Fence:
    """What one engine can still do."""

    def __init__(self) -> None:
        self.is_cut = False  #: it has crashed: nothing that it does reaches anybody
        self.is_stale = False  #: another has taken its place, and no group gives it shards any more


class FencedStore:
    """A store as one engine has it: with a test's faults; cut off, it takes nothing any more. What it took stays."""

    def __init__(self, store: Store, faults: Faults, fence: Fence) -> None:
        self._store = store
        self._faults = faults
        self._fence = fence

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(self, operations: Sequence[Operation]) -> list[Any]:
        """Carry out operations, unless the engine has crashed.

        Raises:
            StoreUnavailable: it has, or the test wants it so.
        """
        is_cut = self._fence.is_cut
        fate = Fate.REFUSED if is_cut else self._faults.fate_of_commit(operations)
        if fate is Fate.REFUSED:
            raise StoreUnavailable("the engine has crashed" if is_cut else "the test refuses it")
        results = await self._store.commit(operations)
        self._faults.on_committed(operations, results)
        if fate is Fate.LOST:
            raise StoreUnavailable("the answer got lost")
        return results

    def watch(self, topic: str) -> AbstractAsyncContextManager[Watch]:
        """Watch a topic."""
        return self._store.watch(topic)

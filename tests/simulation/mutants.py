"""Engines that are wrong on purpose: what they break, the checkers must find.

Each changes the real engine where it is wrong, for the length of a test; nothing in the engine knows of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from eventcore.delivery.breaker import Breaker
from eventcore.delivery.idempotency import Keyed, keys_of
from eventcore.delivery.lanes import LaneStates
from eventcore.delivery.ordering import ShardState, Window
from eventcore.embedded.family import ShardFamily
from eventcore.engine.checkpoint import ShardCheckpoint
from eventcore.engine.idempotency import IdempotentDispatcher
from eventcore.engine.settler import Settler
from eventcore.engine.windowed_lane import WindowedLane
from eventcore.ports.store import Operation, PutOutbox
from eventcore.testing.simulated_source import SimulatedSource

Mutant = Callable[[pytest.MonkeyPatch], None]


def _after_the_ack(patch: pytest.MonkeyPatch, is_late: Callable[[Operation], bool]) -> None:
    """Write some operations of a settling step only once the source has its checkpoint."""
    commit, write = Settler._commit, ShardCheckpoint.write
    late: list[tuple[Settler, list[Operation]]] = []

    async def commit_early_ones(self: Settler, operations: Sequence[Operation]) -> None:
        late.append((self, [each for each in operations if is_late(each)]))
        if early := [each for each in operations if not is_late(each)]:
            await commit(self, early)

    async def write_then_commit(self: ShardCheckpoint, *arguments: Any, **options: Any) -> None:
        waiting, late[:] = late[:], []
        await write(self, *arguments, **options)
        for settler, operations in waiting:
            if operations:
                await commit(settler, operations)

    patch.setattr(Settler, "_commit", commit_early_ones)
    patch.setattr(ShardCheckpoint, "write", write_then_commit)


def ack_before_the_store(patch: pytest.MonkeyPatch) -> None:
    """The source is told before the store has anything of it."""
    _after_the_ack(patch, lambda _: True)


def outbox_row_after_the_ack(patch: pytest.MonkeyPatch) -> None:
    """The failure is kept in time, and the row for the destination is not."""
    _after_the_ack(patch, lambda operation: isinstance(operation, PutOutbox))


def checkpoint_beyond_a_failed_record(patch: pytest.MonkeyPatch) -> None:
    """What failed and is to be tried again lies before the checkpoint."""
    write = ShardCheckpoint.write

    async def write_beyond(self: ShardCheckpoint, position: int, state: ShardState, *, is_urgent: bool) -> None:
        failed = [part.last + 1 for part in state.parts if part.attempt]
        await write(self, max([position, *failed]), state, is_urgent=is_urgent)

    patch.setattr(ShardCheckpoint, "write", write_beyond)


def attempts_forgotten(patch: pytest.MonkeyPatch) -> None:
    """Attempts are counted in memory, and not written."""
    write = ShardCheckpoint.write

    async def write_without(self: ShardCheckpoint, position: int, state: ShardState, *, is_urgent: bool) -> None:
        parts = tuple(msgspec.structs.replace(part, attempt=0) for part in state.parts)
        await write(self, position, msgspec.structs.replace(state, parts=parts), is_urgent=is_urgent)

    patch.setattr(ShardCheckpoint, "write", write_without)


def window_state_forgotten(patch: pytest.MonkeyPatch) -> None:
    """The state of an open window is handed on, and not written."""
    write = ShardCheckpoint.write

    async def write_without(self: ShardCheckpoint, *arguments: Any, **options: Any) -> None:
        windows, self._windows = self._windows, None
        try:
            await write(self, *arguments, **options)
        finally:
            self._windows = windows

    patch.setattr(ShardCheckpoint, "write", write_without)


def epoch_not_checked(patch: pytest.MonkeyPatch) -> None:
    """Whoever had a shard once may write its checkpoint."""
    patch.setattr(SimulatedSource, "_check_owner", lambda self, shard, epoch: self._check())


def final_call_forgotten(patch: pytest.MonkeyPatch) -> None:
    """A window that is over is closed, and its final call is not made."""

    async def close(self: WindowedLane, window: Window, state: ShardState) -> int:
        self._windows.replace(None)
        await self._checkpoint.write(self._checkpoint.position, state, is_urgent=True)
        return 0

    patch.setattr(WindowedLane, "_close", close)


def keys_not_completed(patch: pytest.MonkeyPatch) -> None:
    """The keys of what has succeeded are free again."""

    async def forget(self: IdempotentDispatcher, owner: str, keyed: Sequence[Keyed], *_: Any) -> None:
        await self._release(owner, keys_of(keyed))

    patch.setattr(IdempotentDispatcher, "_complete", forget)


def parked_key_forgotten(patch: pytest.MonkeyPatch) -> None:
    """A key whose records wait elsewhere is worked on as any other."""
    patch.setattr(LaneStates, "is_parked", lambda self, key: False)


def breaker_never_opens(patch: pytest.MonkeyPatch) -> None:
    """Whatever fails in a row, nothing is held up."""
    patch.setattr(Breaker, "_fail", lambda self, now_s, *, is_probe: False)


def children_before_their_parents(patch: pytest.MonkeyPatch) -> None:
    """What a shard was split into is read at once."""
    patch.setattr(ShardFamily, "hold", lambda self, taken: taken)

"""Checkpoints in memory."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from eventcore.delivery.ordering import EMPTY, decode_state, encode_state
from eventcore.ports import store as port
from eventcore.ports.store import Checkpoint
from eventcore.store.admission import NEVER_TAKEN


class MemoryCheckpoints:
    """Every checkpoint of a store."""

    def __init__(self) -> None:
        self._checkpoints: dict[tuple[str, str], Checkpoint] = {}

    def progress(self, mapping: str, shard: str) -> tuple[int, int]:
        """Return a checkpoint's epoch and position; `NEVER_TAKEN` without one."""
        checkpoint = self._checkpoints.get((mapping, shard))
        return (checkpoint.epoch, checkpoint.position) if checkpoint else NEVER_TAKEN

    def take(self, operation: port.TakeShard) -> Checkpoint:
        """Carry out `TakeShard`."""
        return self._put(self._raised(operation.mapping, operation.shard))

    def save(self, operation: port.SaveCheckpoint) -> None:
        """Carry out `SaveCheckpoint`."""
        self._put(
            Checkpoint(
                mapping=operation.mapping,
                shard=operation.shard,
                epoch=operation.epoch,
                position=operation.position,
                # What a durable store would give back: the encoding is bounded, and may join pending parts.
                state=decode_state(encode_state(operation.state)),
            )
        )

    def seek(self, operation: port.SeekCheckpoint) -> int:
        """Carry out `SeekCheckpoint`."""
        raised = self._raised(operation.mapping, operation.shard)
        return self._put(msgspec.structs.replace(raised, position=operation.position, state=EMPTY)).epoch

    def all(self, mapping: str | None) -> Sequence[Checkpoint]:
        """Return checkpoints, of one mapping or of all, by mapping and shard."""
        return [
            checkpoint
            for (owner, _), checkpoint in sorted(self._checkpoints.items())
            if mapping is None or owner == mapping
        ]

    def _raised(self, mapping: str, shard: str) -> Checkpoint:
        epoch, position = self.progress(mapping, shard)
        known = self._checkpoints.get((mapping, shard))
        state = known.state if known else EMPTY
        return Checkpoint(mapping=mapping, shard=shard, epoch=epoch + 1, position=position, state=state)

    def _put(self, checkpoint: Checkpoint) -> Checkpoint:
        self._checkpoints[checkpoint.mapping, checkpoint.shard] = checkpoint
        return checkpoint

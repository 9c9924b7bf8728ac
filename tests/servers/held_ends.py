"""Transactions whose end a test keeps back."""

from __future__ import annotations

import anyio
import pytest
from aiokafka import AIOKafkaProducer

from eventcore.testing.conformance.stream import HAPPENS_WITHIN_S


class HeldEnds:
    """Holds the end of the first transaction, or of every one, until `let_go`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, count_max: int | None = None) -> None:
        self.let_go = anyio.Event()
        self._is_held = anyio.Event()
        self._count = 0
        commit = AIOKafkaProducer.commit_transaction
        holder = self

        async def commit_late(self: AIOKafkaProducer) -> None:
            holder._count += 1
            if count_max is None or holder._count <= count_max:
                holder._is_held.set()
                await holder.let_go.wait()
            await commit(self)

        monkeypatch.setattr(AIOKafkaProducer, "commit_transaction", commit_late)

    async def until_held(self) -> None:
        """Wait until a transaction's end is held."""
        with anyio.fail_after(HAPPENS_WITHIN_S):
            await self._is_held.wait()

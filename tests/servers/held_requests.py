"""Requests of one kind that a test keeps back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import pytest
from aiokafka.client import AIOKafkaClient


class HeldRequests:
    """Holds each of them until its sender gives up, or `let_go`; counts those that began and those that are over."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: type[Any]) -> None:
        self.let_go = anyio.Event()
        self.began, self.over = 0, 0
        self._first: Callable[[], Awaitable[Any]] | None = None
        self._send = AIOKafkaClient.send
        holder = self

        async def send(self: AIOKafkaClient, node: Any, request: Any, **options: Any) -> Any:
            send_now = partial(holder._send, self, node, request, **options)
            if isinstance(request, kind):
                holder._first = holder._first or send_now
                await holder.hold()
            return await send_now()

        monkeypatch.setattr(AIOKafkaClient, "send", send)

    @property
    def is_holding(self) -> bool:
        """Whether one is on its way."""
        return self.began > self.over

    async def hold(self) -> None:
        """Wait as one that is on its way."""
        self.began += 1
        try:
            await self.let_go.wait()
        finally:
            self.over += 1

    async def send_first(self) -> None:
        """Have the first one arrive, whether or not its sender still waits for it."""
        assert self._first is not None, "none was held"
        await self._first()

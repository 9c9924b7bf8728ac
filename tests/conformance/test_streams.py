"""Embedded streams keep the promises of their kit, on every store."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TypeVar

from eventcore.store.memory import open_memory_store
from eventcore.store.sqlite import open_sqlite_store
from eventcore.testing.conformance.stream import StreamConformance, StreamUnderTest
from tests.conformance.embedded_sources import AdjustableClock, open_stream

Kit = TypeVar("Kit", bound=type[StreamConformance])
OpenStream = Callable[[Path], AbstractAsyncContextManager[StreamUnderTest]]


def opened_by(opener: OpenStream) -> Callable[[Kit], Kit]:
    """Open the stream within each test: a store holds tasks, which no fixture may keep across its yield."""

    def decorate(kit: Kit) -> Kit:
        for name in dir(StreamConformance):
            if name.startswith("test_"):
                setattr(kit, name, _within(getattr(StreamConformance, name), opener))
        return kit

    return decorate


def _within(test: Callable[..., Awaitable[None]], opener: OpenStream) -> Callable[..., Awaitable[None]]:
    async def run(self: StreamConformance, tmp_path: Path) -> None:
        async with opener(tmp_path) as stream:
            await test(self, stream)

    run.__doc__ = test.__doc__
    return run


@opened_by(lambda _: open_stream(open_memory_store, AdjustableClock()))
class TestStreamInMemory(StreamConformance):
    """Forgets everything when it is closed."""


@opened_by(lambda folder: open_stream(lambda: open_sqlite_store(folder / "state.db"), AdjustableClock()))
class TestStreamInSqlite(StreamConformance):
    """Keeps everything."""

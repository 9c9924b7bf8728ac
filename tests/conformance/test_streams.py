"""Embedded streams keep the promises of their kits, on every store."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, TypeVar

from eventcore.store.memory import open_memory_store
from eventcore.store.sqlite import open_sqlite_store
from eventcore.testing.conformance.ranges import RangeConformance
from eventcore.testing.conformance.stream import StreamConformance
from tests.conformance.embedded_sources import AdjustableClock, EmbeddedStreamUnderTest, open_stream

Kit = TypeVar("Kit", bound=type[StreamConformance] | type[RangeConformance])
OpenStream = Callable[[Path], AbstractAsyncContextManager[EmbeddedStreamUnderTest]]


def opened_by(opener: OpenStream) -> Callable[[Kit], Kit]:
    """Open the stream within each test: a store holds tasks, which no fixture may keep across its yield."""

    def decorate(kit: Kit) -> Kit:
        for name in dir(kit):
            if name.startswith("test_"):
                setattr(kit, name, _within(getattr(kit, name), opener))
        return kit

    return decorate


def _within(test: Callable[..., Awaitable[None]], opener: OpenStream) -> Callable[..., Awaitable[None]]:
    async def run(self: Any, tmp_path: Path) -> None:
        async with opener(tmp_path) as stream:
            await test(self, stream)

    run.__doc__ = test.__doc__
    return run


def in_memory(_: Path) -> AbstractAsyncContextManager[EmbeddedStreamUnderTest]:
    return open_stream(open_memory_store, AdjustableClock())


def in_sqlite(folder: Path) -> AbstractAsyncContextManager[EmbeddedStreamUnderTest]:
    return open_stream(lambda: open_sqlite_store(folder / "state.db"), AdjustableClock())


@opened_by(in_memory)
class TestStreamInMemory(StreamConformance):
    """Forgets everything when it is closed."""


@opened_by(in_sqlite)
class TestStreamInSqlite(StreamConformance):
    """Keeps everything."""


@opened_by(in_memory)
class TestRangeInMemory(RangeConformance):
    """Read by nobody's mapping."""


@opened_by(in_sqlite)
class TestRangeInSqlite(RangeConformance):
    """Read by nobody's mapping."""

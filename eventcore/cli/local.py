"""Operations without an engine: the state is opened for one command, functions run in environments of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from eventcore.cli.place import ReadPipeline
from eventcore.clock import SystemClock
from eventcore.config.effective import resolve
from eventcore.engine.definitions import define_sources
from eventcore.http.functions import OneTimeRunner
from eventcore.http.operations import Operations
from eventcore.ids import SystemIds
from eventcore.ports.runtime import LogLine
from eventcore.ports.store import Store


@asynccontextmanager
async def open_operations(
    pipeline: ReadPipeline, state: Path | None, show: Callable[[LogLine], None]
) -> AsyncIterator[Operations]:
    """Give operations on a pipeline whose engine does not run.

    Args:
        pipeline: read and checked.
        state: the state folder, locked meanwhile; None leaves it alone.
        show: is given what functions write, as they write it.

    Raises:
        StateInUse: somebody else holds the folder.
        StoreError: the state can't be used.
        ConfigError: a stream was made with another number of shards.
    """
    from eventcore.store.lock import hold_state
    from eventcore.store.sqlite import open_sqlite_store

    clock, ids = SystemClock(), SystemIds()
    async with AsyncExitStack() as stack:
        store: Store | None = None
        if state is not None:
            stack.enter_context(hold_state(state))
            store = await stack.enter_async_context(open_sqlite_store(state / "state.db"))
            await define_sources(store, resolve(pipeline.loaded))
        runner = OneTimeRunner(pipeline.loaded, pipeline.targets, clock=clock, ids=ids, show=show)
        yield Operations(pipeline.loaded, store, clock=clock, ids=ids, runner=runner, retry_runner=runner)

"""Makes a replay ready to run, the function in processes of the command's own, and runs it until a signal."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import anyio.abc
import click

from eventcore.app import open_runtimes
from eventcore.archive.replay import Replay, ReplayListener, ReplayShard
from eventcore.cli.log_lines import print_line
from eventcore.cli.output import Output, clear_line
from eventcore.cli.place import ReadPipeline
from eventcore.clock import SystemClock
from eventcore.config.defaults import STREAM_BATCH_SIZE
from eventcore.config.effective import EffectiveMapping
from eventcore.engine.assembly import cut_batches, make_filter
from eventcore.engine.definitions import make_registry
from eventcore.engine.dispatcher import Dispatcher
from eventcore.ids import SystemIds
from eventcore.ports.ranges import RangeSource
from eventcore.ports.runtime import LogLine
from eventcore.telemetry.tracing import NULL_TRACING


@asynccontextmanager
async def open_replay(
    pipeline: ReadPipeline,
    mapping: EffectiveMapping | None,
    function: str,
    source: RangeSource,
    listener: ReplayListener,
    *,
    reference: str,
    speed: float,
) -> AsyncIterator[Replay]:
    """Give a replay; when the block ends, its processes are gone.

    Args:
        pipeline: holds the function.
        mapping: whose batches and reports are imitated; None: a stream's defaults.
        function: its name.
        source: open.
        listener: hears what happens.
        reference: of the source.
        speed: see `Replay`.

    Raises:
        InvocationError: the function does not import.
    """
    clock, ids = SystemClock(), SystemIds()
    color = click.get_current_context().color

    def show(lines: Sequence[LogLine]) -> None:
        for line in lines:
            if line.stream != "platform":
                clear_line()
                print_line(line, color=color)

    with TemporaryDirectory(prefix="eventcore-") as folder:
        async with open_runtimes(pipeline.loaded, Path(folder), clock, ids, show) as runtimes:
            found = make_registry(pipeline.loaded, runtimes, pipeline.targets).get(function)
            assert found is not None, "the command has looked for it"
            form = await found.prepare()
            batching = cut_batches(
                mapping.batch_size if mapping else STREAM_BATCH_SIZE,
                mapping.window_s if mapping else 0.0,
                form,
                source.shape,
            )
            reports_failures = mapping.reports_failures if mapping else False
            dispatcher = Dispatcher(found, source.shape, NULL_TRACING, reports_failures=reports_failures)
            keeps = make_filter(mapping, source.shape) if mapping else None
            yield Replay(source, dispatcher, batching, ids, listener, reference=reference, speed=speed, keeps=keeps)


async def run_until_signal(replay: Replay, shards: Sequence[ReplayShard], output: Output) -> bool:
    """Run a replay; the first signal lets its running batches end, the second one aborts them.

    Returns:
        Whether a signal came.

    Raises:
        EventcoreError: what is read can't be read any more.
    """
    running = anyio.CancelScope()
    is_interrupted = False

    async def watch_signals(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        nonlocal is_interrupted
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for _ in signals:
                if is_interrupted:
                    running.cancel()
                is_interrupted = True
                replay.stop()
                clear_line()
                output.note("ending: running batches may finish; once more aborts them")

    async with anyio.create_task_group() as tasks:
        await tasks.start(watch_signals)
        with running:
            await replay.run(shards)
        tasks.cancel_scope.cancel()
    return is_interrupted

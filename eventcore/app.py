"""Assembles a pipeline, on what it is given or on its state folder; `eventcore.engine.engine` is what runs then.

`open_engine` takes everything that touches the outside as an argument, so that the same engine runs on SQLite and real
processes, or on memory in virtual time. `run_pipeline` is the first of the two.
"""

from __future__ import annotations

import gc
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec

from eventcore import __version__
from eventcore.archive.failures import FailureRecorder
from eventcore.clock import Clock, SystemClock
from eventcore.config.effective import EffectivePipeline, resolve
from eventcore.config.load import LoadedConfig
from eventcore.config.pipeline import Pipeline
from eventcore.engine.assembly import Surroundings, build_mapping
from eventcore.engine.definitions import (
    define_sources,
    make_registry,
    pipeline_connections,
    stream_settings,
)
from eventcore.engine.engine import Engine
from eventcore.engine.event_worker import make_event_worker
from eventcore.engine.gate import Gate, read_pauses
from eventcore.engine.maintenance import Maintenance
from eventcore.engine.mapping import MappingSupervisor
from eventcore.engine.outbox import Outbox
from eventcore.engine.outside import (
    find_connectors,
    open_destination,
    outside_references,
    transactional_destinations,
)
from eventcore.engine.own_marks import OwnMarks
from eventcore.engine.reporter import Reporter
from eventcore.engine.router import Router
from eventcore.ids import IdFactory, SystemIds
from eventcore.ports.connectors import Connector, ConnectorContext
from eventcore.ports.destinations import Destination
from eventcore.ports.runtime import LogSink, Runtime
from eventcore.ports.store import Store
from eventcore.registry import Registry
from eventcore.telemetry.events import EngineEvents
from eventcore.telemetry.tracing import NULL_TRACING, Tracing

#: An inline handler that holds the loop up for so long is named, seconds: heartbeats and every other function wait.
STALL_S = 0.1
#: When Python's collector of cycles looks: after so many new objects, then so many rounds, then so many of those. Its
#: default begins at 700, and so goes through thousands of records in flight, none of them in a cycle, at every fetch.
COLLECTOR_THRESHOLDS = (50_000, 20, 50)


def tune_collector() -> None:
    """Set Python's collector of cycles up for an engine: a fifth less CPU a record.

    For a process that is an engine and nothing else; an application that opens one inside itself decides for itself.
    """
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)


@asynccontextmanager
async def open_engine(
    loaded: LoadedConfig,
    *,
    store: Store,
    runtimes: Mapping[str, Runtime],
    clock: Clock,
    ids: IdFactory,
    events: EngineEvents | None = None,
    tracing: Tracing = NULL_TRACING,
    targets: Mapping[str, Any] | None = None,
    connectors: Mapping[str, Connector] | None = None,
) -> AsyncIterator[Engine]:
    """Assemble a pipeline on an open store.

    Args:
        loaded: the pipeline, checked.
        store: open for as long as the engine is.
        runtimes: by name, "process" and "inline", open for as long as the engine is.
        clock: wall time.
        ids: identifiers and jitter.
        events: hears what happens; a new one when None.
        tracing: spans.
        targets: callables of functions that run inline, by function name.
        connectors: by kind; those that are not given are loaded by entry point.

    Raises:
        ConfigError: a stream was made with another number of shards.
        ConnectorUnavailable: a source or destination has no connector.
        StoreUnavailable, StoreCorrupt: the state can't be read or written.
    """
    pipeline = resolve(loaded)
    settings = loaded.config.settings
    await define_sources(store, pipeline)
    registry = make_registry(loaded, runtimes, targets)
    recorder = FailureRecorder({function.spec.name: function.spec for function in registry})
    events = events if events is not None else EngineEvents()
    context = ConnectorContext(clock=clock, ids=ids, region=settings.region, account_id=settings.account_id)
    connections = pipeline_connections(loaded)
    found = find_connectors(pipeline, connectors or {})
    transactional = transactional_destinations(pipeline, clock, ids)
    destinations: dict[str, Destination] = {}
    for reference in outside_references(pipeline, transactional):
        destinations[str(reference)] = open_destination(reference, connections, found, context)
    outbox = Outbox(store, destinations, clock, ids)
    await outbox.load()
    around = Surroundings(
        store=store,
        router=Router(transactional),
        recorder=recorder,
        outbox=outbox,
        clock=clock,
        ids=ids,
        tracing=tracing,
        region=settings.region,
        account_id=settings.account_id,
        connections=connections,
        connectors=found,
        visibility_timeouts_s={name: queue.visibility_timeout for name, queue in pipeline.queues.items()},
        fifo_queues=frozenset(name for name, queue in pipeline.queues.items() if queue.fifo_queue),
        suspects=anyio.Lock(),
        own_marks=OwnMarks(),
    )
    workers = {
        function.spec.name: make_event_worker(function, pipeline.events[function.spec.name], events, around)
        for function in registry
    }
    supervisors = {
        name: _supervise(name, pipeline, registry, events, Gate(await read_pauses(store, name)), around)
        for name in pipeline.mappings
    }
    async with AsyncExitStack() as stack:
        for destination in destinations.values():
            stack.push_async_callback(destination.aclose)
        yield Engine(
            registry=registry,
            supervisors=supervisors,
            workers=workers,
            outbox=outbox,
            maintenance=Maintenance(
                store,
                clock,
                stream_settings(pipeline),
                failures_bytes_max=settings.failures_maximum_bytes,
                failures_age_s=settings.failures_retention_period,
            ),
            store=store,
            clock=clock,
            ids=ids,
            events=events,
            drain_timeout_s=settings.drain_timeout,
            version=__version__,
        )


def _supervise(
    name: str, pipeline: EffectivePipeline, registry: Registry, events: EngineEvents, gate: Gate, around: Surroundings
) -> MappingSupervisor:
    mapping = pipeline.mappings[name]
    function = registry.get(mapping.function)
    assert function is not None, "the checks of the pipeline file find missing functions"
    reporter = Reporter(name, mapping.function, events)
    return MappingSupervisor(
        lambda: build_mapping(mapping, function, reporter, gate, around),
        reporter,
        around.ids,
        gate,
        source=str(mapping.source),
        is_enabled=mapping.enabled,
    )


class RunOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How `run_pipeline` runs."""

    state: Path  #: the state folder; made when it is not there
    targets: Mapping[str, Any] = {}
    log_sink: LogSink | None = None


@asynccontextmanager
async def open_runtimes(
    loaded: LoadedConfig, folder: Path, clock: Clock, ids: IdFactory, sink: LogSink
) -> AsyncIterator[Mapping[str, Runtime]]:
    """Open the runtimes that the pipeline's functions name; left, all of their processes are gone.

    Args:
        loaded: the pipeline.
        folder: where environments keep their temporary folders.
        clock: wall time.
        ids: identifiers.
        sink: takes what functions write.
    """
    from eventcore.runtime.inline import open_inline_runtime
    from eventcore.runtime.process import open_process_runtime

    async with AsyncExitStack() as stack:
        runtimes: dict[str, Runtime] = {
            "inline": await stack.enter_async_context(open_inline_runtime(clock, ids, sink, stall_s=STALL_S)),
        }
        if any(function.runtime == "process" for function in loaded.config.functions.values()):
            process = open_process_runtime(clock, ids, sink, folder)
            runtimes["process"] = await stack.enter_async_context(process)
        yield runtimes


@asynccontextmanager
async def run_pipeline(
    loaded: LoadedConfig, options: RunOptions, *, events: EngineEvents | None = None
) -> AsyncIterator[Engine]:
    """Assemble a pipeline on its state folder, with real processes and real time.

    Raises:
        StateInUse: another engine runs on the state folder.
        SchemaMismatch, StoreCorrupt, StoreUnavailable: the state can't be used; nothing was changed.
        ConfigError, ConnectorUnavailable: as `open_engine`.
    """
    from eventcore.store.lock import hold_state
    from eventcore.store.sqlite import open_sqlite_store
    from eventcore.telemetry.logs import FunctionLogs
    from eventcore.telemetry.tracing import open_tracing

    clock, ids = SystemClock(), SystemIds()
    async with AsyncExitStack() as stack:
        stack.enter_context(hold_state(options.state))
        store = await stack.enter_async_context(open_sqlite_store(options.state / "state.db"))
        sink = options.log_sink or stack.enter_context(FunctionLogs(options.state / "logs"))
        tracing = open_tracing(os.environ)
        stack.push_async_callback(tracing.aclose)
        runtimes = await stack.enter_async_context(open_runtimes(loaded, options.state, clock, ids, sink))
        yield await stack.enter_async_context(
            open_engine(
                loaded,
                store=store,
                runtimes=runtimes,
                clock=clock,
                ids=ids,
                events=events,
                tracing=tracing,
                targets=options.targets,
            )
        )


class App(Pipeline):
    """A pipeline written in Python, run by `eventcore run MODULE:app`, or by `App.run` inside a program.

    Source: design §5: the same settings as the pipeline file, and equal structs.
    """

    def open(self, state: str | os.PathLike[str] = ".eventcore", *, events: EngineEvents | None = None) -> Any:
        """Return an async context manager that yields the `Engine`, assembled on a state folder.

        Raises:
            ConfigError: the pipeline has mistakes; all of them at once.
        """
        return run_pipeline(self.loaded(), RunOptions(state=Path(state), targets=self.targets), events=events)

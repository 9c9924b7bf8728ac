"""A pipeline that runs: start, drain, abort, and what people ask of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import anyio

from eventcore.clock import Clock
from eventcore.embedded.events import accept_event
from eventcore.engine.event_worker import EventWorker
from eventcore.engine.invoker import invoke_event
from eventcore.engine.maintenance import Maintenance
from eventcore.engine.mapping import MappingSupervisor
from eventcore.engine.moving import MoveTasks
from eventcore.engine.outbox import Outbox
from eventcore.engine.status import EngineStatus, ParkedRedriven
from eventcore.errors import CommandError
from eventcore.ids import IdFactory
from eventcore.model import Outcome
from eventcore.ports.store import Store
from eventcore.registry import Function, Registry
from eventcore.telemetry.events import EngineEvents, EventAccepted

#: What a drained engine gives destinations outside to take the last results, seconds; the rest waits in the store.
FLUSH_GRACE_S = 3.0


class Engine:
    """A pipeline that runs. Made by `eventcore.app.open_engine`; `run` once; not reusable."""

    def __init__(
        self,
        *,
        registry: Registry,
        supervisors: Mapping[str, MappingSupervisor],
        workers: Mapping[str, EventWorker],
        outbox: Outbox,
        maintenance: Maintenance,
        store: Store,
        clock: Clock,
        ids: IdFactory,
        events: EngineEvents,
        drain_timeout_s: float,
        version: str,
    ) -> None:
        self.store = store
        self.clock = clock
        self.ids = ids
        self.events = events
        self.registry = registry
        self._supervisors = supervisors
        self._workers = workers
        self._outbox = outbox
        self._maintenance = maintenance
        self.moves = MoveTasks(store, clock, ids)
        self._drain_timeout_s = drain_timeout_s
        self._version = version
        self._started_ms = clock.now_ms()
        self._stopping = anyio.Event()
        self._aborting = anyio.Event()

    async def run(self) -> None:
        """Run every mapping until `drain` or `abort`; returns when what ran is settled or released.

        A drain that takes longer than the pipeline's `drain_timeout` becomes an abort.
        """
        async with anyio.create_task_group() as services:
            services.start_soon(self._outbox.run)
            services.start_soon(self._maintenance.run)
            services.start_soon(self.moves.run)
            async with anyio.create_task_group() as watch:
                watch.start_soon(self._enforce_drain)
                async with anyio.create_task_group() as mappings:
                    for name, supervisor in self._supervisors.items():
                        mappings.start_soon(supervisor.run, name=f"mapping {name}")
                    for name, worker in self._workers.items():
                        mappings.start_soon(worker.run, name=f"events of {name}")
                    await self._stopping.wait()
                watch.cancel_scope.cancel()
            with anyio.move_on_after(0 if self._aborting.is_set() else FLUSH_GRACE_S):
                await self._outbox.wait_idle()
            services.cancel_scope.cancel()

    def drain(self) -> None:
        """Take nothing new; finish and settle what runs."""
        self._stopping.set()
        for supervisor in self._supervisors.values():
            supervisor.drain()
        for worker in self._workers.values():
            worker.drain()

    def abort(self) -> None:
        """Kill what runs and hand its records back; what was settled stays settled."""
        self._aborting.set()
        self._stopping.set()
        for supervisor in self._supervisors.values():
            supervisor.abort()
        for worker in self._workers.values():
            worker.abort()

    @property
    def is_aborted(self) -> bool:
        """Whether what ran was cut off: by `abort`, or because the drain took too long."""
        return self._aborting.is_set()

    async def _enforce_drain(self) -> None:
        await self._stopping.wait()
        await anyio.sleep(self._drain_timeout_s)
        self.abort()

    # -- what people ask of it -----------------------------------------------------------------------------------------

    async def status(self) -> EngineStatus:
        """Return a snapshot."""
        return EngineStatus(
            version=self._version,
            pid=os.getpid(),
            started_ms=self._started_ms,
            is_draining=self._stopping.is_set(),
            mappings=[await supervisor.status() for supervisor in self._supervisors.values()],
            destinations=self._outbox.statistics(),
            functions=[status for worker in self._workers.values() if (status := worker.status()) is not None],
        )

    async def redrive(
        self,
        mapping: str,
        shard: str,
        *,
        count_max: int,
        besides: Sequence[str] = (),
        gives_up_missing: bool = False,
    ) -> ParkedRedriven:
        """Give parked records of a mapping's shard back to its function; one bounded step.

        Raises:
            CommandError: there is no such mapping, it does not run, has no lanes, or has not the shard.
            SourceError, StoreError: progress could not be written; what ran may run again.
        """
        supervisor = self.mapping(mapping)
        return await supervisor.redrive(shard, count_max=count_max, besides=besides, gives_up_missing=gives_up_missing)

    def mapping(self, name: str) -> MappingSupervisor:
        """Return what runs a mapping.

        Raises:
            CommandError: there is no such mapping.
        """
        supervisor = self._supervisors.get(name)
        if supervisor is None:
            raise CommandError(f"there is no mapping `{name}` in this pipeline")
        return supervisor

    async def invoke(self, function: str, event: Any) -> Outcome:
        """Run a function once with an event.

        Raises:
            CommandError: there is no such function.
            Throttled: all of its environments are busy.
        """
        return await invoke_event(self._function(function), event, self.ids)

    async def invoke_async(self, function: str, event: bytes) -> str:
        """Let an event wait for a function, and return its request id once that is durable.

        Args:
            function: its name.
            event: JSON, at most 1 MiB.

        Raises:
            CommandError: there is no such function, or the event is too long, or not JSON.
            StoreUnavailable: nothing was accepted.
        """
        name = self._function(function).spec.name
        request_id = await accept_event(self.store, name, event, clock=self.clock, ids=self.ids)
        self.events.emit(EventAccepted(function=name, request_id=request_id))
        return request_id

    def _function(self, name: str) -> Function:
        function = self.registry.get(name)
        if function is None:
            raise CommandError(f"there is no function `{name}` in this pipeline")
        return function

"""Everything that a command can ask of a pipeline, carried out on its open store, with or without a running engine.

The control server gives it requests that came over the socket; a command that finds no engine calls it itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import msgspec

from eventcore.clock import Clock
from eventcore.config.effective import resolve
from eventcore.config.load import LoadedConfig
from eventcore.engine.definitions import pipeline_connections
from eventcore.engine.engine import Engine
from eventcore.engine.moving import MoveTasks
from eventcore.engine.outside import load_connector
from eventcore.engine.status import REDRIVE_RECORDS_MAX, ParkedRedriven
from eventcore.errors import CommandError
from eventcore.http.code import StartedCode
from eventcore.http.contract import (
    Accepted,
    CancelMove,
    DropFailures,
    FindPositions,
    FollowMove,
    GetExtents,
    GetMappingLog,
    GetStatus,
    Invoke,
    InvokeAsync,
    Invoked,
    ListFailures,
    ListMoves,
    ListQueues,
    ListShards,
    MergeStreamShards,
    PauseMapping,
    PeekQueue,
    Place,
    PlanRedrive,
    PurgeQueue,
    ReadRecords,
    RedriveParked,
    Request,
    Result,
    ResumeMapping,
    RetryFailure,
    SeekMapping,
    Send,
    ShowFailure,
    SkipRecords,
    SplitStreamShard,
    StartMove,
    StatusReport,
)
from eventcore.http.failures import FailureOperations
from eventcore.http.functions import RunFunction, accept, invoke
from eventcore.http.mappings import MappingOperations
from eventcore.http.queues import QueueOperations
from eventcore.http.ranges import RangeOperations
from eventcore.http.sending import LoadConnector, send
from eventcore.http.status import report_running, report_stopped
from eventcore.http.streams import StreamOperations
from eventcore.ids import IdFactory
from eventcore.ports.store import QueueDepth, Store
from eventcore.telemetry.events import EventAccepted, RecordsSent

Perform = Callable[[Any], Awaitable[Any]]


class Operations:
    """Carries requests out. Lives as long as what it is given is open; any number at a time."""

    def __init__(
        self,
        loaded: LoadedConfig,
        store: Store | None,
        *,
        clock: Clock,
        ids: IdFactory,
        runner: RunFunction,
        retry_runner: RunFunction,
        engine: Engine | None = None,
        started_code: StartedCode | None = None,
        load_connector: LoadConnector = load_connector,
    ) -> None:
        """Prepare to carry requests out.

        Args:
            loaded: the pipeline.
            store: its state, the pipeline's sources defined; None refuses everything that needs it.
            clock: wall time.
            ids: identifiers.
            runner: runs functions.
            retry_runner: runs functions again that have failed, with the code that stands there now.
            engine: the running one; None without.
            started_code: what its environments run; None without.
            load_connector: finds the connector of a kind.
        """
        self._loaded = loaded
        self._store = store
        self._clock = clock
        self._ids = ids
        self._runner = runner
        self._retry_runner = retry_runner
        self._engine = engine
        self._started_code = started_code
        self._load_connector = load_connector
        self._performers: dict[type[Request[Any]], Perform] = {
            Send: self._send,
            Invoke: self._invoke,
            RedriveParked: self._redrive_parked,
        }
        if store is not None:
            self._performers |= self._on_store(store)

    def _on_store(self, store: Store) -> dict[type[Request[Any]], Perform]:
        streams = StreamOperations(store)
        moves = self._engine.moves if self._engine is not None else MoveTasks(store, self._clock, self._ids)
        queues = QueueOperations(store, self._clock, moves, is_engine_running=self._engine is not None)
        failures = FailureOperations(
            store, self._ids, resolve(self._loaded).mappings, self._retry_runner, self._started_code
        )

        ranges = RangeOperations(store, self._loaded.config.settings)

        mappings = MappingOperations(store, self._clock, resolve(self._loaded).mappings, self._engine)

        async def status(_: GetStatus) -> StatusReport:
            if self._engine is not None:
                return await report_running(self._engine)
            return await report_stopped(resolve(self._loaded), store, self._clock)

        async def invoke_async(request: InvokeAsync) -> Accepted:
            known = self._loaded.config.functions
            request_id = await accept(request, known, store, clock=self._clock, ids=self._ids)
            if self._engine is not None:
                self._engine.events.emit(EventAccepted(function=request.function, request_id=request_id))
            return Accepted(function=request.function, request_id=request_id, is_served=self._engine is not None)

        async def list_queues(_: ListQueues) -> Sequence[QueueDepth]:
            return await store.queue_depths()

        return {
            GetStatus: status,
            InvokeAsync: invoke_async,
            ListQueues: list_queues,
            GetExtents: ranges.extents,
            FindPositions: ranges.find,
            ReadRecords: ranges.read,
            PauseMapping: mappings.pause,
            ResumeMapping: mappings.resume,
            SeekMapping: mappings.seek,
            SkipRecords: mappings.skip,
            GetMappingLog: mappings.log,
            PeekQueue: queues.peek,
            PlanRedrive: queues.plan_redrive,
            StartMove: queues.start_move,
            FollowMove: queues.follow_move,
            CancelMove: queues.cancel_move,
            ListMoves: queues.list_moves,
            PurgeQueue: queues.purge,
            ListShards: streams.shards,
            SplitStreamShard: streams.split,
            MergeStreamShards: streams.merge,
            ListFailures: failures.ls,
            ShowFailure: failures.show,
            RetryFailure: failures.retry,
            DropFailures: failures.drop,
        }

    async def perform(self, request: Request[Result]) -> Result:
        """Carry a request out and return its answer.

        Raises:
            EventcoreError: it can't be carried out; `eventcore.http.refusals.explain` makes a sentence of it.
        """
        perform = self._performers.get(type(request))
        if perform is None:
            raise CommandError(f"{request.PATH} needs the pipeline's state")
        return cast("Result", await perform(request))

    async def _invoke(self, request: Invoke) -> Invoked:
        invoked = await invoke(self._runner, request, self._ids)
        if self._started_code is None:
            return invoked
        return msgspec.structs.replace(invoked, stale_pid=await self._started_code.find_stale(request.function))

    async def _redrive_parked(self, request: RedriveParked) -> ParkedRedriven:
        if self._engine is None:
            raise CommandError(
                "parked records are given back by the engine that has their shard, and none runs here",
                hint="start it: eventcore run",
            )
        return await self._engine.redrive(
            request.mapping,
            request.shard,
            count_max=min(request.count_max, REDRIVE_RECORDS_MAX),
            besides=request.besides,
            gives_up_missing=request.gives_up_missing,
        )

    async def _send(self, request: Send) -> Sequence[Place]:
        places = await send(
            request,
            store=self._store,
            clock=self._clock,
            ids=self._ids,
            connections=pipeline_connections(self._loaded),
            load_connector=self._load_connector,
        )
        if self._engine is not None and places:
            self._engine.events.emit(RecordsSent(source=request.reference, count=len(places)))
        return places

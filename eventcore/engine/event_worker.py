"""Delivers the events that wait for one function.

Events are received as there are hands for them: one for each invocation that the function may have, and one more that
finds out whether there is room, so that the function never waits for its next event. An event in hand that finds no
room is throttled: it waits `HAND_WAIT_S` for an invocation to end, then goes back into its queue for the rest of its
pause. Those that no hand has taken wait in the queue, as long as their age allows.

An event in hand when an engine dies has been begun, whichever of them it was that the engine died of. Before that would
give it up, it is invoked as the only such one of its engine; others like it go back uncounted, and wait.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import anyio
import anyio.abc
import msgspec

from eventcore import signals
from eventcore.config.effective import EffectiveEvents
from eventcore.delivery.asynchronous import SUSPECT_BEGUN, EventDecision, EventVerdict, decide_after, decide_before
from eventcore.delivery.lineage import is_recursive
from eventcore.delivery.retry import backoff_ms
from eventcore.embedded.events import WaitingEvent, begun_before, event_queue, read_event
from eventcore.embedded.queue import EmbeddedQueue
from eventcore.engine.assembly import Surroundings
from eventcore.engine.dispatcher import RELEASED
from eventcore.engine.event_reporter import EventReporter
from eventcore.engine.event_settling import EventContext, EventSettling
from eventcore.engine.invocation_record import system_error
from eventcore.engine.settler import SETTLE_GRACE_S
from eventcore.engine.status import FunctionStatus
from eventcore.engine.supervision import attempt, explain
from eventcore.errors import RuntimeUnavailable, SourceClosed, SourceUnavailable, StoreUnavailable
from eventcore.ids import IdFactory
from eventcore.model import Invocation, Outcome, OutcomeKind, Record
from eventcore.ports.sources import QueueSource
from eventcore.registry import Function
from eventcore.telemetry.events import EngineEvents

#: One receive waits this long for a first event, seconds.
RECEIVE_WAIT_S = 20.0
#: An event in hand waits this long for room, seconds: short invocations end within it, and the event goes on at once.
HAND_WAIT_S = 1
#: An event is hidden for its function's timeout and this, seconds: an environment's start (10), the wait for room, the
#: commit (10). A killed engine's events show again after it.
LEASE_MARGIN_S = 30
#: The first pause after a failure of the store, and the longest, seconds.
PAUSE_FIRST_S = 0.5
PAUSE_MAX_S = 60.0
#: An event that may not be invoked beside another one of its kind comes back after this, seconds.
SUSPECT_WAIT_S = 1
#: The longest pause before an event is put back whose end could not be written, seconds: its lease holds so long.
HAND_BACK_MAX_S = 5.0

THROTTLED = Outcome(kind=OutcomeKind.THROTTLED)


class EventWorker:
    """Delivers one function's events for as long as the engine runs. `run` once; not reusable."""

    def __init__(self, context: EventContext, queue: QueueSource, ids: IdFactory, suspects: anyio.Lock) -> None:
        """Deliver nothing yet.

        Args:
            context: of the function.
            queue: its events.
            ids: for the jitter of pauses after a failure of the store.
            suspects: of the engine; held by what is invoked although engines have died in it.
        """
        self._context = context
        self._suspects = suspects
        self._queue = queue
        self._ids = ids
        self._settling = EventSettling(context)
        self._hands = anyio.Semaphore(context.function.concurrency + 1, fast_acquire=True)
        self._stopping = anyio.Event()
        #: Of what ends when nothing new may begin: the receive, and waits for room. Ordered, as who is ended first must
        #: not differ from run to run.
        self._waits: dict[anyio.CancelScope, None] = {}
        self._invocations: dict[anyio.CancelScope, None] = {}
        self._running = 0
        self._failures = 0  #: of the receive, in a row
        self._unsettled = 0  #: events whose end could not be written, in a row

    def status(self) -> FunctionStatus | None:
        """Return a snapshot; None where there never was an event."""
        return self._context.reporter.status(self._running)

    # -- life ----------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Deliver until `drain`; a store that is away is waited out, and what runs meanwhile goes on."""
        async with anyio.create_task_group() as tasks:
            while not self._stopping.is_set():
                error = await attempt(lambda: self._serve(tasks), event_queue(self._context.name))
                if error is None or isinstance(error, SourceClosed):
                    break
                self._failures += 1
                self._context.reporter.problem = explain(error)
                await self._pause(self._failures, max_s=PAUSE_MAX_S)
        await self._queue.aclose()

    def drain(self) -> None:
        """Take nothing new; let the invocations that run be settled."""
        self._stopping.set()
        for scope in self._waits:
            scope.cancel()

    def abort(self) -> None:
        """Kill the invocations that run; their events are put back."""
        self.drain()
        for scope in self._invocations:
            scope.cancel()

    async def _until_stopped(self, wait: Callable[[], Awaitable[Any]], *, within_s: float | None = None) -> Any:
        """Return what is awaited; None when it took too long, or nothing new may begin."""
        if self._stopping.is_set():
            return None
        with anyio.move_on_after(within_s) as scope:
            self._waits[scope] = None
            try:
                return await wait()
            finally:
                del self._waits[scope]
        return None

    async def _pause(self, failures: int, *, max_s: float) -> None:
        pause_ms = backoff_ms(failures, self._ids.jitter(), first_s=PAUSE_FIRST_S, max_s=max_s)
        await self._until_stopped(self._stopping.wait, within_s=pause_ms / 1000)

    # -- receiving -----------------------------------------------------------------------------------------------------

    async def _serve(self, tasks: anyio.abc.TaskGroup) -> None:
        await self._wait_defined()
        while not self._stopping.is_set():
            await self._until_stopped(lambda: self._poll(tasks))

    async def _wait_defined(self) -> None:
        """Wait until the queue is made, by its first event: no function costs a poll of the store before that."""
        name, store = event_queue(self._context.name), self._context.store
        async with store.watch(f"queue:{name}") as watch:
            while not self._stopping.is_set():
                try:
                    await store.peek(name, count_max=1)
                except KeyError:
                    await self._until_stopped(watch.wait)
                else:
                    return

    async def _poll(self, tasks: anyio.abc.TaskGroup) -> None:
        # Only this task takes hands: one that was free stays free.
        await self._hands.acquire()
        self._hands.release()
        await self._settling.wait_room()
        received = await self._queue.receive(
            self._hands.value,
            wait_s=RECEIVE_WAIT_S,
            visibility_timeout_s=self._context.function.spec.timeout_s + LEASE_MARGIN_S,
        )
        self._context.reporter.problem = ""
        self._failures = 0
        for request_id in received.expired:
            self._context.reporter.expired(request_id)
        for record in await self._without_further_suspects(received.records):
            self._hands.acquire_nowait()
            self._running += 1
            tasks.start_soon(self._handle, record)

    async def _without_further_suspects(self, records: Sequence[Record]) -> Sequence[Record]:
        """Give back all suspects but the first, before that is invoked: what it does must not count for them.

        Where that can't be written, each sees to it itself; no other event waits for that.
        """
        further = [record.receipt for record in records if _is_suspect(record)][1:]
        if not further or not await self._is_handed_back(further, hidden_s=SUSPECT_WAIT_S):
            return records
        return [record for record in records if record.receipt not in further]

    async def _handle(self, record: Record) -> None:
        """Bring one event to an end; what goes wrong with it ends no other."""
        try:
            error = await attempt(lambda: self._deliver(record), event_queue(self._context.name))
            if error is not None:
                self._context.reporter.problem = explain(error)
            if isinstance(error, StoreUnavailable):
                await self._back_off()
                await self._hand_back(record)
        finally:
            self._running -= 1
            self._hands.release()

    async def _deliver(self, record: Record) -> None:
        if not _is_suspect(record):
            await self._deliver_beside_others(record)
            return
        try:
            self._suspects.acquire_nowait()
        except anyio.WouldBlock:
            await self._hand_back(record, hidden_s=SUSPECT_WAIT_S)
            return
        try:
            await self._deliver_beside_others(record)
        finally:
            self._suspects.release()

    async def _deliver_beside_others(self, record: Record) -> None:
        event = read_event(record)
        decision, outcome = await self._try(event)
        await self._settling.settle(event, decision, outcome)
        self._unsettled = 0

    async def _hand_back(self, record: Record, *, hidden_s: int = 0) -> None:
        """Show an event again, as not begun: no engine has died in it.

        Tried until the store can write it, or the engine stops: then it shows when its lease ends, and has been begun.
        """
        while not await self._is_handed_back((record.receipt,), hidden_s=hidden_s) and not self._stopping.is_set():
            await self._back_off()

    async def _is_handed_back(self, receipts: Sequence[str], *, hidden_s: int) -> bool:
        """Show events again, as not begun, whoever is cancelled meanwhile; tell whether the store could write that."""
        with suppress(SourceUnavailable), anyio.move_on_after(SETTLE_GRACE_S, shield=True):
            await self._queue.hand_back(receipts, hidden_s=hidden_s)
            return True
        return False

    async def _back_off(self) -> None:
        """Wait before the store is asked again that could not write how an event ended."""
        self._unsettled += 1
        await self._pause(self._unsettled, max_s=HAND_BACK_MAX_S)

    # -- trying --------------------------------------------------------------------------------------------------------

    async def _try(self, event: WaitingEvent) -> tuple[EventDecision, Outcome | None]:
        context = self._context
        retry = context.settings.retry
        loops = context.function.stops_loops and is_recursive(event.lineage, context.name)
        decision = decide_before(
            event.state,
            retry,
            concurrency=context.function.concurrency,
            begun=event.begun,
            is_recursive=loops,
            now_ms=context.clock.now_ms(),
        )
        if decision is not None:
            return decision, None
        decision = await self._wait_slot(event)
        if decision is not None:
            return decision, THROTTLED
        try:
            outcome = await self._invoke(event)
        finally:
            context.function.slots.release()
        return decide_after(event.state, retry, outcome.kind, now_ms=context.clock.now_ms()), outcome

    async def _wait_slot(self, event: WaitingEvent) -> EventDecision | None:
        """Take one of the function's slots; return what becomes of the event where none is free."""
        context = self._context
        slots = context.function.slots
        try:
            slots.acquire_nowait()
        except anyio.WouldBlock:
            pass
        else:
            return None
        context.reporter.throttled()
        decision = decide_after(
            event.state, context.settings.retry, OutcomeKind.THROTTLED, now_ms=context.clock.now_ms()
        )
        if decision.verdict is EventVerdict.DISCARD:
            return decision
        has_slot = False

        async def acquire() -> None:
            nonlocal has_slot
            await slots.acquire()
            has_slot = True

        await self._until_stopped(acquire, within_s=HAND_WAIT_S)
        return None if has_slot else msgspec.structs.replace(decision, delay_s=decision.delay_s - HAND_WAIT_S)

    async def _invoke(self, event: WaitingEvent) -> Outcome:
        """Run the function; RELEASED when it was ended by `abort`, THROTTLED with a fault when none can be run."""
        context = self._context
        if self._stopping.is_set():
            return RELEASED
        invocation = Invocation(
            request_id=event.request_id,
            build_event=lambda: msgspec.json.decode(event.body),
            build_trace_header=lambda: event.traceparent,
        )
        outcome = RELEASED
        with anyio.CancelScope() as scope:
            self._invocations[scope] = None
            try:
                await signals.reach("dispatcher.before_invoke")
                context.reporter.invoked(event.request_id, event.state)
                outcome = await context.function.runtime.invoke(context.function.spec, invocation)
                await signals.reach("dispatcher.after_invoke")
            except RuntimeUnavailable as error:
                # Not the function's fault: a system error, which uses up no attempt (§2).
                return system_error(event.request_id, error)
            finally:
                del self._invocations[scope]
        if outcome.fault is not None or outcome.failed:
            # A handler of records succeeds as a call; its one record, the event, did not.
            outcome = msgspec.structs.replace(outcome, kind=OutcomeKind.FAILURE)
        context.reporter.finished(event.request_id, outcome)
        return outcome


def _is_suspect(record: Record) -> bool:
    return begun_before(record) == SUSPECT_BEGUN


def make_event_worker(
    function: Function, settings: EffectiveEvents, events: EngineEvents, around: Surroundings
) -> EventWorker:
    """Return what delivers a function's events."""
    name = function.spec.name
    context = EventContext(
        function=function,
        settings=settings,
        store=around.store,
        router=around.router,
        recorder=around.recorder,
        outbox=around.outbox,
        reporter=EventReporter(name, events),
        clock=around.clock,
    )
    queue = EmbeddedQueue(
        event_queue(name),
        store=around.store,
        clock=around.clock,
        region=around.region,
        account_id=around.account_id,
    )
    return EventWorker(context, queue, around.ids, around.suspects)

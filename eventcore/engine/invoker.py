"""Invokes a function with a ready event: for people (`eventcore invoke`) and for destinations that are functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
import msgspec

from eventcore.clock import Clock
from eventcore.errors import DestinationUnavailable, Throttled
from eventcore.ids import IdFactory
from eventcore.model import Invocation, Outcome, OutcomeKind
from eventcore.ports.recorder import FailedEvent, Recorder
from eventcore.ports.store import OutboxRow, Store
from eventcore.registry import Function

#: Pauses before the second and the third try of an event that a function destination failed, seconds (§2).
RETRY_PAUSES_S = (60.0, 120.0)


async def invoke_event(function: Function, event: Any, ids: IdFactory, *, request_id: str = "") -> Outcome:
    """Run a function once with an event; see `invoke_once`."""
    return await invoke_once(function, Invocation(request_id=request_id or ids.new_id(), build_event=lambda: event))


async def invoke_once(function: Function, invocation: Invocation) -> Outcome:
    """Run a function once; one whose concurrency is used up is not waited for.

    Raises:
        Throttled: all of the function's environments are busy.
    """
    try:
        function.slots.acquire_nowait()
    except anyio.WouldBlock:
        raise Throttled(
            f"function {function.spec.name} runs {function.concurrency} invocations, its concurrency",
            limit=function.concurrency,
        ) from None
    try:
        return await function.runtime.invoke(function.spec, invocation)
    finally:
        function.slots.release()


class FunctionDestination:
    """A destination that is a function: it receives the record as its event.

    Source: Lambda semantics §2: two retries, after one and after two minutes; then the event is kept as a failure.
    """

    def __init__(
        self, reference: str, function: Function, store: Store, recorder: Recorder, clock: Clock, ids: IdFactory
    ) -> None:
        self.reference = reference
        self._function = function
        self._store = store
        self._recorder = recorder
        self._clock = clock
        self._ids = ids

    async def open(self) -> None:
        """Do nothing: an environment starts with the first invocation."""

    async def deliver(self, rows: Sequence[OutboxRow]) -> None:
        """Invoke the function with each row.

        Raises:
            DestinationUnavailable: it failed, and will be tried again.
        """
        for index, row in enumerate(rows):
            await self._deliver(row, index)

    async def aclose(self) -> None:
        """Do nothing: the runtime ends the environments."""

    async def _deliver(self, row: OutboxRow, taken_count: int) -> None:
        try:
            outcome = await invoke_event(self._function, msgspec.json.decode(row.payload), self._ids)
        except Throttled as error:
            raise DestinationUnavailable(str(error), destination=self.reference, taken_count=taken_count) from error
        if outcome.kind is OutcomeKind.SUCCESS:
            return
        if row.attempts < len(RETRY_PAUSES_S):
            message = outcome.fault.message if outcome.fault else "the invocation was released"
            raise DestinationUnavailable(
                f"function {self._function.spec.name} failed: {message}",
                destination=self.reference,
                taken_count=taken_count,
                retry_after_s=RETRY_PAUSES_S[row.attempts],
            )
        failed = FailedEvent(
            key=row.key,
            function=self._function.spec.name,
            event=row.payload,
            attempts=row.attempts + 1,
            outcome=outcome,
            now_ms=self._clock.now_ms(),
        )
        await self._store.commit(self._recorder.keep_event(failed))

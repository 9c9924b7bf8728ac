"""Which key each record of a batch has: read at paths by the engine, or made by a function of the pipeline's author.

Such a function runs where the mapping's own function runs, with its settings, in environments of its own: the engine
never imports it. Nothing is claimed yet when it is asked, so whatever it does, no record is lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from eventcore.delivery.idempotency import NO_KEY, Keyed, KeyReader
from eventcore.errors import HandlerError
from eventcore.model import Batch, Fault, FaultCause, Invocation, Outcome, OutcomeKind
from eventcore.ports.runtime import KEY_VERSION, HandlerForm
from eventcore.registry import Function


class BatchKeys(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of a batch, or why there are none."""

    keyed: Sequence[Keyed] = ()  #: of each record
    unread: Mapping[int, Fault] = {}  #: why the key of a record could not be made, by index
    outcome: Outcome | None = None  #: of the whole batch, where the function could not be asked at all


class KeySource(Protocol):
    """Where a mapping's keys come from."""

    async def find(self, batch: Batch, request_id: str) -> BatchKeys:
        """Return the keys of a batch; ``request_id`` names this question in logs."""
        ...


class KeyPaths:
    """Keys that stand in the records."""

    def __init__(self, reader: KeyReader) -> None:
        """Read with ``reader``."""
        self._reader = reader

    async def find(self, batch: Batch, request_id: str) -> BatchKeys:
        """Read them."""
        del request_id
        return BatchKeys(keyed=[self._reader.read(record) for record in batch.records])


class KeyFunction:
    """Keys that a function makes, record by record."""

    def __init__(self, reader: KeyReader, name: str, function: Function) -> None:
        """Prepare to ask ``name``, `module.attribute` below the code of ``function``."""
        self._reader = reader
        self._runtime = function.runtime
        # Not the mapping's: each environment imports one handler.
        self._spec = msgspec.structs.replace(function.spec, handler=name, version=KEY_VERSION, target=None)

    async def prepare(self) -> None:
        """Import it once.

        Raises:
            InvocationError: it does not import, is not there, or takes no record.
        """
        form = await self._runtime.prepare(self._spec)
        if form is not HandlerForm.TYPED:
            raise HandlerError(
                f"the key function `{self._spec.handler}` takes one record, and must say so by its first parameter's "
                f"type: write `record: eventcore.Record`, or the record that it decodes to",
                function=self._spec.name,
            )

    async def find(self, batch: Batch, request_id: str) -> BatchKeys:
        """Ask for each record; what can't be decoded has no key, and one for which it raised has failed."""
        # Not as of a shard: there a typed handler stops at the first record that fails.
        asked = msgspec.structs.replace(batch, shard="", request_id=request_id)
        invocation = Invocation(request_id=request_id, build_event=dict, batch=asked, wants_results=True)
        outcome = await self._runtime.invoke(self._spec, invocation)
        if outcome.kind is not OutcomeKind.SUCCESS:
            fault = outcome.fault
            return BatchKeys(outcome=msgspec.structs.replace(outcome, fault=self._name(fault) if fault else None))
        unread = {
            index: self._name(fault)
            for index in outcome.failed or ()
            if (fault := outcome.fault_of(index)) is not None and fault.cause is not FaultCause.UNDECODABLE
        }
        if unread and batch.shard:
            # Nothing behind it may run before it.
            first = min(unread)
            unread = dict.fromkeys(range(first, len(batch)), unread[first])
        made = {index: record.body for index, record in outcome.results}
        keyed = [
            NO_KEY if index in unread else self._reader.read_made(record, made.get(index, b""))
            for index, record in enumerate(batch.records)
        ]
        return BatchKeys(keyed=keyed, unread=unread)

    def _name(self, fault: Fault) -> Fault:
        """Return a fault that says whose it is: the function itself was not called."""
        return msgspec.structs.replace(fault, message=f"key_function {self._spec.handler}: {fault.message}")

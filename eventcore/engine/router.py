"""Which way a result goes: into the settling transaction, or through the outbox."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from eventcore.config.reference import Reference
from eventcore.engine.object_key import object_key
from eventcore.ports.destinations import OBJECT_KEY, Dispatch, TransactionalDestination
from eventcore.ports.store import Operation, OutboxRow, PutOutbox


def dispatch_key(mapping: str, place: str, first: str, last: str, destination: str, condition: str) -> str:
    """Return the key under which a destination gets one discard, however often its batch is redelivered.

    Neither request id, nor time, nor attempt goes into it (design §3).

    Args:
        mapping: its name.
        place: source and shard.
        first: position or message id of the first record.
        last: of the last one.
        destination: reference.
        condition: the reason.
    """
    text = f"{mapping}\0{place}\0{first}\0{last}\0{destination}\0{condition}"
    return hashlib.sha256(text.encode()).hexdigest()


class Router:
    """Knows how each destination of the pipeline is written."""

    def __init__(self, transactional: Mapping[str, TransactionalDestination]) -> None:
        self._transactional = transactional

    def is_transactional(self, reference: Reference) -> bool:
        """Tell whether the destination is on the store, and so is written when the batch is settled."""
        return str(reference) in self._transactional

    def operations(self, reference: Reference, dispatch: Dispatch) -> Sequence[Operation]:
        """Return the writes that hand a result over, or that make sure it will be."""
        destination = self._transactional.get(str(reference))
        if destination is not None:
            return destination.operations(dispatch)
        attributes = dispatch.attributes
        if reference.kind == "bucket":
            name = object_key(dispatch.place, dispatch.key, dispatch.created_ms)
            attributes = {**attributes, OBJECT_KEY: name}
        return (
            PutOutbox(
                row=OutboxRow(
                    key=dispatch.key,
                    destination=str(reference),
                    lane=dispatch.lane,
                    payload=dispatch.payload,
                    record_key=dispatch.record_key,
                    attributes=attributes,
                    created_ms=dispatch.created_ms,
                )
            ),
        )

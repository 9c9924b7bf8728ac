"""Where discards and results go.

A destination on the store is written in the settling transaction. Every other one is served through the outbox: its row
is durable before the source is told, and is handed over until the destination has taken it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from eventcore.ports.store import Operation, OutboxRow

#: What may wait for one destination: at the bound the mapping stops pulling and shows why. Nothing is dropped.
OUTBOX_ROWS_MAX = 10_000
OUTBOX_BYTES_MAX = 64 * 1024 * 1024
#: The attribute of a bucket's rows that names their object. It goes no further: what reads the object has its name.
OBJECT_KEY = "eventcore-object-key"


class Dispatch(msgspec.Struct, frozen=True, kw_only=True):
    """Something for a destination, before it is known how that destination is written."""

    key: str  #: idempotency: equal for the same discard of a redelivered batch
    payload: bytes  #: JSON
    lane: str  #: mapping and shard: kept in order
    record_key: bytes | None = None
    attributes: Mapping[str, str] = {}
    created_ms: int = 0
    place: str = ""  #: in a bucket: `MAPPING/SHARD` or `async/FUNCTION`; nothing for what is no record of a failure


class TransactionalDestination(Protocol):
    """A destination on the store."""

    reference: str

    def operations(self, dispatch: Dispatch) -> Sequence[Operation]:
        """Return the writes that hand it over, each carrying the key as its idempotency token."""
        ...


class Destination(Protocol):
    """A destination outside the store."""

    reference: str

    async def open(self) -> None:
        """Connect. Raises DestinationUnavailable when it can't be reached."""
        ...

    async def deliver(self, rows: Sequence[OutboxRow]) -> None:
        """Hand rows over, in order; when it returns the destination has all of them.

        May be given a row again after a lost answer: it passes the row's key on (`Idempotency-Key`, a Kafka header).

        Raises:
            DestinationUnavailable: the first ``taken_count`` rows have been taken; try the others after
                ``retry_after_s``.
            DestinationRefused: the row behind the first ``taken_count`` will never be taken as it is; it is tried
                again all the same, and shown.
        """
        ...

    async def aclose(self) -> None:
        """Disconnect."""
        ...

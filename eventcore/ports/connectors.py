"""How a system outside is plugged in: a connector opens sources and destinations on a configured connection.

A connector is an object found by the entry point group `eventcore.connectors`, under the name of its kind (`kafka`).
It is loaded when a pipeline names that kind, and imports its client library no earlier than that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from eventcore.clock import Clock
from eventcore.config.reference import Reference, StartingPosition
from eventcore.ids import IdFactory
from eventcore.model import OutgoingRecord
from eventcore.ports.destinations import Destination
from eventcore.ports.ranges import RangeSource
from eventcore.ports.sources import StreamSource

__all__ = [
    "REVOKE_BUDGET_SHARE",
    "Connector",
    "ConnectorContext",
    "OutgoingRecord",
    "StartingPosition",
    "StreamRequest",
]

#: How long running batches get to finish when shards are revoked, as a share of the source's own limit for it.
REVOKE_BUDGET_SHARE = 0.8


class ConnectorContext(msgspec.Struct, frozen=True, kw_only=True):
    """What every connector may use."""

    clock: Clock
    ids: IdFactory
    region: str
    account_id: str


class StreamRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A stream that a mapping wants to read."""

    reference: Reference
    connection: Any  #: the connection's config struct (`KafkaConfig`)
    mapping: str
    starting_position: StartingPosition
    consumer_group_id: str  #: of this mapping, default filled in
    #: Topics that `ResultSource.produce` will be asked for; with none it is not.
    topics_written: tuple[str, ...] = ()
    is_exactly_once: bool = False  #: what is produced, and the checkpoint after it, are one transaction
    #: Records that the mapping holds unsettled at most; a source fetches no further ahead than about that.
    records_ahead_max: int
    context: ConnectorContext


class Connector(Protocol):
    """One kind of system."""

    kind: str

    def open_stream(self, request: StreamRequest) -> StreamSource:
        """Return a source that is not connected yet: `StreamSource.open` connects."""
        ...

    def open_range(self, reference: Reference, connection: Any) -> RangeSource:
        """Return what reads a stream without owning it, not connected yet: `RangeSource.open` connects."""
        ...

    def open_destination(self, reference: Reference, connection: Any, context: ConnectorContext) -> Destination:
        """Return a destination that is not connected yet: `Destination.open` connects."""
        ...

    async def send(
        self, reference: Reference, connection: Any, records: Sequence[OutgoingRecord]
    ) -> Sequence[tuple[str, int]]:
        """Send records and return where each went, as (shard, position), once the system has them durably.

        Raises:
            DestinationUnavailable: it can't be reached, or the topic does not exist; the message names both.
        """
        ...

    async def check(self, reference: Reference, connection: Any) -> str:
        """Return one line about the system (version, brokers); raises SourceUnavailable as `StreamSource.open` does."""
        ...

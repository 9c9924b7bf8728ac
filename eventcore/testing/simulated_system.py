"""What a simulated system keeps: topics and their records, groups and their checkpoints, what endpoints have taken.

It outlives the engines that use it, as a broker does.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Protocol

import anyio
import msgspec

from eventcore.config.reference import Reference, StartingPosition, parse_reference
from eventcore.delivery.ordering import ShardState
from eventcore.engine.outside import load_connector
from eventcore.errors import DestinationUnavailable
from eventcore.model import OutgoingRecord, Record
from eventcore.patterns.topics import TopicPattern
from eventcore.ports.connectors import Connector, ConnectorContext
from eventcore.ports.store import OutboxRow
from eventcore.testing.faults import Faults
from eventcore.testing.recording import Delivered

#: How soon the outbox tries a destination again that a test has taken down, seconds.
OUTAGE_RETRY_S = 1.0


class Checkpointed(msgspec.Struct, frozen=True):
    """What a group has of a shard."""

    position: int  #: the first record that is not settled
    state: ShardState


class GroupMember(Protocol):
    """What reads a topic for a mapping, as a system knows it; see `SimulatedSource`."""

    mapping: str

    @property
    def is_stale(self) -> bool:
        """Whether another engine has taken this one's place in the group."""
        ...

    async def take(self) -> None:
        """Become the owner of every shard that it has not yet."""
        ...

    async def revoke(self) -> None:
        """Give every shard up in an orderly way."""
        ...

    async def lose(self) -> None:
        """Lose every shard at once."""
        ...

    def wake(self) -> None:
        """Let a waiting receive look again."""
        ...


class SimulatedSystem:
    """Everything of one kind (`kafka`, `http`, …): connections and their topics or endpoints."""

    def __init__(self, kind: str, *, shards: Mapping[str, int], context: ConnectorContext, faults: Faults) -> None:
        """Begin an empty system.

        Args:
            kind: as in references.
            shards: partitions by reference (`kafka:local/orders`); a topic that is not named has one.
            context: the clock of its records.
            faults: what a test wants to go wrong.
        """
        self.kind = kind
        self._shards = shards
        self._context = context
        self.faults = faults
        self.owners: dict[tuple[str, str], int] = {}  #: by group and shard: the epoch of its owner
        self._real: Connector | None = None
        self.topics: dict[str, dict[str, list[Record]]] = {}  #: by reference: shards, and their records
        self.delivered: dict[str, list[Delivered]] = {}  #: by reference: what endpoints have taken
        self.groups: dict[tuple[str, str], Checkpointed] = {}  #: by group and shard
        self.sources: list[GroupMember] = []
        self._outages: dict[str, float] = {}  #: by reference: virtual time at which it ends
        self.epoch = 0

    # -- what a test does ----------------------------------------------------------------------------------------------

    def append(self, reference: str, records: Sequence[OutgoingRecord]) -> list[tuple[str, int]]:
        """Append records to a topic; return the shard and position of each."""
        shards = self._topic(reference)
        names = list(shards)
        places = []
        for record in records:
            # As Kafka's clients do: by key, and without one to each in turn.
            turn = zlib.crc32(record.key) if record.key is not None else sum(map(len, shards.values()))
            shard = names[turn % len(names)]
            log = shards[shard]
            log.append(
                Record(
                    position=len(log),
                    body=record.body,
                    key=record.key,
                    headers=record.headers,
                    arrived_ms=self._context.clock.now_ms(),
                    size_bytes=len(record.body) + len(record.key or b""),
                )
            )
            places.append((shard, len(log) - 1))
        self.wake()
        return places

    def take_down(self, reference: str, seconds: float) -> None:
        """Let a topic or an endpoint refuse everything for a while."""
        self._outages[reference] = anyio.current_time() + seconds
        self.wake()

    def is_down(self, reference: str) -> bool:
        """Tell whether a test has taken a topic or an endpoint down."""
        return anyio.current_time() < self._outages.get(reference, 0.0)

    def wake(self) -> None:
        """Let waiting receives look again."""
        for source in self.sources:
            source.wake()

    # -- what sources and destinations ask -----------------------------------------------------------------------------

    def logs(self, reference: Reference) -> dict[str, list[Record]]:
        """Return the shards of a topic, or of all topics that match an expression."""
        if not reference.is_pattern:
            return self._topic(str(reference))
        pattern = TopicPattern(reference.part)
        found: dict[str, list[Record]] = {}
        for text, shards in self.topics.items():
            other = parse_reference(text)
            if other.name == reference.name and pattern.match(other.part):
                found.update(shards)
        return found

    def take(self, reference: str, rows: Sequence[OutboxRow]) -> None:
        """Take rows for a destination.

        Raises:
            DestinationUnavailable: a test has taken it down.
        """
        if self.is_down(reference):
            raise DestinationUnavailable(
                "the test has taken it down", destination=reference, retry_after_s=OUTAGE_RETRY_S
            )
        if parse_reference(reference).is_stream:
            self.append(reference, [_outgoing(row) for row in rows])
            return
        taken = self.delivered.setdefault(reference, [])
        known = {entry.key for entry in taken}
        taken.extend(
            Delivered(body=row.payload, key=row.key, headers=dict(row.attributes), at_s=anyio.current_time())
            for row in rows
            if row.key not in known
        )

    def _topic(self, reference: str) -> dict[str, list[Record]]:
        if reference not in self.topics:
            part = parse_reference(reference).part
            count = self._shards.get(reference, 1)
            self.topics[reference] = {f"{part}-{number}": [] for number in range(count)}
        return self.topics[reference]

    def connector(self) -> Connector:
        """Return the real system's connector, for its shapes."""
        if self._real is None:
            self._real = load_connector(self.kind)
        return self._real


def _outgoing(row: OutboxRow) -> OutgoingRecord:
    headers = tuple((name, value.encode()) for name, value in row.attributes.items())
    return OutgoingRecord(body=row.payload, key=row.record_key, headers=headers)


def starting(position: StartingPosition, log: Sequence[Record]) -> int:
    """Return where in a shard a starting position is."""
    match position.kind:
        case "LATEST":
            return len(log)
        case "AT_TIMESTAMP":
            return next((record.position for record in log if record.arrived_ms >= position.at_ms), len(log))
        case _:
            return 0

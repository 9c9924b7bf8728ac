"""Systems outside, simulated in memory: topics that mappings read and write, endpoints that take what is sent to them.

A mapping's source is asked of the real connector for its shape and never opened: handlers are given exactly the events
that the real system would make. What a system keeps (records, checkpoints, failing work) outlives the engines that use
it, as a broker's does.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import anyio
import anyio.lowlevel
import msgspec

from eventcore.config.reference import Reference, StartingPosition, parse_reference
from eventcore.delivery.ordering import EMPTY, ShardState
from eventcore.engine.outside import load_connector
from eventcore.errors import DestinationUnavailable, ShardLost, SourceUnavailable
from eventcore.model import OutgoingRecord, Record
from eventcore.patterns.topics import TopicPattern
from eventcore.ports.connectors import Connector, ConnectorContext, StreamRequest
from eventcore.ports.destinations import Destination
from eventcore.ports.ranges import Extent, RangeSource, ReadRange
from eventcore.ports.sources import (
    EventShape,
    ResultRecord,
    ShardLag,
    ShardListener,
    ShardRecords,
    StreamSource,
    TakenShard,
)
from eventcore.ports.store import OutboxRow
from eventcore.testing.faults import Fate, Faults, Fence
from eventcore.testing.recording import Delivered

#: Records of one shard that one receive returns.
RECEIVE_RECORDS_MAX = 1_000
#: How soon the outbox tries a destination again that a test has taken down, seconds.
OUTAGE_RETRY_S = 1.0


class Checkpointed(msgspec.Struct, frozen=True):
    """What a group has of a shard."""

    position: int  #: the first record that is not settled
    state: ShardState


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
        self.sources: list[SimulatedSource] = []
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


class SimulatedConnector:
    """A system as one engine has it."""

    def __init__(self, system: SimulatedSystem, fence: Fence) -> None:
        self.kind = system.kind
        self._system = system
        self._fence = fence

    def open_stream(self, request: StreamRequest) -> SimulatedSource:
        """Return a source of a topic, with the real system's shape."""
        real = self._system.connector().open_stream(request)
        return SimulatedSource(self._system, request, real, self._fence)

    def open_range(self, reference: Reference, connection: Any) -> RangeSource:
        """Return what reads a topic by positions."""
        real = self._system.connector().open_range(reference, connection)
        return SimulatedRange(self._system, reference, real.shape)

    def open_destination(self, reference: Reference, connection: Any, context: ConnectorContext) -> Destination:
        """Return a destination that keeps what it is given."""
        del connection, context
        return SimulatedDestination(self._system, str(reference), self._fence)

    async def send(
        self, reference: Reference, connection: Any, records: Sequence[OutgoingRecord]
    ) -> Sequence[tuple[str, int]]:
        """Append records to a topic."""
        del connection
        return self._system.append(str(reference), records)

    async def check(self, reference: Reference, connection: Any) -> str:
        """Return one line about the system."""
        del connection
        return f"{reference}, simulated"


def _outgoing(row: OutboxRow) -> OutgoingRecord:
    headers = tuple((name, value.encode()) for name, value in row.attributes.items())
    return OutgoingRecord(body=row.payload, key=row.record_key, headers=headers)


class SimulatedSource:
    """One member of a group that reads a topic; it has all of its shards until a test takes them away."""

    def __init__(self, system: SimulatedSystem, request: StreamRequest, real: StreamSource, fence: Fence) -> None:
        self.reference = str(request.reference)
        self.mapping = request.mapping
        self.waits_for = ""
        self.shape = real.shape
        self.capabilities = real.capabilities
        self._system = system
        self._request = request
        self._fence = fence
        self._listener: ShardListener | None = None
        self._next: dict[str, int] = {}  #: by owned shard: the position that comes next
        self._epochs: dict[str, int] = {}  #: by owned shard
        self._paused: set[str] = set()
        self._revoking: set[str] = set()
        self._produced: dict[str, list[ResultRecord]] = {}  #: exactly once: what the next settle makes visible
        self._starts: dict[str, int] = {}
        #: By shard: progress that is written soon, and when; lost in a crash, as that of a real client.
        self._unwritten: dict[str, tuple[Checkpointed, float]] = {}
        self._changed = anyio.Event()

    # -- what a test does ----------------------------------------------------------------------------------------------

    async def take(self) -> None:
        """Become the owner of every shard that it has not yet, at its checkpoint."""
        if self.is_stale:
            return
        self._system.epoch += 1
        taken = []
        for shard in self._system.logs(self._request.reference):
            if shard in self._next:
                continue
            kept = self._system.groups.get((self._request.consumer_group_id, shard))
            self._next[shard] = kept.position if kept is not None else self._start(shard)
            self._epochs[shard] = self._system.owners[self._request.consumer_group_id, shard] = self._system.epoch
            self._system.faults.on_taken(self.reference, shard, self._system.epoch)
            taken.append(
                TakenShard(
                    shard=shard,
                    epoch=self._system.epoch,
                    checkpoint=kept.position if kept is not None else -1,
                    state=kept.state if kept is not None else EMPTY,
                )
            )
        if taken and self._listener is not None:
            await self._listener.on_taken(taken)
        self.wake()

    async def revoke(self) -> None:
        """Give every shard up in an orderly way."""
        self._revoking = set(self._next)
        assert self._listener is not None, "only an open source has shards"
        await self._listener.on_revoked(list(self._revoking))
        self._write_progress()
        self._forget()

    async def lose(self) -> None:
        """Lose every shard at once."""
        lost = list(self._next)
        self._forget()
        assert self._listener is not None, "only an open source has shards"
        await self._listener.on_lost(lost)

    @property
    def is_stale(self) -> bool:
        """Whether another engine has taken this one's place in the group."""
        return self._fence.is_stale

    def wake(self) -> None:
        """Let a waiting receive look again."""
        self._changed.set()

    # -- the source port -----------------------------------------------------------------------------------------------

    async def open(self, listener: ShardListener) -> None:
        """Join the group and take every shard."""
        self._check()
        self._listener = listener
        self._system.sources.append(self)
        self._starts = {
            shard: _starting(self._request.starting_position, log)
            for shard, log in self._system.logs(self._request.reference).items()
        }
        await self.take()

    async def receive(self, *, wait_s: float) -> Sequence[ShardRecords]:
        """Return records of owned shards."""
        await anyio.lowlevel.checkpoint()
        self._check()
        self._write_progress(due_s=anyio.current_time())
        if self._request.reference.is_pattern:
            await self.take()
        found = self._read()
        if not found:
            self._changed = anyio.Event()
            due_s = min((due_s for _, due_s in self._unwritten.values()), default=float("inf"))
            with anyio.move_on_after(min(wait_s, max(0.0, due_s - anyio.current_time()))):
                await self._changed.wait()
            # Nothing is read here: a cancelled receive loses nothing.
        return found

    def _read(self) -> list[ShardRecords]:
        found = []
        for shard, log in self._system.logs(self._request.reference).items():
            if shard not in self._next or shard in self._paused or shard in self._revoking:
                continue
            if records := log[self._next[shard] : self._next[shard] + RECEIVE_RECORDS_MAX]:
                self._next[shard] += len(records)
                found.append(ShardRecords(shard, records))
        return found

    def pause(self, shard: str) -> None:
        """Return no more records of a shard."""
        self._paused.add(shard)

    def resume(self, shard: str) -> None:
        """Return records of a shard again."""
        self._paused.discard(shard)
        self.wake()

    async def settle(self, shard: str, epoch: int, checkpoint: int, state: ShardState, *, is_urgent: bool) -> None:
        """Keep a shard's checkpoint and failing work: at once where that is urgent, else a little later."""
        await anyio.lowlevel.checkpoint()
        self._check_owner(shard, epoch)
        fate = self._system.faults.fate_of_settle(shard)
        if fate is Fate.REFUSED:
            raise SourceUnavailable("the test refuses it", source=self.reference)
        self._unwritten[shard] = Checkpointed(checkpoint, state), self._due_s()
        if is_urgent or self.capabilities.is_settle_durable or self._request.is_exactly_once:
            self._write(shard)
        else:
            self.wake()
        for result in self._produced.pop(shard, ()):
            self._append(result)
        if fate is Fate.LOST:
            raise SourceUnavailable("the answer got lost", source=self.reference)

    async def seek(self, shard: str, position: int, state: ShardState) -> TakenShard:
        """Begin a shard anew at a position."""
        await anyio.lowlevel.checkpoint()
        self._check_owner(shard, self._epochs.get(shard, -1))
        self._unwritten[shard] = Checkpointed(position, state), self._due_s()
        self._write(shard)
        self._next[shard] = position
        self._paused.discard(shard)
        self.wake()
        return TakenShard(shard=shard, epoch=self._epochs[shard], checkpoint=position, state=state)

    async def produce(self, shard: str, epoch: int, results: Sequence[ResultRecord]) -> None:
        """Send results on: at once, or with the next checkpoint where that is exactly once."""
        await anyio.lowlevel.checkpoint()
        self._check_owner(shard, epoch)
        if self._request.is_exactly_once:
            self._produced.setdefault(shard, []).extend(results)
            return
        for result in results:
            self._append(result)

    async def lag(self) -> Sequence[ShardLag]:
        """Return how far behind each owned shard is."""
        logs = self._system.logs(self._request.reference)
        return [
            ShardLag(
                shard=shard,
                checkpoint=self._settled(shard),
                end=len(logs[shard]),
                lag=len(logs[shard]) - self._settled(shard),
            )
            for shard in self._next
        ]

    async def aclose(self) -> None:
        """Write what is left of progress and leave the group."""
        self._write_progress()
        self._forget()
        if self in self._system.sources:
            self._system.sources.remove(self)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _append(self, result: ResultRecord) -> None:
        reference = self._request.reference
        self._system.append(f"{reference.kind}:{reference.name}/{result.topic}", [result.record])

    def _start(self, shard: str) -> int:
        # A topic that appears later is read from its beginning: what it got before it was found must not be missed.
        return self._starts.get(shard, 0)

    def _due_s(self) -> float:
        return anyio.current_time() + self.capabilities.checkpoint_lag_s_max

    def _write_progress(self, *, due_s: float = float("inf")) -> None:
        """Write the progress that is due, of shards that are still ours."""
        for shard in [shard for shard, (_, at_s) in self._unwritten.items() if at_s <= due_s]:
            if self._is_owner(shard, self._epochs.get(shard)):
                self._write(shard)
            else:
                del self._unwritten[shard]

    def _write(self, shard: str) -> None:
        kept, _ = self._unwritten.pop(shard)
        self._system.groups[self._request.consumer_group_id, shard] = kept
        self._system.faults.on_settled(self.reference, shard, self._epochs[shard], kept.position, kept.state)

    def _settled(self, shard: str) -> int:
        if shard in self._unwritten:
            return self._unwritten[shard][0].position
        kept = self._system.groups.get((self._request.consumer_group_id, shard))
        return kept.position if kept is not None else self._start(shard)

    def _forget(self) -> None:
        self._next.clear()
        self._epochs.clear()
        self._paused.clear()
        self._revoking.clear()
        self._produced.clear()
        self._unwritten.clear()

    def _check(self) -> None:
        if self._fence.is_cut:
            raise SourceUnavailable("the engine has crashed", source=self.reference)
        if self._system.is_down(self.reference):
            raise SourceUnavailable("the test has taken it down", source=self.reference)

    def _check_owner(self, shard: str, epoch: int) -> None:
        self._check()
        if not self._is_owner(shard, epoch):
            raise ShardLost(source=self.reference, shard=shard, epoch=epoch)

    def _is_owner(self, shard: str, epoch: int | None) -> bool:
        is_ours = epoch is not None and self._epochs.get(shard) == epoch and not self._fence.is_cut
        return is_ours and self._system.owners[self._request.consumer_group_id, shard] == epoch


def _starting(position: StartingPosition, log: Sequence[Record]) -> int:
    match position.kind:
        case "LATEST":
            return len(log)
        case "AT_TIMESTAMP":
            return next((record.position for record in log if record.arrived_ms >= position.at_ms), len(log))
        case _:
            return 0


class SimulatedRange:
    """A topic, read from one position to another."""

    def __init__(self, system: SimulatedSystem, reference: Reference, shape: EventShape) -> None:
        self.shape = shape
        self._system = system
        self._reference = reference

    async def open(self) -> Sequence[Extent]:
        """Return what each shard keeps."""
        return [Extent(shard=shard, first=0, end=len(log)) for shard, log in sorted(self._logs().items())]

    async def find(self, at_ms: int) -> Mapping[str, int]:
        """Return by shard the position of the first record of a time."""
        return {shard: _starting(StartingPosition("AT_TIMESTAMP", at_ms), log) for shard, log in self._logs().items()}

    async def read(self, shard: str, position: int, end: int, *, count_max: int) -> ReadRange:
        """Return records of a shard."""
        records = self._logs()[shard][position : min(end, position + count_max)]
        return ReadRange(records, position + len(records))

    async def aclose(self) -> None:
        """Do nothing."""

    def _logs(self) -> Mapping[str, Sequence[Record]]:
        return self._system.logs(self._reference)


class SimulatedDestination:
    """A destination that keeps what it is given."""

    def __init__(self, system: SimulatedSystem, reference: str, fence: Fence) -> None:
        self.reference = reference
        self._system = system
        self._fence = fence

    async def open(self) -> None:
        """Do nothing: it is there."""

    async def deliver(self, rows: Sequence[OutboxRow]) -> None:
        """Take rows.

        Raises:
            DestinationUnavailable: a test has taken it down.
        """
        await anyio.lowlevel.checkpoint()
        if self._fence.is_cut:
            raise DestinationUnavailable("the engine has crashed", destination=self.reference)
        self._system.take(self.reference, rows)

    async def aclose(self) -> None:
        """Do nothing."""

"""Where the records of a key wait that keeps failing, so that the others of its shard go on.

A parked record stands in its queue or topic as it was: the same body, and in one header what a redrive needs to make it
the record that it was. It is written in a settling step of its own: first durable there, then settled at its source.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import NamedTuple

import anyio
import msgspec

from eventcore.clock import Clock
from eventcore.config.reference import Reference
from eventcore.delivery.lanes import lane_key, lane_name
from eventcore.engine.covered import GivenUp
from eventcore.engine.outbox import Outbox
from eventcore.engine.parked import PARKED_HEADER, READ_RECORDS_MAX, Envelope, ParkedReader
from eventcore.engine.router import Router, dispatch_key
from eventcore.engine.settler import Settler
from eventcore.model import Record
from eventcore.ports.destinations import Dispatch
from eventcore.ports.store import Operation

#: Records that are parked in one transaction, and so repeated after a crash.
PARK_AT_ONCE_MAX = 500
#: Positions of a key that are heard during a redrive: one behind all that its read may have found.
HEARD_MAX = READ_RECORDS_MAX + 1


class ParkingContext(msgspec.Struct, frozen=True, kw_only=True):
    """What the parkings of one mapping share."""

    mapping: str
    source: str
    place: Reference
    batch_size: int  #: of the mapping
    router: Router
    outbox: Outbox
    settler: Settler
    reader: ParkedReader
    clock: Clock


class _Waiting(NamedTuple):
    record: Record
    name: str
    operations: Sequence[Operation]


class Parking:
    """Parks records of one shard, in order. `run` ends when it is stopped; what was not parked by then comes again."""

    def __init__(
        self,
        context: ParkingContext,
        shard: str,
        epoch: int,
        covered: GivenUp,
        on_parked: Callable[[Sequence[Record]], Awaitable[None]],
    ) -> None:
        """Make the parking of a shard.

        Args:
            context: of the mapping.
            shard: its name.
            epoch: of its owner; a record that is parked once more by another owner is not taken for the same.
            covered: keeps what is parked and its source may not know yet.
            on_parked: is told what is durable, and settles it at the source.
        """
        self._context = context
        self._shard = shard
        self._epoch = epoch
        self._covered = covered
        self._on_parked = on_parked
        self._waiting: deque[_Waiting] = deque()
        self._changed = anyio.Event()
        self._heard: dict[str, list[int]] = {}  #: by name of a key: positions, see `listen`
        self.destination = str(context.place)

    def add(self, record: Record, operations: Sequence[Operation] = ()) -> None:
        """Park a record soon.

        Args:
            record: behind all of its key that were added before.
            operations: written with it.
        """
        name = lane_name(lane_key(record, self._context.batch_size))
        heard = self._heard.get(name)
        if heard is not None and len(heard) < HEARD_MAX:
            heard.append(record.position)
        self._waiting.append(_Waiting(record, name, operations))
        self._changed.set()

    def listen(self, names: Collection[str]) -> None:
        """Listen for records of these keys, and no others: those that are not durable yet, and those that are added."""
        self._heard = {name: [] for name in names}
        for entry in self._waiting:
            if entry.name in self._heard:
                self._heard[entry.name].append(entry.record.position)

    def is_quiet(self, name: str) -> bool:
        """Tell whether nothing was heard of a key: what is read of it after `listen` is all that is parked."""
        return not self._heard[name]

    def first_behind(self, name: str, position: int) -> int | None:
        """Return the first position behind another that was heard of a key; None without one."""
        return next((heard for heard in self._heard[name] if heard > position), None)

    async def run(self) -> None:
        """Park what is added until cancelled.

        Raises:
            StoreUnavailable, SourceUnavailable, ShardLost: what had to be written could not be.
        """
        while True:
            if not self._waiting:
                self._changed = anyio.Event()
                await self._changed.wait()
            count = min(len(self._waiting), PARK_AT_ONCE_MAX)
            await self._park([self._waiting[index] for index in range(count)])
            for _ in range(count):
                self._waiting.popleft()

    async def _park(self, entries: Sequence[_Waiting]) -> None:
        context = self._context
        if not context.outbox.has_room(self.destination):
            await context.outbox.wait_room(self.destination)
        operations: list[Operation] = []
        place = f"{await context.settler.place(self._shard)}/{self._epoch}"
        for entry in entries:
            operations.extend(context.router.operations(context.place, self._dispatch(entry, place)))
            operations.extend(entry.operations)
        records = [entry.record for entry in entries]
        self._covered.add(records)
        operations.append(self._covered.keep())
        await context.settler.commit(operations)
        # A checkpoint passes what is parked only once the place has it.
        await context.outbox.wait_lane(self.destination, self._lane)
        await self._on_parked(records)

    @property
    def _lane(self) -> str:
        """The name under which the outbox keeps the shard's records in order."""
        return f"{self._context.mapping}/{self._shard}/parked"

    def _dispatch(self, entry: _Waiting, place: str) -> Dispatch:
        context, record = self._context, entry.record
        position = str(record.position)
        envelope = Envelope(
            mapping=context.mapping,
            source=context.source,
            shard=self._shard,
            position=record.position,
            name=entry.name,
            key=record.key,
            arrived_ms=record.arrived_ms,
            timestamp_kind=record.timestamp_kind,
            headers=record.headers,
            size_bytes=record.size_bytes,
            is_tombstone=record.body is None,
        )
        return Dispatch(
            key=dispatch_key(context.mapping, place, position, position, self.destination, "Parked"),
            payload=record.body or b"",
            lane=self._lane,
            record_key=record.key,
            attributes={PARKED_HEADER: msgspec.json.encode(envelope).decode()},
            created_ms=context.clock.now_ms(),
        )

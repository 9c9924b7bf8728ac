"""How records get into an embedded stream: which shard each goes to, all of them in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from eventcore.clock import Clock
from eventcore.delivery.hash_keys import share_of
from eventcore.embedded.sharding import shard_name
from eventcore.errors import CommandError, FencedOut
from eventcore.ids import IdFactory
from eventcore.ports.connectors import OutgoingRecord
from eventcore.ports.store import BODY_BYTES_MAX, AppendRecords, NewRecord, ShardLineage, Store
from eventcore.store.resharding import follow

#: Records of one `append_records`: they are one transaction, held in memory twice.
APPEND_MAX = 10_000


async def append_records(
    store: Store, stream: str, records: Sequence[OutgoingRecord], *, clock: Clock, ids: IdFactory
) -> list[tuple[str, int]]:
    """Append records to an embedded stream, all or none; return each one's shard and position once they are durable.

    A key decides the shard (`share_of`); records without one are dealt out in turn, from a random shard on.

    Raises:
        CommandError: there is no such stream; there are more than `APPEND_MAX` records, or one is too long.
        StoreUnavailable: nothing was appended.
    """
    if len(records) > APPEND_MAX:
        raise CommandError(f"at most {APPEND_MAX} records can be sent at once, not {len(records)}")
    if any(len(record.body) > BODY_BYTES_MAX for record in records):
        raise CommandError(f"a record's body is at most {BODY_BYTES_MAX} bytes")
    settings = (await store.streams()).get(stream)
    if settings is None:
        raise CommandError(f"there is no stream {stream}")
    if not records:
        return []
    turn = ids.random_bits(32)
    while True:
        if settings.is_resharded:
            shards = await _open_shards(store, stream)
            new = tuple([_place(record, turn + index, settings.shards, shards) for index, record in enumerate(records)])
        else:
            new = tuple(
                [
                    NewRecord(
                        shard=(turn + index) % settings.shards
                        if record.key is None
                        else share_of(record.key, settings.shards),
                        body=record.body,
                        key=record.key,
                        headers=record.headers,
                    )
                    for index, record in enumerate(records)
                ]
            )
        append = AppendRecords(stream=stream, records=new, now_ms=clock.now_ms(), is_strict=True)
        try:
            (positions,) = await store.commit([append])
        except FencedOut:
            # A shard was split or merged a moment ago.
            settings = msgspec.structs.replace(settings, is_resharded=True)
            continue
        return [(shard_name(record.shard), position) for record, position in zip(new, positions, strict=True)]


class _OpenShards(NamedTuple):
    """The shards of a stream that was split or merged."""

    numbers: Sequence[int]  #: of the open ones
    lineages: Sequence[ShardLineage | None]  #: of all


async def _open_shards(store: Store, stream: str) -> _OpenShards:
    extents = await store.extents(stream)
    numbers = [extent.shard for extent in extents if not extent.is_closed]
    return _OpenShards(numbers, [extent.lineage for extent in extents])


def _place(record: OutgoingRecord, turn: int, made: int, shards: _OpenShards) -> NewRecord:
    """Return a record with the open shard that it goes to.

    Args:
        record: to be sent.
        turn: of a record without a key.
        made: shards that the stream was made with.
        shards: of the stream.
    """
    if record.key is None:
        shard = shards.numbers[turn % len(shards.numbers)]
    else:
        shard = follow(share_of(record.key, made), record.key, shards.lineages.__getitem__)
    return NewRecord(shard=shard, body=record.body, key=record.key, headers=record.headers)

"""Streams in memory."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence

import msgspec

from eventcore.ports import store as port
from eventcore.ports.store import NewRecord, ShardExtent, ShardLineage, StoredRecord, StreamSettings
from eventcore.store.memory.tokens import Tokens
from eventcore.store.resharding import Changes, Shards, follow, merge_shards, split_shard
from eventcore.store.rules import TOKEN_KEPT_MS, record_size_bytes, trim_plan
from eventcore.store.watches import stream_topic


class _Shard:
    """The records of one shard, by position."""

    def __init__(self, lineage: ShardLineage | None = None) -> None:
        self.lineage = lineage
        self.first = 0  #: position of the oldest record kept
        self._records: list[StoredRecord] = []
        self._dropped = 0  #: leading entries that are gone: the list is cut when they are half of it

    @property
    def end(self) -> int:
        return self.first + len(self._records) - self._dropped

    def append(self, new: NewRecord, now_ms: int) -> int:
        position = self.end
        self._records.append(StoredRecord(position, new.body, new.key, new.headers, now_ms))
        return position

    def at(self, position: int) -> StoredRecord:
        return self._records[position - self.first + self._dropped]

    def drop(self, count: int) -> None:
        self.first += count
        self._dropped += count
        if self._dropped * 2 > len(self._records):
            del self._records[: self._dropped]
            self._dropped = 0

    def find(self, at_ms: int) -> int:
        return bisect_left(range(self.first, self.end), at_ms, key=lambda at: self.at(at).arrived_ms) + self.first


class _Stream:
    def __init__(self, name: str, settings: StreamSettings) -> None:
        self.topic = stream_topic(name)
        self.settings = settings
        self.shards = [_Shard() for _ in range(settings.shards)]
        self.size_bytes = 0  #: of bodies

    def find_lineage(self, index: int) -> ShardLineage | None:
        """Return a shard's lineage."""
        return self.shards[index].lineage

    def change(self, changes: Changes) -> None:
        """Take over what shards are from now on, and make those that are not there."""
        for index, lineage in sorted(changes.items()):
            if index < len(self.shards):
                self.shards[index].lineage = lineage
            else:
                self.shards.append(_Shard(lineage))
        self.settings = msgspec.structs.replace(self.settings, is_resharded=True)


class MemoryStreams:
    """Every stream of a store."""

    def __init__(self, tokens: Tokens, wake: Callable[[str], None]) -> None:
        self._streams: dict[str, _Stream] = {}
        self._tokens = tokens
        self._wake = wake

    def settings(self, name: str) -> StreamSettings | None:
        """Return a stream's settings; None when it is not defined."""
        stream = self._streams.get(name)
        return stream.settings if stream else None

    # -- writes --------------------------------------------------------------------------------------------------------

    def define(self, operation: port.DefineStream) -> None:
        """Carry out `DefineStream`."""
        stream = self._streams.get(operation.stream)
        if stream is None:
            self._streams[operation.stream] = _Stream(operation.stream, operation.settings)
        else:
            is_resharded = stream.settings.is_resharded
            stream.settings = msgspec.structs.replace(operation.settings, is_resharded=is_resharded)

    def split(self, operation: port.SplitShard) -> tuple[int, ...]:
        """Carry out `SplitShard`."""
        return self._reshard(operation.stream, lambda known: split_shard(known, operation))

    def merge(self, operation: port.MergeShards) -> int:
        """Carry out `MergeShards`."""
        return self._reshard(operation.stream, lambda known: merge_shards(known, operation))[0]

    def _reshard(self, name: str, change: Callable[[Shards], Changes]) -> tuple[int, ...]:
        stream = self._streams[name]
        known = self.shards(name)
        changes = change(known)
        stream.change(changes)
        self._wake(stream.topic)
        return tuple([index for index in sorted(changes) if index >= len(known.lineages)])

    def shards(self, name: str) -> Shards:
        """Return what a stream's shards are; none when it is not defined."""
        stream = self._streams.get(name)
        if stream is None:
            return Shards(0, ())
        return Shards(stream.settings.shards, tuple([shard.lineage for shard in stream.shards]))

    def append(self, operation: port.AppendRecords) -> list[int]:
        """Carry out `AppendRecords`."""
        stream, now_ms = self._streams[operation.stream], operation.now_ms
        positions = []
        for new in operation.records:
            if new.idempotency_token and not self._tokens.take(
                stream.topic, new.idempotency_token, now_ms=now_ms, forget_ms=now_ms + TOKEN_KEPT_MS
            ):
                positions.append(-1)
                continue
            shard = stream.shards[new.shard]
            if shard.lineage is not None:
                shard = stream.shards[follow(new.shard, new.key, stream.find_lineage)]
            positions.append(shard.append(new, now_ms))
            stream.size_bytes += len(new.body)
        self._wake(stream.topic)
        return positions

    def trim(self, operation: port.TrimStream) -> int:
        """Carry out `TrimStream`."""
        stream = self._streams[operation.stream]
        limit = stream.settings.retention_bytes
        plan = trim_plan(
            {
                index: (
                    (record.arrived_ms, len(record.body)) for record in map(shard.at, range(shard.first, shard.end))
                )
                for index, shard in enumerate(stream.shards)
            },
            before_ms=operation.before_ms,
            excess_bytes=stream.size_bytes - limit if limit else 0,
            count_max=operation.count_max,
        )
        for index, (count, size_bytes) in plan.items():
            stream.shards[index].drop(count)
            stream.size_bytes -= size_bytes
        return sum(count for count, _ in plan.values())

    # -- reads ---------------------------------------------------------------------------------------------------------

    def all_settings(self) -> Mapping[str, StreamSettings]:
        """Return all streams by name."""
        return {name: stream.settings for name, stream in sorted(self._streams.items())}

    def extents(self, name: str) -> Sequence[ShardExtent]:
        """Return where each shard begins and ends."""
        return [
            ShardExtent(shard=index, first=shard.first, end=shard.end, lineage=shard.lineage)
            for index, shard in enumerate(self._named(name).shards)
        ]

    def read(
        self, name: str, index: int, position: int, *, count_max: int, size_bytes_max: int
    ) -> Sequence[StoredRecord]:
        """Return records of a shard from a position on; see `Store.read`."""
        shard = self._shard(name, index)
        records: list[StoredRecord] = []
        size_bytes = 0
        begin = max(position, shard.first)
        for record in map(shard.at, range(begin, min(shard.end, begin + count_max))):
            size_bytes += record_size_bytes(record)
            if records and size_bytes > size_bytes_max:
                break
            records.append(record)
        return records

    def find_position(self, name: str, index: int, at_ms: int) -> int:
        """Return the position of the first record that arrived at or after a time."""
        return self._shard(name, index).find(at_ms)

    def _named(self, name: str) -> _Stream:
        stream = self._streams.get(name)
        if stream is None:
            raise KeyError(f"there is no stream {name}")
        return stream

    def _shard(self, name: str, index: int) -> _Shard:
        shards = self._named(name).shards
        if not 0 <= index < len(shards):
            raise ValueError(f"stream {name} has no shard {index}, only 0-{len(shards) - 1}")
        return shards[index]

"""The store's kit: shards that are split and merged."""

from __future__ import annotations

import pytest

from eventcore.delivery.hash_keys import HASH_KEYS, equal_range, share_of
from eventcore.errors import FencedOut
from eventcore.ports.store import (
    AppendRecords,
    DefineStream,
    MergeShards,
    NewRecord,
    ShardExtent,
    ShardLineage,
    SplitShard,
    Store,
    StreamSettings,
)
from eventcore.testing.conformance.store_kit import NOW_MS, StoreKit, append, commit_one, define_stream, read

MIDDLE = HASH_KEYS // 2
KEYS = [b"key-%d" % number for number in range(64)]


def lineage(first: int, last: int, *, parents: tuple[int, ...] = (), children: tuple[int, ...] = ()) -> ShardLineage:
    """Return a lineage with its hash keys as numbers."""
    return ShardLineage(first_hash_key=str(first), last_hash_key=str(last), parents=parents, children=children)


class ReshardingPromises(StoreKit):
    """`SplitShard` and `MergeShards`: ranges, closed shards, where records go."""

    def test_a_split_shares_the_hash_keys_and_closes_the_parent(self) -> None:
        """The parent keeps its records; the halves begin empty, at position 0."""

        async def scenario(store: Store) -> None:
            await define_stream(store, shards=1)
            await append(store, b"a", b"b")
            assert await commit_one(store, SplitShard(stream="clicks", shard=0)) == (1, 2)
            last = HASH_KEYS - 1
            assert await store.extents("clicks") == [
                ShardExtent(shard=0, first=0, end=2, lineage=lineage(0, last, children=(1, 2))),
                ShardExtent(shard=1, first=0, end=0, lineage=lineage(0, MIDDLE - 1, parents=(0,))),
                ShardExtent(shard=2, first=0, end=0, lineage=lineage(MIDDLE, last, parents=(0,))),
            ]
            assert [record.body for record in await read(store)] == [b"a", b"b"]

        self.check(scenario)

    def test_a_split_may_name_the_hash_key(self) -> None:
        """Of a stream with several shards: its own part of the keys, and only inside it."""

        async def scenario(store: Store) -> None:
            await define_stream(store, shards=3)
            first, last = equal_range(1, 3)
            for at in (first, last + 1, -1):
                with pytest.raises(ValueError, match="hash key"):
                    await store.commit([SplitShard(stream="clicks", shard=1, at=str(at))])
            await store.commit([SplitShard(stream="clicks", shard=1, at=str(last))])
            upper = (await store.extents("clicks"))[4]
            assert upper.lineage == lineage(last, last, parents=(1,))
            # One key is left: it can't be divided.
            with pytest.raises(ValueError, match="does not split"):
                await store.commit([SplitShard(stream="clicks", shard=4)])

        self.check(scenario)

    def test_a_merge_joins_what_adjoins(self) -> None:
        """In either order; not two shards with another between them, nor one with itself."""

        async def scenario(store: Store) -> None:
            await define_stream(store, shards=3)
            for shard, other in ((0, 2), (2, 0), (1, 1)):
                with pytest.raises(ValueError, match="do not adjoin"):
                    await store.commit([MergeShards(stream="clicks", shard=shard, other=other)])
            assert await commit_one(store, MergeShards(stream="clicks", shard=2, other=1)) == 3
            extents = await store.extents("clicks")
            first, last = equal_range(1, 3)[0], HASH_KEYS - 1
            assert extents[3].lineage == lineage(first, last, parents=(2, 1))
            assert [extent.is_closed for extent in extents] == [False, True, True, False]

        self.check(scenario)

    def test_what_is_closed_or_not_there_is_refused(self) -> None:
        """Nothing of the list is written."""

        async def scenario(store: Store) -> None:
            await define_stream(store, shards=2)
            await store.commit([SplitShard(stream="clicks", shard=0)])
            before = await store.extents("clicks")
            for operation in (
                SplitShard(stream="clicks", shard=0),
                SplitShard(stream="clicks", shard=9),
                SplitShard(stream="clicks", shard=1, at="x"),
                MergeShards(stream="clicks", shard=0, other=1),
                MergeShards(stream="clicks", shard=1, other=-1),
            ):
                with pytest.raises(ValueError, match=r"shard|hash key"):
                    await store.commit([operation])
            with pytest.raises(ValueError, match="twice"):
                await store.commit([SplitShard(stream="clicks", shard=1), SplitShard(stream="clicks", shard=2)])
            with pytest.raises(KeyError):
                await store.commit([SplitShard(stream="nothing", shard=0)])
            assert await store.extents("clicks") == before

        self.check(scenario)

    def test_records_for_a_closed_shard_go_to_the_descendant_of_their_key(self) -> None:
        """However often it was split and merged; in order; without a key to the lower one."""

        async def scenario(store: Store) -> None:
            await define_stream(store, shards=1)
            await store.commit([SplitShard(stream="clicks", shard=0)])
            await store.commit([SplitShard(stream="clicks", shard=1)])
            await store.commit([MergeShards(stream="clicks", shard=4, other=2)])
            records = tuple(NewRecord(shard=0, body=key, key=key) for key in KEYS)
            await store.commit([AppendRecords(stream="clicks", records=records, now_ms=NOW_MS)])
            await append(store, b"none")
            lower = [key for key in KEYS if share_of(key, 4) == 0]
            assert [record.body for record in await read(store, shard=3)] == [*lower, b"none"]
            assert [record.body for record in await read(store, shard=5)] == [key for key in KEYS if key not in lower]
            assert not await read(store, shard=0)

        self.check(scenario)

    def test_a_strict_sender_is_told_of_a_closed_shard(self) -> None:
        """It looks again where its records belong; nothing of the list is written."""

        async def scenario(store: Store) -> None:
            await define_stream(store, shards=2)
            await store.commit([SplitShard(stream="clicks", shard=0)])
            records = (NewRecord(shard=1, body=b"open"), NewRecord(shard=0, body=b"closed"))
            with pytest.raises(FencedOut):
                await store.commit([AppendRecords(stream="clicks", records=records, now_ms=NOW_MS, is_strict=True)])
            assert not await read(store, shard=1)
            await store.commit([AppendRecords(stream="clicks", records=records[:1], now_ms=NOW_MS, is_strict=True)])
            with pytest.raises(ValueError, match="no shard 4"):
                await append(store, b"x", shard=4)

        self.check(scenario)

    def test_a_definition_changes_no_shard_and_a_restart_neither(self) -> None:
        """The number that it was made with stays its own; retention may change."""

        async def before(store: Store) -> None:
            await define_stream(store, shards=2)
            await store.commit([SplitShard(stream="clicks", shard=0)])
            await append(store, b"a", shard=3)

        async def after(store: Store) -> None:
            settings = StreamSettings(shards=2, retention_period=60)
            await store.commit([DefineStream(stream="clicks", settings=settings)])
            assert (await store.streams())["clicks"].is_resharded
            assert [extent.is_closed for extent in await store.extents("clicks")] == [True, False, False, False]
            assert await append(store, b"b", shard=3) == [1]
            with pytest.raises(ValueError, match="closed"):
                await store.commit([SplitShard(stream="clicks", shard=0)])

        self.check_restart(before, after)

    def test_readers_are_woken(self) -> None:
        """Whoever watches the stream has something to do: children to read."""

        async def scenario(store: Store) -> None:
            await define_stream(store, shards=1)
            async with store.watch("stream:clicks") as watch:
                await store.commit([SplitShard(stream="clicks", shard=0)])
                await watch.wait()

        self.check(scenario)

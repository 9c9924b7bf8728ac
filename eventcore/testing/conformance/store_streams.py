"""The store's kit: streams, and the checkpoints of those who read them."""

from __future__ import annotations

import pytest

from eventcore.delivery.ordering import EMPTY, Part, ShardState
from eventcore.errors import FencedOut
from eventcore.ports.store import (
    BODY_BYTES_MAX,
    IDEMPOTENCY_DAYS,
    AppendRecords,
    Checkpoint,
    DefineStream,
    NewRecord,
    SaveCheckpoint,
    SeekCheckpoint,
    ShardExtent,
    Store,
    StoredRecord,
    StreamSettings,
    TakeShard,
    TrimStream,
)
from eventcore.testing.conformance.store_kit import DAY_S, NOW_MS, StoreKit, append, at, commit_one, define_stream, read

FAILING = ShardState(parts=(Part(last=7, attempt=2, first_failure_ms=NOW_MS, request_id="r", marks=1),), marked=True)


def extent(shard: int, first: int, end: int) -> ShardExtent:
    """Return where a shard begins and ends."""
    return ShardExtent(shard=shard, first=first, end=end)


class StreamPromises(StoreKit):
    """Appending, reading, trimming."""

    def test_records_keep_their_order_and_all_their_fields(self) -> None:
        """Positions rise by one, from 0, in each shard."""
        headers = (("trace", b"\x00\xff"), ("n", b"1"), ("n", b"2"))

        async def scenario(store: Store) -> None:
            await define_stream(store, shards=2)
            records = (
                NewRecord(shard=0, body=b"a", key=b"\xff", headers=headers),
                NewRecord(shard=1, body=b""),
                NewRecord(shard=0, body=b"b", key=b""),
            )
            operation = AppendRecords(stream="clicks", records=records, now_ms=NOW_MS)
            assert await commit_one(store, operation) == [0, 0, 1]
            assert await append(store, b"c", after_s=1) == [2]
            assert await read(store) == [
                StoredRecord(0, b"a", b"\xff", headers, NOW_MS),
                StoredRecord(1, b"b", b"", (), NOW_MS),
                StoredRecord(2, b"c", None, (), at(1)),
            ]
            assert await read(store, shard=1) == [StoredRecord(0, b"", None, (), NOW_MS)]

        self.check(scenario)

    def test_a_read_keeps_its_bounds(self) -> None:
        """By count and by bytes (bodies, keys, headers about), and returns at least one record if there is one."""

        async def scenario(store: Store) -> None:
            await define_stream(store, shards=1)
            await append(store, *[b"x" * 10] * 5)
            await append(store, b"x" * 6, key=b"1234")
            await append(store, b"", headers=(("name", b"x" * 1000),))
            assert len(await read(store, count_max=3)) == 3
            assert [record.position for record in await read(store, 3, count_max=2)] == [3, 4]
            assert len(await read(store, size_bytes_max=30)) == 3
            assert len(await read(store, size_bytes_max=29)) == 2
            assert len(await read(store, size_bytes_max=1)) == 1
            assert len(await read(store, 4, size_bytes_max=20)) == 2
            assert len(await read(store, 4, size_bytes_max=19)) == 1
            assert len(await read(store, 5, size_bytes_max=1000)) == 1
            assert len(await read(store, 5, size_bytes_max=1100)) == 2
            assert await read(store, 7) == []
            assert await read(store, 100) == []

        self.check(scenario)

    def test_extents_tell_where_shards_begin_and_end(self) -> None:
        """In order of the shards, empty ones too."""

        async def scenario(store: Store) -> None:
            await define_stream(store, shards=3)
            await append(store, b"a", b"b", shard=1)
            assert await store.extents("clicks") == [extent(0, 0, 0), extent(1, 0, 2), extent(2, 0, 0)]

        self.check(scenario)

    def test_streams_share_nothing(self) -> None:
        """Streams stand by name, with their settings, and have positions of their own."""

        async def scenario(store: Store) -> None:
            await define_stream(store, "b", shards=2)
            await define_stream(store, "a", shards=1, retention_period=60)
            await append(store, b"x", stream="b")
            await append(store, b"y", stream="a")
            assert [record.body for record in await store.read("a", 0, 0, count_max=9, size_bytes_max=9)] == [b"y"]
            assert [*(await store.streams()).items()] == [
                ("a", StreamSettings(shards=1, retention_period=60)),
                ("b", StreamSettings(shards=2)),
            ]

        self.check(scenario)

    def test_a_stream_keeps_its_number_of_shards(self) -> None:
        """Other settings may change; a different number is refused, within one list too."""

        async def scenario(store: Store) -> None:
            await define_stream(store, shards=2)
            await append(store, b"a")
            await define_stream(store, shards=2, retention_period=60)
            assert (await store.streams())["clicks"].retention_period == 60
            with pytest.raises(ValueError, match="clicks"):
                await define_stream(store, shards=3)
            three, four = [DefineStream(stream="new", settings=StreamSettings(shards=count)) for count in (3, 4)]
            with pytest.raises(ValueError, match="new"):
                await store.commit([three, four])
            assert [*await store.streams()] == ["clicks"]
            assert len(await read(store)) == 1

        self.check(scenario)

    def test_what_is_not_there_is_an_error(self) -> None:
        """A stream, a shard; and a body past the limit."""

        async def scenario(store: Store) -> None:
            await define_stream(store, shards=2)
            with pytest.raises(KeyError, match="nowhere"):
                await append(store, b"a", stream="nowhere")
            with pytest.raises(KeyError, match="nowhere"):
                await store.commit([TrimStream(stream="nowhere", before_ms=0)])
            with pytest.raises(KeyError, match="nowhere"):
                await store.extents("nowhere")
            with pytest.raises(KeyError, match="nowhere"):
                await store.read("nowhere", 0, 0, count_max=1, size_bytes_max=1)
            with pytest.raises(KeyError, match="nowhere"):
                await store.find_position("nowhere", 0, 0)
            for shard in (-1, 2):
                with pytest.raises(ValueError, match="clicks"):
                    await append(store, b"a", shard=shard)
                with pytest.raises(ValueError, match="clicks"):
                    await read(store, shard=shard)
            with pytest.raises(ValueError, match="bytes"):
                await append(store, b"x" * (BODY_BYTES_MAX + 1))
            assert await append(store, b"x" * BODY_BYTES_MAX) == [0]

        self.check(scenario)

    def test_a_token_is_taken_once(self) -> None:
        """A repeated record has position -1 and leaves no gap; streams have tokens of their own."""

        async def scenario(store: Store) -> None:
            await define_stream(store, shards=2)
            await define_stream(store, "other", shards=1)
            assert await append(store, b"a", b"b", idempotency_token="t") == [0, -1]
            assert await append(store, b"c", shard=1, idempotency_token="t") == [-1]
            assert await append(store, b"d", idempotency_token="u") == [1]
            assert await append(store, b"e", stream="other", idempotency_token="t") == [0]
            end_s = IDEMPOTENCY_DAYS * DAY_S
            assert await append(store, b"f", after_s=end_s - 0.001, idempotency_token="t") == [-1]
            assert await append(store, b"g", after_s=end_s, idempotency_token="t") == [2]
            assert [record.body for record in await read(store)] == [b"a", b"d", b"g"]

        self.check(scenario)

    def test_trim_drops_by_age_in_steps(self) -> None:
        """The oldest of all shards first; positions stay; a read from before the beginning starts there."""

        async def scenario(store: Store) -> None:
            await define_stream(store, shards=2)
            await append(store, b"a", b"b", after_s=0)
            await append(store, b"c", shard=1, after_s=1)
            await append(store, b"d", after_s=2)
            step = TrimStream(stream="clicks", before_ms=at(2), count_max=2)
            assert await commit_one(store, step) == 2
            assert await store.extents("clicks") == [extent(0, 2, 3), extent(1, 0, 1)]
            assert await commit_one(store, step) == 1
            assert await commit_one(store, step) == 0
            assert await store.extents("clicks") == [extent(0, 2, 3), extent(1, 1, 1)]
            assert [record.position for record in await read(store, 0)] == [2]
            assert await append(store, b"e", shard=1, after_s=3) == [1]

        self.check(scenario)

    def test_trim_drops_by_size(self) -> None:
        """The oldest go until the bodies fit; without a limit nothing goes."""

        async def scenario(store: Store) -> None:
            await define_stream(store, shards=2, retention_bytes=25)
            for after_s, shard in ((0, 1), (1, 0), (2, 1), (3, 0)):
                await append(store, b"x" * 10, shard=shard, after_s=after_s)
            trim = TrimStream(stream="clicks", before_ms=0)
            assert await commit_one(store, trim) == 2
            assert await store.extents("clicks") == [extent(0, 1, 2), extent(1, 1, 2)]
            assert await commit_one(store, trim) == 0
            await append(store, b"y" * 6, after_s=4)
            assert await commit_one(store, trim) == 1
            await define_stream(store, shards=2)
            await append(store, b"z" * 1000, after_s=5)
            assert await commit_one(store, trim) == 0

        self.check(scenario)

    def test_a_position_is_found_by_time(self) -> None:
        """Of the first record that arrived then or later; the end when there is none."""

        async def scenario(store: Store) -> None:
            await define_stream(store, shards=1)
            assert await store.find_position("clicks", 0, NOW_MS) == 0
            for after_s in (0, 1, 1, 1, 2):
                await append(store, b"a", after_s=after_s)
            found = [await store.find_position("clicks", 0, at(after_s)) for after_s in (-1, 0, 0.001, 1, 2, 2.001)]
            assert found == [0, 0, 1, 1, 4, 5]
            await store.commit([TrimStream(stream="clicks", before_ms=at(1))])
            assert await store.find_position("clicks", 0, NOW_MS) == 1

        self.check(scenario)

    def test_many_records(self) -> None:
        """Over several appends of thousands."""

        async def scenario(store: Store) -> None:
            await define_stream(store, shards=1)
            bodies = [b"%d" % number for number in range(2500)]
            assert await append(store, *bodies) == [*range(2500)]
            assert await append(store, b"last") == [2500]
            assert [record.body for record in await read(store, 100, count_max=3000)] == [*bodies[100:], b"last"]
            trim = TrimStream(stream="clicks", before_ms=at(1), count_max=2000)
            assert [await commit_one(store, trim) for _ in range(3)] == [2000, 501, 0]

        self.check(scenario)


class CheckpointPromises(StoreKit):
    """Owners of shards, their progress, and what is kept of failing work."""

    def test_a_new_owner_has_a_higher_epoch(self) -> None:
        """And goes on where the owner before stood, with the state that it left."""

        async def scenario(store: Store) -> None:
            first = await commit_one(store, TakeShard(mapping="m", shard="s"))
            assert (first.position, first.state) == (-1, EMPTY)
            await store.commit([_save(first.epoch, 5, FAILING)])
            second = await commit_one(store, TakeShard(mapping="m", shard="s"))
            assert second.epoch > first.epoch
            assert (second.position, second.state) == (5, FAILING)

        self.check(scenario)

    def test_a_fenced_owner_writes_nothing(self) -> None:
        """An older epoch is refused, with the newest one in the error; so is one that was never given out."""

        async def scenario(store: Store) -> None:
            for epoch in (0, 1):
                with pytest.raises(FencedOut):
                    await store.commit([_save(epoch, 3)])
            assert await store.checkpoints() == []
            old = await commit_one(store, TakeShard(mapping="m", shard="s"))
            new = await commit_one(store, TakeShard(mapping="m", shard="s"))
            for epoch in (old.epoch, new.epoch + 1):
                with pytest.raises(FencedOut) as caught:
                    await store.commit([_save(epoch, 3)])
                assert caught.value.epoch == new.epoch
            assert await store.checkpoints() == [new]
            await store.commit([_save(new.epoch, 3)])

        self.check(scenario)

    def test_a_checkpoint_never_goes_back(self) -> None:
        """It may stay, with a new state."""

        async def scenario(store: Store) -> None:
            taken = await commit_one(store, TakeShard(mapping="m", shard="s"))
            await store.commit([_save(taken.epoch, 5)])
            with pytest.raises(FencedOut):
                await store.commit([_save(taken.epoch, 4)])
            await store.commit([_save(taken.epoch, 5, FAILING)])
            (kept,) = await store.checkpoints()
            assert (kept.epoch, kept.position, kept.state) == (taken.epoch, 5, FAILING)

        self.check(scenario)

    def test_a_list_sees_its_own_earlier_writes(self) -> None:
        """Epochs and positions within one commit follow each other."""

        async def scenario(store: Store) -> None:
            taken = await commit_one(store, TakeShard(mapping="m", shard="s"))
            await store.commit([_save(taken.epoch, 1), _save(taken.epoch, 2)])
            with pytest.raises(FencedOut):
                await store.commit([_save(taken.epoch, 4), _save(taken.epoch, 3)])
            with pytest.raises(FencedOut):
                await store.commit([TakeShard(mapping="m", shard="s"), _save(taken.epoch, 3)])
            (kept,) = await store.checkpoints()
            assert (kept.epoch, kept.position) == (taken.epoch, 2)

        self.check(scenario)

    def test_a_seek_goes_anywhere_and_fences_the_owner(self) -> None:
        """It drops the state of failing work; a shard that nobody took can be sought too."""

        async def scenario(store: Store) -> None:
            taken = await commit_one(store, TakeShard(mapping="m", shard="s"))
            await store.commit([_save(taken.epoch, 5, FAILING)])
            epoch = await commit_one(store, SeekCheckpoint(mapping="m", shard="s", position=2))
            assert epoch > taken.epoch
            with pytest.raises(FencedOut):
                await store.commit([_save(taken.epoch, 6)])
            again = await commit_one(store, TakeShard(mapping="m", shard="s"))
            assert (again.position, again.state) == (2, EMPTY)
            await store.commit([SeekCheckpoint(mapping="m", shard="new", position=9)])
            fresh = await commit_one(store, TakeShard(mapping="m", shard="new"))
            assert fresh.position == 9

        self.check(scenario)

    def test_checkpoints_stand_by_mapping_and_shard(self) -> None:
        """Of all mappings, or of one; each has its own."""

        async def scenario(store: Store) -> None:
            for mapping, shard in (("n", "1"), ("m", "2"), ("m", "1")):
                await store.commit([TakeShard(mapping=mapping, shard=shard)])
            names = [(checkpoint.mapping, checkpoint.shard) for checkpoint in await store.checkpoints()]
            assert names == [("m", "1"), ("m", "2"), ("n", "1")]
            found = await store.checkpoints("m")
            assert found == [Checkpoint(mapping="m", shard=shard, epoch=1, position=-1) for shard in ("1", "2")]
            assert await store.checkpoints("o") == []

        self.check(scenario)


def _save(epoch: int, position: int, state: ShardState = EMPTY) -> SaveCheckpoint:
    return SaveCheckpoint(mapping="m", shard="s", epoch=epoch, position=position, state=state)

"""The kit for `StreamSource`: order, checkpoints, failing work, pauses, owners, loss.

Subclass `StreamConformance` as a class whose name begins with `Test`, and give it a fixture ``stream`` that yields a
new `StreamUnderTest` for each test. Tests are coroutines: run them with pytest-asyncio in its auto mode. Nothing here
depends on how fast anything is; `HAPPENS_WITHIN_S` bounds what has to happen at all.
"""

from __future__ import annotations

import anyio
import anyio.lowlevel
import msgspec
import pytest

from eventcore.delivery.ordering import EMPTY, Part, ShardState, Window
from eventcore.errors import ShardLost, SourceUnavailable
from eventcore.ports.connectors import StartingPosition
from eventcore.ports.sources import LostRange
from eventcore.testing.conformance.stream_under_test import (
    HAPPENS_WITHIN_S,
    Reader,
    StreamUnderTest,
    opened,
    reading,
)

__all__ = ["HAPPENS_WITHIN_S", "Reader", "StreamConformance", "StreamUnderTest", "opened", "reading"]

#: An empty receive may come back this much later than asked for, seconds.
RECEIVE_MARGIN_S = 10.0

LATEST = StartingPosition("LATEST")
FAILING = ShardState(parts=(Part(last=7, attempt=2, first_failure_ms=1_700_000_000_000, request_id="r-1", marks=1),))


def _numbered(prefix: str, count: int) -> list[bytes]:
    return [f"{prefix}-{number}".encode() for number in range(count)]


class StreamConformance:
    """What every stream source keeps."""

    # -- records -------------------------------------------------------------------------------------------------------

    async def test_records_come_in_order_within_their_shard(self, stream: StreamUnderTest) -> None:
        """Each shard's records come in the order they were sent, at the positions they were given."""
        first, second = stream.shards[:2]
        async with reading(stream.source()) as reader:
            sent = [*await stream.send(first, _numbered("a", 20)), *await stream.send(first, _numbered("b", 20))]
            await stream.send(second, _numbered("c", 20))
            await reader.until(lambda: len(reader.bodies(first)) >= 40 and len(reader.bodies(second)) >= 20)
        assert reader.bodies(first) == [*_numbered("a", 20), *_numbered("b", 20)]
        assert reader.bodies(second) == _numbered("c", 20)
        assert reader.positions(first) == sent
        assert sent == sorted(set(sent))

    async def test_a_record_keeps_all_that_was_sent(self, stream: StreamUnderTest) -> None:
        """Key, headers with repeated names, and bytes that are no text arrive as they were sent."""
        shard = stream.shards[0]
        headers = (("trace", b"\x00\xff"), ("n", b"1"), ("n", b"2"))
        async with reading(stream.source()) as reader:
            await stream.send(shard, [b"\x00\xff body"], key=b"\xfekey", headers=headers)
            await reader.until(lambda: bool(reader.records.get(shard)))
        record = reader.records[shard][0]
        assert record.body == b"\x00\xff body"
        assert record.key == b"\xfekey"
        assert record.headers == headers
        assert record.arrived_ms > 0
        assert record.size_bytes >= len(b"\x00\xff body") + len(b"\xfekey") + 4

    async def test_an_empty_receive_comes_back(self, stream: StreamUnderTest) -> None:
        """A receive without records returns empty after its wait, and not before."""
        async with opened(stream.source()) as reader:
            await reader.receive_until(lambda: reader.owns(stream.shards))
            began = anyio.current_time()
            with anyio.fail_after(1.0 + RECEIVE_MARGIN_S):
                assert await reader.receive(wait_s=1.0) == 0
            assert anyio.current_time() - began >= 0.9

    async def test_cancelling_a_receive_loses_nothing(self, stream: StreamUnderTest) -> None:
        """However often a receive is cancelled while records arrive, all come once and in order."""
        shard = stream.shards[0]
        async with opened(stream.source()) as reader:
            await reader.receive_until(lambda: reader.owns(stream.shards))
            sent: list[bytes] = []
            for number in range(30):
                bodies = _numbered(f"r{number}", 7)
                sent += bodies
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(stream.send, shard, bodies)
                    # Cancelled after no, one, two, ... steps of the loop: at every point where a receive can wait.
                    with anyio.CancelScope() as scope:
                        tasks.start_soon(_cancel_after, scope, number % 10)
                        await reader.receive()
            await reader.receive_until(lambda: len(reader.bodies(shard)) >= len(sent))
            assert reader.bodies(shard) == sent

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    async def test_a_shard_is_taken_where_it_was_left(self, stream: StreamUnderTest) -> None:
        """The next owner is told the checkpoint, and receives exactly from there on."""
        shard = stream.shards[0]
        async with reading(stream.source()) as reader:
            assert await stream.send(shard, _numbered("a", 10))
            await reader.until(lambda: len(reader.bodies(shard)) == 10)
            # Nothing was settled yet: a source may have written down where it begins, or not.
            assert reader.taken[shard].checkpoint in {-1, reader.positions(shard)[0]}
            checkpoint = reader.positions(shard)[4]
            await reader.settle(shard, checkpoint)
        async with reading(stream.source()) as reader:
            await reader.until(lambda: len(reader.bodies(shard)) == 6)
            assert reader.taken[shard].checkpoint == checkpoint
            assert reader.bodies(shard) == _numbered("a", 10)[4:]

    async def test_what_was_not_settled_comes_again(self, stream: StreamUnderTest) -> None:
        """Records that nobody settled are received again by the next owner."""
        shard = stream.shards[0]
        await stream.send(shard, _numbered("a", 5))
        for _ in range(2):
            async with reading(stream.source()) as reader:
                await reader.until(lambda reader=reader: len(reader.bodies(shard)) == 5)  # type: ignore[misc]
                assert reader.bodies(shard) == _numbered("a", 5)

    async def test_a_settle_becomes_durable(self, stream: StreamUnderTest) -> None:
        """A checkpoint is durable on return, or in the background within `checkpoint_lag_s_max`."""
        shard = stream.shards[0]
        source = stream.source()
        async with reading(source) as reader:
            await stream.send(shard, _numbered("a", 5))
            await reader.until(lambda: len(reader.bodies(shard)) == 5)
            checkpoint = reader.positions(shard)[3]
            await reader.settle(shard, checkpoint)
            if source.capabilities.is_settle_durable:
                assert await stream.checkpoint(shard) == (checkpoint, EMPTY)
                return
            assert source.capabilities.checkpoint_lag_s_max > 0
            with anyio.fail_after(source.capabilities.checkpoint_lag_s_max + RECEIVE_MARGIN_S):
                while await stream.checkpoint(shard) != (checkpoint, EMPTY):
                    await anyio.lowlevel.checkpoint()

    async def test_what_is_written_behind_is_written_until_cancelled(self, stream: StreamUnderTest) -> None:
        """Where a settle is durable `write_behind` returns at once; else it goes on while nothing fails."""
        source = stream.source()
        reader = Reader(source)
        await source.open(reader)
        try:
            if source.capabilities.is_settle_durable:
                with anyio.fail_after(HAPPENS_WITHIN_S):
                    await source.write_behind()
                return
            with anyio.move_on_after(2 * source.capabilities.checkpoint_lag_s_max) as scope:
                await source.write_behind()
            assert scope.cancelled_caught, "it has ended, and nobody writes any more"
        finally:
            await source.aclose()

    async def test_an_urgent_settle_is_durable_on_return(self, stream: StreamUnderTest) -> None:
        """A failed attempt is kept before anything else happens, together with the checkpoint."""
        shard = stream.shards[0]
        async with reading(stream.source()) as reader:
            await stream.send(shard, _numbered("a", 5))
            await reader.until(lambda: len(reader.bodies(shard)) == 5)
            checkpoint = reader.positions(shard)[2]
            await reader.settle(shard, checkpoint, FAILING, is_urgent=True)
            assert await stream.checkpoint(shard) == (checkpoint, FAILING)

    async def test_failing_work_goes_to_the_next_owner(self, stream: StreamUnderTest) -> None:
        """Attempts, bisect bounds and marks reach whoever takes the shard, until a settle clears them."""
        shard = stream.shards[0]
        async with reading(stream.source()) as reader:
            await stream.send(shard, _numbered("a", 5))
            await reader.until(lambda: len(reader.bodies(shard)) == 5)
            checkpoint = reader.positions(shard)[2]
            await reader.settle(shard, checkpoint, FAILING, is_urgent=True)
        async with reading(stream.source()) as reader:
            await reader.until(lambda: shard in reader.taken)
            assert reader.taken[shard].state == FAILING
            await reader.settle(shard, checkpoint)
        assert await stream.checkpoint(shard) == (checkpoint, EMPTY)

    async def test_an_older_epoch_is_refused(self, stream: StreamUnderTest) -> None:
        """A settle with the epoch of an earlier owner raises ShardLost, and writes nothing."""
        shard = stream.shards[0]
        async with reading(stream.source()) as reader:
            await stream.send(shard, _numbered("a", 5))
            await reader.until(lambda: len(reader.bodies(shard)) == 5)
            older = reader.taken[shard].epoch - 1
            with pytest.raises(ShardLost):
                await reader.source.settle(shard, older, reader.positions(shard)[3], EMPTY, is_urgent=True)
            await reader.settle(shard, reader.positions(shard)[1], is_urgent=True)
            assert await stream.checkpoint(shard) == (reader.positions(shard)[1], EMPTY)

    async def test_epochs_rise(self, stream: StreamUnderTest) -> None:
        """Each owner has a higher epoch than the one before."""
        shard = stream.shards[0]
        epochs = []
        for _ in range(3):
            async with reading(stream.source()) as reader:
                await reader.until(lambda reader=reader: shard in reader.taken)  # type: ignore[misc]
                epochs.append(reader.taken[shard].epoch)
        assert epochs == sorted(set(epochs))

    async def test_closing_writes_what_was_settled(self, stream: StreamUnderTest) -> None:
        """After `aclose` every settle is durable; it revokes nothing, and may be called again."""
        shard = stream.shards[0]
        source = stream.source()
        async with opened(source) as reader:
            await stream.send(shard, _numbered("a", 5))
            await reader.receive_until(lambda: len(reader.bodies(shard)) == 5)
            await reader.settle(shard, reader.positions(shard)[4])
            await source.aclose()
            assert await stream.checkpoint(shard) == (reader.positions(shard)[4], EMPTY)
        assert {how for how, _ in reader.history} == {"taken"}

    async def test_mappings_have_checkpoints_of_their_own(self, stream: StreamUnderTest) -> None:
        """What one mapping settled, another still receives."""
        shard = stream.shards[0]
        for mapping in ("first", "second"):
            async with reading(stream.source(mapping=mapping)) as reader:
                if mapping == "first":
                    await stream.send(shard, _numbered("a", 5))
                await reader.until(lambda reader=reader: len(reader.bodies(shard)) == 5)  # type: ignore[misc]
                await reader.settle(shard, reader.positions(shard)[-1] + 1)

    # -- starting positions --------------------------------------------------------------------------------------------

    async def test_trim_horizon_begins_with_the_oldest_record(self, stream: StreamUnderTest) -> None:
        """TRIM_HORIZON: what was sent before the mapping was opened is received."""
        shard = stream.shards[0]
        await stream.send(shard, _numbered("old", 3))
        async with reading(stream.source()) as reader:
            await reader.until(lambda: len(reader.bodies(shard)) == 3)

    async def test_latest_begins_with_the_next_record(self, stream: StreamUnderTest) -> None:
        """LATEST: only what is sent after the mapping took the shard is received."""
        shard = stream.shards[0]
        await stream.send(shard, _numbered("old", 3))
        async with reading(stream.source(starting_position=LATEST)) as reader:
            await reader.until(lambda: reader.owns(stream.shards))
            await stream.send(shard, _numbered("new", 3))
            await reader.until(lambda: len(reader.bodies(shard)) >= 3)
            assert reader.bodies(shard) == _numbered("new", 3)

    async def test_at_timestamp_begins_with_the_first_record_that_arrived_then(self, stream: StreamUnderTest) -> None:
        """AT_TIMESTAMP: the first record received is the first that arrived at that time or later."""
        shard = stream.shards[0]
        await stream.send(shard, _numbered("old", 3))
        await stream.pass_time(50)
        await stream.send(shard, _numbered("new", 3))
        async with reading(stream.source(mapping="second")) as reader:
            await reader.until(lambda: len(reader.bodies(shard)) == 6)
            at_ms = reader.records[shard][3].arrived_ms
        position = StartingPosition("AT_TIMESTAMP", at_ms)
        async with reading(stream.source(starting_position=position)) as reader:
            await reader.until(lambda: len(reader.bodies(shard)) >= 3)
            assert reader.bodies(shard) == _numbered("new", 3)

    async def test_a_checkpoint_wins_over_the_starting_position(self, stream: StreamUnderTest) -> None:
        """LATEST skips nothing once the mapping has a checkpoint. Source: Lambda semantics §12 on §5.1."""
        shard = stream.shards[0]
        async with reading(stream.source(starting_position=LATEST)) as reader:
            await reader.until(lambda: reader.owns(stream.shards))
            await stream.send(shard, _numbered("a", 2))
            await reader.until(lambda: len(reader.bodies(shard)) == 2)
            await reader.settle(shard, reader.positions(shard)[1])
        await stream.send(shard, _numbered("b", 2))
        async with reading(stream.source(starting_position=LATEST)) as reader:
            await reader.until(lambda: len(reader.bodies(shard)) >= 3)
            assert reader.bodies(shard) == [b"a-1", b"b-0", b"b-1"]

    # -- moved by hand -------------------------------------------------------------------------------------------------

    async def test_a_moved_shard_begins_where_it_was_moved_to(self, stream: StreamUnderTest) -> None:
        """Moved back or forward, its records come from there on, all, in order and once; the others' do not."""
        shard, other = stream.shards[:2]
        async with reading(stream.source()) as reader:
            await stream.send(other, _numbered("b", 3))
            sent = await stream.send(shard, _numbered("a", 10))
            await reader.until(lambda: len(reader.bodies(shard)) == 10 and len(reader.bodies(other)) == 3)
            for target in (3, 0, 7):
                before = await reader.seek(shard, sent[target])
                assert reader.taken[shard].checkpoint == sent[target]
                assert await stream.checkpoint(shard) == (sent[target], EMPTY)
                count = before + 10 - target
                await reader.until(lambda count=count: len(reader.bodies(shard)) >= count)  # type: ignore[misc]
                assert reader.positions(shard)[before:] == list(sent[target:])
            await reader.settle(shard, sent[-1] + 1, is_urgent=True)
        assert len(reader.bodies(other)) == 3
        assert (await stream.checkpoint(shard))[0] == sent[-1] + 1

    async def test_a_moved_shard_leaves_out_what_it_was_moved_past(self, stream: StreamUnderTest) -> None:
        """What lies in front of the new position never comes, and a pause of before is over."""
        shard = stream.shards[0]
        async with reading(stream.source()) as reader:
            await reader.until(lambda: reader.owns(stream.shards))
            reader.source.pause(shard)
            sent = await stream.send(shard, _numbered("a", 10))
            await reader.seek(shard, sent[6])
            await reader.until(lambda: len(reader.bodies(shard)) >= 4)
        assert reader.bodies(shard) == _numbered("a", 10)[6:]

    async def test_a_move_replaces_the_failing_work(self, stream: StreamUnderTest) -> None:
        """What was kept of failing work is gone, and what is given instead is there for the next owner."""
        shard = stream.shards[0]
        async with reading(stream.source()) as reader:
            sent = await stream.send(shard, _numbered("a", 10))
            await reader.until(lambda: len(reader.bodies(shard)) == 10)
            await reader.settle(shard, sent[5], FAILING, is_urgent=True)
            await reader.seek(shard, sent[2])
            assert await stream.checkpoint(shard) == (sent[2], EMPTY)
            await reader.seek(shard, sent[1], FAILING)
        assert await stream.checkpoint(shard) == (sent[1], FAILING)

    async def test_a_foreign_shard_is_not_moved(self, stream: StreamUnderTest) -> None:
        """A shard that is not ours stays where it is."""
        async with reading(stream.source()) as reader:
            await reader.until(lambda: reader.owns(stream.shards))
            with pytest.raises(ShardLost):
                await reader.source.seek("nobodys-0", 0, EMPTY)

    # -- pauses --------------------------------------------------------------------------------------------------------

    async def test_a_paused_shard_waits_and_others_go_on(self, stream: StreamUnderTest) -> None:
        """Nothing of a paused shard is received until it is resumed; then all of it, in order."""
        first, second = stream.shards[:2]
        async with reading(stream.source()) as reader:
            await reader.until(lambda: reader.owns(stream.shards))
            reader.source.pause(first)
            await stream.send(first, _numbered("a", 10))
            await stream.send(second, _numbered("b", 10))
            await reader.until(lambda: len(reader.bodies(second)) == 10)
            assert reader.bodies(first) == []
            reader.source.resume(first)
            await reader.until(lambda: len(reader.bodies(first)) >= 10)
            assert reader.bodies(first) == _numbered("a", 10)

    async def test_pauses_of_foreign_shards_are_no_mistake(self, stream: StreamUnderTest) -> None:
        """Pausing or resuming what is not owned, or not paused, changes nothing."""
        shard = stream.shards[0]
        async with reading(stream.source()) as reader:
            await reader.until(lambda: reader.owns(stream.shards))
            reader.source.pause("no such shard")
            reader.source.resume("no such shard")
            reader.source.resume(shard)
            await stream.send(shard, _numbered("a", 3))
            await reader.until(lambda: len(reader.bodies(shard)) == 3)

    async def test_repeated_pauses_lose_nothing(self, stream: StreamUnderTest) -> None:
        """A shard that is paused and resumed after each receive loses and repeats nothing."""
        shard = stream.shards[0]
        bodies = _numbered("a", 200)
        async with opened(stream.source()) as reader:
            for start in range(0, 200, 20):
                await stream.send(shard, bodies[start : start + 20])
                if await reader.receive():
                    reader.source.pause(shard)
                    await reader.receive(wait_s=0)
                    reader.source.resume(shard)
            await reader.receive_until(lambda: len(reader.bodies(shard)) >= 200)
            assert reader.bodies(shard) == bodies

    # -- lag -----------------------------------------------------------------------------------------------------------

    async def test_lag_counts_what_is_not_settled(self, stream: StreamUnderTest) -> None:
        """Lag is what lies between checkpoint and end, and 0 when all is settled."""
        shard = stream.shards[0]
        async with reading(stream.source()) as reader:
            positions = await stream.send(shard, _numbered("a", 10))
            await reader.until(lambda: len(reader.bodies(shard)) == 10)
            await reader.settle(shard, positions[4], is_urgent=True)
            lag = {entry.shard: entry for entry in await reader.source.lag()}[shard]
            assert (lag.checkpoint, lag.lag) == (positions[4], 6)
            await reader.settle(shard, positions[-1] + 1, is_urgent=True)
            lag = {entry.shard: entry for entry in await reader.source.lag()}[shard]
            assert (lag.lag, lag.end) == (0, positions[-1] + 1)

    # -- loss ----------------------------------------------------------------------------------------------------------

    async def test_records_that_retention_took_are_named(self, stream: StreamUnderTest) -> None:
        """A checkpoint that the oldest record has passed gives the lost range, before the records after it."""
        shard = stream.shards[0]
        async with reading(stream.source()) as reader:
            positions = await stream.send(shard, _numbered("a", 10))
            await reader.until(lambda: len(reader.bodies(shard)) == 10)
            await reader.settle(shard, positions[2], is_urgent=True)
        await stream.trim(shard, positions[6])
        async with reading(stream.source()) as reader:
            await reader.until(lambda: len(reader.bodies(shard)) >= 4)
            assert reader.lost == [LostRange(shard=shard, first=positions[2], last=positions[6] - 1)]
            assert reader.bodies(shard) == _numbered("a", 10)[6:]

    async def test_a_missing_stream_is_named(self, stream: StreamUnderTest) -> None:
        """Opening what does not exist raises SourceUnavailable, which says what is missing and where."""
        source, words = stream.missing_source()
        with anyio.fail_after(HAPPENS_WITHIN_S), pytest.raises(SourceUnavailable) as caught:
            await source.open(Reader(source))
        await source.aclose()
        for word in words:
            assert word in str(caught.value)

    # -- owners --------------------------------------------------------------------------------------------------------

    async def test_a_second_owner_shares_and_the_first_gets_all_back(self, stream: StreamUnderTest) -> None:
        """Rebalance: no shard has two owners; what the second settled, the first does not receive again."""
        source = stream.source()
        if not source.capabilities.has_rebalance:
            await source.aclose()
            pytest.skip("StreamCapabilities.has_rebalance is not claimed")
        async with reading(source) as first:
            await first.until(lambda: first.owns(stream.shards))
            first.settles_on_revoke = True
            async with reading(stream.source()) as second:
                second.settles_on_revoke = True
                await second.until(lambda: bool(second.taken))
                await first.until(lambda: bool(first.taken) and not set(first.taken) & set(second.taken))
                for shard in stream.shards:
                    await stream.send(shard, _numbered(shard, 5))
                owner = {shard: reader for reader in (first, second) for shard in reader.taken}
                assert set(owner) == set(stream.shards)
                for shard, reader in owner.items():
                    await reader.until(lambda reader=reader, shard=shard: len(reader.bodies(shard)) == 5)  # type: ignore[misc]
                    await reader.settle(shard, reader.positions(shard)[-1] + 1)
            await first.until(lambda: first.owns(stream.shards))
            for shard in stream.shards:
                await stream.send(shard, [b"after"])
                await first.until(lambda shard=shard: first.bodies(shard)[-1:] == [b"after"])  # type: ignore[misc]
        for shard in stream.shards:
            received = [*first.bodies(shard)]
            assert received.count(b"after") == 1
            assert len(received) == len(set(received)), "settled records came again"

    async def test_a_newer_owner_ends_the_older_one(self, stream: StreamUnderTest) -> None:
        """Without rebalance whoever opens later owns: the settle of the owner before is refused and writes nothing."""
        shard = stream.shards[0]
        source = stream.source()
        if source.capabilities.has_rebalance:
            await source.aclose()
            pytest.skip("StreamCapabilities.has_rebalance is claimed: owners share")
        await stream.send(shard, _numbered("a", 5))
        async with opened(source) as older:
            await older.receive_until(lambda: len(older.bodies(shard)) == 5)
            async with opened(stream.source()) as newer:
                await newer.receive_until(lambda: len(newer.bodies(shard)) == 5)
                await newer.settle(shard, newer.positions(shard)[2], is_urgent=True)
                with pytest.raises(ShardLost):
                    await older.settle(shard, older.positions(shard)[4], is_urgent=True)
                assert await stream.checkpoint(shard) == (newer.positions(shard)[2], EMPTY)

    async def test_what_was_sent_survives_a_restart(self, stream: StreamUnderTest) -> None:
        """Records and checkpoints are there after a restart, and an open source goes on by itself or says why not."""
        shard = stream.shards[0]
        source = stream.source()
        if not source.capabilities.survives_restart:
            await source.aclose()
            pytest.skip("StreamCapabilities.survives_restart is not claimed")
        async with reading(source) as reader:
            await stream.send(shard, _numbered("a", 5))
            await reader.until(lambda: len(reader.bodies(shard)) == 5)
            await reader.settle(shard, reader.positions(shard)[3], is_urgent=True)
        await stream.restart()
        async with reading(stream.source()) as reader:
            await reader.until(lambda: len(reader.bodies(shard)) == 2)
            assert reader.bodies(shard) == _numbered("a", 5)[3:]

    async def test_an_open_window_goes_with_its_checkpoint(self, stream: StreamUnderTest) -> None:
        """`keeps_windows`: what `ShardState.window` was at a checkpoint is there with it, and gone after a move."""
        shard = stream.shards[0]
        source = stream.source()
        if not source.capabilities.keeps_windows:
            await source.aclose()
            pytest.skip("StreamCapabilities.keeps_windows is not claimed")
        window = Window(start_ms=0, end_ms=10_000, state=b'{"large": "' + b"x" * 1_000_000 + b'"}')
        await stream.send(shard, _numbered("a", 5))
        async with reading(source) as reader:
            await reader.until(lambda: len(reader.bodies(shard)) == 5)
            assert reader.taken[shard].state.window is None
            await reader.settle(shard, 2, ShardState(parts=(Part(last=3, attempt=1),), window=window))
        async with reading(stream.source()) as reader:
            await reader.until(lambda: shard in reader.taken)
            assert reader.taken[shard].state == ShardState(parts=(Part(last=3, attempt=1),), window=window)
            await reader.settle(shard, 4, ShardState(window=window))
            await reader.settle(shard, 5, EMPTY)
        async with reading(stream.source()) as reader:
            await reader.until(lambda: shard in reader.taken)
            assert reader.taken[shard].state.window is None
            await reader.settle(shard, 5, ShardState(window=window))
            await reader.seek(shard, 1)
        async with reading(stream.source()) as reader:
            await reader.until(lambda: shard in reader.taken)
            assert reader.taken[shard].state.window is None

    # -- the event -----------------------------------------------------------------------------------------------------

    async def test_the_shape_names_every_record(self, stream: StreamUnderTest) -> None:
        """Events are JSON, identifiers are unique within a batch, and what is none is not taken for one."""
        shard = stream.shards[0]
        source = stream.source()
        async with reading(source) as reader:
            await stream.send(shard, _numbered("a", 5), key=b"k", headers=(("h", b"\xff"),))
            await reader.until(lambda: len(reader.bodies(shard)) == 5)
        records, shape = reader.records[shard], source.shape
        size = len(msgspec.json.encode(shape.event(records, shard)))
        data = sum((record.size_bytes + 2) // 3 * 4 + 8 if shape.is_base64 else record.size_bytes for record in records)
        assert size <= data + shape.record_overhead_bytes * len(records) + 1024
        identifiers = [shape.identifier(record, shard) for record in records]
        assert len(set(identifiers)) == 5
        assert next(iter(shape.batch_info(records, shard))).endswith("BatchInfo")
        for value in (None, 1.5, [], [1], {}, {"a": 1}, True):
            assert shape.read_identifier(value) not in identifiers


async def _cancel_after(scope: anyio.CancelScope, steps: int) -> None:
    for _ in range(steps):
        await anyio.lowlevel.checkpoint()
    scope.cancel()

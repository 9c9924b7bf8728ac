"""The kit for `StreamSource`: order, checkpoints, failing work, pauses, owners, loss.

Subclass `StreamConformance` as a class whose name begins with `Test`, and give it a fixture ``stream`` that yields a
new `StreamUnderTest` for each test. Tests are coroutines: run them with pytest-asyncio in its auto mode. Nothing here
depends on how fast anything is; `HAPPENS_WITHIN_S` bounds what has to happen at all.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

import anyio
import anyio.lowlevel
import msgspec
import pytest

from eventcore.delivery.ordering import EMPTY, Part, ShardState
from eventcore.errors import ShardLost, SourceUnavailable
from eventcore.model import Record
from eventcore.ports.connectors import StartingPosition
from eventcore.ports.sources import LostRange, StreamSource, TakenShard

#: Whatever a test waits for has happened by then, seconds: ten times what a rebalance on a busy machine takes.
HAPPENS_WITHIN_S = 30.0
#: One receive of the reader, seconds: short, so that a test that has seen enough ends soon.
RECEIVE_WAIT_S = 0.5
#: An empty receive may come back this much later than asked for, seconds.
RECEIVE_MARGIN_S = 10.0

TRIM_HORIZON = StartingPosition("TRIM_HORIZON")
LATEST = StartingPosition("LATEST")

FAILING = ShardState(parts=(Part(last=7, attempt=2, first_failure_ms=1_700_000_000_000, request_id="r-1", marks=1),))


class StreamUnderTest(Protocol):
    """One stream, made for one test, and the sources that read it."""

    #: Names of the stream's shards, as the source gives them: at least two.
    shards: Sequence[str]

    def source(self, *, mapping: str = "first", starting_position: StartingPosition = TRIM_HORIZON) -> StreamSource:
        """Return a new source for a mapping, not opened. Sources of one mapping share its checkpoints."""
        ...

    def missing_source(self) -> tuple[StreamSource, Sequence[str]]:
        """Return a source of a stream that does not exist, and the words that its error must contain."""
        ...

    async def send(
        self,
        shard: str,
        bodies: Sequence[bytes],
        *,
        key: bytes | None = None,
        headers: tuple[tuple[str, bytes], ...] = (),
    ) -> Sequence[int]:
        """Append records to one shard, and return their positions."""
        ...

    async def checkpoint(self, shard: str, *, mapping: str = "first") -> tuple[int, ShardState]:
        """Return what the next owner would find, read past the source: (-1, EMPTY) when nothing was ever settled."""
        ...

    async def pass_time(self, ms: int) -> None:
        """Let the stream's wall time pass: records sent later arrive later."""
        ...

    async def trim(self, shard: str, before: int) -> None:
        """Drop the records of a shard before a position, as retention would."""
        ...

    async def restart(self) -> None:
        """Restart what holds the stream; asked for where `StreamCapabilities.survives_restart` is claimed."""
        ...


class Reader:
    """Drives a source as an engine does, and notes what it is told; settles nothing by itself."""

    def __init__(self, source: StreamSource) -> None:
        self.source = source
        self.taken: dict[str, TakenShard] = {}  #: shards owned now
        self.history: list[tuple[str, str]] = []  #: ("taken" | "revoked" | "lost", shard), in order
        self.records: dict[str, list[Record]] = {}  #: by shard, since the reader began
        self.lost: list[LostRange] = []
        self.settles_on_revoke = False
        self._changed = anyio.Event()

    # -- ShardListener -------------------------------------------------------------------------------------------------

    async def on_taken(self, shards: Sequence[TakenShard]) -> None:
        """Note shards that are owned."""
        for taken in shards:
            self.taken[taken.shard] = taken
            self.history.append(("taken", taken.shard))
        self._notify()

    async def on_revoked(self, shards: Sequence[str]) -> None:
        """Settle all that was received of shards, if told to, and let them go."""
        for shard in shards:
            if self.settles_on_revoke and self.records.get(shard):
                await self.settle(shard, self.records[shard][-1].position + 1)
        self._drop("revoked", shards)

    async def on_lost(self, shards: Sequence[str]) -> None:
        """Let shards go."""
        self._drop("lost", shards)

    def _drop(self, how: str, shards: Sequence[str]) -> None:
        for shard in shards:
            self.taken.pop(shard, None)
            self.history.append((how, shard))
        self._notify()

    # -- what tests do -------------------------------------------------------------------------------------------------

    async def receive(self, wait_s: float = RECEIVE_WAIT_S) -> int:
        """Receive once and note what came; return how many records it was."""
        count = 0
        for received in await self.source.receive(wait_s=wait_s):
            assert received.shard in self.taken, "records of a shard that is not ours"
            if received.lost is not None:
                self.lost.append(received.lost)
            self.records.setdefault(received.shard, []).extend(received.records)
            count += len(received.records)
        self._notify()
        return count

    async def receive_until(self, condition: Callable[[], bool]) -> None:
        """Receive again and again until something has happened; for readers that nobody runs."""
        with anyio.fail_after(HAPPENS_WITHIN_S):
            while not condition():
                await self.receive()

    async def run(self) -> None:
        """Receive until cancelled, or until the source raises."""
        while True:
            await self.receive()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that the reader is told."""
        with anyio.fail_after(HAPPENS_WITHIN_S):
            while not condition():
                await self._changed.wait()

    async def settle(self, shard: str, checkpoint: int, state: ShardState = EMPTY, *, is_urgent: bool = False) -> None:
        """Settle as the shard's owner."""
        await self.source.settle(shard, self.taken[shard].epoch, checkpoint, state, is_urgent=is_urgent)

    def bodies(self, shard: str) -> list[bytes | None]:
        """Return the bodies received of a shard."""
        return [record.body for record in self.records.get(shard, ())]

    def positions(self, shard: str) -> list[int]:
        """Return the positions received of a shard."""
        return [record.position for record in self.records.get(shard, ())]

    def owns(self, shards: Sequence[str]) -> bool:
        """Tell whether exactly these shards are owned."""
        return set(self.taken) == set(shards)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


@asynccontextmanager
async def reading(source: StreamSource) -> AsyncIterator[Reader]:
    """Open a source, receive in the background, and close it at the end."""
    reader = Reader(source)
    await source.open(reader)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reader.run)
            yield reader
            tasks.cancel_scope.cancel()
    finally:
        with anyio.move_on_after(HAPPENS_WITHIN_S, shield=True):
            await source.aclose()


@asynccontextmanager
async def opened(source: StreamSource) -> AsyncIterator[Reader]:
    """Open a source for a test that receives by itself, and close it at the end."""
    reader = Reader(source)
    await source.open(reader)
    try:
        yield reader
    finally:
        with anyio.move_on_after(HAPPENS_WITHIN_S, shield=True):
            await source.aclose()


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

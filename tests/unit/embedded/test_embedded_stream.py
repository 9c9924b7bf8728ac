"""The embedded stream: what it adds to the store's streams. Virtual time, memory store.

Source: Lambda semantics §4; design §3.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from eventcore.clock import LoopClock
from eventcore.delivery.hash_keys import share_of
from eventcore.delivery.ordering import EMPTY, Part, ShardState
from eventcore.embedded.appending import APPEND_MAX, append_records
from eventcore.embedded.reading import READ_BYTES_MAX, READ_RECORDS_MAX
from eventcore.embedded.sharding import shard_name
from eventcore.embedded.stream import READS_MAX, EmbeddedStream, checkpoint_shard
from eventcore.embedded.trimming import TRIM_STEP_RECORDS, TRIM_STEPS_MAX, trim_stream
from eventcore.errors import (
    CommandError,
    ProgrammingError,
    ShardLost,
    SourceClosed,
    SourceUnavailable,
    StoreUnavailable,
)
from eventcore.ids import SeededIds
from eventcore.model import TimestampKind
from eventcore.ports.connectors import OutgoingRecord, StartingPosition
from eventcore.ports.sources import LostRange, ShardRecords, TakenShard
from eventcore.ports.store import (
    BODY_BYTES_MAX,
    AppendRecords,
    DefineStream,
    NewRecord,
    Operation,
    SeekCheckpoint,
    ShardExtent,
    StoredRecord,
    StreamSettings,
    TrimStream,
)
from eventcore.store.memory import MemoryStore
from eventcore.testing.virtual_loop import run_virtual

FIRST = shard_name(0)
TRIM_HORIZON = StartingPosition("TRIM_HORIZON")
LATEST = StartingPosition("LATEST")


class FaultyStore(MemoryStore):
    """A memory store that can fail to write, and read nothing once while something else happens."""

    failure: Exception | None = None
    meanwhile: Callable[[], Awaitable[None] | None] | None = None
    extents_calls = 0

    async def read(self, *arguments: Any, **limits: Any) -> Sequence[StoredRecord]:
        if self.meanwhile is None:
            return await super().read(*arguments, **limits)
        meanwhile, self.meanwhile = self.meanwhile, None
        if (waiting := meanwhile()) is not None:
            await waiting
        return []

    async def extents(self, stream: str) -> Sequence[ShardExtent]:
        self.extents_calls += 1
        assert self.extents_calls < 1000, "a receive asks the store over and over"
        return await super().extents(stream)

    async def commit(self, operations: Sequence[Operation]) -> list[Any]:
        if self.failure is not None:
            raise self.failure
        return await super().commit(operations)


class Listener:
    """Notes which shards come and go, in order."""

    def __init__(self) -> None:
        self.taken: dict[str, TakenShard] = {}
        self.history: list[tuple[str, str]] = []

    async def on_taken(self, shards: Sequence[TakenShard]) -> None:
        for taken in shards:
            self.taken[taken.shard] = taken
            self.history.append(("taken", taken.shard))

    async def on_revoked(self, shards: Sequence[str], *, why: str = "") -> None:
        del why
        self.history += [("revoked", shard) for shard in shards]

    async def on_lost(self, shards: Sequence[str]) -> None:
        self.history += [("lost", shard) for shard in shards]


class Case:
    """A stream and its store."""

    def __init__(self) -> None:
        self.store = FaultyStore()
        self.clock = LoopClock()
        self.ids = SeededIds(1)

    async def define(self, shards: int = 1, name: str = "orders", **settings: Any) -> StreamSettings:
        defined = StreamSettings(shards=shards, **settings)
        await self.store.commit([DefineStream(stream=name, settings=defined)])
        return defined

    async def append(self, count: int, *, shard: int = 0, name: str = "orders", size_bytes: int = 1) -> None:
        records = tuple(NewRecord(shard=shard, body=b"x" * size_bytes) for _ in range(count))
        await self.store.commit([AppendRecords(stream=name, records=records, now_ms=self.clock.now_ms())])

    async def drop(self, count: int) -> None:
        before_ms = self.clock.now_ms() + 1
        await self.store.commit([TrimStream(stream="orders", before_ms=before_ms, count_max=count)])

    @asynccontextmanager
    async def opened(self, position: StartingPosition = TRIM_HORIZON, *, name: str = "orders"):
        listener = Listener()
        source = EmbeddedStream(
            name,
            store=self.store,
            mapping="m",
            starting_position=position,
            region="us-east-1",
            account_id="000000000000",
        )
        await source.open(listener)
        yield source, listener
        await source.aclose()


def virtually(scenario: Callable[[Case], Awaitable[None]], *, shards: int = 1) -> None:
    async def body() -> None:
        case = Case()
        await case.define(shards)
        await scenario(case)

    run_virtual(body)


def positions(received: Sequence[ShardRecords]) -> dict[str, list[int]]:
    return {entry.shard: [record.position for record in entry.records] for entry in received}


# -- starting positions ------------------------------------------------------------------------------------------------


def test_latest_is_kept_by_a_crash_before_the_first_settle() -> None:
    """What came after the mapping was first opened is not skipped when it is opened again."""

    async def scenario(case: Case) -> None:
        await case.append(3)
        async with case.opened(LATEST):
            await case.append(2)
        async with case.opened(LATEST) as (source, _):
            assert positions(await source.receive(wait_s=0)) == {FIRST: [3, 4]}

    virtually(scenario)


@pytest.mark.parametrize("position", [TRIM_HORIZON, StartingPosition("AT_TIMESTAMP", LoopClock.START_MS)])
def test_what_expires_before_the_first_settle_is_named(position: StartingPosition) -> None:
    """A mapping that has begun and settled nothing loses records by name too: never a silent jump."""

    async def scenario(case: Case) -> None:
        await case.append(5)
        async with case.opened(position):
            pass
        await case.drop(3)
        async with case.opened(position) as (source, _):
            (received,) = await source.receive(wait_s=0)
        assert received.lost == LostRange(shard=FIRST, first=0, last=2)
        assert positions([received]) == {FIRST: [3, 4]}

    virtually(scenario)


def test_trim_horizon_begins_with_the_oldest_record_that_is_kept() -> None:
    """What was gone before the mapping came is not lost to it."""

    async def scenario(case: Case) -> None:
        await case.append(5)
        await case.drop(3)
        async with case.opened() as (source, _):
            (received,) = await source.receive(wait_s=0)
        assert received.lost is None
        assert positions([received]) == {FIRST: [3, 4]}

    virtually(scenario)


def test_one_lost_record_is_named_too() -> None:
    async def scenario(case: Case) -> None:
        await case.append(3)
        async with case.opened() as (source, _):
            await case.drop(1)
            (received,) = await source.receive(wait_s=0)
        assert received.lost == LostRange(shard=FIRST, first=0, last=0)

    virtually(scenario)


def test_at_timestamp_begins_with_the_first_record_that_arrived_then() -> None:
    async def scenario(case: Case) -> None:
        await case.append(2)
        await anyio.sleep(10)
        await case.append(2)
        async with case.opened(StartingPosition("AT_TIMESTAMP", LoopClock.START_MS + 1)) as (source, listener):
            assert listener.taken[FIRST].checkpoint == 2
            assert positions(await source.receive(wait_s=0)) == {FIRST: [2, 3]}

    virtually(scenario)


def test_a_new_shard_of_a_seek_begins_where_the_seek_said() -> None:
    """A checkpoint of a seek wins over the starting position; -1 means the starting position again."""

    async def scenario(case: Case) -> None:
        await case.append(4)
        shard = checkpoint_shard("orders", FIRST)
        await case.store.commit([SeekCheckpoint(mapping="m", shard=shard, position=3)])
        async with case.opened() as (source, _):
            assert positions(await source.receive(wait_s=0)) == {FIRST: [3]}
        await case.store.commit([SeekCheckpoint(mapping="m", shard=shard, position=-1)])
        async with case.opened() as (source, _):
            assert positions(await source.receive(wait_s=0)) == {FIRST: [0, 1, 2, 3]}

    virtually(scenario)


def test_an_unknown_starting_position_is_a_mistake_of_the_program() -> None:
    async def scenario(case: Case) -> None:
        with pytest.raises(ProgrammingError, match="NOWHERE"):
            async with case.opened(StartingPosition("NOWHERE")):
                pass

    virtually(scenario)


def test_a_source_is_opened_once() -> None:
    async def scenario(case: Case) -> None:
        async with case.opened() as (source, listener):
            with pytest.raises(ProgrammingError, match="opened before"):
                await source.open(listener)

    virtually(scenario)


def test_a_mapping_that_is_pointed_at_another_stream_begins_there_anew() -> None:
    """The checkpoint is the stream's as well as the mapping's."""

    async def scenario(case: Case) -> None:
        await case.define(name="others")
        await case.append(5)
        await case.append(2, name="others")
        async with case.opened() as (source, listener):
            await source.settle(FIRST, listener.taken[FIRST].epoch, 5, EMPTY, is_urgent=False)
        async with case.opened(name="others") as (source, _):
            assert positions(await source.receive(wait_s=0)) == {FIRST: [0, 1]}

    virtually(scenario)


# -- reading -----------------------------------------------------------------------------------------------------------


def test_a_receive_is_bounded_in_records_and_goes_on_where_it_stopped() -> None:
    async def scenario(case: Case) -> None:
        await case.append(READ_RECORDS_MAX * 2 + 1)
        async with case.opened() as (source, _):
            sizes, seen = [], []
            while received := await source.receive(wait_s=0):
                (entry,) = received
                sizes.append(len(entry.records))
                seen += [record.position for record in entry.records]
        assert sizes == [READ_RECORDS_MAX, READ_RECORDS_MAX, 1]
        assert seen == list(range(READ_RECORDS_MAX * 2 + 1))

    virtually(scenario)


def test_a_receive_is_bounded_in_bytes() -> None:
    """One large record more than the bound at most."""

    async def scenario(case: Case) -> None:
        await case.append(12, size_bytes=BODY_BYTES_MAX)
        async with case.opened() as (source, _):
            (entry,) = await source.receive(wait_s=0)
            assert 1 <= len(entry.records) <= READ_BYTES_MAX // BODY_BYTES_MAX + 1

    virtually(scenario)


def test_a_receive_is_bounded_in_bytes_over_all_shards() -> None:
    async def scenario(case: Case) -> None:
        for shard in range(4):
            await case.append(3, shard=shard, size_bytes=BODY_BYTES_MAX)
        async with case.opened() as (source, _):
            received = await source.receive(wait_s=0)
            assert sum(len(entry.records) for entry in received) <= READ_BYTES_MAX // BODY_BYTES_MAX + 1

    virtually(scenario, shards=4)


def test_records_say_when_the_stream_took_them() -> None:
    async def scenario(case: Case) -> None:
        await anyio.sleep(5)
        await case.append(1, size_bytes=7)
        async with case.opened() as (source, _):
            ((record,),) = [entry.records for entry in await source.receive(wait_s=0)]
            assert record.timestamp_kind is TimestampKind.LOG_APPEND_TIME
            assert (record.arrived_ms, record.size_bytes) == (LoopClock.START_MS + 5000, 7)

    virtually(scenario)


def test_many_shards_all_get_their_turn() -> None:
    """However full some shards are, the others' first records come within shards / READS_MAX receives and a few."""
    shards = READS_MAX * 3

    async def scenario(case: Case) -> None:
        for shard in range(shards):
            await case.append(READ_RECORDS_MAX * 3 if shard == 0 else 1, shard=shard)
        async with case.opened() as (source, _):
            seen: set[str] = set()
            for _ in range(shards // READS_MAX + 2):
                received = positions(await source.receive(wait_s=0))
                assert len(received) <= READS_MAX
                seen |= set(received)
        assert seen == {shard_name(index) for index in range(shards)}

    virtually(scenario, shards=shards)


def test_a_shard_that_expired_whole_is_named_at_once() -> None:
    """Without waiting for the next record: the lag can reach 0."""

    async def scenario(case: Case) -> None:
        await case.append(5)
        async with case.opened() as (source, listener):
            await case.drop(5)
            (received,) = await source.receive(wait_s=0)
            assert received == ShardRecords(FIRST, [], LostRange(shard=FIRST, first=0, last=4))
            await source.settle(FIRST, listener.taken[FIRST].epoch, 5, EMPTY, is_urgent=False)
            assert [entry.lag for entry in await source.lag()] == [0]
            assert not await source.receive(wait_s=0)

    virtually(scenario)


def test_lag_does_not_count_what_is_gone() -> None:
    async def scenario(case: Case) -> None:
        await case.append(5)
        async with case.opened() as (source, _):
            await case.drop(3)
            (lag,) = await source.lag()
            assert (lag.checkpoint, lag.end, lag.lag) == (0, 5, 2)

    virtually(scenario)


def test_what_is_appended_wakes_a_waiting_receive() -> None:
    async def scenario(case: Case) -> None:
        async with case.opened() as (source, _), anyio.create_task_group() as tasks:

            async def append_later() -> None:
                await anyio.sleep(10)
                await case.append(1)

            tasks.start_soon(append_later)
            assert positions(await source.receive(wait_s=1000)) == {FIRST: [0]}
            assert anyio.current_time() == 10

    virtually(scenario)


@pytest.mark.parametrize("steps", range(8))
def test_a_resumed_shard_wakes_a_waiting_receive(steps: int) -> None:
    """At any moment: while it waits, and while it asks the store."""

    async def scenario(case: Case) -> None:
        await case.append(1)
        async with case.opened() as (source, _):
            source.pause(FIRST)
            received: list[Any] = []

            async def receive() -> None:
                received.append(positions(await source.receive(wait_s=1000)))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(receive)
                for _ in range(steps):
                    await anyio.lowlevel.checkpoint()
                source.resume(FIRST)
            assert received == [{FIRST: [0]}]
            assert anyio.current_time() == 0

    virtually(scenario)


@pytest.mark.parametrize("steps", range(8))
def test_a_shard_that_is_paused_while_it_is_read_is_not_returned(steps: int) -> None:
    """And nothing of it is lost."""

    async def scenario(case: Case) -> None:
        await case.append(2)
        async with case.opened() as (source, _):
            received: list[Sequence[ShardRecords]] = []

            async def receive() -> None:
                received.append(await source.receive(wait_s=5))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(receive)
                for _ in range(steps):
                    await anyio.lowlevel.checkpoint()
                source.pause(FIRST)
                was_in_time = not received
            if was_in_time:
                assert received == [[]]
                assert anyio.current_time() == 5
                source.resume(FIRST)
                received = [await source.receive(wait_s=0)]
            assert positions(received[0]) == {FIRST: [0, 1]}

    virtually(scenario)


def test_a_shard_that_is_resumed_while_another_is_read_is_not_overlooked() -> None:
    """Nothing wakes the receive later: it must look again before it waits."""

    async def scenario(case: Case) -> None:
        await case.append(1, shard=0)
        await case.append(1, shard=1)
        async with case.opened() as (source, _):
            source.pause(FIRST)
            case.store.meanwhile = lambda: source.resume(FIRST)
            assert FIRST in positions(await source.receive(wait_s=1000))
            assert anyio.current_time() == 0

    virtually(scenario, shards=2)


def test_closing_while_a_shard_is_read_ends_the_receive() -> None:
    async def scenario(case: Case) -> None:
        await case.append(1)
        async with case.opened() as (source, _):
            case.store.meanwhile = source.aclose
            with pytest.raises(SourceClosed):
                await source.receive(wait_s=1000)
            assert anyio.current_time() == 0

    virtually(scenario)


def test_a_receive_after_a_resume_waits_again() -> None:
    """The wake-up of a resume is used up by one look at the store."""

    async def scenario(case: Case) -> None:
        async with case.opened() as (source, _):
            source.pause(FIRST)
            source.resume(FIRST)
            before = case.store.extents_calls
            assert not await source.receive(wait_s=5)
            assert anyio.current_time() == 5
            assert case.store.extents_calls - before <= 3

    virtually(scenario)


def test_closing_ends_a_waiting_receive() -> None:
    async def scenario(case: Case) -> None:
        async with case.opened() as (source, _), anyio.create_task_group() as tasks:

            async def receive() -> None:
                with pytest.raises(SourceClosed):
                    await source.receive(wait_s=1000)

            tasks.start_soon(receive)
            await anyio.sleep(1)
            await source.aclose()
        assert anyio.current_time() == 1

    virtually(scenario)


# -- settling and owners -----------------------------------------------------------------------------------------------


def test_a_shard_whose_checkpoint_was_moved_by_hand_is_taken_again_from_there() -> None:
    """The settle is refused, the listener is told, and reading goes on where the hand has put it."""

    async def scenario(case: Case) -> None:
        await case.append(5)
        async with case.opened() as (source, listener):
            assert positions(await source.receive(wait_s=0)) == {FIRST: [0, 1, 2, 3, 4]}
            epoch = listener.taken[FIRST].epoch
            seek = SeekCheckpoint(mapping="m", shard=checkpoint_shard("orders", FIRST), position=2)
            await case.store.commit([seek])
            failing = ShardState(parts=(Part(last=4, attempt=1),))
            for _ in range(2):
                with pytest.raises(ShardLost) as caught:
                    await source.settle(FIRST, epoch, 4, failing, is_urgent=True)
                assert (caught.value.shard, caught.value.epoch) == (FIRST, epoch)
            assert positions(await source.receive(wait_s=0)) == {FIRST: [2, 3, 4]}
            assert listener.history == [("taken", FIRST), ("lost", FIRST), ("taken", FIRST)]
            assert listener.taken[FIRST].checkpoint == 2
            assert listener.taken[FIRST].state == EMPTY
            await source.settle(FIRST, listener.taken[FIRST].epoch, 4, EMPTY, is_urgent=False)
            await source.receive(wait_s=0)
            assert len(listener.history) == 3

    virtually(scenario)


def test_a_lost_shard_wakes_a_waiting_receive() -> None:
    """An idle shard that is moved back is read again as soon as a settle finds out."""

    async def scenario(case: Case) -> None:
        await case.append(2)
        async with case.opened() as (source, listener), anyio.create_task_group() as tasks:
            await source.receive(wait_s=0)
            received: list[Any] = []

            async def receive() -> None:
                received.append(positions(await source.receive(wait_s=1000)))

            tasks.start_soon(receive)
            await anyio.sleep(1)
            seek = SeekCheckpoint(mapping="m", shard=checkpoint_shard("orders", FIRST), position=0)
            await case.store.commit([seek])
            with pytest.raises(ShardLost):
                await source.settle(FIRST, listener.taken[FIRST].epoch, 2, EMPTY, is_urgent=False)
            await anyio.sleep(1)
            assert received == [{FIRST: [0, 1]}]

    virtually(scenario)


def test_a_newer_owner_is_respected_until_it_is_gone() -> None:
    """What the older one settles is refused, and changes nothing of what the newer one keeps."""

    async def scenario(case: Case) -> None:
        await case.append(5)
        async with case.opened() as (older, older_listener), case.opened() as (newer, newer_listener):
            failing = ShardState(parts=(Part(last=4, attempt=1),))
            await newer.settle(FIRST, newer_listener.taken[FIRST].epoch, 3, failing, is_urgent=True)
            with pytest.raises(ShardLost):
                await older.settle(FIRST, older_listener.taken[FIRST].epoch, 5, EMPTY, is_urgent=False)
            (kept,) = await case.store.checkpoints("m")
            assert (kept.position, kept.state) == (3, failing)

    virtually(scenario)


def test_a_store_that_can_not_write_is_a_source_that_is_away() -> None:
    async def scenario(case: Case) -> None:
        async with case.opened() as (source, listener):
            case.store.failure = StoreUnavailable("disk full")
            with pytest.raises(SourceUnavailable, match="disk full"):
                await source.settle(FIRST, listener.taken[FIRST].epoch, 0, EMPTY, is_urgent=True)
            with pytest.raises(SourceUnavailable, match="disk full"):
                async with case.opened():
                    pass
            case.store.failure = None
            await source.settle(FIRST, listener.taken[FIRST].epoch, 0, EMPTY, is_urgent=True)

    virtually(scenario)


# -- appending ---------------------------------------------------------------------------------------------------------


def test_a_key_decides_the_shard() -> None:
    async def scenario(case: Case) -> None:
        records = [OutgoingRecord(body=b"%d" % n, key=b"k%d" % (n % 5), headers=(("h", b"1"),)) for n in range(50)]
        placed = await append_records(case.store, "orders", records, clock=case.clock, ids=case.ids)
        assert [shard for shard, _ in placed] == [shard_name(share_of(record.key, 4)) for record in records]
        for (shard, position), record in zip(placed, records, strict=True):
            index = int(shard[-12:])
            (stored,) = await case.store.read("orders", index, position, count_max=1, size_bytes_max=1)
            assert (stored.body, stored.key, stored.headers) == (record.body, record.key, record.headers)
            assert stored.arrived_ms == LoopClock.START_MS

    virtually(scenario, shards=4)


def test_records_without_a_key_are_dealt_out_evenly() -> None:
    """In turn, and not always from the first shard on."""

    async def scenario(case: Case) -> None:
        records = [OutgoingRecord(body=b"")] * 8
        begins = set()
        for _ in range(40):
            placed = await append_records(case.store, "orders", records, clock=case.clock, ids=case.ids)
            shards = [shard for shard, _ in placed]
            assert sorted(shards) == sorted([shard_name(index) for index in range(4)] * 2)
            begins.add(shards[0])
        assert len(begins) == 4

    virtually(scenario, shards=4)


def test_what_can_not_be_appended_is_refused_whole() -> None:
    async def scenario(case: Case) -> None:
        short = OutgoingRecord(body=b"")
        for stream, records, message in (
            ("elsewhere", [short], "there is no stream elsewhere"),
            ("orders", [short, OutgoingRecord(body=b"x" * (BODY_BYTES_MAX + 1))], "at most 1048576 bytes"),
            ("orders", [short] * (APPEND_MAX + 1), "at most 10000"),
        ):
            with pytest.raises(CommandError, match=message):
                await append_records(case.store, stream, records, clock=case.clock, ids=case.ids)
        assert [extent.end for extent in await case.store.extents("orders")] == [0]
        assert await append_records(case.store, "orders", [], clock=case.clock, ids=case.ids) == []

    virtually(scenario)


# -- retention ---------------------------------------------------------------------------------------------------------


def test_records_past_their_retention_are_trimmed() -> None:
    async def scenario(case: Case) -> None:
        settings = await case.define(retention_period=60)
        await case.append(TRIM_STEP_RECORDS * 2 + 5)
        await anyio.sleep(30)
        await case.append(3)
        assert await trim_stream(case.store, "orders", settings, case.clock.now_ms()) == 0
        await anyio.sleep(31)
        dropped = await trim_stream(case.store, "orders", settings, case.clock.now_ms())
        assert dropped == TRIM_STEP_RECORDS * 2 + 5
        (extent,) = await case.store.extents("orders")
        assert (extent.first, extent.end) == (dropped, dropped + 3)

    virtually(scenario)


def test_a_stream_is_trimmed_to_its_bytes() -> None:
    async def scenario(case: Case) -> None:
        settings = await case.define(retention_bytes=1000)
        await case.append(30, size_bytes=100)
        assert await trim_stream(case.store, "orders", settings, case.clock.now_ms()) == 20

    virtually(scenario)


def test_one_call_of_trimming_is_bounded() -> None:
    """What is left is for the next call."""

    async def scenario(case: Case) -> None:
        settings = await case.define(retention_period=60)
        for _ in range(TRIM_STEPS_MAX + 1):
            await case.append(TRIM_STEP_RECORDS)
        await anyio.sleep(61)
        dropped = [await trim_stream(case.store, "orders", settings, case.clock.now_ms()) for _ in range(3)]
        assert dropped == [TRIM_STEP_RECORDS * TRIM_STEPS_MAX, TRIM_STEP_RECORDS, 0]

    virtually(scenario)

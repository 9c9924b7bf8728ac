"""The stores agree: whatever is done to them, memory and SQLite answer alike, and read alike afterwards."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventcore.delivery.ordering import Part, ShardState
from eventcore.errors import FencedOut
from eventcore.ports import store as port
from eventcore.ports.store import Store
from eventcore.store.memory import open_memory_store
from eventcore.store.sqlite import open_sqlite_store

QUEUES = ("one", "two", "three")
STREAMS = ("s", "t")
DESTINATIONS = ("kafka:a", "http:b")
NOW_MS = 1_767_225_600_000

queues = st.sampled_from(QUEUES)
#: Few different values: collisions are what is interesting.
small = st.integers(0, 4)
delays = st.sampled_from([0, 1, 5])
tokens = st.sampled_from(["", "", "", "t", "u"])
bodies = st.sampled_from([b"", b"\x00", b"a\x00\xff", b"xyz"])
headers = st.sampled_from([(), (), (("h", b"\x00\xff"),), (("", b""), ("é", b"2"))])
messages = st.lists(
    st.builds(
        port.NewMessage,
        id=st.sampled_from("abcdefgh"),
        body=bodies,
        headers=headers,
        group=st.sampled_from(["", "g"]),
        delay_s=st.sampled_from([None, None, 0, 3]),
        idempotency_token=tokens,
    ),
    max_size=5,
).map(tuple)
records = st.lists(
    st.builds(
        port.NewRecord,
        shard=st.integers(0, 2),
        body=bodies,
        key=st.sampled_from([None, b"", b"\x00k"]),
        headers=headers,
        idempotency_token=tokens,
    ),
    max_size=4,
).map(tuple)


class Receipts:
    """Stands for receipts of earlier receives: which of them, counted from the latest."""

    def __init__(self, picks: list[int]) -> None:
        self.picks = picks

    def __repr__(self) -> str:
        return f"Receipts({self.picks})"


receipts = st.lists(st.integers(0, 12), max_size=4).map(Receipts)
steps = st.one_of(
    st.tuples(st.just("pass_time"), st.sampled_from([0, 1, 400, 1000, 5000, 60_000])),
    st.tuples(st.just("send"), queues, messages),
    st.tuples(st.just("receive"), queues, st.sampled_from([0, 1, 2, 3, 10]), st.sampled_from([None, 0, 1, 5])),
    st.tuples(st.just("delete"), queues, receipts),
    st.tuples(st.just("change"), queues, receipts, delays),
    st.tuples(st.just("purge"), queues),
    st.tuples(st.just("move"), queues, queues, small, st.sampled_from([0, 0, 3, 8])),
    st.tuples(st.just("drop"), queues, st.lists(st.sampled_from("abcdefgh"), max_size=2)),
    st.tuples(st.just("append"), st.sampled_from(STREAMS), records),
    st.tuples(st.just("trim"), st.sampled_from(STREAMS), st.sampled_from([0, 1000, 5000]), st.integers(1, 3)),
    st.tuples(st.just("take"), st.sampled_from("mn"), st.sampled_from("01")),
    st.tuples(st.just("save"), st.sampled_from("mn"), st.sampled_from("01"), small, small),
    st.tuples(st.just("seek"), st.sampled_from("mn"), st.sampled_from("01"), small),
    st.tuples(st.just("put"), st.sampled_from("abcdef"), st.sampled_from(DESTINATIONS), st.sampled_from("xy"), delays),
    st.tuples(st.just("sent"), st.lists(st.sampled_from("abcdef"), max_size=3)),
    st.tuples(st.just("postpone"), st.sampled_from("abcdef"), delays),
    st.tuples(st.just("keep"), st.sampled_from("abcd"), st.sampled_from("mn"), small),
    st.tuples(st.just("seal"), st.lists(st.sampled_from("abcd"), max_size=2)),
    st.tuples(st.just("forget"), st.lists(st.sampled_from("abcd"), max_size=2)),
    st.tuples(st.just("trim_failures"), st.sampled_from([0, 1000]), st.sampled_from([0, 20, 1000])),
)


def operation(step: tuple, now_ms: int, known: list[str]) -> port.Operation:
    """Return the operation of a step."""
    match step:
        case ("send", queue, new):
            return port.SendMessages(queue=queue, messages=new, now_ms=now_ms)
        case ("receive", queue, count_max, timeout_s):
            return port.ReceiveMessages(queue=queue, count_max=count_max, now_ms=now_ms, visibility_timeout_s=timeout_s)
        case ("delete", queue, Receipts(picks=picks)):
            return port.DeleteMessages(queue=queue, receipts=pick(known, picks))
        case ("change", queue, Receipts(picks=picks), timeout_s):
            return port.ChangeVisibility(queue=queue, receipts=pick(known, picks), timeout_s=timeout_s, now_ms=now_ms)
        case ("purge", queue):
            return port.PurgeQueue(queue=queue)
        case ("move", source, target, count_max, through):
            ids = tuple(f"moved {number}" for number in range(count_max)) if through else ()
            return port.MoveMessages(
                source=source, target=target, count_max=count_max, now_ms=now_ms, ids=ids, through_number=through
            )
        case ("drop", queue, ids):
            return port.DropMessages(queue=queue, ids=tuple(ids))
        case ("append", stream, new):
            return port.AppendRecords(stream=stream, records=new, now_ms=now_ms)
        case ("trim", stream, age_ms, count_max):
            return port.TrimStream(stream=stream, before_ms=now_ms - age_ms, count_max=count_max)
        case ("take", mapping, shard):
            return port.TakeShard(mapping=mapping, shard=shard)
        case ("save", mapping, shard, epoch, position):
            state = ShardState(parts=(Part(last=position, attempt=epoch),)) if epoch % 2 else ShardState()
            return port.SaveCheckpoint(mapping=mapping, shard=shard, epoch=epoch, position=position, state=state)
        case ("seek", mapping, shard, position):
            return port.SeekCheckpoint(mapping=mapping, shard=shard, position=position)
        case ("put", key, destination, lane, delay_s):
            row = port.OutboxRow(
                key=key,
                destination=destination,
                lane=lane,
                payload=b"\x00" * (ord(key) % 3),
                record_key=(None, b"", b"k\x00")[ord(key) % 3],
                attributes={} if delay_s else {"é": key},
                created_ms=now_ms,
                due_ms=now_ms + delay_s * 1000,
            )
            return port.PutOutbox(row=row)
        case ("sent", keys):
            return port.MarkSent(keys=tuple(keys), now_ms=now_ms)
        case ("postpone", key, delay_s):
            return port.PostponeOutbox(key=key, due_ms=now_ms + delay_s * 1000, error=f"for {delay_s} s")
        case ("keep", name, mapping, size):
            return port.KeepFailure(failure=failure(name, mapping, size, now_ms))
        case ("seal", ids):
            return port.SealFailures(ids=tuple(ids), reason="ReceivesExhausted")
        case ("forget", ids):
            return port.DropFailures(ids=tuple(ids))
        case ("trim_failures", age_ms, size_bytes_max):
            return port.TrimFailures(before_ms=now_ms - age_ms, size_bytes_max=size_bytes_max)
    raise AssertionError(step)


def pick(known: list[str], picks: list[int]) -> tuple[str, ...]:
    return tuple(known[-1 - index] for index in picks if index < len(known))


def failure(name: str, mapping: str, size: int, now_ms: int) -> port.Failure:
    return port.Failure(
        id=name,
        mapping=mapping,
        function="f",
        source="queue:one",
        shard="",
        first="1",
        last="1",
        count=1,
        reason="Failing",
        attempts=1,
        created_ms=now_ms,
        event=b"e" * size,
        is_final=False,
    )


async def prepare(store: Store) -> None:
    """Define what the steps name: a queue with a redrive policy, a short retention, a delay; a stream with a bound."""
    await store.commit(
        [
            port.DefineQueue(
                queue="one",
                settings=port.QueueSettings(visibility_timeout=1, dead_letter_queue="two", max_receive_count=2),
            ),
            port.DefineQueue(queue="two", settings=port.QueueSettings(message_retention_period=6)),
            port.DefineQueue(queue="three", settings=port.QueueSettings(visibility_timeout=2, delay=1)),
            port.DefineStream(stream="s", settings=port.StreamSettings(shards=2, retention_bytes=6)),
            port.DefineStream(stream="t", settings=port.StreamSettings(shards=3)),
        ]
    )


async def attempt(store: Store, operations: list[port.Operation]) -> object:
    try:
        return await store.commit(operations)
    except (FencedOut, KeyError, ValueError) as error:
        return type(error)


async def look(store: Store, now_ms: int) -> list[object]:
    """Return everything that can be read."""
    seen: list[object] = [await store.queue_depths(), await store.checkpoints(), await store.outbox_depths()]
    for queue in QUEUES:
        seen.append(await store.peek(queue, count_max=100, now_ms=now_ms))
        seen.append(await store.peek(queue, count_max=2, after_number=2))
    for stream in STREAMS:
        for extent in await store.extents(stream):
            seen.append(extent)
            seen.append(await store.read(stream, extent.shard, 1, count_max=3, size_bytes_max=10_000))
            seen.append(await store.read(stream, extent.shard, 0, count_max=9, size_bytes_max=1))
            seen.append(await store.find_position(stream, extent.shard, now_ms - 1000))
    for destination in DESTINATIONS:
        seen.append(await store.due_outbox(destination, now_ms=now_ms, count_max=3))
        seen.append(await store.next_outbox_ms(destination))
    seen.append(await store.failures(count_max=3))
    seen.append(await store.failures(mapping="m", before_id="a"))
    seen.append(await store.failure("a"))
    return seen


def receipts_in(outcome: object) -> list[str]:
    """Return every receipt that a commit has handed out."""
    found: list[str] = []
    for result in outcome if isinstance(outcome, list) else []:
        if isinstance(result, port.ReceiveResult):
            found.extend(message.receipt for message in result.messages)
        elif isinstance(result, dict):
            found.extend(result.values())
    return found


lists_of_steps = st.lists(st.lists(steps, min_size=1, max_size=3), min_size=5, max_size=40)


@contextmanager
def state_folder() -> Iterator[Path]:
    """Give a folder for one example, in memory where there is one: what is held against each other are answers.

    That they outlive a crash is for the tests that kill engines, on a disk.
    """
    in_memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=in_memory if os.access(in_memory, os.W_OK) else None) as folder:
        yield Path(folder)


async def check_agreement(lists: list[list[tuple]]) -> None:
    """After every list of operations: the same results, or the same error and no effect; the same reads."""
    with state_folder() as folder:
        async with open_memory_store() as memory, open_sqlite_store(folder / "state.db") as sqlite:
            for store in (memory, sqlite):
                await prepare(store)
            now_ms, known = NOW_MS, []
            for steps_of_list in lists:
                now_ms += sum(step[1] for step in steps_of_list if step[0] == "pass_time")
                operations = [operation(step, now_ms, known) for step in steps_of_list if step[0] != "pass_time"]
                expected = await attempt(memory, operations)
                assert await attempt(sqlite, operations) == expected, operations
                known.extend(receipts_in(expected))
                assert await look(sqlite, now_ms) == await look(memory, now_ms), operations


@given(lists_of_steps)
def test_memory_and_sqlite_agree(lists):
    """Whatever is done to them."""
    anyio.run(check_agreement, lists)


@given(lists_of_steps)
def test_they_agree_wherever_segments_and_fetches_end(lists):
    """Messages stand together on disk and are fetched in steps: with bounds so small that everything crosses them."""
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr("eventcore.store.sqlite.segments.SEGMENT_COUNT_MAX", 3)
        patches.setattr("eventcore.store.sqlite.segments.SEGMENT_BYTES_MAX", 8)
        for module in ("visible", "receive", "queues"):
            patches.setattr(f"eventcore.store.sqlite.{module}.FETCHED_MAX", 2)
        anyio.run(check_agreement, lists)

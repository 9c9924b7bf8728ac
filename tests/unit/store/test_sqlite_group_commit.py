"""Group commit: many callers share a transaction, and nothing else."""

import sqlite3
from contextlib import contextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from eventcore.errors import FencedOut, ProgrammingError, StoreUnavailable
from eventcore.ports.keys import ClaimKeys, CompleteKeys, Completion, ReleaseKeys, SweepKeys
from eventcore.ports.store import (
    BODY_BYTES_MAX,
    AppendRecords,
    DefineQueue,
    DefineStream,
    DeleteMessages,
    NewMessage,
    NewRecord,
    PutNote,
    QueueSettings,
    ReceiveMessages,
    SaveCheckpoint,
    SendMessages,
    StreamSettings,
)
from eventcore.store.sqlite import open_sqlite_store
from eventcore.store.sqlite.rows import STATEMENT_ROWS_MAX
from eventcore.store.sqlite.writer import BYTES_MAX, ROWS_MAX

#: Whatever a test waits for has happened by then, seconds.
HAPPENS_WITHIN_S = 30.0


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "state.db"


@contextmanager
def held_up(path):
    """Hold the file's write lock, so that the transaction which begins next waits, and others gather behind it."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


async def turn(count: int = 20) -> None:
    for _ in range(count):
        await anyio.lowlevel.checkpoint()


def note(name: str, value: bytes = b"1") -> PutNote:
    return PutNote(name=name, value=value)


async def wait_until_begun(store) -> None:
    """Wait until nothing is left to begin: the first transaction is on its thread, where it waits for the file."""
    with anyio.fail_after(HAPPENS_WITHIN_S):
        while store.statistics().waiting:
            await anyio.lowlevel.checkpoint()


async def test_callers_share_a_transaction(path):
    """Those that come while one is on its way go into the next, all of them."""
    async with open_sqlite_store(path) as store:
        commits = store.statistics().commits
        async with anyio.create_task_group() as tasks:
            with held_up(path):
                tasks.start_soon(store.commit, [note("first")])
                await turn()
                await wait_until_begun(store)
                for number in range(50):
                    tasks.start_soon(store.commit, [note(f"n{number}")])
                await turn()
                assert store.statistics().waiting == 50
        assert store.statistics().commits - commits == 2
        assert store.statistics().waiting == 0
        assert await store.note("n49") == b"1"


async def test_a_caller_that_is_cancelled_before_its_transaction_writes_nothing(path):
    """Others of the same transaction are written."""
    async with open_sqlite_store(path) as store:
        async with anyio.create_task_group() as tasks:
            with held_up(path):
                tasks.start_soon(store.commit, [note("first")])
                await turn()
                await wait_until_begun(store)
                async with anyio.create_task_group() as cancelled:
                    cancelled.start_soon(store.commit, [note("cancelled")])
                    tasks.start_soon(store.commit, [note("kept")])
                    await turn()
                    cancelled.cancel_scope.cancel()
        assert (await store.note("kept"), await store.note("cancelled")) == (b"1", None)


async def test_what_waits_when_the_store_closes_is_written(path):
    """Closing finishes it; what comes later is refused."""
    outcomes: list[object] = []

    async def commit(store, name: str) -> None:
        outcomes.append(await store.commit([note(name)]))

    async with anyio.create_task_group() as tasks, open_sqlite_store(path) as store:
        with held_up(path):
            tasks.start_soon(commit, store, "first")
            await turn()
            await wait_until_begun(store)
            tasks.start_soon(commit, store, "second")
            await turn()
            assert store.statistics().waiting == 1
            store.close()
            with pytest.raises(ProgrammingError, match="closed"):
                await store.commit([note("late")])
    assert outcomes == [[None], [None]]
    async with open_sqlite_store(path) as store:
        assert await store.note("second") == b"1"


async def test_what_waits_when_the_store_s_body_fails_is_told(path):
    """The transaction on its way has an outcome; what waits behind it was not written, and nobody waits for ever."""
    outcomes: list[object] = []

    async def commit(store, name: str) -> None:
        try:
            outcomes.append(await store.commit([note(name)]))
        except StoreUnavailable as error:
            outcomes.append(type(error))

    async def fail(tasks) -> None:
        async with open_sqlite_store(path) as store:
            with held_up(path):
                tasks.start_soon(commit, store, "first")
                await turn()
                await wait_until_begun(store)
                tasks.start_soon(commit, store, "second")
                await turn()
            raise ZeroDivisionError

    async with anyio.create_task_group() as tasks:
        with pytest.raises(ZeroDivisionError):
            await fail(tasks)
    assert outcomes == [[None], StoreUnavailable]
    async with open_sqlite_store(path) as store:
        assert (await store.note("first"), await store.note("second")) == (b"1", None)


async def test_a_transaction_that_does_not_answer_is_told_and_may_still_happen(path, monkeypatch):
    """Its callers do not wait for ever; those behind it are served when it is done."""
    monkeypatch.setattr("eventcore.store.sqlite.writer.TRANSACTION_GRACE_S", 0.01)
    async with open_sqlite_store(path) as store:
        with held_up(path), pytest.raises(StoreUnavailable, match="may yet"):
            await store.commit([note("slow")])
        monkeypatch.setattr("eventcore.store.sqlite.writer.TRANSACTION_GRACE_S", HAPPENS_WITHIN_S)
        await store.commit([note("next")])
        assert (await store.note("slow"), await store.note("next")) == (b"1", b"1")


async def gather(path, lists):
    """Commit lists in one transaction; return each one's results or its error, and the number of transactions."""
    outcomes: list[object] = [None] * len(lists)

    async def commit(store, index: int) -> None:
        try:
            outcomes[index] = await store.commit(lists[index])
        except (FencedOut, KeyError, ValueError, ProgrammingError) as error:
            outcomes[index] = error

    async with open_sqlite_store(path) as store:
        await store.commit(
            [
                DefineQueue(queue="q", settings=QueueSettings()),
                DefineQueue(queue="other", settings=QueueSettings()),
                DefineStream(stream="s", settings=StreamSettings(shards=1)),
            ]
        )
        before = store.statistics().commits
        async with anyio.create_task_group() as tasks:
            with held_up(path):
                tasks.start_soon(store.commit, [note("first")])
                await turn()
                await wait_until_begun(store)
                for index in range(len(lists)):
                    tasks.start_soon(commit, store, index)
                await turn()
        return outcomes, store.statistics().commits - before - 1


def send(*ids: str, queue: str = "q") -> SendMessages:
    return SendMessages(queue=queue, messages=tuple(NewMessage(id=name, body=b"x") for name in ids), now_ms=1000)


async def test_a_refused_list_leaves_the_others_of_its_transaction_alone(path):
    """Whether a checkpoint is fenced or a queue is missing, at any place in its list."""
    outcomes, transactions = await gather(
        path,
        [
            [send("a")],
            [send("lost"), SaveCheckpoint(mapping="m", shard="s", epoch=3, position=1)],
            [send("b"), ReceiveMessages(queue="q", count_max=1, now_ms=1000)],
            [send("lost"), send("lost", queue="nowhere"), send("lost")],
            [send("c")],
        ],
    )
    assert transactions == 1
    assert isinstance(outcomes[1], FencedOut)
    assert isinstance(outcomes[3], KeyError)
    assert outcomes[0] == [["a"]]
    assert [message.id for message in outcomes[2][1].messages] == ["a"]
    assert outcomes[4] == [["c"]]
    async with open_sqlite_store(path) as store:
        assert [message.id for message in await store.peek("q", count_max=9)] == ["a", "b", "c"]
        depth = (await store.queue_depths())[-1]
        assert (depth.visible, depth.hidden) == (2, 1)


async def test_a_refused_send_leaves_those_beside_it_alone(path):
    """Sends that come together are carried out together, to several queues, in their order."""
    too_long = SendMessages(queue="q", messages=(NewMessage(id="lost", body=b"x" * (BODY_BYTES_MAX + 1)),), now_ms=1000)
    outcomes, transactions = await gather(
        path,
        [
            [send("a")],
            [send("lost", queue="nowhere")],
            [send("b", "c")],
            [send("x", queue="other")],
            [too_long],
            [send("d")],
        ],
    )
    assert transactions == 1
    assert isinstance(outcomes[1], KeyError)
    assert isinstance(outcomes[4], ValueError)
    assert [outcomes[at] for at in (0, 2, 3, 5)] == [[["a"]], [["b", "c"]], [["x"]], [["d"]]]
    async with open_sqlite_store(path) as store:
        found = await store.peek("q", count_max=9)
        assert [(message.number, message.id) for message in found] == [(1, "a"), (2, "b"), (3, "c"), (4, "d")]
        assert [message.id for message in await store.peek("other", count_max=9)] == ["x"]


async def test_a_value_that_no_column_takes_leaves_the_others_alone(path):
    """They get transactions of their own; numbers have no gap, and counters are right."""
    unstorable = SendMessages(queue="q", messages=(NewMessage(id="lost", body="no bytes"),), now_ms=1000)
    outcomes, _ = await gather(path, [[send("a")], [send("lost"), unstorable], [send("b")]])
    assert outcomes[0] == [["a"]]
    assert isinstance(outcomes[1], ProgrammingError)
    assert outcomes[2] == [["b"]]
    async with open_sqlite_store(path) as store:
        assert [(found.number, found.id) for found in await store.peek("q", count_max=9)] == [(1, "a"), (2, "b")]


@pytest.mark.parametrize("count", [1, 3, STATEMENT_ROWS_MAX - 1, STATEMENT_ROWS_MAX, 2 * STATEMENT_ROWS_MAX + 5])
async def test_rows_of_many_callers_stand_in_their_order(path, count):
    """Messages and records that go in with few statements come out as they went in."""
    lists = [
        [
            send(f"m{number}"),
            AppendRecords(stream="s", records=(NewRecord(shard=0, body=b"%d" % number),), now_ms=number),
        ]
        for number in range(count)
    ]
    outcomes, transactions = await gather(path, lists)
    assert transactions == 1
    assert outcomes == [[[f"m{number}"], [number]] for number in range(count)]
    async with open_sqlite_store(path) as store:
        messages = await store.peek("q", count_max=count + 1)
        assert [message.id for message in messages] == [f"m{number}" for number in range(count)]
        records = await store.read("s", 0, 0, count_max=count + 1, size_bytes_max=10**9)
        assert [(record.position, record.arrived_ms) for record in records] == [(at, at) for at in range(count)]


async def test_operations_of_one_transaction_see_each_other(path):
    """A receive finds what another caller's list has just sent; a delete what another's receive has leased."""
    outcomes, transactions = await gather(
        path,
        [
            [send("a", "b")],
            [ReceiveMessages(queue="q", count_max=1, now_ms=1000)],
            [ReceiveMessages(queue="q", count_max=1, now_ms=1000)],
            [DeleteMessages(queue="q", receipts=("1099511627777-1-31000",))],
        ],
    )
    assert transactions == 1
    assert [[message.id for message in outcomes[index][0].messages] for index in (1, 2)] == [["a"], ["b"]]
    assert outcomes[3] == [[]]


async def test_a_transaction_is_bounded_in_rows(path):
    """A caller that does not fit waits for the next one."""
    half = [send(*[str(number) for number in range(ROWS_MAX // 2)])]
    _, transactions = await gather(path, [half, half])
    assert transactions == 1
    _, transactions = await gather(path, [half, half, [note("one more")]])
    assert transactions == 2


HALF_THE_KEYS = tuple(b"%d" % number for number in range(ROWS_MAX // 2))


@pytest.mark.parametrize(
    "operation",
    [
        ClaimKeys(owner="o", keys=HALF_THE_KEYS, now_ms=1000, until_ms=2000),
        CompleteKeys(owner="o", completions=tuple(map(Completion, HALF_THE_KEYS)), now_ms=1000, expires_ms=2000),
        ReleaseKeys(owner="o", keys=HALF_THE_KEYS),
        SweepKeys(now_ms=1000, count_max=ROWS_MAX // 2),
    ],
    ids=lambda operation: type(operation).__name__,
)
async def test_idempotency_keys_count_each_for_itself(path, operation):
    """A batch may bring ten thousand."""
    _, transactions = await gather(path, [[operation], [operation]])
    assert transactions == 1
    _, transactions = await gather(path, [[operation], [operation], [note("one more")]])
    assert transactions == 2


async def test_results_that_are_kept_count_by_their_bytes(path):
    completion = Completion(b"k", b"", b"x" * (BYTES_MAX // 2))
    half = [CompleteKeys(owner="o", completions=(completion,), now_ms=1000, expires_ms=2000)]
    _, transactions = await gather(path, [half, half, half])
    assert transactions == 2


async def test_a_transaction_is_bounded_in_bytes(path):
    """By the bodies that it holds; a list is never cut."""
    large = tuple(NewMessage(id=str(number), body=b"x" * 1_000_000) for number in range(BYTES_MAX // 2_000_000))
    half = [SendMessages(queue="q", messages=large, now_ms=1000)]
    _, transactions = await gather(path, [half, half, half])
    assert transactions == 2

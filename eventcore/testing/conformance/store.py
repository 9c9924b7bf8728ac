"""The kit for `Store`: all or nothing, in order, fenced, counted, and woken.

Subclass `StoreConformance` as a class whose name begins with `Test`, and say how a store is opened. The tests are
plain functions that hand a coroutine to `StoreKit.run`: override it to run them in virtual time. Every scenario gives
the wall time to the store itself; nothing here depends on how fast anything is.
"""

from __future__ import annotations

import anyio
import pytest

from eventcore.errors import FencedOut, ProgrammingError
from eventcore.ports.store import (
    OPERATIONS_MAX,
    AppendRecords,
    DefineQueue,
    DefineStream,
    DeleteMessages,
    NewRecord,
    Operation,
    PutNote,
    QueueSettings,
    ReceiveMessages,
    SaveCheckpoint,
    SendMessages,
    Store,
    StoreCapabilities,
    StreamSettings,
)
from eventcore.testing.conformance.store_fifo import FifoPromises
from eventcore.testing.conformance.store_keys import KeyPromises
from eventcore.testing.conformance.store_kit import (
    HAPPENS_WITHIN_S,
    NOW_MS,
    append,
    define_queue,
    define_stream,
    ids,
    new_messages,
    read,
    received_ids,
    send,
)
from eventcore.testing.conformance.store_outbox import FailurePromises, OutboxPromises
from eventcore.testing.conformance.store_queue_care import QueueCarePromises
from eventcore.testing.conformance.store_queues import QueuePromises
from eventcore.testing.conformance.store_resharding import ReshardingPromises
from eventcore.testing.conformance.store_restarts import RestartPromises
from eventcore.testing.conformance.store_streams import CheckpointPromises, StreamPromises
from eventcore.testing.conformance.store_tenants import TenantPromises
from eventcore.testing.conformance.store_watches import WatchPromises
from eventcore.testing.conformance.store_writes import WRITES, look, prepare

#: What this kit has tests for; a store that claims more can't be said to conform.
CAPABILITIES_TESTED = frozenset({"is_durable"})


class StoreConformance(
    QueuePromises,
    QueueCarePromises,
    TenantPromises,
    FifoPromises,
    KeyPromises,
    StreamPromises,
    ReshardingPromises,
    CheckpointPromises,
    OutboxPromises,
    FailurePromises,
    WatchPromises,
    RestartPromises,
):
    """What every store keeps."""

    def test_no_capability_is_claimed_without_a_test(self) -> None:
        """Of what the store says it can do, all is tested here."""

        async def scenario(store: Store) -> None:
            claimed = {field for field in StoreCapabilities.__struct_fields__ if getattr(store.capabilities, field)}
            assert claimed <= CAPABILITIES_TESTED

        self.check(scenario)

    # -- all or nothing ------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("refused", "error"),
        [
            (SendMessages(queue="nowhere", messages=(), now_ms=NOW_MS), KeyError),
            (DefineStream(stream="clicks", settings=StreamSettings(shards=9)), ValueError),
            (SaveCheckpoint(mapping="m", shard="s", epoch=7, position=9), FencedOut),
            (DeleteMessages(queue="orders", receipts=("1-1-1",), is_required=True), FencedOut),
        ],
        ids=lambda value: value.__name__ if isinstance(value, type) else type(value).__name__,
    )
    def test_a_list_with_a_refused_operation_leaves_no_trace(self, refused: Operation, error: type[Exception]) -> None:
        """Whatever stood before it in the list, and whatever stands behind it."""

        async def scenario(store: Store) -> None:
            await prepare(store)
            before = await look(store)
            for operation in WRITES:
                with pytest.raises(error):
                    await store.commit([operation, refused, operation])
                assert await look(store) == before
            with pytest.raises(error):
                await store.commit([*WRITES, refused])
            assert await look(store) == before
            with pytest.raises(KeyError, match="new"):
                await send(store, "x", queue="new")
            # No token was taken either, and nothing is half locked: the same list is taken without the refused one.
            results = await store.commit(WRITES)
            assert results[1] == ["x"]

        self.check(scenario)

    def test_a_list_takes_effect_in_order(self) -> None:
        """Later operations see earlier ones; one result each; an empty list is fine."""

        async def scenario(store: Store) -> None:
            results = await store.commit(
                [
                    DefineQueue(queue="orders", settings=QueueSettings()),
                    SendMessages(queue="orders", messages=new_messages(["a", "b"]), now_ms=NOW_MS),
                    ReceiveMessages(queue="orders", count_max=1, now_ms=NOW_MS),
                    PutNote(name="n", value=b"1"),
                    PutNote(name="n", value=b"2"),
                    DefineStream(stream="clicks", settings=StreamSettings(shards=1)),
                    AppendRecords(stream="clicks", records=(NewRecord(shard=0, body=b"r"),), now_ms=NOW_MS),
                ]
            )
            assert (results[1], ids(results[2].messages), results[6]) == (["a", "b"], ["a"], [0])
            assert [results[index] for index in (0, 3, 4, 5)] == [None] * 4
            assert await store.note("n") == b"2"
            assert await store.commit([]) == []

        self.check(scenario)

    def test_one_caller_s_error_is_no_other_s(self) -> None:
        """Callers that commit at the same time get each their own outcome."""

        async def scenario(store: Store) -> None:
            await define_queue(store)
            refused: list[int] = []

            async def commit(number: int) -> None:
                queue = "nowhere" if number % 3 == 0 else "orders"
                try:
                    assert await send(store, f"m{number}", queue=queue) == [f"m{number}"]
                except KeyError:
                    refused.append(number)

            async with anyio.create_task_group() as tasks:
                for number in range(60):
                    tasks.start_soon(commit, number)
            assert sorted(refused) == [*range(0, 60, 3)]
            received = await received_ids(store)
            assert sorted(received) == sorted(f"m{number}" for number in range(60) if number % 3)

        self.check(scenario)

    def test_callers_are_served_in_turn(self) -> None:
        """What one caller commits after another is read after it."""

        async def scenario(store: Store) -> None:
            await define_stream(store, shards=1)

            async def commit(worker: int) -> None:
                for number in range(20):
                    await append(store, b"%d:%d" % (worker, number))

            async with anyio.create_task_group() as tasks:
                for worker in range(8):
                    tasks.start_soon(commit, worker)
            bodies = [record.body for record in await read(store)]
            assert len(bodies) == 160
            for worker in range(8):
                own = [body for body in bodies if body.startswith(b"%d:" % worker)]
                assert own == [b"%d:%d" % (worker, number) for number in range(20)]

        self.check(scenario)

    def test_a_cancelled_commit_is_whole_or_nothing(self) -> None:
        """A caller that is cancelled leaves all of its list or none of it, and the store works on."""

        async def scenario(store: Store) -> None:
            with anyio.CancelScope() as scope:
                scope.cancel()
                await store.commit([PutNote(name="n", value=b"1"), PutNote(name="m", value=b"1")])
            assert scope.cancelled_caught
            await store.commit([PutNote(name="other", value=b"2")])
            assert await store.note("n") == await store.note("m")
            assert await store.note("other") == b"2"

        self.check(scenario)

    def test_a_list_has_a_bound(self) -> None:
        """The longest one is taken, a longer one is refused."""

        async def scenario(store: Store) -> None:
            notes = [PutNote(name=f"n{number}", value=b"") for number in range(OPERATIONS_MAX + 1)]
            with pytest.raises(ValueError, match=str(OPERATIONS_MAX)):
                await store.commit(notes)
            assert await store.note("n0") is None
            assert len(await store.commit(notes[:-1])) == OPERATIONS_MAX

        self.check(scenario)

    def test_what_is_no_operation_is_refused(self) -> None:
        """With its name, and nothing else of the list is written."""

        class Unknown(Operation, frozen=True):
            pass

        async def scenario(store: Store) -> None:
            with pytest.raises(ProgrammingError, match="Unknown"):
                await store.commit([PutNote(name="n", value=b"1"), Unknown()])
            assert await store.note("n") is None

        self.check(scenario)

    def test_a_closed_store_refuses(self) -> None:
        """Nothing waits for ever."""

        async def body() -> None:
            async with self.open_store() as store:
                pass
            with anyio.fail_after(HAPPENS_WITHIN_S), pytest.raises(ProgrammingError):
                await store.commit([PutNote(name="n", value=b"1")])

        self.run(body)

    def test_an_error_of_the_body_leaves_as_it_is(self) -> None:
        """Whatever tasks the store runs: no group of exceptions around it."""

        async def body() -> None:
            with pytest.raises(ZeroDivisionError):
                async with self.open_store():
                    raise ZeroDivisionError

        self.run(body)

    def test_statistics_count(self) -> None:
        """Operations, and no more transactions than commits."""

        async def scenario(store: Store) -> None:
            before = store.statistics()
            await store.commit([PutNote(name="n", value=b"1"), PutNote(name="n", value=b"2")])
            await store.commit([PutNote(name="n", value=b"3")])
            after = store.statistics()
            assert after.operations - before.operations == 3
            assert 0 < after.commits - before.commits <= 2
            assert after.waiting == 0

        self.check(scenario)

    def test_notes_are_kept(self) -> None:
        """By name, the last one; None without one."""

        async def scenario(store: Store) -> None:
            assert await store.note("n") is None
            for value in (b"\x00\xff", b""):
                await store.commit([PutNote(name="n", value=value)])
                assert await store.note("n") == value

        self.check(scenario)

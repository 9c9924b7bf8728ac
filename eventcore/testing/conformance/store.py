"""The kit for `Store`: all or nothing, in order, fenced, counted, and woken.

Subclass `StoreConformance` as a class whose name begins with `Test`, and say how a store is opened. The tests are
plain functions that hand a coroutine to `StoreKit.run`: override it to run them in virtual time. Every scenario gives
the wall time to the store itself; nothing here depends on how fast anything is.
"""

from __future__ import annotations

import anyio
import msgspec
import pytest

from eventcore.errors import FencedOut, ProgrammingError
from eventcore.ports.store import (
    OPERATIONS_MAX,
    AppendRecords,
    ChangeVisibility,
    DefineQueue,
    DefineStream,
    DeleteMessages,
    KeepFailure,
    MoveMessages,
    NewRecord,
    Operation,
    PurgeQueue,
    PutNote,
    PutOutbox,
    QueueSettings,
    ReceiveMessages,
    SaveCheckpoint,
    SendMessages,
    Store,
    StoreCapabilities,
    StreamSettings,
    TakeShard,
    TrimFailures,
)
from eventcore.testing.conformance.store_kit import (
    HAPPENS_WITHIN_S,
    NOW_MS,
    append,
    at,
    commit_one,
    counts,
    define_queue,
    define_stream,
    ids,
    new_messages,
    read,
    receipts,
    receive,
    received_ids,
    send,
    watched,
)
from eventcore.testing.conformance.store_outbox import (
    FailurePromises,
    OutboxPromises,
    failure,
    keep,
    mark,
    postpone,
    put,
    row,
)
from eventcore.testing.conformance.store_queues import QueuePromises
from eventcore.testing.conformance.store_streams import FAILING, CheckpointPromises, StreamPromises

#: What this kit has tests for; a store that claims more can't be said to conform.
CAPABILITIES_TESTED = frozenset({"is_durable"})
#: An operation of every kind that writes, on what `_prepare` has made.
WRITES: tuple[Operation, ...] = (
    DefineQueue(queue="new", settings=QueueSettings()),
    SendMessages(queue="orders", messages=new_messages(["x", "y"], idempotency_token="t"), now_ms=NOW_MS),
    SendMessages(queue="orders", messages=new_messages(["z"], delay_s=5), now_ms=NOW_MS),
    ReceiveMessages(queue="orders", count_max=1, now_ms=NOW_MS),
    MoveMessages(source="orders", target="other", count_max=1, now_ms=NOW_MS),
    PurgeQueue(queue="orders"),
    DefineStream(stream="new", settings=StreamSettings()),
    AppendRecords(stream="clicks", records=(NewRecord(shard=0, body=b"x", idempotency_token="t"),), now_ms=NOW_MS),
    TakeShard(mapping="new", shard="s"),
    SaveCheckpoint(mapping="m", shard="s", epoch=1, position=9, state=FAILING),
    PutOutbox(row=row("new")),
    KeepFailure(failure=failure("new")),
    PutNote(name="new", value=b"x"),
)


async def _prepare(store: Store) -> None:
    await define_queue(store)
    await define_queue(store, "other")
    await define_stream(store, shards=1)
    await send(store, "a", "b", "c")
    await store.commit([TakeShard(mapping="m", shard="s")])


async def _look(store: Store) -> list[object]:
    """Return everything that can be read."""
    return [
        await store.queue_depths(),
        await store.peek("orders", count_max=100),
        await store.peek("other", count_max=100),
        await store.streams(),
        await store.extents("clicks"),
        await read(store),
        await store.checkpoints(),
        await store.outbox_depths(),
        await store.due_outbox("kafka:local/failed", now_ms=at(10**6), count_max=100),
        await store.failures(),
        await store.note("new"),
    ]


class StoreConformance(QueuePromises, StreamPromises, CheckpointPromises, OutboxPromises, FailurePromises):
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
        ],
        ids=lambda value: value.__name__ if isinstance(value, type) else type(value).__name__,
    )
    def test_a_list_with_a_refused_operation_leaves_no_trace(self, refused: Operation, error: type[Exception]) -> None:
        """Whatever stood before it in the list, and whatever stands behind it."""

        async def scenario(store: Store) -> None:
            await _prepare(store)
            before = await _look(store)
            for operation in WRITES:
                with pytest.raises(error):
                    await store.commit([operation, refused, operation])
                assert await _look(store) == before
            with pytest.raises(error):
                await store.commit([*WRITES, refused])
            assert await _look(store) == before
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

    # -- watches -------------------------------------------------------------------------------------------------------

    def test_what_fills_a_queue_wakes_it(self) -> None:
        """Sends, delayed ones too; releases and shortened leases; moves; the dead-letter queue at a redrive."""

        async def scenario(store: Store) -> None:
            await define_queue(store, "dead")
            await define_queue(store, dead_letter_queue="dead", max_receive_count=1)
            async with watched(store, "queue:orders") as orders, watched(store, "queue:dead") as dead:
                await send(store, "a")
                assert (await orders.settle(), dead.count) == (1, 0)
                await send(store, "b", delay_s=50)
                assert await orders.settle() == 2
                (receipt,) = receipts(await receive(store, timeout_s=60))
                seen = await orders.settle()
                shorter = ChangeVisibility(queue="orders", receipts=(receipt,), timeout_s=10, now_ms=NOW_MS)
                (receipt,) = (await commit_one(store, shorter)).values()
                assert await orders.settle() == seen + 1
                release = ChangeVisibility(queue="orders", receipts=(receipt,), timeout_s=0, now_ms=NOW_MS)
                await store.commit([release])
                assert await orders.settle() == seen + 2
                assert await dead.settle() == 0
                assert len((await receive(store)).moved) == 1
                assert await dead.settle() == 1
                seen = await orders.settle()
                await store.commit([MoveMessages(source="dead", target="orders", count_max=1, now_ms=NOW_MS)])
                assert await orders.settle() == seen + 1

        self.check(scenario)

    def test_a_lease_that_ends_before_all_others_wakes(self) -> None:
        """Who waits for the next message to show must wait less."""

        async def scenario(store: Store) -> None:
            await define_queue(store)
            await send(store, "a", "b", "c")
            async with watched(store, "queue:orders") as orders:
                await receive(store, count_max=1, timeout_s=60)
                assert await orders.settle() == 1
                await receive(store, count_max=1, timeout_s=90)
                assert await orders.settle() == 1
                await receive(store, count_max=1, timeout_s=30)
                assert await orders.settle() == 2

        self.check(scenario)

    def test_appends_wake_a_stream_and_rows_wake_the_outbox(self) -> None:
        """New rows, and rows whose time was changed."""

        async def scenario(store: Store) -> None:
            await define_stream(store, shards=1)
            async with watched(store, "stream:clicks") as clicks, watched(store, "outbox") as outbox:
                await append(store, b"a")
                assert (await clicks.settle(), await outbox.settle()) == (1, 0)
                await put(store, row("a"))
                assert (await clicks.settle(), await outbox.settle()) == (1, 1)
                await put(store, row("a"))
                assert await outbox.settle() == 1
                await postpone(store, "a", due_s=-1)
                assert await outbox.settle() == 2

        self.check(scenario)

    def test_a_refused_list_wakes_nobody(self) -> None:
        """Nor do operations on other topics, or those that leave nothing to do."""

        async def scenario(store: Store) -> None:
            await define_queue(store)
            await define_queue(store, "other")
            await send(store, "a")
            async with watched(store, "queue:orders") as orders:
                with pytest.raises(KeyError):
                    await store.commit(
                        [
                            SendMessages(queue="orders", messages=new_messages(["b"]), now_ms=NOW_MS),
                            PurgeQueue(queue="nowhere"),
                        ]
                    )
                await send(store, "c", queue="other")
                await define_queue(store)
                await store.commit([DeleteMessages(queue="orders", receipts=("no receipt",))])
                assert await orders.settle() == 0

        self.check(scenario)

    def test_wake_ups_coalesce_and_none_is_lost(self) -> None:
        """Commits while nobody waits make one wait return at once; those before the watch was opened do not count."""

        async def scenario(store: Store) -> None:
            await define_queue(store)
            await send(store, "before")
            async with store.watch("queue:orders") as watch:
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await watch.wait()
                assert scope.cancelled_caught
                await send(store, "a")
                await send(store, "b")
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await watch.wait()
                with anyio.fail_after(HAPPENS_WITHIN_S):
                    await watch.wait()
            async with watched(store, "queue:orders") as orders:
                assert await orders.settle() == 0

        self.check(scenario)

    def test_all_watches_of_a_topic_are_woken(self) -> None:
        """Each on its own."""

        async def scenario(store: Store) -> None:
            await define_queue(store)
            async with watched(store, "queue:orders") as first:
                async with watched(store, "queue:orders") as second:
                    await send(store, "a")
                    assert (await first.settle(), await second.settle()) == (1, 1)
                await send(store, "b")
                assert await first.settle() == 2

        self.check(scenario)

    # -- restarts ------------------------------------------------------------------------------------------------------

    def test_everything_outlives_a_restart(self) -> None:
        """What could be read before is read after; receipts, tokens, epochs and numbers go on."""
        seen: list[object] = []

        async def before(store: Store) -> None:
            await _prepare(store)
            await store.commit([operation for operation in WRITES if not isinstance(operation, PurgeQueue)])
            await send(store, "late", delay_s=5)
            seen.extend(await _look(store))

        async def after(store: Store) -> None:
            assert await _look(store) == seen
            assert await send(store, "again", idempotency_token="t") == []
            assert await put(store, row("new")) == [False]
            assert await append(store, b"y", idempotency_token="t") == [-1]
            assert await append(store, b"z") == [1]
            with pytest.raises(FencedOut):
                await store.commit([SaveCheckpoint(mapping="m", shard="s", epoch=1, position=8)])
            taken = await commit_one(store, TakeShard(mapping="m", shard="s"))
            assert (taken.epoch, taken.position, taken.state) == (2, 9, FAILING)

        self.check_restart(before, after)

    def test_receipts_outlive_a_restart(self) -> None:
        """A lease goes on as if nothing had happened."""
        kept: list[str] = []

        async def before(store: Store) -> None:
            await define_queue(store)
            await send(store, "a", "b")
            kept.extend(receipts(await receive(store)))

        async def after(store: Store) -> None:
            assert await received_ids(store) == []
            assert await commit_one(store, DeleteMessages(queue="orders", receipts=(kept[0],))) == []
            assert await received_ids(store, after_s=30) == ["b"]
            assert await counts(store) == (0, 1, 0)

        self.check_restart(before, after)

    def test_numbers_are_not_used_twice(self) -> None:
        """Not after everything was deleted, nor after a restart."""
        numbers: list[int] = []

        async def before(store: Store) -> None:
            await define_queue(store)
            await send(store, "a")
            result = await receive(store)
            numbers.extend(message.number for message in result.messages)
            await store.commit([DeleteMessages(queue="orders", receipts=receipts(result))])
            await put(store, row("a"))
            numbers.extend(
                found.number for found in await store.due_outbox(row("a").destination, now_ms=NOW_MS, count_max=1)
            )
            await mark(store, "a")

        async def after(store: Store) -> None:
            await send(store, "b")
            await put(store, row("b"))
            (message,) = (await receive(store)).messages
            (waiting,) = await store.due_outbox(row("b").destination, now_ms=NOW_MS, count_max=1)
            assert message.number > numbers[0]
            assert waiting.number > numbers[1]

        self.check_restart(before, after)

    def test_failures_outlive_a_restart_with_their_size(self) -> None:
        """So that the bound on all of them holds on."""

        async def before(store: Store) -> None:
            await keep(store, failure("a", event=b"x" * 1000), failure("b", after_s=1, event=b"x" * 1000))

        async def after(store: Store) -> None:
            found = await store.failure("a")
            assert found == failure("a", event=b"x" * 1000)
            await keep(store, msgspec.structs.replace(failure("c", after_s=2), event=b"x" * 1000))
            assert await commit_one(store, TrimFailures(before_ms=0, size_bytes_max=2100)) == 1

        self.check_restart(before, after)

"""The store's kit: what outlives a restart. Skipped where a store is not durable."""

from __future__ import annotations

import pytest

from eventcore.errors import FencedOut
from eventcore.ports.store import DeleteMessages, PurgeQueue, SaveCheckpoint, Store, TakeShard, TrimFailures
from eventcore.testing.conformance.store_kit import (
    NOW_MS,
    StoreKit,
    append,
    commit_one,
    counts,
    define_queue,
    receipts,
    receive,
    received_ids,
    send,
)
from eventcore.testing.conformance.store_outbox import failure, keep, mark, put, row
from eventcore.testing.conformance.store_streams import FAILING
from eventcore.testing.conformance.store_writes import WRITES, look, prepare


class RestartPromises(StoreKit):
    """The store is closed and opened again."""

    def test_everything_outlives_a_restart(self) -> None:
        """What could be read before is read after; receipts, tokens, epochs and numbers go on."""
        seen: list[object] = []

        async def before(store: Store) -> None:
            await prepare(store)
            await store.commit([operation for operation in WRITES if not isinstance(operation, PurgeQueue)])
            await send(store, "late", delay_s=5)
            seen.extend(await look(store))

        async def after(store: Store) -> None:
            assert await look(store) == seen
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
            await keep(store, failure("c", after_s=2, event=b"x" * 1000))
            assert await commit_one(store, TrimFailures(before_ms=0, size_bytes_max=2100)) == 1

        self.check_restart(before, after)

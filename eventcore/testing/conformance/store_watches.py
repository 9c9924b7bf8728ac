"""The store's kit: who is woken by what."""

from __future__ import annotations

import anyio
import pytest

from eventcore.ports.store import ChangeVisibility, DeleteMessages, MoveMessages, PurgeQueue, SendMessages, Store
from eventcore.testing.conformance.store_kit import (
    HAPPENS_WITHIN_S,
    NOW_MS,
    StoreKit,
    append,
    commit_one,
    define_queue,
    define_stream,
    new_messages,
    receipts,
    receive,
    send,
    watched,
)
from eventcore.testing.conformance.store_outbox import mark, postpone, put, row


class WatchPromises(StoreKit):
    """Wake-ups: for what there is to do, and never too few."""

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
        """New rows, rows whose time was changed, and rows that were sent: others may have stood behind them."""

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
                await mark(store, "a")
                assert await outbox.settle() == 3

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

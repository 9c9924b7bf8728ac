"""The store's kit: queues. Source of their rules: Lambda semantics §3.2."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from eventcore.errors import FencedOut
from eventcore.ports.store import (
    BODY_BYTES_MAX,
    ChangeVisibility,
    DeleteMessages,
    NewMessage,
    QueueSettings,
    SendMessages,
    Store,
)
from eventcore.testing.conformance.store_kit import (
    NOW_MS,
    VISIBILITY_S,
    StoreKit,
    at,
    commit_one,
    counts,
    define_queue,
    depth,
    ids,
    new_messages,
    receipts,
    receive,
    received_ids,
    send,
)


class QueuePromises(StoreKit):
    """Sending, receiving, leases, delays."""

    # -- sending and receiving -----------------------------------------------------------------------------------------

    def test_a_message_comes_back_as_it_was_sent(self) -> None:
        """Every field of it, and what the receive adds."""
        headers = (("trace", b"\x00\xff"), ("n", b"1"), ("n", b"2"))

        async def scenario(store: Store) -> None:
            await define_queue(store)
            sent = NewMessage(id="a", body=b"\x00\xfe", headers=headers, group="g")
            assert await commit_one(store, SendMessages(queue="orders", messages=(sent,), now_ms=NOW_MS)) == ["a"]
            (message,) = (await receive(store, after_s=1)).messages
            assert (message.id, message.body, message.headers, message.group) == ("a", b"\x00\xfe", headers, "g")
            assert (message.sent_ms, message.receive_count, message.first_receive_ms) == (NOW_MS, 1, at(1))
            assert message.visible_ms == at(1 + VISIBILITY_S)
            assert message.receipt

        self.check(scenario)

    def test_the_oldest_come_first_and_no_more_than_asked_for(self) -> None:
        """In the order they were sent, over several sends."""

        async def scenario(store: Store) -> None:
            await define_queue(store)
            await send(store, "a", "b")
            await send(store, "c", "d", "e")
            assert await received_ids(store, count_max=2) == ["a", "b"]
            assert await received_ids(store, count_max=2) == ["c", "d"]
            assert await received_ids(store, count_max=2) == ["e"]
            assert await received_ids(store, count_max=2) == []

        self.check(scenario)

    def test_numbers_rise_as_sent(self) -> None:
        """So that they tell the order, in `peek` and in a receive."""

        async def scenario(store: Store) -> None:
            await define_queue(store)
            await send(store, "a", "b")
            await send(store, "c")
            numbers = [message.number for message in await store.peek("orders", count_max=10)]
            assert numbers == sorted(set(numbers))
            assert [message.number for message in (await receive(store)).messages] == numbers

        self.check(scenario)

    def test_queues_share_nothing(self) -> None:
        """Neither messages nor receipts."""

        async def scenario(store: Store) -> None:
            await define_queue(store, "one")
            await define_queue(store, "two")
            await send(store, "a", queue="one")
            await send(store, "b", queue="two")
            received = await receive(store, queue="one")
            assert ids(received.messages) == ["a"]
            assert await received_ids(store, queue="two") == ["b"]
            for queue, stale in (("two", [*receipts(received)]), ("one", [])):
                assert await commit_one(store, DeleteMessages(queue=queue, receipts=receipts(received))) == stale

        self.check(scenario)

    def test_many_messages_at_once(self) -> None:
        """More than any statement or heap might take in one step, with holes behind them."""

        async def scenario(store: Store) -> None:
            await define_queue(store)
            sent = [f"m{number}" for number in range(2500)]
            assert await send(store, *sent) == sent
            first = await receive(store, count_max=1200)
            assert ids(first.messages) == sent[:1200]
            assert await commit_one(store, DeleteMessages(queue="orders", receipts=receipts(first))) == []
            assert await received_ids(store, count_max=5000) == sent[1200:]
            assert await counts(store) == (0, 1300, 0)

        self.check(scenario)

    def test_concurrent_receivers_share_no_message(self) -> None:
        """Each message is handed to exactly one of them."""

        async def scenario(store: Store) -> None:
            await define_queue(store)
            sent = [f"m{number}" for number in range(200)]
            await send(store, *sent)
            received: list[str] = []

            async def take() -> None:
                while found := await received_ids(store, count_max=7):
                    received.extend(found)

            async with anyio.create_task_group() as tasks:
                for _ in range(10):
                    tasks.start_soon(take)
            assert sorted(received) == sorted(sent)

        self.check(scenario)

    def test_a_redefined_queue_keeps_its_messages(self) -> None:
        """And follows its new settings."""

        async def scenario(store: Store) -> None:
            await define_queue(store)
            await send(store, "a")
            await define_queue(store, visibility_timeout=7)
            (message,) = (await receive(store)).messages
            assert (message.id, message.visible_ms) == ("a", at(7))
            assert (await depth(store)).settings == QueueSettings(visibility_timeout=7)

        self.check(scenario)

    def test_a_body_past_the_limit_is_refused(self) -> None:
        """The largest one is taken."""

        async def scenario(store: Store) -> None:
            await define_queue(store)
            largest = NewMessage(id="a", body=b"x" * BODY_BYTES_MAX)
            await store.commit([SendMessages(queue="orders", messages=(largest,), now_ms=NOW_MS)])
            too_large = NewMessage(id="b", body=b"x" * (BODY_BYTES_MAX + 1))
            with pytest.raises(ValueError, match=r"b\b"):
                await store.commit([SendMessages(queue="orders", messages=(too_large,), now_ms=NOW_MS)])
            (message,) = (await receive(store)).messages
            assert message.body == largest.body

        self.check(scenario)

    def test_a_bounded_send_keeps_to_the_queues_own_limit(self) -> None:
        """Attributes count with name and value; what mappings give up passes all the same."""

        async def scenario(store: Store) -> None:
            await define_queue(store, maximum_message_size=1024)
            fits = NewMessage(id="a", body=b"x" * 1020, headers=(("ab", b"cd"),))
            longer = NewMessage(id="b", body=b"x" * 1020, headers=(("ab", b"cde"),))
            await store.commit([SendMessages(queue="orders", messages=(fits,), now_ms=NOW_MS, is_bounded=True)])
            with pytest.raises(ValueError, match="shorter than 1024 bytes"):
                await store.commit([SendMessages(queue="orders", messages=(longer,), now_ms=NOW_MS, is_bounded=True)])
            assert await received_ids(store) == ["a"]
            await store.commit([SendMessages(queue="orders", messages=(longer,), now_ms=NOW_MS)])
            assert await received_ids(store) == ["b"]

        self.check(scenario)

    # -- leases --------------------------------------------------------------------------------------------------------

    def test_a_message_is_hidden_until_exactly_its_visibility_timeout(self) -> None:
        """Not a millisecond before; and each receive has a receipt and a count of its own."""

        async def scenario(store: Store) -> None:
            await define_queue(store)
            await send(store, "a")
            first = await receive(store)
            assert first.next_visible_ms == at(VISIBILITY_S)
            before = await receive(store, after_s=VISIBILITY_S - 0.001)
            assert (before.messages, before.next_visible_ms) == ([], at(VISIBILITY_S))
            (again,) = (await receive(store, after_s=VISIBILITY_S)).messages
            assert (again.id, again.receive_count, again.first_receive_ms) == ("a", 2, NOW_MS)
            assert again.receipt not in receipts(first)

        self.check(scenario)

    def test_a_receive_may_choose_its_visibility_timeout(self) -> None:
        """Zero too: then the message is visible for the next receive."""

        async def scenario(store: Store) -> None:
            await define_queue(store)
            await send(store, "a")
            for timeout_s, after_s in ((5, 0), (0, 5), (10, 5)):
                (message,) = (await receive(store, after_s=after_s, timeout_s=timeout_s)).messages
                assert message.visible_ms == at(after_s + timeout_s)
            assert await received_ids(store, after_s=14.999) == []

        self.check(scenario)

    def test_retries_keep_their_place(self) -> None:
        """A message that comes back stands before younger ones again."""

        async def scenario(store: Store) -> None:
            await define_queue(store)
            await send(store, "a", "b", "c", "d")
            assert await received_ids(store, count_max=2) == ["a", "b"]
            assert await received_ids(store, count_max=3, after_s=VISIBILITY_S) == ["a", "b", "c"]
            assert await received_ids(store, count_max=3, after_s=VISIBILITY_S) == ["d"]

        self.check(scenario)

    def test_a_retry_leaves_other_leases_alone(self) -> None:
        """What is hidden stays hidden when an older message comes back and younger ones wait."""

        async def scenario(store: Store) -> None:
            await define_queue(store)
            await send(store, "a", "b", "c", "d")
            await receive(store, count_max=1, timeout_s=5)
            await receive(store, count_max=1, timeout_s=100)
            assert await received_ids(store, count_max=1, after_s=5) == ["a"]
            assert await received_ids(store, count_max=1, after_s=5) == ["c"]
            assert await received_ids(store, after_s=5) == ["d"]

        self.check(scenario)

    def test_a_receipt_belongs_to_one_receive(self) -> None:
        """Another receive of the same message that ends at the same time has another one."""

        async def scenario(store: Store) -> None:
            await define_queue(store)
            await send(store, "a")
            (first,) = receipts(await receive(store))
            await store.commit([ChangeVisibility(queue="orders", receipts=(first,), timeout_s=0, now_ms=NOW_MS)])
            (second,) = receipts(await receive(store))
            for receipt in (first, ""):
                change = ChangeVisibility(queue="orders", receipts=(receipt,), timeout_s=9, now_ms=NOW_MS)
                assert await commit_one(store, change) == {}
                assert await commit_one(store, DeleteMessages(queue="orders", receipts=(receipt,))) == [receipt]
            assert await commit_one(store, DeleteMessages(queue="orders", receipts=(second,))) == []

        self.check(scenario)

    def test_a_deleted_message_is_gone(self) -> None:
        """Deleting tells which receipts did not own theirs."""

        async def scenario(store: Store) -> None:
            await define_queue(store)
            await send(store, "a", "b", "c")
            a, b, c = receipts(await receive(store))
            assert await commit_one(store, DeleteMessages(queue="orders", receipts=(a, "no receipt", c))) == [
                "no receipt"
            ]
            assert await commit_one(store, DeleteMessages(queue="orders", receipts=(a, b, b))) == [a]
            assert await received_ids(store, after_s=VISIBILITY_S) == []
            assert await counts(store) == (0, 0, 0)

        self.check(scenario)

    @pytest.mark.parametrize("is_fifo", [False, True])
    def test_a_required_deletion_is_refused_with_all_beside_it_unless_every_message_is_owned(
        self, is_fifo: bool
    ) -> None:
        """One that was received again, or is deleted; and what neighbours of the same transaction do is seen."""
        fields: dict[str, Any] = {"group": "g"} if is_fifo else {}
        later_s = 2 * VISIBILITY_S

        async def scenario(store: Store) -> None:
            def delete(*of: str) -> DeleteMessages:
                return DeleteMessages(queue="orders", receipts=of, now_ms=at(VISIBILITY_S), is_required=True)

            async def refuse(*of: str) -> None:
                new = SendMessages(queue="orders", messages=new_messages("x", **fields), now_ms=at(VISIBILITY_S))
                with pytest.raises(FencedOut):
                    await store.commit([new, delete(*of)])

            await define_queue(store, fifo_queue=is_fifo, content_based_deduplication=is_fifo)
            await send(store, "a", "b", "c", **fields)
            before = receipts(await receive(store))
            first, second, third = receipts(await receive(store, after_s=VISIBILITY_S))
            for stale in ((before[0],), (first, before[1]), ("no receipt",), (first, "no receipt")):
                await refuse(*stale)
            assert await counts(store) == (0, 3, 0)
            assert await commit_one(store, delete(first, first)) == []
            await refuse(second, first)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(store.commit, [delete(second)])
                tasks.start_soon(refuse, second, third)
            (left,) = (await receive(store, after_s=later_s)).messages
            assert left.id == "c"

        self.check(scenario)

    def test_a_receipt_is_good_until_the_next_receive(self) -> None:
        """Also after its visibility timeout; a receive of others does not spoil it. Source: §3.2, ReceiptHandle."""

        async def scenario(store: Store) -> None:
            await define_queue(store)
            await send(store, "a", "b", "c")
            a, b, c = receipts(await receive(store))
            assert await received_ids(store, after_s=VISIBILITY_S, count_max=1) == ["a"]
            assert await commit_one(store, DeleteMessages(queue="orders", receipts=(a, b))) == [a]
            assert await counts(store) == (1, 1, 0)
            change = ChangeVisibility(queue="orders", receipts=(a, c), timeout_s=5, now_ms=at(VISIBILITY_S))
            renewed = await commit_one(store, change)
            assert [*renewed] == [c]
            assert await counts(store) == (0, 2, 0)
            assert await received_ids(store, after_s=VISIBILITY_S + 4.999) == []
            assert await received_ids(store, after_s=VISIBILITY_S + 5) == ["c"]

        self.check(scenario)

    def test_visibility_is_changed_from_now_on(self) -> None:
        """The clock restarts, it does not add; the old receipt is replaced."""

        async def scenario(store: Store) -> None:
            await define_queue(store)
            await send(store, "a", "b")
            a, b = receipts(await receive(store))
            change = ChangeVisibility(queue="orders", receipts=(a,), timeout_s=60, now_ms=at(10))
            renewed = await commit_one(store, change)
            assert [*renewed] == [a]
            assert await received_ids(store, after_s=69.999) == ["b"]
            assert await commit_one(store, DeleteMessages(queue="orders", receipts=(a, b))) == [a, b]
            (again,) = (await receive(store, after_s=70)).messages
            assert (again.id, again.receive_count) == ("a", 2)

        self.check(scenario)

    def test_the_renewed_receipt_owns_the_message(self) -> None:
        """It deletes, and it can be renewed again; to the same end too."""

        async def scenario(store: Store) -> None:
            await define_queue(store)
            await send(store, "a")
            (receipt,) = receipts(await receive(store))
            for timeout_s in (60, 60, 20):
                change = ChangeVisibility(queue="orders", receipts=(receipt,), timeout_s=timeout_s, now_ms=NOW_MS)
                receipt = (await commit_one(store, change))[receipt]
            assert await counts(store) == (0, 1, 0)
            assert await commit_one(store, DeleteMessages(queue="orders", receipts=(receipt,))) == []
            assert await counts(store) == (0, 0, 0)

        self.check(scenario)

    def test_a_visibility_timeout_of_zero_releases(self) -> None:
        """The message is visible at once, in its old place; a released one can be released again."""

        async def scenario(store: Store) -> None:
            await define_queue(store)
            await send(store, "a", "b")
            (receipt,) = receipts(await receive(store, count_max=1))
            for after_s in (1, 2):
                change = ChangeVisibility(queue="orders", receipts=(receipt,), timeout_s=0, now_ms=at(after_s))
                receipt = (await commit_one(store, change))[receipt]
                assert await counts(store) == (2, 0, 0)
            assert await received_ids(store, after_s=2) == ["a", "b"]
            assert await commit_one(store, DeleteMessages(queue="orders", receipts=(receipt,))) == [receipt]

        self.check(scenario)

    # -- delays --------------------------------------------------------------------------------------------------------

    def test_what_is_handed_back_hidden_was_not_received(self) -> None:
        """It shows after its time, no receive was counted, and the counters are right in between and after it."""

        async def scenario(store: Store) -> None:
            await define_queue(store)
            await send(store, "a", "b")
            for round_s in (0, 100):
                (_, second) = receipts(await receive(store, after_s=round_s))
                change = ChangeVisibility(
                    queue="orders", receipts=(second,), timeout_s=100, now_ms=at(round_s), is_uncounted=True
                )
                await commit_one(store, change)
                assert await counts(store) == (0, 1, 1)
            left = (await receive(store, after_s=200)).messages
            assert [(message.id, message.receive_count) for message in left] == [("a", 3), ("b", 1)]
            assert await counts(store) == (0, 2, 0)
            delete = DeleteMessages(queue="orders", receipts=tuple(each.receipt for each in left))
            assert await commit_one(store, delete) == []
            assert await counts(store) == (0, 0, 0)

        self.check(scenario)

    def test_a_delayed_message_shows_when_its_delay_ends(self) -> None:
        """The message's own delay goes before the queue's; zero means none."""

        async def scenario(store: Store) -> None:
            await define_queue(store, delay=10)
            await send(store, "queue's")
            await send(store, "own", delay_s=5)
            await send(store, "none", delay_s=0)
            assert await counts(store) == (1, 0, 2)
            first = await receive(store)
            assert (ids(first.messages), first.next_visible_ms) == (["none"], at(5))
            assert await received_ids(store, after_s=4.999) == []
            assert await received_ids(store, after_s=5) == ["own"]
            (last,) = (await receive(store, after_s=10)).messages
            assert (last.id, last.receive_count, last.sent_ms) == ("queue's", 1, NOW_MS)
            assert await counts(store) == (0, 3, 0)

        self.check(scenario)

    def test_the_end_of_a_delay_does_not_jump_the_queue(self) -> None:
        """Oldest first holds among fresh, delayed and returned messages."""

        async def scenario(store: Store) -> None:
            await define_queue(store)
            await send(store, "a")
            await send(store, "late", delay_s=5)
            await send(store, "b", "c", "d")
            assert await received_ids(store, count_max=1, timeout_s=5) == ["a"]
            assert await received_ids(store, count_max=3, after_s=5) == ["a", "late", "b"]
            assert await received_ids(store, count_max=3, after_s=5) == ["c", "d"]

        self.check(scenario)

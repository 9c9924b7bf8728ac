"""The store's kit: FIFO queues. Source of their rules: Lambda semantics §3.2 "FIFO"."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from eventcore.ports.store import (
    DEAD_LETTER_RECEIVES,
    DEAD_LETTER_SOURCE,
    DEDUPLICATION_S,
    ChangeVisibility,
    DefineQueue,
    DeleteMessages,
    DropMessages,
    MovedCount,
    MoveMessages,
    NewMessage,
    PurgeQueue,
    QueueSettings,
    ReceiveMessages,
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
    ids,
    receipts,
    receive,
    received_ids,
    watched,
)


async def _define(store: Store, queue: str = "orders", **settings: Any) -> None:
    await define_queue(store, queue, fifo_queue=True, **settings)


async def _send(store: Store, group: str, *names: str, queue: str = "orders", after_s: float = 0) -> list[str]:
    """Send messages of a group, each with its own id as deduplication id."""
    messages = tuple(NewMessage(id=name, body=name.encode(), group=group, deduplication_id=name) for name in names)
    sent: list[str] = await commit_one(store, SendMessages(queue=queue, messages=messages, now_ms=at(after_s)))
    return sent


async def _delete(store: Store, *owned: str, after_s: float = 0) -> list[str]:
    stale: list[str] = await commit_one(
        store, DeleteMessages(queue="orders", receipts=tuple(owned), now_ms=at(after_s))
    )
    return stale


async def _change(store: Store, *owned: str, timeout_s: int, after_s: float = 0) -> dict[str, str]:
    renewed: dict[str, str] = await commit_one(
        store, ChangeVisibility(queue="orders", receipts=tuple(owned), timeout_s=timeout_s, now_ms=at(after_s))
    )
    return renewed


class FifoPromises(StoreKit):
    """Order and locks of groups, deduplication, what differs from standard queues."""

    # -- groups --------------------------------------------------------------------------------------------------------

    def test_what_is_handed_back_of_a_group_was_not_received(self) -> None:
        """In order, at once, and its receive does not count."""

        async def scenario(store: Store) -> None:
            await _define(store)
            await _send(store, "g", "1", "2")
            for _ in range(3):
                result = await commit_one(store, ReceiveMessages(queue="orders", count_max=10, now_ms=at(0)))
                assert [(message.id, message.receive_count) for message in result.messages] == [("1", 1), ("2", 1)]
                receipts = tuple(message.receipt for message in result.messages)
                handed_back = ChangeVisibility(
                    queue="orders", receipts=receipts, timeout_s=0, now_ms=at(0), is_uncounted=True
                )
                await commit_one(store, handed_back)
            assert await _delete(store, *receipts) == list(receipts)

        self.check(scenario)

    def test_what_is_handed_back_hidden_of_a_group_was_not_received(self) -> None:
        """Its receive does not count, and its group waits until it shows."""

        async def scenario(store: Store) -> None:
            await _define(store)
            await _send(store, "g", "1", "2")
            for round_s in (0, 100, 200):
                result = await commit_one(store, ReceiveMessages(queue="orders", count_max=1, now_ms=at(round_s)))
                assert [(message.id, message.receive_count) for message in result.messages] == [("1", 1)]
                receipts = (result.messages[0].receipt,)
                handed_back = ChangeVisibility(
                    queue="orders", receipts=receipts, timeout_s=100, now_ms=at(round_s), is_uncounted=True
                )
                await commit_one(store, handed_back)
                early = await commit_one(store, ReceiveMessages(queue="orders", count_max=1, now_ms=at(round_s + 99)))
                assert not early.messages

        self.check(scenario)

    def test_a_message_of_a_fifo_queue_comes_back_as_it_was_sent(self) -> None:
        """With its group and its deduplication id, in a receive and in a peek."""
        headers = (("trace", b"\x00\xff"),)

        async def scenario(store: Store) -> None:
            await _define(store)
            sent = NewMessage(id="a", body=b"\x00\xfe", headers=headers, group="g", deduplication_id="d")
            await store.commit([SendMessages(queue="orders", messages=(sent,), now_ms=NOW_MS)])
            (message,) = (await receive(store, after_s=1)).messages
            assert (message.id, message.body, message.headers, message.group) == ("a", b"\x00\xfe", headers, "g")
            assert (message.sent_ms, message.receive_count, message.first_receive_ms) == (NOW_MS, 1, at(1))
            assert (message.deduplication_id, message.visible_ms) == ("d", at(1 + VISIBILITY_S))
            (peeked,) = await store.peek("orders", count_max=10, now_ms=at(2))
            assert (peeked.body, peeked.headers, peeked.deduplication_id) == (b"\x00\xfe", headers, "d")
            assert peeked.visible_ms == message.visible_ms

        self.check(scenario)

    def test_a_group_is_handed_out_as_far_as_it_goes_before_the_next(self) -> None:
        """Each in order; groups by their oldest message."""

        async def scenario(store: Store) -> None:
            await _define(store)
            await _send(store, "g", "g1")
            await _send(store, "h", "h1", "h2")
            await _send(store, "g", "g2", "g3")
            assert await received_ids(store, count_max=4) == ["g1", "g2", "g3", "h1"]
            assert await counts(store) == (1, 4, 0)

        self.check(scenario)

    def test_a_group_is_locked_while_one_of_its_messages_is_hidden(self) -> None:
        """Until the last of them is deleted or shows again; other groups are free."""

        async def scenario(store: Store) -> None:
            await _define(store)
            await _send(store, "g", "g1", "g2", "g3")
            first, second = receipts(await receive(store, count_max=2))
            await _send(store, "h", "h1")
            assert await received_ids(store) == ["h1"]
            assert await _delete(store, first) == []
            assert await received_ids(store) == []
            assert await _delete(store, second) == []
            assert await received_ids(store) == ["g3"]

        self.check(scenario)

    def test_a_group_comes_back_in_order_when_its_visibility_timeout_ends(self) -> None:
        """What failed stands before what came later."""

        async def scenario(store: Store) -> None:
            await _define(store)
            await _send(store, "g", "g1", "g2")
            await receive(store, count_max=1)
            await _send(store, "g", "g3", after_s=1)
            assert await received_ids(store, after_s=VISIBILITY_S - 0.001) == []
            again = (await receive(store, after_s=VISIBILITY_S)).messages
            assert [(message.id, message.receive_count) for message in again] == [("g1", 2), ("g2", 1), ("g3", 1)]

        self.check(scenario)

    def test_a_group_waits_for_the_last_of_its_leases(self) -> None:
        """Leases of one group may end at different times."""

        async def scenario(store: Store) -> None:
            await _define(store)
            await _send(store, "g", "g1", "g2", "g3")
            first, _ = receipts(await receive(store, count_max=2, timeout_s=10))
            await _change(store, first, timeout_s=20)
            assert await received_ids(store, after_s=10) == []
            assert await counts(store) == (2, 1, 0)
            again = await receive(store, count_max=2, after_s=20, timeout_s=10)
            assert ids(again.messages) == ["g1", "g2"]
            await _change(store, receipts(again)[1], timeout_s=20, after_s=20)
            assert await received_ids(store, after_s=30) == []
            assert await received_ids(store, after_s=40) == ["g1", "g2", "g3"]

        self.check(scenario)

    def test_a_released_group_is_free_at_once(self) -> None:
        """And wakes those who wait, as does a deletion behind which others stand."""

        async def scenario(store: Store) -> None:
            await _define(store)
            await _send(store, "g", "g1", "g2")
            (receipt,) = receipts(await receive(store, count_max=1))
            async with watched(store, "queue:orders") as woken:
                await _change(store, receipt, timeout_s=0)
                assert await woken.settle() == 1
            (receipt,) = receipts(await receive(store, count_max=1))
            async with watched(store, "queue:orders") as woken:
                await _delete(store, receipt)
                assert await woken.settle() == 1
            (receipt,) = receipts(await receive(store, count_max=1))
            async with watched(store, "queue:orders") as woken:
                await _delete(store, receipt)
                assert await woken.settle() == 0

        self.check(scenario)

    def test_a_receipt_of_a_fifo_queue_ends_with_its_visibility_timeout(self) -> None:
        """§3.2 "ReceiptHandle": unlike that of a standard queue."""

        async def scenario(store: Store) -> None:
            await _define(store)
            await _send(store, "g", "g1")
            (receipt,) = receipts(await receive(store))
            assert await _delete(store, receipt, "no receipt", after_s=VISIBILITY_S) == [receipt, "no receipt"]
            assert await _change(store, receipt, timeout_s=5, after_s=VISIBILITY_S) == {}
            assert await _delete(store, receipt, receipt, after_s=VISIBILITY_S - 0.001) == []
            assert await counts(store) == (0, 0, 0)

        self.check(scenario)

    def test_many_groups_and_long_ones(self) -> None:
        """More than any statement might take in one step."""

        async def scenario(store: Store) -> None:
            await _define(store)
            for number in range(60):
                await _send(store, f"g{number}", f"first-{number}", f"second-{number}")
            await _send(store, "long", *[f"m{number}" for number in range(1200)])
            received = await received_ids(store, count_max=100)
            assert received == [f"{which}-{number}" for number in range(50) for which in ("first", "second")]
            received = await received_ids(store, count_max=1000)
            assert received[20:] == [f"m{number}" for number in range(980)]

        self.check(scenario)

    def test_a_delayed_message_holds_back_its_group_alone(self) -> None:
        """Later ones of it too, even where the queue's delay has become shorter."""

        async def scenario(store: Store) -> None:
            await _define(store, delay=10)
            await _send(store, "g", "g1")
            await _define(store)
            await _send(store, "g", "g2")
            await _send(store, "h", "h1")
            assert await counts(store) == (2, 0, 1)
            assert await received_ids(store) == ["h1"]
            assert (await receive(store)).next_visible_ms == at(10)
            assert await received_ids(store, after_s=10) == ["g1", "g2"]

        self.check(scenario)

    # -- deduplication -------------------------------------------------------------------------------------------------

    def test_a_deduplication_id_is_known_for_its_time(self) -> None:
        """The duplicate is taken and not delivered; its sender is given the first one's id."""

        async def scenario(store: Store) -> None:
            await _define(store)

            async def send(name: str, after_s: float, group: str = "g") -> list[str]:
                new = NewMessage(id=name, body=b"", group=group, deduplication_id="d")
                sent: list[str] = await commit_one(
                    store, SendMessages(queue="orders", messages=(new,), now_ms=at(after_s))
                )
                return sent

            assert await send("a", 0) == ["a"]
            assert await send("b", 1, "h") == ["a"]
            (receipt,) = receipts(await receive(store))
            await _delete(store, receipt)
            assert await send("c", DEDUPLICATION_S - 0.001) == ["a"]
            assert await send("d", DEDUPLICATION_S) == ["d"]
            assert await received_ids(store, after_s=DEDUPLICATION_S) == ["d"]

        self.check(scenario)

    def test_duplicates_within_one_send(self) -> None:
        """The first counts."""

        async def scenario(store: Store) -> None:
            await _define(store)
            messages = tuple(NewMessage(id=name, body=b"", group="g", deduplication_id="d") for name in "abc")
            send = SendMessages(queue="orders", messages=messages, now_ms=NOW_MS)
            assert await commit_one(store, send) == ["a", "a", "a"]
            assert await received_ids(store) == ["a"]

        self.check(scenario)

    def test_a_message_without_an_id_is_known_by_its_content(self) -> None:
        """By its body alone, in its scope; the id that it was given is told."""

        async def scenario(store: Store) -> None:
            await _define(store, content_based_deduplication=True, deduplication_scope="messageGroup")
            messages = (
                NewMessage(id="a", body=b"x", group="g"),
                NewMessage(id="b", body=b"x", group="g", headers=(("h", b"1"),)),
                NewMessage(id="c", body=b"x", group="h"),
                NewMessage(id="d", body=b"y", group="g"),
            )
            send = SendMessages(queue="orders", messages=messages, now_ms=NOW_MS)
            assert await commit_one(store, send) == ["a", "a", "c", "d"]
            received = (await receive(store)).messages
            assert ids(received) == ["a", "d", "c"]
            assert received[0].deduplication_id == hashlib.sha256(b"x").hexdigest()

        self.check(scenario)

    def test_what_was_sent_stays_known_over_a_restart(self) -> None:
        """And so do locks, counts and the order of groups."""

        async def before(store: Store) -> None:
            await _define(store)
            await _send(store, "g", "g1", "g2")
            await _send(store, "h", "h1", "h2")
            await receive(store, count_max=1)

        async def after(store: Store) -> None:
            assert await _send(store, "k", "g1", after_s=1) == ["g1"]
            assert await counts(store) == (3, 1, 0)
            assert await received_ids(store, after_s=1) == ["h1", "h2"]
            assert await received_ids(store, after_s=VISIBILITY_S) == ["g1", "g2"]

        self.check_restart(before, after)

    @pytest.mark.parametrize(
        "message",
        [
            NewMessage(id="a", body=b"", deduplication_id="d"),
            NewMessage(id="a", body=b"", group="g"),
            NewMessage(id="a", body=b"", group="g h", deduplication_id="d"),
            NewMessage(id="a", body=b"", group="g", deduplication_id="d" * 129),
            NewMessage(id="a", body=b"", group="g", deduplication_id="d", delay_s=0),
            NewMessage(id="a", body=b"", group="g", deduplication_id="d", idempotency_token="t"),
        ],
    )
    def test_a_message_that_a_fifo_queue_does_not_take(self, message: NewMessage) -> None:
        """Nothing of its send is taken."""

        async def scenario(store: Store) -> None:
            await _define(store)
            good = NewMessage(id="b", body=b"", group="g", deduplication_id="e")
            with pytest.raises(ValueError, match=r"\w"):
                await store.commit([SendMessages(queue="orders", messages=(good, message), now_ms=NOW_MS)])
            assert await counts(store) == (0, 0, 0)

        self.check(scenario)

    # -- what moves between queues -------------------------------------------------------------------------------------

    def test_a_dead_letter_queue_of_a_fifo_queue_keeps_groups_and_counts_retention_anew(self) -> None:
        """The rest of the group goes on in the same receive (§3.2 "DLQ")."""

        async def scenario(store: Store) -> None:
            await _define(store, "dead", message_retention_period=60)
            await _define(store, dead_letter_queue="dead", max_receive_count=1)
            await _send(store, "g", "g1")
            await receive(store)
            await _send(store, "g", "g2", after_s=1)
            received = await receive(store, after_s=VISIBILITY_S)
            assert ids(received.messages) == ["g2"]
            assert [(moved.id, moved.receive_count, moved.target) for moved in received.moved] == [("g1", 1, "dead")]
            (dead,) = await store.peek("dead", count_max=10, now_ms=at(VISIBILITY_S))
            assert (dead.id, dead.group, dead.deduplication_id) == ("g1", "g", "g1")
            assert (dead.receive_count, dead.first_receive_ms, dead.sent_ms) == (1, NOW_MS, NOW_MS)
            assert dead.headers == ((DEAD_LETTER_SOURCE, b"orders"), (DEAD_LETTER_RECEIVES, b"1"))
            assert (await receive(store, queue="dead", count_max=0, after_s=60)).expired == []
            assert ids(await store.peek("dead", count_max=9, now_ms=at(VISIBILITY_S + 59.999))) == ["g1"]
            assert ids(await store.peek("dead", count_max=9, now_ms=at(VISIBILITY_S + 60))) == []
            again = await receive(store, queue="dead", after_s=VISIBILITY_S + 59.999)
            assert [message.receive_count for message in again.messages] == [2]
            assert (await receive(store, queue="dead", after_s=2 * VISIBILITY_S + 60)).expired == ["g1"]

        self.check(scenario)

    def test_moved_messages_keep_the_order_of_their_groups(self) -> None:
        """They are new messages, also in their ids; what is in flight holds the rest of its group back."""

        async def scenario(store: Store) -> None:
            await _define(store)
            await _define(store, "dead")
            await _send(store, "g", "g1", "g2", queue="dead")
            await _send(store, "h", "h1", queue="dead")
            await receive(store, queue="dead", count_max=1)
            move = MoveMessages(source="dead", target="orders", count_max=2, now_ms=NOW_MS, ids=("new", "newer"))
            assert await commit_one(store, move) == MovedCount(1, 1)
            later = MoveMessages(source="dead", target="orders", count_max=1, now_ms=at(VISIBILITY_S))
            assert await commit_one(store, later) == MovedCount(1, 1)
            assert await counts(store, "dead") == (1, 0, 0)
            assert await commit_one(store, later) == MovedCount(1, 1)
            assert await received_ids(store, after_s=VISIBILITY_S) == ["new", "g1", "g2"]

        self.check(scenario)

    def test_a_moved_message_that_the_target_knows_is_gone(self) -> None:
        """sqs-core/move-task-hits-dedup: a dead letter's deduplication id is the id that it had."""

        async def scenario(store: Store) -> None:
            await _define(store, "dead")
            await _define(store, dead_letter_queue="dead", max_receive_count=1)
            await _send(store, "g", "g1", "g2")
            await receive(store)
            await receive(store, after_s=VISIBILITY_S)
            move = MoveMessages(source="dead", target="orders", count_max=9, now_ms=at(VISIBILITY_S))
            assert await commit_one(store, move) == MovedCount(2, 0)
            assert await counts(store, "dead") == (0, 0, 0)
            assert await counts(store) == (0, 0, 0)

        self.check(scenario)

    def test_queues_of_two_types_give_each_other_nothing(self) -> None:
        """Neither by hand nor by a redrive policy; and a queue stays what it is."""

        async def scenario(store: Store) -> None:
            await define_queue(store, "standard")
            await _define(store, dead_letter_queue="standard", max_receive_count=1)
            for refused in (
                MoveMessages(source="standard", target="orders", count_max=1, now_ms=NOW_MS),
                MoveMessages(source="orders", target="standard", count_max=1, now_ms=NOW_MS),
                ReceiveMessages(queue="orders", count_max=1, now_ms=NOW_MS),
            ):
                with pytest.raises(ValueError, match="FIFO"):
                    await store.commit([refused])
            with pytest.raises(ValueError, match="FIFO"):
                await store.commit([DefineQueue(queue="orders", settings=QueueSettings())])
            new = NewMessage(id="a", body=b"", deduplication_id="d")
            with pytest.raises(ValueError, match="MessageDeduplicationId"):
                await store.commit([SendMessages(queue="standard", messages=(new,), now_ms=NOW_MS)])

        self.check(scenario)

    # -- care ----------------------------------------------------------------------------------------------------------

    def test_what_retention_ends_sets_its_group_free(self) -> None:
        """A receive of none drops it as well."""

        async def scenario(store: Store) -> None:
            await _define(store, message_retention_period=60)
            await _send(store, "g", "g1")
            await _send(store, "h", "h1")
            await _send(store, "g", "g2", after_s=30)
            assert (await receive(store, count_max=1, after_s=60)).expired == ["g1"]
            swept = await receive(store, count_max=0, after_s=60)
            assert (swept.messages, swept.expired) == ([], ["h1"])
            assert await counts(store) == (0, 1, 0)

        self.check(scenario)

    def test_purging_and_dropping_set_groups_free(self) -> None:
        """What was sent lately stays known."""

        async def scenario(store: Store) -> None:
            await _define(store)
            await _send(store, "g", "g1", "g2", "g3")
            (receipt,) = receipts(await receive(store, count_max=1))
            assert await commit_one(store, DropMessages(queue="orders", ids=("g1", "no"))) == 1
            assert await _delete(store, receipt) == [receipt]
            assert await received_ids(store, count_max=1) == ["g2"]
            assert await commit_one(store, PurgeQueue(queue="orders")) == 2
            assert await counts(store) == (0, 0, 0)
            assert await _send(store, "g", "g1", "g4") == ["g1", "g4"]
            assert await received_ids(store) == ["g4"]

        self.check(scenario)

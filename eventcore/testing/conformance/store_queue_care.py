"""The store's kit: what happens to messages that nobody settles, and what is done to queues by hand.

Source of the rules: Lambda semantics §3.2.
"""

from __future__ import annotations

from typing import Any

import pytest

from eventcore.ports.store import (
    DEAD_LETTER_RECEIVES,
    DEAD_LETTER_SOURCE,
    IDEMPOTENCY_DAYS,
    ChangeVisibility,
    DefineQueue,
    DeleteMessages,
    DropMessages,
    MovedCount,
    MovedMessage,
    MoveMessages,
    PurgeQueue,
    QueueSettings,
    ReceiveMessages,
    SendMessages,
    Store,
)
from eventcore.testing.conformance.store_kit import (
    DAY_S,
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


class QueueCarePromises(StoreKit):
    """Retention, redrive, tokens, moving, dropping, looking."""

    # -- retention -----------------------------------------------------------------------------------------------------

    def test_retention_drops_what_is_too_old(self) -> None:
        """Whether fresh or returned, and says which; what is not too old is handed out."""

        async def scenario(store: Store) -> None:
            await define_queue(store, message_retention_period=60)
            await send(store, "a", "b", "c")
            await receive(store, count_max=1)
            await send(store, "d", after_s=30)
            result = await receive(store, after_s=60)
            assert (sorted(result.expired), ids(result.messages)) == (["a", "b", "c"], ["d"])
            assert await counts(store) == (0, 1, 0)

        self.check(scenario)

    def test_a_receive_of_none_sweeps(self) -> None:
        """It drops what is too old and hands out nothing: for queues that nobody reads."""

        async def scenario(store: Store) -> None:
            await define_queue(store, message_retention_period=60)
            await send(store, *[f"m{number}" for number in range(150)])
            await send(store, "young", after_s=30)
            swept = await receive(store, count_max=0, after_s=60)
            assert (len(swept.expired), swept.messages) == (150, [])
            assert await counts(store) == (1, 0, 0)
            assert (await depth(store)).oldest_ms == at(30)
            assert await received_ids(store, after_s=60) == ["young"]

        self.check(scenario)

    def test_a_long_backlog_of_expired_messages_is_dropped_in_steps(self) -> None:
        """Each step is bounded, and says at once that there is more to do."""

        async def scenario(store: Store) -> None:
            await define_queue(store, message_retention_period=60)
            sent = [f"m{number}" for number in range(3000)]
            await send(store, *sent)
            await send(store, "young", after_s=30)
            expired: list[str] = []
            found: list[str] = []
            while not found:
                result = await receive(store, count_max=1, after_s=60)
                found = ids(result.messages)
                expired.extend(result.expired)
                assert found or result.next_visible_ms == at(60)
            assert (found, expired) == (["young"], sent)

        self.check(scenario)

    # -- redrive -------------------------------------------------------------------------------------------------------

    def test_the_receive_after_the_last_one_allowed_redrives(self) -> None:
        """Not the timer: the message stays until somebody receives (trap 16). It keeps its id, body and time sent."""

        async def scenario(store: Store) -> None:
            await define_queue(store, "dead")
            await define_queue(store, dead_letter_queue="dead", max_receive_count=2)
            await send(store, "a", headers=(("h", b"1"),), group="g")
            for round_ in range(2):
                assert await received_ids(store, after_s=round_ * VISIBILITY_S) == ["a"]
            await send(store, "b", after_s=2 * VISIBILITY_S)
            assert await counts(store, "dead") == (0, 0, 0)
            result = await receive(store, after_s=2 * VISIBILITY_S)
            assert ids(result.messages) == ["b"]
            assert [*result.moved] == [MovedMessage("a", 2, "dead")]
            assert await counts(store) == (0, 1, 0)
            (dead,) = (await receive(store, queue="dead", after_s=2 * VISIBILITY_S)).messages
            headers = (("h", b"1"), (DEAD_LETTER_SOURCE, b"orders"), (DEAD_LETTER_RECEIVES, b"2"))
            assert (dead.id, dead.body, dead.headers, dead.group) == ("a", b"a", headers, "g")
            # It goes on: two receives of the source, and this one.
            assert (dead.sent_ms, dead.receive_count, dead.first_receive_ms) == (NOW_MS, 3, NOW_MS)

        self.check(scenario)

    @pytest.mark.parametrize("is_fifo", [False, True])
    def test_each_queue_allows_its_own_receives(self, is_fifo: bool) -> None:
        """The count that functions see is that of all queues; the limit of a dead-letter queue is its own.

        Source: SQS's API reference, `ApproximateReceiveCount` ("across all queues") and `maxReceiveCount`.
        """
        policies = [("orders", "dead", 3), ("dead", "buried", 2), ("buried", "", 0)]
        fields: dict[str, Any] = {"group": "g", "deduplication_id": "1"} if is_fifo else {}

        async def scenario(store: Store) -> None:
            for name, target, count in reversed(policies):
                await define_queue(store, name, dead_letter_queue=target, max_receive_count=count, fifo_queue=is_fifo)
            await send(store, "a", **fields)
            at_s, seen = 0, []
            for name, _, count in policies:
                for _ in range(count or 1):
                    (message,) = (await receive(store, queue=name, after_s=at_s)).messages
                    seen.append((name, message.receive_count))
                    at_s += VISIBILITY_S
                if count:
                    assert (await receive(store, queue=name, after_s=at_s)).messages == []
            queues = ["orders"] * 3 + ["dead"] * 2 + ["buried"]
            assert seen == list(zip(queues, range(1, 7), strict=True))
            (buried,) = await store.peek("buried", count_max=1)
            assert buried.headers == ((DEAD_LETTER_SOURCE, b"dead"), (DEAD_LETTER_RECEIVES, b"5"))

        self.check(scenario)

    def test_redrive_keeps_the_order(self) -> None:
        """Several messages at once reach the dead-letter queue in their order, behind what is there."""

        async def scenario(store: Store) -> None:
            await define_queue(store, "dead")
            await define_queue(store, dead_letter_queue="dead", max_receive_count=1)
            await send(store, "first", queue="dead")
            await send(store, "a", "b", "c")
            await receive(store)
            assert len((await receive(store, after_s=VISIBILITY_S)).moved) == 3
            assert await received_ids(store, queue="dead", after_s=VISIBILITY_S) == ["first", "a", "b", "c"]

        self.check(scenario)

    def test_a_dead_letter_is_as_old_as_it_was_when_it_was_sent(self) -> None:
        """The dead-letter queue's retention counts from the send to the source. Source: §3.2 "DLQ"."""

        async def scenario(store: Store) -> None:
            await define_queue(store, "dead", message_retention_period=60)
            await define_queue(store, dead_letter_queue="dead", max_receive_count=1)
            await send(store, "a")
            await receive(store)
            assert len((await receive(store, after_s=VISIBILITY_S)).moved) == 1
            assert ids(await store.peek("dead", count_max=9, now_ms=at(59.999))) == ["a"]
            assert ids(await store.peek("dead", count_max=9, now_ms=at(60))) == []
            assert (await receive(store, queue="dead", count_max=0, after_s=59.999)).expired == []
            assert (await receive(store, queue="dead", after_s=60)).expired == ["a"]

        self.check(scenario)

    def test_half_a_redrive_policy_is_refused(self) -> None:
        """A setting without its other half would have no effect; a queue can't be its own dead-letter queue."""

        async def scenario(store: Store) -> None:
            for settings in (
                QueueSettings(dead_letter_queue="dead"),
                QueueSettings(max_receive_count=3),
                QueueSettings(dead_letter_queue="orders", max_receive_count=3),
            ):
                with pytest.raises(ValueError, match="orders"):
                    await store.commit([DefineQueue(queue="orders", settings=settings)])
            assert await store.queue_depths() == []

        self.check(scenario)

    def test_a_missing_dead_letter_queue_is_an_error_before_anything_is_lost(self) -> None:
        """It names the queue; once that is there, all goes on."""

        async def scenario(store: Store) -> None:
            await define_queue(store, dead_letter_queue="dead", max_receive_count=1)
            await send(store, "a")
            with pytest.raises(KeyError, match="dead"):
                await receive(store)
            await define_queue(store, "dead")
            assert await received_ids(store) == ["a"]

        self.check(scenario)

    # -- idempotency ---------------------------------------------------------------------------------------------------

    def test_a_token_is_taken_once(self) -> None:
        """Within one send and across sends, also after the message is deleted; other queues have their own tokens."""

        async def scenario(store: Store) -> None:
            await define_queue(store)
            await define_queue(store, "other")
            assert await send(store, "a", "b", idempotency_token="t") == ["a"]
            result = await receive(store)
            assert ids(result.messages) == ["a"]
            await store.commit([DeleteMessages(queue="orders", receipts=receipts(result))])
            assert await send(store, "c", after_s=1, idempotency_token="t") == []
            assert await send(store, "d", after_s=1, idempotency_token="u") == ["d"]
            assert await send(store, "e", queue="other", idempotency_token="t") == ["e"]
            assert await counts(store) == (1, 0, 0)

        self.check(scenario)

    def test_a_token_is_forgotten_in_the_end(self) -> None:
        """After `IDEMPOTENCY_DAYS`, not before."""

        async def scenario(store: Store) -> None:
            await define_queue(store)
            await send(store, "a", idempotency_token="t")
            end_s = IDEMPOTENCY_DAYS * DAY_S
            assert await send(store, "b", after_s=end_s - 0.001, idempotency_token="t") == []
            assert await send(store, "c", after_s=end_s, idempotency_token="t") == ["c"]
            assert await send(store, "d", after_s=end_s, idempotency_token="t") == []

        self.check(scenario)

    # -- by hand -------------------------------------------------------------------------------------------------------

    def test_purge_takes_everything(self) -> None:
        """Visible, hidden and delayed messages; receipts are spent, the queue goes on, others are untouched."""

        async def scenario(store: Store) -> None:
            await define_queue(store)
            await define_queue(store, "other")
            await send(store, "kept", queue="other")
            await send(store, "a", "b", "c")
            await send(store, "d", delay_s=5)
            (receipt,) = receipts(await receive(store, count_max=1))
            change = ChangeVisibility(queue="orders", receipts=(receipt,), timeout_s=0, now_ms=NOW_MS)
            (released,) = (await commit_one(store, change)).values()
            (receipt,) = receipts(await receive(store, count_max=1, timeout_s=5))
            assert await commit_one(store, PurgeQueue(queue="orders")) == 4
            assert await counts(store) == (0, 0, 0)
            spent = (released, receipt)
            assert await commit_one(store, DeleteMessages(queue="orders", receipts=spent)) == [*spent]
            await send(store, "e", after_s=5)
            assert await received_ids(store, after_s=5) == ["e"]
            assert await counts(store, "other") == (1, 0, 0)

        self.check(scenario)

    def test_moved_messages_are_new(self) -> None:
        """Receive count 0 and sent now; oldest first; hidden and delayed ones stay. Source: §3.2, §12."""

        async def scenario(store: Store) -> None:
            await define_queue(store, "dead", message_retention_period=60)
            await define_queue(store)
            await send(store, "old", "hidden", "a", "b", "c", queue="dead")
            await send(store, "delayed", queue="dead", delay_s=900)
            assert await received_ids(store, queue="dead", count_max=2, timeout_s=10) == ["old", "hidden"]
            await receive(store, queue="dead", after_s=10, count_max=1, timeout_s=0)
            assert await received_ids(store, queue="dead", after_s=10, count_max=2) == ["old", "hidden"]
            move = MoveMessages(source="dead", target="orders", count_max=2, now_ms=at(20))
            assert await commit_one(store, move) == MovedCount(2, 2)
            assert await counts(store, "dead") == (1, 2, 1)
            messages = (await receive(store, after_s=20)).messages
            assert [(message.id, message.sent_ms, message.receive_count) for message in messages] == [
                ("a", at(20), 1),
                ("b", at(20), 1),
            ]

        self.check(scenario)

    def test_a_move_takes_due_messages_and_drops_expired_ones(self) -> None:
        """What would be visible to a receive at that time, and nothing that retention has ended."""

        async def scenario(store: Store) -> None:
            await define_queue(store, "dead", message_retention_period=60)
            await define_queue(store)
            await send(store, "expired", queue="dead")
            await send(store, "due", queue="dead", after_s=30, delay_s=5)
            await send(store, "returned", queue="dead", after_s=30)
            await receive(store, queue="dead", after_s=30, timeout_s=5)
            move = MoveMessages(source="dead", target="orders", count_max=10, now_ms=at(60))
            assert await commit_one(store, move) == MovedCount(3, 2)
            assert await counts(store, "dead") == (0, 0, 0)
            assert await received_ids(store, after_s=60) == ["due", "returned"]

        self.check(scenario)

    def test_messages_are_dropped_by_id(self) -> None:
        """Wherever they stand; the answer counts those that were there."""

        async def scenario(store: Store) -> None:
            await define_queue(store)
            await send(store, "hidden", "returned", "visible", "kept")
            await send(store, "delayed", delay_s=10)
            await receive(store, count_max=1, timeout_s=100)
            await receive(store, count_max=1, timeout_s=1)
            await receive(store, count_max=0, after_s=1)
            assert await counts(store) == (3, 1, 1)
            dropped = ("hidden", "returned", "visible", "delayed", "unknown")
            assert await commit_one(store, DropMessages(queue="orders", ids=dropped)) == 4
            assert await counts(store) == (1, 0, 0)
            assert await received_ids(store, after_s=200) == ["kept"]

        self.check(scenario)

    def test_what_is_dropped_leaves_the_others_as_they_are(self) -> None:
        """Their numbers, their order, and receipts of those that are being worked on."""

        async def scenario(store: Store) -> None:
            await define_queue(store)
            await send(store, "one", "two", "three", "four", "five")
            (first,) = (await receive(store, count_max=1, timeout_s=100)).messages
            before = {found.id: found.number for found in await store.peek("orders", count_max=9, now_ms=at(1))}
            assert await commit_one(store, DropMessages(queue="orders", ids=("two", "four"))) == 2
            after = {found.id: found.number for found in await store.peek("orders", count_max=9, now_ms=at(1))}
            assert after == {name: before[name] for name in ("one", "three", "five")}
            await send(store, "six", after_s=1)
            received = (await receive(store, after_s=1)).messages
            assert [found.id for found in received] == ["three", "five", "six"]
            receipts = (first.receipt, *[found.receipt for found in received])
            assert await commit_one(store, DeleteMessages(queue="orders", receipts=receipts)) == []
            assert await counts(store) == (0, 0, 0)

        self.check(scenario)

    # -- looking -------------------------------------------------------------------------------------------------------

    def test_peek_shows_each_message_as_it_stands(self) -> None:
        """In the order they were sent, in pages, without receiving; expired ones are left out."""

        async def scenario(store: Store) -> None:
            await define_queue(store, message_retention_period=60)
            await send(store, "expired")
            await send(store, "due", "hidden", "fresh", after_s=30)
            await send(store, "delayed", after_s=30, delay_s=100)
            await receive(store, count_max=2, after_s=30, timeout_s=10)
            await receive(store, count_max=1, after_s=30, timeout_s=100)
            page = await store.peek("orders", count_max=2, now_ms=at(60))
            rest = await store.peek("orders", count_max=9, after_number=page[-1].number, now_ms=at(60))
            shown = [(found.id, found.visible_ms, found.receive_count, found.receipt) for found in (*page, *rest)]
            assert shown == [
                ("due", 0, 1, ""),
                ("hidden", at(130), 1, ""),
                ("fresh", 0, 0, ""),
                ("delayed", at(130), 0, ""),
            ]
            assert page[0].body == b"due"
            assert await received_ids(store, after_s=60) == ["due", "fresh"]

        self.check(scenario)

    def test_counters_are_right_after_everything(self) -> None:
        """Sends, delays, receives, releases, deletes, redrive, moves and purges; with the oldest message's time."""

        async def scenario(store: Store) -> None:
            await define_queue(store, "dead")
            await define_queue(store, dead_letter_queue="dead", max_receive_count=1)
            await send(store, "a", "b", "c", "d")
            await send(store, "e", after_s=1, delay_s=60)
            assert await counts(store) == (4, 0, 1)
            a, b, _ = receipts(await receive(store, count_max=3))
            assert await counts(store) == (1, 3, 1)
            await store.commit([DeleteMessages(queue="orders", receipts=(a,))])
            assert await counts(store) == (1, 2, 1)
            await store.commit([ChangeVisibility(queue="orders", receipts=(b,), timeout_s=0, now_ms=at(1))])
            assert await counts(store) == (2, 1, 1)
            await receive(store, after_s=VISIBILITY_S)
            assert (await counts(store), await counts(store, "dead")) == ((0, 1, 1), (2, 0, 0))
            assert ((await depth(store)).oldest_ms, (await depth(store, "dead")).oldest_ms) == (NOW_MS, NOW_MS)
            await store.commit([MoveMessages(source="dead", target="orders", count_max=9, now_ms=at(40))])
            assert (await counts(store), await counts(store, "dead")) == ((2, 1, 1), (0, 0, 0))
            await store.commit([PurgeQueue(queue="orders")])
            assert await counts(store) == (0, 0, 0)
            assert (await depth(store)).oldest_ms == 0

        self.check(scenario)

    def test_depths_stand_by_name(self) -> None:
        """With their settings."""

        async def scenario(store: Store) -> None:
            await define_queue(store, "b")
            await define_queue(store, "a", delay=3)
            assert [(found.queue, found.settings.delay) for found in await store.queue_depths()] == [("a", 3), ("b", 0)]

        self.check(scenario)

    def test_a_queue_that_is_not_defined_is_a_key_error(self) -> None:
        """For every operation, and it is named."""

        async def scenario(store: Store) -> None:
            await define_queue(store)
            for operation in (
                SendMessages(queue="nowhere", messages=new_messages(["a"]), now_ms=NOW_MS),
                ReceiveMessages(queue="nowhere", count_max=1, now_ms=NOW_MS),
                DeleteMessages(queue="nowhere", receipts=()),
                ChangeVisibility(queue="nowhere", receipts=(), timeout_s=0, now_ms=NOW_MS),
                PurgeQueue(queue="nowhere"),
                MoveMessages(source="nowhere", target="orders", count_max=1, now_ms=NOW_MS),
                MoveMessages(source="orders", target="nowhere", count_max=1, now_ms=NOW_MS),
                DropMessages(queue="nowhere", ids=()),
            ):
                with pytest.raises(KeyError, match="nowhere"):
                    await store.commit([operation])
            with pytest.raises(KeyError, match="nowhere"):
                await store.peek("nowhere", count_max=1)

        self.check(scenario)

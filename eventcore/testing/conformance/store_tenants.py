"""The store's kit: fair queues. A tenant with too much in flight lets the others pass, and loses nothing.

Source of the rules: SQS developer guide, "How Amazon SQS fair queues work".
"""

from __future__ import annotations

from collections.abc import Sequence

from eventcore.ports.store import (
    ChangeVisibility,
    DeleteMessages,
    DropMessages,
    MovedCount,
    MoveMessages,
    PurgeQueue,
    ReceiveResult,
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
    receipts,
    receive,
    received_ids,
    send,
)


def named(tenant: str, count: int, *, first: int = 0) -> list[str]:
    """Return ids of messages of a tenant."""
    return [f"{tenant}{number}" for number in range(first, first + count)]


async def send_of(store: Store, tenant: str, count: int, *, first: int = 0, after_s: float = 0) -> list[str]:
    """Send messages of a tenant; return their ids."""
    return await send(store, *named(tenant, count, first=first), group=tenant, after_s=after_s)


async def delete(store: Store, result: ReceiveResult) -> None:
    """Delete what was received."""
    await commit_one(store, DeleteMessages(queue="orders", receipts=receipts(result)))


def of(tenant: str, found: Sequence[str]) -> list[str]:
    """Return those ids that are of a tenant."""
    return [each for each in found if each.startswith(tenant)]


class TenantPromises(StoreKit):
    """Message groups of standard queues."""

    def test_a_noisy_tenant_lets_the_others_pass(self) -> None:
        """And has what room they leave: nothing is held back."""

        async def scenario(store: Store) -> None:
            await define_queue(store)
            await send_of(store, "a", 100)
            await receive(store, count_max=40)
            await send_of(store, "b", 10)
            assert await received_ids(store, count_max=4) == named("b", 4)
            assert await received_ids(store, count_max=20) == [*named("b", 6, first=4), *named("a", 14, first=40)]
            assert await received_ids(store) == named("a", 46, first=54)
            assert await counts(store) == (0, 110, 0)

        self.check(scenario)

    def test_thirty_messages_in_flight_make_a_tenant_noisy(self) -> None:
        """Not fewer, whatever share they are."""

        async def scenario(store: Store) -> None:
            await define_queue(store)
            await send_of(store, "a", 50)
            await receive(store, count_max=29)
            await send_of(store, "b", 5)
            assert await received_ids(store, count_max=2) == ["a29", "b0"]

        self.check(scenario)

    def test_a_tenth_of_what_is_in_flight_is_no_noise(self) -> None:
        """A message without a group is a tenant of its own; and it is never noisy."""

        async def scenario(store: Store) -> None:
            await define_queue(store)
            await send(store, *named("x", 299))
            await send_of(store, "a", 40)
            await receive(store, count_max=330)
            await send_of(store, "b", 1)
            # 31 of 330, and of 331, are less than a tenth; 34 of 333 are more.
            assert await received_ids(store, count_max=4) == ["a31", "a32", "a33", "b0"]
            await send(store, *named("y", 2))
            assert await received_ids(store, count_max=2) == named("y", 2)

        self.check(scenario)

    def test_without_groups_the_order_is_that_of_arrival(self) -> None:
        """However many are in flight."""

        async def scenario(store: Store) -> None:
            await define_queue(store)
            await send(store, *named("x", 200))
            assert await received_ids(store, count_max=100) == named("x", 100)
            assert await received_ids(store, count_max=100) == named("x", 100, first=100)

        self.check(scenario)

    def test_of_noisy_tenants_the_one_with_the_fewest_in_flight_is_next(self) -> None:
        """One message at a time."""

        async def scenario(store: Store) -> None:
            await define_queue(store)
            await send_of(store, "a", 60)
            await receive(store, count_max=60)
            await send_of(store, "c", 40)
            await receive(store, count_max=40)
            await send_of(store, "a", 30, first=60)
            await send_of(store, "c", 30, first=40)
            assert await received_ids(store, count_max=20) == named("c", 20, first=40)
            found = await received_ids(store, count_max=10)
            assert (len(of("a", found)), len(of("c", found))) == (5, 5)

        self.check(scenario)

    def test_a_tenant_is_quiet_again_when_its_messages_are_settled(self) -> None:
        """What was passed over comes first then: it is older."""

        async def scenario(store: Store) -> None:
            await define_queue(store)
            await send_of(store, "a", 100)
            first = await receive(store, count_max=40)
            await send_of(store, "b", 5)
            assert await received_ids(store, count_max=1) == ["b0"]
            await delete(store, first)
            assert await received_ids(store, count_max=3) == named("a", 3, first=40)
            # Until it has thirty in flight.
            assert await received_ids(store, count_max=31) == [*named("a", 27, first=43), *named("b", 4, first=1)]

        self.check(scenario)

    def test_what_is_visible_again_is_not_in_flight(self) -> None:
        """Whether its visibility timeout ended, or it was given back."""

        async def scenario(store: Store) -> None:
            await define_queue(store)
            await send_of(store, "a", 80)
            first = await receive(store, count_max=40)
            await commit_one(
                store,
                ChangeVisibility(queue="orders", receipts=receipts(first)[:20], timeout_s=0, now_ms=NOW_MS),
            )
            await send_of(store, "b", 3)
            # 20 in flight: ten more, and then the other's.
            assert await received_ids(store, count_max=12) == [*named("a", 10), "b0", "b1"]
            found = await received_ids(store, count_max=30, after_s=VISIBILITY_S)
            assert len(of("a", found)) == 30

        self.check(scenario)

    def test_what_waits_uncounted_is_not_in_flight(self) -> None:
        """Nobody works on it: it was given back until later."""

        async def scenario(store: Store) -> None:
            await define_queue(store)
            await send_of(store, "a", 80)
            first = await receive(store, count_max=40)
            await commit_one(
                store,
                ChangeVisibility(
                    queue="orders", receipts=receipts(first)[:20], timeout_s=600, is_uncounted=True, now_ms=NOW_MS
                ),
            )
            await send_of(store, "b", 3)
            assert await received_ids(store, count_max=12) == [*named("a", 10, first=40), "b0", "b1"]

        self.check(scenario)

    def test_prolonged_messages_stay_in_flight(self) -> None:
        """A handler that takes long is what makes noise."""

        async def scenario(store: Store) -> None:
            await define_queue(store)
            await send_of(store, "a", 50)
            first = await receive(store, count_max=40)
            await commit_one(
                store, ChangeVisibility(queue="orders", receipts=receipts(first), timeout_s=600, now_ms=NOW_MS)
            )
            await send_of(store, "b", 1)
            assert await received_ids(store, count_max=1, after_s=VISIBILITY_S) == ["b0"]

        self.check(scenario)

    def test_many_are_passed_over_in_bounded_steps(self) -> None:
        """One receive looks at a thousand; who waits is told to look again at once."""

        async def scenario(store: Store) -> None:
            await define_queue(store)
            await send_of(store, "a", 3050)
            await receive(store, count_max=30)
            await send_of(store, "b", 1)
            found: list[str] = []
            for _ in range(4):
                result = await receive(store, count_max=10)
                found += ids(result.messages)
                if "b0" in found:
                    break
                assert len(result.messages) == 10
                assert result.next_visible_ms == NOW_MS
            assert "b0" in found
            rest = found + await received_ids(store, count_max=5000)
            while more := await received_ids(store, count_max=5000):
                rest += more
            assert sorted(rest) == sorted([*named("a", 3020, first=30), "b0"])

        self.check(scenario)

    def test_a_late_receipt_still_deletes_what_was_passed_over(self) -> None:
        """Nobody has received it since."""

        async def scenario(store: Store) -> None:
            await define_queue(store)
            await send_of(store, "a", 100)
            late = await receive(store, count_max=5, timeout_s=1)
            await receive(store, count_max=60)
            await send_of(store, "b", 1)
            # The five are visible again, and passed over.
            assert await received_ids(store, count_max=1, after_s=2) == ["b0"]
            assert await commit_one(store, DeleteMessages(queue="orders", receipts=receipts(late)[:3])) == []
            rest = await received_ids(store, after_s=2)
            assert sorted(rest) == sorted([*named("a", 2, first=3), *named("a", 35, first=65)])
            assert await counts(store) == (0, 98, 0)

        self.check(scenario)

    def test_what_was_passed_over_is_seen_counted_and_moved_like_any_other(self) -> None:
        """By peeking, depth, moving, dropping and purging."""

        async def scenario(store: Store) -> None:
            await define_queue(store)
            await define_queue(store, "other")
            await send_of(store, "a", 60)
            await receive(store, count_max=40)
            await send_of(store, "b", 1)
            await received_ids(store, count_max=1)
            assert (await depth(store)).visible == 20
            peeked = await store.peek("orders", count_max=100, now_ms=NOW_MS)
            assert ids(peeked) == [*named("a", 60), "b0"]
            assert [each.id for each in peeked if not each.visible_ms] == named("a", 20, first=40)
            drop = DropMessages(queue="orders", ids=("a41", "a42"))
            assert await commit_one(store, drop) == 2
            await send_of(store, "b", 1, first=1)
            assert await received_ids(store, count_max=1) == ["b1"]
            move = MoveMessages(source="orders", target="other", count_max=5, now_ms=NOW_MS)
            assert await commit_one(store, move) == MovedCount(5, 5)
            assert await received_ids(store, queue="other") == ["a40", *named("a", 4, first=43)]
            await send_of(store, "b", 1, first=2)
            assert await received_ids(store, count_max=1) == ["b2"]
            assert await commit_one(store, PurgeQueue(queue="orders")) == 56
            assert await received_ids(store) == []

        self.check(scenario)

    def test_retention_and_redrive_reach_what_was_passed_over(self) -> None:
        """Swept without a receive, and moved when its turn comes."""

        async def scenario(store: Store) -> None:
            await define_queue(store, "dead")
            await define_queue(store, message_retention_period=600)
            await send_of(store, "a", 100)
            await receive(store, count_max=5, timeout_s=1)
            await receive(store, count_max=60, timeout_s=900)
            await send_of(store, "b", 1, after_s=2)
            assert await received_ids(store, count_max=1, after_s=2) == ["b0"]
            await define_queue(store, message_retention_period=600, dead_letter_queue="dead", max_receive_count=1)
            result = await receive(store, count_max=10, after_s=2, timeout_s=900)
            assert sorted(each.id for each in result.moved) == named("a", 5)
            assert ids(result.messages) == named("a", 10, first=65)
            assert (await receive(store, count_max=0, after_s=599)).expired == []
            swept = await receive(store, count_max=0, after_s=600)
            assert sorted(swept.expired) == named("a", 25, first=75)
            assert (await depth(store)).visible == 1  # the other tenant's

        self.check(scenario)

    def test_many_that_retention_ends_are_dropped_in_bounded_steps(self) -> None:
        """A receive that ends with what it may look at says that more is visible."""

        async def scenario(store: Store) -> None:
            await define_queue(store, message_retention_period=600)
            await send_of(store, "a", 2540)
            await receive(store, count_max=40, timeout_s=900)
            await send_of(store, "b", 1)
            for _ in range(3):
                await receive(store, count_max=1, timeout_s=900)
            left = (await depth(store)).visible
            assert left > 2400
            expired = 0
            for _ in range(40):
                result = await receive(store, count_max=expired % 2, after_s=600)
                expired += len(result.expired)
                assert not result.messages
                if expired == left:
                    break
                assert result.next_visible_ms == at(600)
            assert expired == left
            assert (await depth(store)).visible == 0

        self.check(scenario)

    def test_what_was_passed_over_outlives_a_restart(self) -> None:
        """Who received before is not there any more: noise is counted anew."""

        async def before(store: Store) -> None:
            await define_queue(store)
            await send_of(store, "a", 100)
            await receive(store, count_max=40)
            await send_of(store, "b", 2)
            assert await received_ids(store, count_max=1) == ["b0"]

        async def after(store: Store) -> None:
            assert (await counts(store)) == (61, 41, 0)
            assert await received_ids(store, count_max=32) == [*named("a", 30, first=40), "b1", "a70"]
            assert await received_ids(store) == named("a", 29, first=71)
            gone = await receive(store, after_s=VISIBILITY_S, count_max=200)
            assert len(gone.messages) == 102
            await commit_one(store, DeleteMessages(queue="orders", receipts=receipts(gone)))
            assert await counts(store) == (0, 0, 0)
            assert at(0) == NOW_MS

        self.check_restart(before, after)

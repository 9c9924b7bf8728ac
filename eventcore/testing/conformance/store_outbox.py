"""The store's kit: the outbox and the failures that are kept."""

from __future__ import annotations

from typing import Any

import msgspec

from eventcore.ports.store import (
    IDEMPOTENCY_DAYS,
    DropFailures,
    Failure,
    KeepFailure,
    MarkSent,
    OutboxDepth,
    OutboxRow,
    PostponeOutbox,
    PutOutbox,
    SealFailures,
    Store,
    TrimFailures,
)
from eventcore.testing.conformance.store_kit import DAY_S, NOW_MS, StoreKit, at, commit_one


def row(key: str, lane: str = "one", destination: str = "kafka:local/failed", **fields: Any) -> OutboxRow:
    """Return a row that is due at once."""
    fields = {"payload": key.encode(), "created_ms": NOW_MS, **fields}
    return OutboxRow(key=key, destination=destination, lane=lane, **fields)


async def put(store: Store, *rows: OutboxRow) -> list[bool]:
    """Put rows into the outbox; return which were new."""
    return await store.commit([PutOutbox(row=one) for one in rows])


async def due(
    store: Store, *, after_s: float = 0, count_max: int = 100, destination: str = "kafka:local/failed"
) -> list[str]:
    """Return the keys of due rows, in order."""
    rows = await store.due_outbox(destination, now_ms=at(after_s), count_max=count_max)
    return [found.key for found in rows]


async def mark(store: Store, *keys: str, after_s: float = 0) -> None:
    """Mark rows as sent."""
    await store.commit([MarkSent(keys=keys, now_ms=at(after_s))])


async def postpone(store: Store, key: str, *, due_s: float, error: str = "away") -> None:
    """Note a failed hand-over."""
    await store.commit([PostponeOutbox(key=key, due_ms=at(due_s), error=error)])


class OutboxPromises(StoreKit):
    """Order in a lane, once a key, and what waits."""

    def test_a_row_comes_back_as_it_was_put(self) -> None:
        """With a number; numbers rise."""

        async def scenario(store: Store) -> None:
            full = row("a", payload=b"\x00\xff", record_key=b"\xfe", attributes={"x": "é", "y": ""}, due_ms=NOW_MS)
            assert await put(store, full, row("b")) == [True, True]
            first, second = await store.due_outbox("kafka:local/failed", now_ms=NOW_MS, count_max=9)
            assert msgspec.structs.replace(first, number=0) == full
            assert 0 < first.number < second.number

        self.check(scenario)

    def test_a_key_is_written_once(self) -> None:
        """While it waits and after it was sent, for `IDEMPOTENCY_DAYS` after that."""

        async def scenario(store: Store) -> None:
            assert await put(store, row("a"), row("a", payload=b"other")) == [True, False]
            end_s = IDEMPOTENCY_DAYS * DAY_S
            assert await put(store, row("a", created_ms=at(2 * end_s))) == [False]
            await mark(store, "a", after_s=10)
            assert await due(store) == []
            assert await put(store, row("a", created_ms=at(end_s + 9.999))) == [False]
            assert await put(store, row("a", created_ms=at(end_s + 10))) == [True]
            assert await due(store) == ["a"]

        self.check(scenario)

    def test_a_lane_keeps_its_order_and_others_pass(self) -> None:
        """A row that is not due holds back those behind it in its lane, and only those."""

        async def scenario(store: Store) -> None:
            await put(store, row("a1"), row("b1", "two"), row("a2"), row("b2", "two"), row("c1", "three"))
            assert await due(store) == ["a1", "b1", "a2", "b2", "c1"]
            await postpone(store, "a1", due_s=10)
            assert await due(store, after_s=9.999) == ["b1", "b2", "c1"]
            assert await due(store, after_s=10) == ["a1", "b1", "a2", "b2", "c1"]
            await postpone(store, "b2", due_s=20)
            assert await due(store, after_s=10) == ["a1", "b1", "a2", "c1"]
            await mark(store, "a1", "b1")
            assert await due(store, after_s=10) == ["a2", "c1"]

        self.check(scenario)

    def test_no_more_rows_than_asked_for(self) -> None:
        """The oldest of all lanes, also behind a lane that waits."""

        async def scenario(store: Store) -> None:
            await put(store, *[row(f"a{number}") for number in range(30)])
            await put(store, *[row(f"{lane}{number}", lane) for number in range(3) for lane in "cb"])
            await postpone(store, "a0", due_s=10)
            assert await due(store, count_max=5) == ["c0", "b0", "c1", "b1", "c2"]
            assert await due(store, after_s=10, count_max=2) == ["a0", "a1"]

        self.check(scenario)

    def test_destinations_share_nothing(self) -> None:
        """Each has its own rows, in lanes of the same name too."""

        async def scenario(store: Store) -> None:
            await put(store, row("a"), row("b", destination="http:hook"))
            await postpone(store, "a", due_s=10)
            assert await due(store, destination="http:hook") == ["b"]
            assert await due(store, destination="nowhere") == []

        self.check(scenario)

    def test_a_postponed_row_remembers_why(self) -> None:
        """Attempts are counted. A row that was sent meanwhile stays sent."""

        async def scenario(store: Store) -> None:
            await put(store, row("a"))
            await postpone(store, "a", due_s=1, error="first")
            await postpone(store, "a", due_s=2, error="second")
            (found,) = await store.due_outbox("kafka:local/failed", now_ms=at(2), count_max=1)
            assert (found.attempts, found.due_ms, found.last_error) == (2, at(2), "second")
            await mark(store, "a")
            await postpone(store, "a", due_s=3)
            assert await due(store, after_s=3) == []
            await mark(store, "a", "never there")

        self.check(scenario)

    def test_the_next_due_time_is_that_of_the_oldest_rows(self) -> None:
        """0 when none waits; what stands behind a row that waits does not count."""

        async def scenario(store: Store) -> None:
            assert await store.next_outbox_ms("kafka:local/failed") == 0
            await put(store, row("a", due_ms=at(30)), row("a2", due_ms=at(1)), row("b", "two", due_ms=at(20)))
            assert await store.next_outbox_ms("kafka:local/failed") == at(20)
            assert await store.next_outbox_ms("http:hook") == 0
            await mark(store, "b")
            assert await store.next_outbox_ms("kafka:local/failed") == at(30)
            await put(store, row("c", "three"))
            assert 0 < await store.next_outbox_ms("kafka:local/failed") <= NOW_MS

        self.check(scenario)

    def test_depths_tell_what_waits(self) -> None:
        """By destination: rows, bytes (payload, key, attributes), the oldest row, and the error of the last try."""

        async def scenario(store: Store) -> None:
            first = row("a", payload=b"12345", record_key=b"12", attributes={"abc": "de"}, created_ms=at(1))
            await put(
                store, first, row("b", "two", payload=b"123", created_ms=at(2)), row("c", destination="http:hook")
            )
            await postpone(store, "b", due_s=5, error="broken")
            assert await store.outbox_depths() == [
                OutboxDepth(destination="http:hook", rows=1, size_bytes=1, oldest_ms=NOW_MS),
                OutboxDepth(
                    destination="kafka:local/failed", rows=2, size_bytes=15, oldest_ms=at(1), last_error="broken"
                ),
            ]
            await mark(store, "a", "c")
            await mark(store, "a")
            assert await store.outbox_depths() == [
                OutboxDepth(destination="kafka:local/failed", rows=1, size_bytes=3, oldest_ms=at(2))
            ]
            await mark(store, "b")
            assert await store.outbox_depths() == []

        self.check(scenario)


def failure(failure_id: str, *, after_s: float = 0, mapping: str = "m", **fields: Any) -> Failure:
    """Return a failure."""
    fields = {"event": b"{}", "records": b"\x90", **fields}
    return Failure(
        id=failure_id,
        mapping=mapping,
        function="f",
        source="queue:orders",
        shard="",
        first="1",
        last="2",
        count=2,
        reason="RetryAttemptsExhausted",
        attempts=3,
        created_ms=at(after_s),
        **fields,
    )


async def keep(store: Store, *failures: Failure) -> None:
    """Keep failures."""
    await store.commit([KeepFailure(failure=one) for one in failures])


async def listed(store: Store, **arguments: Any) -> list[str]:
    """Return the ids of failures, newest first."""
    return [found.id for found in await store.failures(**arguments)]


class FailurePromises(StoreKit):
    """Keeping, finding, forgetting."""

    def test_a_failure_is_kept_whole(self) -> None:
        """Lists leave out the event and the records."""

        async def scenario(store: Store) -> None:
            whole = failure(
                "a" * 32,
                event=b'{"Records": []}',
                records=b"\x00\xff",
                stack_trace="Traceback é",
                environment_names=("A", "B"),
                is_final=False,
            )
            await keep(store, whole)
            assert await store.failure("a" * 32) == whole
            assert await store.failures() == [msgspec.structs.replace(whole, event=b"", records=b"")]
            assert await store.failure("unknown") is None

        self.check(scenario)

    def test_lists_are_newest_first_in_pages(self) -> None:
        """Of one mapping or of all; failures of the same time stand by id."""

        async def scenario(store: Store) -> None:
            await keep(store, failure("a", after_s=2), failure("b", after_s=1), failure("c", after_s=2))
            await keep(store, failure("d", after_s=3, mapping="n"), failure("e"))
            assert await listed(store) == ["d", "c", "a", "b", "e"]
            assert await listed(store, mapping="m") == ["c", "a", "b", "e"]
            assert await listed(store, count_max=2) == ["d", "c"]
            assert await listed(store, count_max=2, before_id="c") == ["a", "b"]
            assert await listed(store, mapping="m", before_id="a") == ["b", "e"]
            assert await listed(store, before_id="gone") == []

        self.check(scenario)

    def test_the_same_id_replaces(self) -> None:
        """A failure that fails again is one failure; its size is counted once."""

        async def scenario(store: Store) -> None:
            await keep(store, failure("a", event=b"x" * 1000), failure("b", after_s=1))
            await keep(store, failure("a", after_s=2, event=b"y"))
            assert await listed(store) == ["a", "b"]
            found = await store.failure("a")
            assert found is not None
            assert found.event == b"y"
            assert await commit_one(store, TrimFailures(before_ms=0, size_bytes_max=100)) == 0

        self.check(scenario)

    def test_a_unique_prefix_of_six_characters_finds(self) -> None:
        """Fewer do not, nor does an ambiguous one; a whole id always does."""

        async def scenario(store: Store) -> None:
            await keep(store, failure("abcdef1"), failure("abcdef2"), failure("abc"), failure("abcxyz9", after_s=1))
            for prefix, expected in (
                ("abcxyz", "abcxyz9"),
                ("abcxyz9", "abcxyz9"),
                ("abcdef1", "abcdef1"),
                ("abcdef", None),
                ("abcxy", None),
                ("abc", "abc"),
                ("abcdeg", None),
                ("", None),
            ):
                found = await store.failure(prefix)
                assert (found.id if found else None) == expected

        self.check(scenario)

    def test_failures_are_sealed(self) -> None:
        """They become final, with a new reason; the answer counts those that were there."""

        async def scenario(store: Store) -> None:
            await keep(store, failure("a", is_final=False), failure("b", is_final=False))
            seal = SealFailures(ids=("a", "a", "gone"), reason="ReceivesExhausted")
            assert await commit_one(store, seal) == 1
            sealed, other = await store.failure("a"), await store.failure("b")
            assert sealed is not None
            assert other is not None
            assert (sealed.reason, sealed.is_final, sealed.event) == ("ReceivesExhausted", True, b"{}")
            assert not other.is_final

        self.check(scenario)

    def test_failures_are_dropped(self) -> None:
        """The answer counts those that were there."""

        async def scenario(store: Store) -> None:
            await keep(store, failure("a"), failure("b"), failure("c"))
            assert await commit_one(store, DropFailures(ids=("a", "c", "gone", "a"))) == 2
            assert await listed(store) == ["b"]

        self.check(scenario)

    def test_failures_are_trimmed_by_age_and_size(self) -> None:
        """The oldest go, until all are young enough and fit."""

        async def scenario(store: Store) -> None:
            await keep(store, *[failure(f"f{number:03}", after_s=number, event=b"x" * 1000) for number in range(250)])
            assert await commit_one(store, TrimFailures(before_ms=at(110), size_bytes_max=10**9)) == 110
            assert (await listed(store, count_max=1000))[-1] == "f110"
            assert await commit_one(store, TrimFailures(before_ms=0, size_bytes_max=3 * 1010)) == 137
            assert await listed(store) == ["f249", "f248", "f247"]
            await store.commit([DropFailures(ids=("f249",))])
            assert await commit_one(store, TrimFailures(before_ms=0, size_bytes_max=2 * 1010)) == 0
            assert await commit_one(store, TrimFailures(before_ms=0, size_bytes_max=0)) == 2
            assert await listed(store) == []

        self.check(scenario)

"""The store's kit: idempotency keys."""

from __future__ import annotations

from eventcore.ports.keys import (
    ClaimKeys,
    CompleteKeys,
    Completion,
    KeyKind,
    KeyState,
    ReleaseKeys,
    SweepKeys,
)
from eventcore.ports.store import Store
from eventcore.testing.conformance.store_kit import StoreKit, at, commit_one

#: How long claims and completions of these tests hold, seconds.
CLAIM_S = 10
KEPT_S = 100


async def claim(store: Store, owner: str, *keys: str, after_s: float = 0, is_ordered: bool = False) -> list[KeyState]:
    """Claim keys for `CLAIM_S`; return what was found."""
    operation = ClaimKeys(
        owner=owner,
        keys=tuple(key.encode() for key in keys),
        now_ms=at(after_s),
        until_ms=at(after_s + CLAIM_S),
        is_ordered=is_ordered,
    )
    states: list[KeyState] = await commit_one(store, operation)
    return states


async def kinds(store: Store, owner: str, *keys: str, after_s: float = 0, is_ordered: bool = False) -> str:
    """Claim keys; return the first letter of each finding: `c`laimed, `i`n progress, `d`one."""
    letters = {KeyKind.CLAIMED: "c", KeyKind.IN_PROGRESS: "i", KeyKind.COMPLETED: "d"}
    found = await claim(store, owner, *keys, after_s=after_s, is_ordered=is_ordered)
    return "".join(letters[state.kind] for state in found)


async def complete(store: Store, owner: str, *keys: str, after_s: float = 0, **kept: bytes) -> int:
    """Complete keys, remembered for `KEPT_S`; return how many were."""
    operation = CompleteKeys(
        owner=owner,
        completions=tuple(Completion(key=key.encode(), **kept) for key in keys),
        now_ms=at(after_s),
        expires_ms=at(after_s + KEPT_S),
    )
    count: int = await commit_one(store, operation)
    return count


async def release(store: Store, owner: str, *keys: str) -> None:
    """Release keys."""
    await commit_one(store, ReleaseKeys(owner=owner, keys=tuple(key.encode() for key in keys)))


class KeyPromises(StoreKit):
    """One owner a key, and what is remembered of it."""

    def test_a_key_has_one_owner_until_its_claim_ends(self) -> None:
        """The claim says when; from then on another may have it."""

        async def scenario(store: Store) -> None:
            assert await kinds(store, "one", "a", "b") == "cc"
            (state,) = await claim(store, "two", "a", after_s=CLAIM_S - 0.001)
            assert state == KeyState(KeyKind.IN_PROGRESS, until_ms=at(CLAIM_S))
            assert await kinds(store, "two", "a", "c", after_s=CLAIM_S) == "cc"
            assert await kinds(store, "three", "a", after_s=CLAIM_S) == "i"

        self.check(scenario)

    def test_a_completion_is_remembered_until_it_expires(self) -> None:
        """With its payload's hash and its result, byte by byte."""

        async def scenario(store: Store) -> None:
            await claim(store, "one", "a")
            assert await complete(store, "one", "a", payload=b"\x00p", result=b"\xffr") == 1
            (state,) = await claim(store, "two", "a", after_s=KEPT_S - 0.001)
            assert state == KeyState(KeyKind.COMPLETED, payload=b"\x00p", result=b"\xffr")
            assert await claim(store, "two", "a", after_s=KEPT_S) == [KeyState(KeyKind.CLAIMED)]

        self.check(scenario)

    def test_a_release_frees_what_its_owner_has(self) -> None:
        """And nothing of others, nor what is completed."""

        async def scenario(store: Store) -> None:
            await claim(store, "one", "a", "b")
            await complete(store, "one", "b")
            await release(store, "two", "a", "b", "never")
            assert await kinds(store, "two", "a", "b") == "id"
            await release(store, "one", "a", "b")
            assert await kinds(store, "two", "a", "b") == "cd"

        self.check(scenario)

    def test_who_comes_late_changes_nothing_of_others(self) -> None:
        """A claim that has ended may still be completed, unless another has the key by then."""

        async def scenario(store: Store) -> None:
            await claim(store, "one", "a", "b", "c")
            await claim(store, "two", "b", "c", after_s=CLAIM_S)
            await complete(store, "two", "c", after_s=CLAIM_S, result=b"two")
            assert await complete(store, "one", "a", "b", "c", after_s=CLAIM_S + 1, result=b"one") == 1
            assert await kinds(store, "three", "a", "b", after_s=CLAIM_S + 2) == "di"
            (state,) = await claim(store, "three", "c", after_s=CLAIM_S + 2)
            assert state.result == b"two"

        self.check(scenario)

    def test_a_completion_needs_no_claim_that_is_still_there(self) -> None:
        """It was swept."""

        async def scenario(store: Store) -> None:
            assert await complete(store, "one", "a") == 1
            assert await kinds(store, "two", "a") == "d"

        self.check(scenario)

    def test_in_order_nothing_is_claimed_behind_a_key_in_progress(self) -> None:
        """What stands before it is; what was completed behind it waits too."""

        async def scenario(store: Store) -> None:
            await claim(store, "one", "busy", "done")
            await complete(store, "one", "done")
            assert await kinds(store, "two", "a", "done", "busy", "b", "done-too", is_ordered=True) == "cdiii"
            assert await kinds(store, "three", "a", "b") == "ic"
            assert await kinds(store, "four", "busy", "e") == "ic"

        self.check(scenario)

    def test_keys_that_have_ended_are_swept_in_slices(self) -> None:
        """Claims and completions, oldest end first; the others stay."""

        async def scenario(store: Store) -> None:
            await claim(store, "one", "a", "b", "c")
            await complete(store, "one", "c")
            sweep = SweepKeys(now_ms=at(CLAIM_S), count_max=1)
            assert [await commit_one(store, sweep) for _ in range(3)] == [1, 1, 0]
            assert await kinds(store, "two", "c") == "d"
            assert await commit_one(store, SweepKeys(now_ms=at(KEPT_S))) == 1

        self.check(scenario)

    def test_keys_outlive_a_restart(self) -> None:
        """Claims and completions."""

        async def before(store: Store) -> None:
            await claim(store, "one", "a", "b")
            await complete(store, "one", "b", result=b"r")

        async def after(store: Store) -> None:
            assert await kinds(store, "two", "a") == "i"
            (state,) = await claim(store, "two", "b")
            assert state.result == b"r"

        self.check_restart(before, after)

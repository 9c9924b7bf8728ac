"""The kit for `Destination`: order, keys, being away, refusals.

Subclass `DestinationConformance` as a class whose name begins with `Test`, and say how a destination is opened. The
tests are plain functions that hand a coroutine to `DestinationConformance.run`. Nothing here depends on how fast
anything is; `HAPPENS_WITHIN_S` bounds what has to happen at all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import anyio
import anyio.lowlevel
import msgspec
import pytest

from eventcore.errors import DestinationRefused, DestinationUnavailable
from eventcore.ports.destinations import Destination
from eventcore.ports.store import OutboxRow

#: Whatever a test waits for has happened by then, seconds.
HAPPENS_WITHIN_S = 30.0
#: The size of a large payload, bytes: what Lambda lets an asynchronous event be (Lambda semantics §1.1).
LARGE_BYTES = 1024 * 1024


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """A row as the other side has it."""

    key: str  #: the idempotency key; empty where the other side can't see one
    payload: Any  #: decoded from JSON
    attributes: Mapping[str, str] = {}


class DestinationTraits(msgspec.Struct, frozen=True, kw_only=True):
    """What can be tested of a destination; what is not claimed is skipped by name."""

    passes_key: bool = True  #: the other side sees the idempotency key
    passes_attributes: bool = True  #: the other side sees the attributes, under their names in lower case
    can_be_away: bool = True  #: `DestinationUnderTest.leave` and `come_back` work
    can_refuse: bool = True  #: `DestinationUnderTest.refuse` works


class DestinationUnderTest(Protocol):
    """One destination with its other side, made for one test."""

    destination: Destination
    traits: DestinationTraits

    async def taken(self) -> Sequence[Taken]:
        """Return what the other side has, in the order it came."""
        ...

    async def leave(self) -> None:
        """Make the other side unavailable."""
        ...

    async def come_back(self) -> None:
        """Make it available again."""
        ...

    async def refuse(self, key: str) -> None:
        """Let the other side refuse the row with this key, for good; other rows it takes."""
        ...


Scenario = Callable[[DestinationUnderTest], Awaitable[None]]


class DestinationConformance:
    """What every destination outside the store keeps."""

    def open_destination(self) -> AbstractAsyncContextManager[DestinationUnderTest]:
        """Make a destination, not opened, and its other side; override."""
        raise NotImplementedError

    def run(self, body: Callable[[], Awaitable[None]]) -> None:
        """Run a coroutine to its end; override for another kind of loop."""
        anyio.run(body)

    def check(self, scenario: Scenario) -> None:
        """Run a scenario on a new, opened destination, and close it."""

        async def body() -> None:
            async with self.open_destination() as tested:
                with anyio.fail_after(HAPPENS_WITHIN_S):
                    await tested.destination.open()
                    await scenario(tested)
                await tested.destination.aclose()

        self.run(body)

    def test_rows_arrive_in_order(self) -> None:
        """What `deliver` was given is there when it returns, once and in order, over several calls."""

        async def scenario(tested: DestinationUnderTest) -> None:
            rows = _rows(7)
            await tested.destination.deliver(rows[:3])
            assert await _numbers(tested) == [0, 1, 2]
            await tested.destination.deliver(rows[3:])
            assert await _numbers(tested) == list(range(7))

        self.check(scenario)

    def test_nothing_to_deliver_is_no_mistake(self) -> None:
        """An empty delivery does nothing."""

        async def scenario(tested: DestinationUnderTest) -> None:
            await tested.destination.deliver([])
            assert await tested.taken() == []

        self.check(scenario)

    def test_the_key_is_passed_on(self) -> None:
        """The other side sees each row's idempotency key, the same when a row is handed over again."""

        async def scenario(tested: DestinationUnderTest) -> None:
            if not tested.traits.passes_key:
                pytest.skip("DestinationTraits.passes_key is not claimed")
            rows = _rows(2)
            await tested.destination.deliver(rows)
            await tested.destination.deliver(rows)
            keys = [taken.key for taken in await tested.taken()]
            # A destination may know by itself that it has a row; what it may not do is to give it another key.
            assert keys in (["key-0", "key-1"], ["key-0", "key-1", "key-0", "key-1"])

        self.check(scenario)

    def test_attributes_are_passed_on(self) -> None:
        """The other side sees the attributes, whatever characters their values have."""
        attributes = {"eventcore-failure-id": "f-1", "note": "grüße: 100 %\r\nX-Evil: 1"}

        async def scenario(tested: DestinationUnderTest) -> None:
            if not tested.traits.passes_attributes:
                pytest.skip("DestinationTraits.passes_attributes is not claimed")
            await tested.destination.deliver([msgspec.structs.replace(_row(0), attributes=attributes)])
            (taken,) = await tested.taken()
            assert {name: taken.attributes.get(name) for name in attributes} == attributes

        self.check(scenario)

    def test_payloads_arrive_unchanged(self) -> None:
        """Every JSON value arrives as it was, large ones too."""
        values = [None, "", "line\nend\u2028", {"a": [1, 2.5, {"b": "ü"}]}, "x" * LARGE_BYTES]

        async def scenario(tested: DestinationUnderTest) -> None:
            rows = [
                msgspec.structs.replace(_row(number), payload=msgspec.json.encode(value))
                for number, value in enumerate(values)
            ]
            await tested.destination.deliver(rows)
            assert [taken.payload for taken in await tested.taken()] == values

        self.check(scenario)

    def test_what_could_not_be_delivered_can_be_delivered_later(self) -> None:
        """Away, it raises DestinationUnavailable; back again, nothing is missing and the order holds."""

        async def scenario(tested: DestinationUnderTest) -> None:
            if not tested.traits.can_be_away:
                pytest.skip("DestinationTraits.can_be_away is not claimed")
            rows = _rows(6)
            await tested.destination.deliver(rows[:2])
            await tested.leave()
            for _ in range(2):
                with pytest.raises(DestinationUnavailable) as caught:
                    await tested.destination.deliver(rows[2:])
                assert caught.value.destination == tested.destination.reference
            await tested.come_back()
            await tested.destination.deliver(rows[2:])
            assert _without_repeats(await _numbers(tested)) == list(range(6))

        self.check(scenario)

    def test_a_refused_row_holds_up_what_is_behind_it(self) -> None:
        """It raises DestinationRefused every time, and nothing behind it is handed over before it."""

        async def scenario(tested: DestinationUnderTest) -> None:
            if not tested.traits.can_refuse:
                pytest.skip("DestinationTraits.can_refuse is not claimed")
            rows = _rows(4)
            await tested.refuse("key-1")
            for _ in range(2):
                with pytest.raises(DestinationRefused) as caught:
                    await tested.destination.deliver(rows)
                assert caught.value.destination == tested.destination.reference
            assert _without_repeats(await _numbers(tested)) == [0]
            await tested.destination.deliver(rows[2:])
            assert _without_repeats(await _numbers(tested)) == [0, 2, 3]

        self.check(scenario)

    def test_a_cancelled_delivery_can_be_repeated(self) -> None:
        """Cancelled at any point, a delivery that is repeated leaves every row whole and in order."""

        async def scenario(tested: DestinationUnderTest) -> None:
            rows = _rows(20)
            for number, row in enumerate(rows):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(tested.destination.deliver, [row])
                    for _ in range(number):
                        await anyio.lowlevel.checkpoint()
                    tasks.cancel_scope.cancel()
                await tested.destination.deliver([row])
            assert _without_repeats(await _numbers(tested)) == list(range(20))

        self.check(scenario)


def _row(number: int) -> OutboxRow:
    return OutboxRow(
        key=f"key-{number}",
        destination="tested",
        lane="orders/0",
        payload=msgspec.json.encode({"number": number}),
        number=number,
    )


def _rows(count: int) -> list[OutboxRow]:
    return [_row(number) for number in range(count)]


async def _numbers(tested: DestinationUnderTest) -> list[int]:
    return [taken.payload["number"] for taken in await tested.taken()]


def _without_repeats(numbers: Sequence[int]) -> list[int]:
    """Return numbers in the order in which each first came."""
    return list(dict.fromkeys(numbers))

"""A batch closes on its size, its bytes or its window, whichever comes first (Lambda semantics §4, §3.1)."""

from __future__ import annotations

from typing import Any

from eventcore.telemetry.events import BatchInvoked
from eventcore.testing.harness import Harness
from tests.behaviours.orders import numbers, play, send_numbers, stream_app


def _counting(calls: list[int]) -> Any:
    async def work(event: dict[str, Any], context: Any) -> None:
        calls.append(len(event["Records"]))

    return work


def test_by_size() -> None:
    calls: list[int] = []

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 25)
        await harness.run_until_idle()

    play(stream_app(_counting(calls), batch_size=10, maximum_batching_window_in_seconds=60), scenario)
    assert calls == [10, 10, 5]


def test_by_bytes() -> None:
    """The event may have 6 MB, of which base64 takes a third."""
    calls: list[int] = []

    async def scenario(harness: Harness) -> None:
        await harness.send("stream:orders", [b"x" * 1_000_000] * 9, key="k")
        await harness.run_until_idle()

    play(stream_app(_counting(calls), batch_size=100, maximum_batching_window_in_seconds=5), scenario)
    assert calls == [4, 4, 1]


def test_by_window_counted_from_the_first_record() -> None:
    calls: list[int] = []

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 1)
        await harness.advance(6)
        await send_numbers(harness, 1)
        await harness.run_until_idle()

    harness = play(stream_app(_counting(calls), batch_size=10, maximum_batching_window_in_seconds=10), scenario)
    assert calls == [2]
    assert 10.0 <= harness.times(BatchInvoked)[0] < 10.1


def test_without_a_window_a_record_goes_at_once() -> None:
    calls: list[int] = []

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 1)
        await harness.advance(6)
        await send_numbers(harness, 1)
        await harness.run_until_idle()

    harness = play(stream_app(_counting(calls)), scenario)
    assert calls == [1, 1]
    assert harness.times(BatchInvoked)[0] < 0.1


def test_a_batch_never_mixes_shards() -> None:
    shards: list[set[str]] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        shards.append({record["eventID"].split(":")[0] for record in event["Records"]})

    async def scenario(harness: Harness) -> None:
        for number in range(40):
            await harness.send("stream:orders", [str(number)], key=f"key-{number}")
        await harness.run_until_idle()

    play(stream_app(work, shards=4, maximum_batching_window_in_seconds=1), scenario)
    assert all(len(names) == 1 for names in shards)
    assert len(set.union(*shards)) == 4


def test_a_record_that_alone_exceeds_the_payload_limit_is_discarded() -> None:
    """§5.1 `MaximumPayloadSizeExceeded`: it is never invoked, and the next one is delivered normally."""
    import json

    calls: list[list[int]] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        calls.append(numbers(event))

    async def scenario(harness: Harness) -> None:
        # A body is at most 1 MiB in an embedded stream: its headers take it past the limit of the event.
        await harness.send("stream:orders", ["1"], key="k", headers={"big": "x" * 5_000_000})
        await harness.send("stream:orders", ["2"], key="k")
        await harness.run_until_idle()
        (message,) = await harness.messages("failed")
        record = json.loads(message.body)
        assert record["requestContext"]["condition"] == "MaximumPayloadSizeExceeded"
        assert record["responseContext"] is None

    play(stream_app(work), scenario)
    assert calls == [[2]]

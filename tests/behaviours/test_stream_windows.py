"""Tumbling windows: a state per shard and window, and a final call at its end (Lambda semantics §4, §12 "windows").

The recorded cases are those of the family `windows`; a window of 10 s begins at a multiple of 10 s of wall time, and
virtual time begins at one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import msgspec
import pytest

from eventcore.embedded.stream import checkpoint_shard
from eventcore.errors import StoreUnavailable
from eventcore.ports.store import Operation, PutNote, SaveCheckpoint, SeekCheckpoint, Store
from eventcore.store.memory import open_memory_store
from eventcore.testing.harness import Harness, open_harness
from eventcore.testing.virtual_loop import run_virtual
from tests.behaviours.control import SHARD, Control
from tests.behaviours.orders import numbers, play, send_numbers, stream_app
from tests.behaviours.scripted_source import ScriptedStore

WINDOW = {"tumbling_window_in_seconds": 10, "batch_size": 1}


class Call(msgspec.Struct):
    """What one invocation saw."""

    numbers: list[int]
    state: dict[str, Any]
    window: str
    is_final: bool
    is_early: bool
    request_id: str


class Counting:
    """A function that counts its records in the state, and notes what it saw."""

    def __init__(self, answer: Callable[[Call, dict[str, Any]], Any] | None = None) -> None:
        self.calls: list[Call] = []
        self.events: list[dict[str, Any]] = []
        self._answer = answer

    async def __call__(self, event: dict[str, Any], context: Any) -> Any:
        self.events.append(event)
        call = Call(
            numbers(event),
            dict(event["state"]),
            event["window"]["start"][14:19] + "-" + event["window"]["end"][14:19],
            event["isFinalInvokeForWindow"],
            event["isWindowTerminatedEarly"],
            context.aws_request_id,
        )
        self.calls.append(call)
        if self._answer is not None:
            return self._answer(call, event)
        return {"state": counted(event)}

    @property
    def seen(self) -> list[list[int]]:
        return [call.numbers for call in self.calls]


def counted(event: dict[str, Any]) -> dict[str, Any]:
    state = dict(event["state"])
    state["count"] = state.get("count", 0) + len(event["Records"])
    return state


def test_five_records_in_two_windows() -> None:
    """windows/five-records-two-windows, windows/state-is-handed-on-inside-one-window."""
    work = Counting()

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 4)
        await harness.advance(12)
        await send_numbers(harness, 1, first=5)
        await harness.run_until_idle()

    play(stream_app(work, **WINDOW), scenario)
    assert work.seen == [[1], [2], [3], [4], [], [5]]
    assert [call.state for call in work.calls] == [
        {},
        {"count": 1},
        {"count": 2},
        {"count": 3},
        {"count": 4},
        {},
    ]
    assert [call.is_final for call in work.calls] == [False, False, False, False, True, False]
    assert not any(call.is_early for call in work.calls)
    assert [call.window for call in work.calls] == ["00:00-00:10"] * 5 + ["00:10-00:20"]
    for event in work.events:
        assert event["shardId"] == "shardId-000000000000"
        assert event["eventSourceARN"] == "arn:aws:kinesis:us-east-1:000000000000:stream/orders"
    assert list(work.events[4]) == [
        "Records",
        "shardId",
        "eventSourceARN",
        "window",
        "state",
        "isFinalInvokeForWindow",
        "isWindowTerminatedEarly",
    ]


def test_bounds_are_multiples_of_the_length_and_the_arrival_decides() -> None:
    """windows/bounds-are-multiples-of-the-length: made at :17, delivered 46 s later."""
    work = Counting()
    app = stream_app(work, **WINDOW)

    async def scenario(harness: Harness) -> None:
        control = Control(app, harness)
        await control.pause()
        await harness.advance(17)
        await send_numbers(harness, 1)
        await harness.advance(46)
        await control.resume()
        await harness.run_until_idle()

    play(app, scenario)
    assert work.events[0]["window"] == {"start": "2026-01-01T00:00:10Z", "end": "2026-01-01T00:00:20Z"}


@pytest.mark.parametrize("silence_s", [41, 94, 111])
def test_a_window_is_closed_by_a_record_of_a_later_one(silence_s: int) -> None:
    """windows/closed-by-a-record-of-a-later-window, windows/idle-94-seconds-without-final-call."""
    work = Counting()

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 1)
        await harness.advance(10 + silence_s)
        assert work.seen == [[1]]
        await send_numbers(harness, 1, first=2)
        await harness.run_until_idle()

    harness = play(stream_app(work, **WINDOW), scenario)
    assert work.seen == [[1], [], [2]]
    assert work.calls[1].window == "00:00-00:10"
    assert work.calls[1].state == {"count": 1}
    assert work.calls[2].state == {}
    assert len(harness.settled) == 2


def test_two_minutes_after_its_end_a_window_is_closed_without_a_later_record() -> None:
    """§4: "idle wait up to 2 min before closing"."""
    work = Counting()

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 1)
        await harness.advance(129)
        assert work.seen == [[1]]
        await harness.advance(2)
        assert work.seen == [[1], []]
        await harness.advance(3600)

    play(stream_app(work, **WINDOW), scenario)
    assert work.seen == [[1], []]


def test_a_window_is_not_closed_while_a_record_of_it_waits_for_its_batch() -> None:
    """A batching window that outlasts the two minutes: the final call comes behind all of the window's records."""
    work = Counting()

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 2)
        await harness.advance(20)
        await send_numbers(harness, 1, first=3)
        await harness.advance(290)
        assert work.seen == [[1, 2]]
        await harness.advance(30)
        assert work.seen == [[1, 2], [3]]
        await harness.advance(200)

    play(
        stream_app(work, tumbling_window_in_seconds=30, batch_size=2, maximum_batching_window_in_seconds=300),
        scenario,
    )
    assert work.seen == [[1, 2], [3], []]
    assert [call.state for call in work.calls] == [{}, {"count": 2}, {"count": 3}]
    assert {call.window for call in work.calls} == {"00:00-00:30"}


def test_a_batch_ends_with_its_window_and_does_not_wait_for_more() -> None:
    """No batch has records of two windows, and a batching window is not waited for once a later record is there."""
    work = Counting()

    async def scenario(harness: Harness) -> None:
        await harness.advance(8)
        await send_numbers(harness, 2)
        await harness.advance(4)
        await send_numbers(harness, 2, first=3)
        await harness.advance(1)
        assert work.seen == [[1, 2], []]
        await harness.advance(300)

    play(
        stream_app(work, tumbling_window_in_seconds=10, batch_size=100, maximum_batching_window_in_seconds=60),
        scenario,
    )
    assert work.seen == [[1, 2], [], [3, 4], []]


def test_the_next_windows_records_wait_for_their_batch_from_when_they_came() -> None:
    """The batch before them runs for half a minute: their batching window of a minute begins before its end."""
    begun: list[tuple[float, list[int]]] = []

    async def work(event: dict[str, Any], context: Any) -> Any:
        begun.append((anyio.current_time(), numbers(event)))
        if numbers(event) == [1]:
            await anyio.sleep(30)
        return {"state": {}}

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 1)
        await harness.advance(12)
        await send_numbers(harness, 1, first=2)
        await harness.advance(3)
        await send_numbers(harness, 1, first=3)
        await harness.advance(75)

    app = stream_app(
        work, tumbling_window_in_seconds=10, batch_size=100, maximum_batching_window_in_seconds=60, timeout=60
    )
    play(app, scenario)
    assert [(round(at_s), seen) for at_s, seen in begun] == [(12, [1]), (42, []), (72, [2, 3])]


def test_without_windows_there_are_no_keys_of_theirs() -> None:
    """The setting's effect: 0 and no setting are the same."""
    seen: list[list[str]] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        seen.append(list(event))

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 1)
        await harness.advance(12)
        await send_numbers(harness, 1)
        await harness.run_until_idle()

    play(stream_app(work, tumbling_window_in_seconds=0), scenario)
    assert seen == [["Records"], ["Records"]]


@pytest.mark.parametrize("response", [None, {}, {"batchItemFailures": []}, {"state": None}, {"state": [1]}, "text"])
def test_a_response_without_a_state_is_a_failure(response: Any) -> None:
    """§4: "Response must contain `state` or the invoke counts as failed"."""
    work = Counting(lambda call, event: response)

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 1)
        await harness.run_until_idle()
        (message,) = await harness.messages("failed")
        record = json.loads(message.body)
        assert record["requestContext"]["approximateInvokeCount"] == 2
        assert record["responseContext"]["functionError"] is None
        assert record["timeWindowInfo"] == {
            "window": {"start": "2026-01-01T00:00:00Z", "end": "2026-01-01T00:00:10Z"},
            "isFinalInvokeForWindow": False,
            "isWindowTerminatedEarly": False,
        }

    play(stream_app(work, maximum_retry_attempts=1, **WINDOW), scenario)
    assert work.seen == [[1], [1]]
    assert [call.state for call in work.calls] == [{}, {}]


def test_a_state_may_come_with_reported_failures() -> None:
    """windows/state-may-come-with-batch-item-failures; the retry begins at the failed record with the new state."""

    def answer(call: Call, event: dict[str, Any]) -> Any:
        if call.numbers == [1, 2, 3]:
            failed = event["Records"][1]["kinesis"]["sequenceNumber"]
            return {"state": {"count": 1}, "batchItemFailures": [{"itemIdentifier": failed}]}
        return {"state": counted(event), "batchItemFailures": []}

    work = Counting(answer)

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 3)
        await harness.run_until_idle()

    play(
        stream_app(
            work, tumbling_window_in_seconds=10, batch_size=3, function_response_types=["ReportBatchItemFailures"]
        ),
        scenario,
    )
    assert work.seen == [[1, 2, 3], [2, 3]]
    assert work.calls[1].state == {"count": 1}


def test_bisect_hands_the_state_of_the_first_half_to_the_second() -> None:
    def answer(call: Call, event: dict[str, Any]) -> Any:
        if 2 in call.numbers:
            raise ValueError("poison")
        return {"state": counted(event)}

    work = Counting(answer)

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 4)
        await harness.run_until_idle()
        await harness.advance(200)

    harness = play(
        stream_app(
            work,
            tumbling_window_in_seconds=10,
            batch_size=4,
            maximum_retry_attempts=0,
            bisect_batch_on_function_error=True,
        ),
        scenario,
    )
    assert work.seen == [[1, 2, 3, 4], [1, 2], [1], [2], [3, 4], []]
    assert [call.state for call in work.calls] == [{}, {}, {}, {"count": 1}, {"count": 1}, {"count": 3}]
    assert [entry.count for entry in harness.discarded] == [1]


def test_a_failing_batch_keeps_the_state_from_before() -> None:
    fails = [True, True]

    def answer(call: Call, event: dict[str, Any]) -> Any:
        if call.numbers == [2] and fails:
            fails.pop()
            raise ValueError("not yet")
        return {"state": counted(event)}

    work = Counting(answer)

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 2)
        await harness.run_until_idle()

    play(stream_app(work, **WINDOW), scenario)
    assert work.seen == [[1], [2], [2], [2]]
    assert [call.state for call in work.calls[1:]] == [{"count": 1}] * 3


def test_a_state_over_a_megabyte_ends_the_window_early_with_all_of_it() -> None:
    """dynamodb/tumbling-window-oversized-state; the same window goes on with a fresh state."""
    large = "X" * (1024 * 1024 + 64)

    def answer(call: Call, event: dict[str, Any]) -> Any:
        if call.is_final:
            return None
        return {"state": {"large": large} if call.numbers == [1] else counted(event)}

    work = Counting(answer)

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 3)
        await harness.run_until_idle()
        await harness.advance(200)

    play(stream_app(work, **WINDOW), scenario)
    assert work.seen == [[1], [], [2], [3], []]
    assert [(call.is_final, call.is_early) for call in work.calls] == [
        (False, False),
        (True, True),
        (False, False),
        (False, False),
        (True, False),
    ]
    assert work.calls[1].state == {"large": large}
    assert work.calls[2].state == {}
    assert {call.window for call in work.calls} == {"00:00-00:10"}


def failing_final(call: Call, event: dict[str, Any]) -> Any:
    if call.is_final:
        raise RuntimeError("final")
    return {"state": counted(event)}


def test_a_final_call_that_is_given_up_does_not_hold_the_shard() -> None:
    """windows/failing-final-call-does-not-hold-the-shard; its record has `timeWindowInfo` and no positions (§12)."""
    work = Counting(failing_final)

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 2)
        await harness.advance(12)
        await send_numbers(harness, 1, first=3)
        await harness.run_until_idle()
        (message,) = await harness.messages("failed")
        record = json.loads(message.body)
        assert record["requestContext"]["condition"] == "RetryAttemptsExhausted"
        assert record["requestContext"]["approximateInvokeCount"] == 1
        assert record["requestContext"]["requestId"] == work.calls[2].request_id
        assert record["responseContext"]["functionError"] == "Unhandled"
        assert record["KinesisBatchInfo"] == {
            "shardId": "shardId-000000000000",
            "streamArn": "arn:aws:kinesis:us-east-1:000000000000:stream/orders",
        }
        assert record["timeWindowInfo"] == {
            "window": {"start": "2026-01-01T00:00:00Z", "end": "2026-01-01T00:00:10Z"},
            "isFinalInvokeForWindow": True,
            "isWindowTerminatedEarly": False,
        }
        (kept,) = await harness.failures()
        failure = await harness.store.failure(kept.id)
        assert failure is not None
        assert failure.count == 0
        assert json.loads(failure.event) == work.events[2]

    play(stream_app(work, maximum_retry_attempts=0, **WINDOW), scenario)
    assert work.seen == [[1], [2], [], [3]]
    assert work.calls[3].state == {}


def test_a_final_call_is_retried_like_an_unchanged_batch() -> None:
    """§4 "retry/age settings apply": same request id, back-off, 1 + attempts calls; the shard waits."""
    work = Counting(failing_final)

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 1)
        await harness.advance(12)
        await send_numbers(harness, 1, first=2)
        await harness.run_until_idle()

    harness = play(stream_app(work, maximum_retry_attempts=2, **WINDOW), scenario)
    assert work.seen == [[1], [], [], [], [2]]
    assert len({call.request_id for call in work.calls[1:4]}) == 1
    (entry,) = harness.discarded
    assert (entry.count, entry.reason) == (0, "RetryAttemptsExhausted")


def test_a_final_call_that_fails_for_too_long_is_given_up() -> None:
    work = Counting(failing_final)

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 1)
        await harness.advance(12)
        await send_numbers(harness, 1, first=2)
        await harness.advance(70)
        assert [entry.reason for entry in harness.discarded] == ["RecordAgeExceeded", "RecordAgeExceeded"]

    play(stream_app(work, maximum_record_age_in_seconds=60, **WINDOW), scenario)


def test_a_final_call_is_skipped_by_hand() -> None:
    work = Counting(failing_final)
    app = stream_app(work, **WINDOW)

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 1)
        await harness.advance(12)
        await send_numbers(harness, 1, first=2)
        await harness.advance(5)
        (mapping,) = (await harness.status()).mappings
        (shard,) = mapping.shards
        assert shard.blocked is not None
        skipped = await Control(app, harness).skip()
        assert (skipped.count, len(skipped.failure_ids)) == (0, 1)
        await harness.run_until_idle()

    harness = play(app, scenario)
    assert work.seen[-1] == [2]
    assert [entry.reason for entry in harness.discarded] == ["Skipped"]


def test_the_state_outlives_a_restart_and_so_do_the_attempts_of_a_final_call() -> None:
    work = Counting(failing_final)
    app = stream_app(work, maximum_retry_attempts=3, **WINDOW)

    async def run() -> Harness:
        async with open_memory_store() as store:
            async with open_harness(app, store=store) as harness:
                await send_numbers(harness, 2)
                await harness.run_until_idle()
            async with open_harness(app, store=store) as harness:
                await send_numbers(harness, 1, first=3)
                await harness.run_until_idle()
                await harness.advance(12)
                await send_numbers(harness, 1, first=4)
                await harness.advance(0.1)
            async with open_harness(app, store=store) as harness:
                await harness.run_until_idle()
            return harness

    run_virtual(run)
    assert work.seen == [[1], [2], [3], [], [], [], [], [4]]
    assert [call.state.get("count") for call in work.calls] == [None, 1, 2, 3, 3, 3, 3, None]
    assert len({call.request_id for call in work.calls if call.is_final}) == 1


def test_each_shard_has_windows_of_its_own() -> None:
    work = Counting()

    async def scenario(harness: Harness) -> None:
        for key in ("a", "b", "c", "d", "e", "f"):
            await harness.send("stream:orders", ["1"], key=key)
        await harness.run_until_idle()
        await harness.advance(200)

    play(stream_app(work, shards=3, tumbling_window_in_seconds=10), scenario)
    finals = {event["shardId"]: event["state"]["count"] for event in work.events if event["isFinalInvokeForWindow"]}
    assert len(finals) == 3
    assert sum(finals.values()) == 6


def test_a_shard_that_is_moved_by_hand_begins_with_no_window() -> None:
    work = Counting()
    app = stream_app(work, **WINDOW)

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 2)
        await harness.run_until_idle()
        await Control(app, harness).seek(0)
        await harness.run_until_idle()

    play(app, scenario)
    assert work.seen == [[1], [2], [1], [2]]
    assert [call.state for call in work.calls] == [{}, {"count": 1}, {}, {"count": 1}]


def test_a_shard_that_is_read_long_after_its_records_came_keeps_its_window_between_two_reads() -> None:
    """The window's end has passed for an hour, and so have two minutes: more of it may still have to be read."""
    work = Counting()

    async def run() -> None:
        async with open_memory_store() as store:
            async with open_harness(stream_app(work, enabled=False), store=store) as harness:
                for first in range(1, 3001, 500):
                    await send_numbers(harness, 500, first=first)
                await harness.advance(3600)
            app = stream_app(work, tumbling_window_in_seconds=10, batch_size=100)
            async with open_harness(app, store=store) as harness:
                await harness.run_until_idle()
                await harness.advance(119)
                assert not any(call.is_final for call in work.calls)
                await harness.advance(2)

    run_virtual(run)
    assert [call.state for call in work.calls if call.is_final] == [{"count": 3000}]


@pytest.mark.parametrize("failing", range(12))
def test_a_store_that_fails_at_any_call_lets_no_record_be_counted_twice_or_never(failing: int) -> None:
    """State and checkpoint are one commit: what is invoked again finds the state from before."""
    work = Counting()
    commits = 0
    app = stream_app(work, tumbling_window_in_seconds=10, batch_size=2)

    async def commit(store: Store, operations: Sequence[Operation]) -> list[Any]:
        nonlocal commits
        # What sends and defines is left alone.
        if any(isinstance(each, SaveCheckpoint | PutNote) for each in operations):
            commits += 1
            if commits == failing + 1:
                raise StoreUnavailable("for a moment")
        return await store.commit(operations)

    async def run() -> None:
        async with open_memory_store() as memory:
            store: Any = ScriptedStore(memory, commit)
            async with open_harness(app, store=store) as harness:
                await send_numbers(harness, 8)
                await harness.advance(200)
                await harness.run_until_idle()

    run_virtual(run)
    # A final call may be made twice, never with another state.
    assert {call.state["count"] for call in work.calls if call.is_final} == {8}


def test_a_shard_that_is_moved_without_an_engine_begins_with_no_window() -> None:
    """A state stands for the records before one checkpoint: another one has none."""
    work = Counting()
    app = stream_app(work, **WINDOW)

    async def run() -> None:
        async with open_memory_store() as store:
            async with open_harness(app, store=store) as harness:
                await send_numbers(harness, 2)
                await harness.run_until_idle()
            name = checkpoint_shard("orders", SHARD)
            await store.commit([SeekCheckpoint(mapping="orders", shard=name, position=1)])
            async with open_harness(app, store=store) as harness:
                await harness.run_until_idle()

    run_virtual(run)
    assert [(call.numbers, call.state) for call in work.calls] == [([1], {}), ([2], {"count": 1}), ([2], {})]


def test_a_shard_with_parked_keys_is_not_begun_with_windows() -> None:
    """Keys that `lanes` has parked keep their order, and a window has one state: redriven first, then windows."""
    work = Counting()
    is_mended = False

    async def fail(event: dict[str, Any], context: Any) -> None:
        key = event["Records"][0]["kinesis"]["partitionKey"]
        if key != "x" and not is_mended:
            raise ValueError(f"{key} fails")

    async def run() -> None:
        nonlocal is_mended
        laned = stream_app(fail, lanes=2, batch_size=1)
        windowed = stream_app(work, **WINDOW)
        async with open_memory_store() as store:
            async with open_harness(laned, store=store) as harness:
                for key in ("x", "a", "b"):
                    await harness.send("stream:orders", ["1"], key=key)
                    await harness.advance(20)
                (mapping,) = (await harness.status()).mappings
                assert mapping.shards[0].parked == 1
            async with open_harness(windowed, store=store) as harness:
                await harness.advance(60)
                (mapping,) = (await harness.status()).mappings
                assert mapping.state == "Problem"
                assert "keys of shardId-000000000000 are parked" in mapping.reason
                assert "eventcore mapping redrive orders" in mapping.reason
                assert work.calls == []
            is_mended = True
            async with open_harness(laned, store=store) as harness:
                await harness.run_until_idle()
                for keys in (1, 0):
                    step = await harness.engine.redrive("orders", SHARD, count_max=10)
                    assert step.keys == keys
            async with open_harness(windowed, store=store) as harness:
                await send_numbers(harness, 1, first=7)
                await harness.run_until_idle()

    run_virtual(run)
    assert work.seen == [[7]]

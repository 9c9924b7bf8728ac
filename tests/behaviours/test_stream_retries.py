"""A failing batch blocks its shard, is retried in order, and is given up after its attempts (Lambda semantics §4)."""

from __future__ import annotations

import base64
import json
from collections import Counter
from typing import Any

from eventcore.testing.harness import Harness
from eventcore.testing.virtual_loop import run_virtual
from tests.behaviours.orders import numbers, play, send_numbers, stream_app


def test_order_holds_through_retries() -> None:
    """§4 "Errors": the shard is blocked until the failing batch succeeds."""
    calls: list[list[int]] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        calls.append(numbers(event))
        if len(calls) <= 2:
            raise ValueError("not yet")

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 6)
        await harness.run_until_idle()

    play(stream_app(work, batch_size=3), scenario)
    assert calls == [[1, 2, 3], [1, 2, 3], [1, 2, 3], [4, 5, 6]]


def test_the_pauses_double_from_a_fifth_of_a_second() -> None:
    """§12 "retry spacing": the first unchanged retry waits 0.19-0.27 s; doubling and ±20 % are ours (design §12)."""

    async def work(event: dict[str, Any], context: Any) -> None:
        raise ValueError("always")

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 1)
        await harness.run_until_idle()

    harness = play(stream_app(work, maximum_retry_attempts=4), scenario)
    pauses = [retried.delay_ms for retried in harness.retried]
    assert len(pauses) == 4
    for pause, expected in zip(pauses, [200, 400, 800, 1600], strict=True):
        assert expected * 0.8 <= pause <= expected * 1.2


def test_six_hours_of_retries_without_end_then_success() -> None:
    """§4: without limits a batch is retried for as long as its records live."""
    begun: list[float] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        begun.append(context.get_remaining_time_in_millis())
        if len(begun) < 400:
            raise ValueError("still down")

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 1)
        await harness.run_until_idle(within_s=12 * 3600)

    app = stream_app(work)
    harness = play(app, scenario)
    assert len(begun) == 400
    assert harness.times(type(harness.settled[0]))[0] > 5 * 3600


def test_retries_used_up_discard_the_batch_with_lambdas_record() -> None:
    """§4: invocations are 1 + MaximumRetryAttempts; the record's shape is the recorded one."""

    async def work(event: dict[str, Any], context: Any) -> None:
        if 2 in numbers(event):
            raise ValueError("poison")

    records: list[dict[str, Any]] = []

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 3)
        await harness.run_until_idle()
        (message,) = await harness.messages("failed")
        records.append(json.loads(message.body))
        (failure,) = await harness.failures()
        assert dict(message.headers)["eventcore-failure-id"].decode() == failure.id

    harness = play(stream_app(work, batch_size=1, maximum_retry_attempts=2), scenario)
    (record,) = records
    assert record["requestContext"]["condition"] == "RetryAttemptsExhausted"
    assert record["requestContext"]["approximateInvokeCount"] == 3
    assert record["requestContext"]["functionArn"] == "arn:aws:lambda:us-east-1:000000000000:function:work"
    assert record["responseContext"] == {
        "statusCode": 200,
        "executedVersion": "$LATEST",
        "functionError": "Unhandled",
    }
    assert record["version"] == "1.0"
    info = record["KinesisBatchInfo"]
    assert info["batchSize"] == 1
    assert info["startSequenceNumber"] == info["endSequenceNumber"]
    (discarded,) = harness.discarded
    assert (discarded.count, discarded.reason) == (1, "RetryAttemptsExhausted")
    assert sum(settled.count for settled in harness.settled) == 2


def test_zero_retries_means_one_invocation() -> None:
    """§4, trap 17: runs are 1 + N."""
    calls: list[list[int]] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        calls.append(numbers(event))
        raise ValueError("no")

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 1)
        await harness.run_until_idle()

    play(stream_app(work, maximum_retry_attempts=0), scenario)
    assert calls == [[1]]


def test_an_unchanged_retry_keeps_its_request_id_and_the_next_batch_has_its_own() -> None:
    """§12, kinesis/unchanged-retry-keeps-request-id."""
    ids: list[str] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        ids.append(context.aws_request_id)
        if len(ids) == 1:
            raise ValueError("once")

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 2)
        await harness.run_until_idle()

    play(stream_app(work, batch_size=1), scenario)
    assert ids[0] == ids[1]
    assert ids[2] != ids[0]


def test_other_shards_go_on_while_one_is_blocked() -> None:
    """§4: an error blocks the shard, not the mapping."""
    seen: Counter[str] = Counter()

    async def work(event: dict[str, Any], context: Any) -> None:
        for record in event["Records"]:
            body = base64.b64decode(record["kinesis"]["data"]).decode()
            seen[body] += 1
            if body == "bad":
                raise ValueError("blocked")

    async def scenario(harness: Harness) -> None:
        await harness.send("stream:orders", ["bad"], key="a")
        for number in range(40):
            await harness.send("stream:orders", [f"good-{number}"], key=f"key-{number}")
        await harness.advance(5)
        status = await harness.status()
        blocked = [shard for shard in status.mappings[0].shards if shard.blocked is not None]
        assert len(blocked) == 1
        assert blocked[0].blocked is not None
        assert blocked[0].blocked.error_message == "blocked"
        assert "test_stream_retries.py:" in blocked[0].blocked.location

    harness = play(stream_app(work, shards=4, batch_size=1, maximum_record_age_in_seconds=60), scenario)
    assert seen["bad"] >= 4
    blocked_shard = {retried.shard for retried in harness.retried}
    assert len(blocked_shard) == 1
    settled_elsewhere = [settled for settled in harness.settled if settled.shard not in blocked_shard]
    assert len(settled_elsewhere) >= 20


def test_attempts_survive_a_restart() -> None:
    """Issue 3, "done when": a restart after attempt 2 of 4 makes exactly 2 more."""
    from eventcore.store.memory import open_memory_store
    from eventcore.testing.harness import open_harness

    calls: list[list[int]] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        calls.append(numbers(event))
        raise ValueError("never")

    app = stream_app(work, maximum_retry_attempts=3)

    async def scenario() -> None:
        async with open_memory_store() as store:
            async with open_harness(app, store=store) as first:
                await send_numbers(first, 1)
                while len(calls) < 2:
                    await first.advance(0.01)
            assert len(calls) == 2
            async with open_harness(app, store=store) as second:
                await second.run_until_idle()
                assert [entry.reason for entry in second.discarded] == ["RetryAttemptsExhausted"]
        assert len(calls) == 4

    run_virtual(scenario)

"""Where a stream's checkpoint stands while something fails, and whose age counts (Lambda semantics §4 "Errors").

The lowest failed record is where the checkpoint waits; each further piece of progress begins a retry budget anew.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from eventcore.testing.harness import Harness
from tests.behaviours.orders import numbers, play, send_numbers, stream_app

REPORTS = {"function_response_types": ["ReportBatchItemFailures"]}


def reported(event: dict[str, Any], *failed: int) -> dict[str, Any]:
    entries = zip(numbers(event), event["Records"], strict=True)
    return {
        "batchItemFailures": [
            {"itemIdentifier": record["kinesis"]["sequenceNumber"]} for number, record in entries if number in failed
        ]
    }


async def kept(harness: Harness) -> int:
    """Where the durable checkpoint stands."""
    (checkpoint,) = await harness.store.checkpoints("orders")
    return checkpoint.position


def test_the_checkpoint_stands_at_the_lowest_record_that_was_reported() -> None:
    async def work(event: dict[str, Any], context: Any) -> Any:
        return reported(event, 5, 3, 6)

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 8)
        await harness.advance(10)
        # Records are numbered from 1, positions from 0.
        assert await kept(harness) == 2
        assert harness.invocations[-1].first == 2

    play(stream_app(work, batch_size=8, **REPORTS), scenario)


@pytest.mark.parametrize("is_bisected", [False, True])
def test_every_piece_of_progress_begins_the_retries_anew(is_bisected: bool) -> None:
    """Each of ten records fails twice and then succeeds, with two retries for a batch: none is given up."""
    tries: dict[int, int] = {}

    async def work(event: dict[str, Any], context: Any) -> Any:
        head = numbers(event)[0]
        tries[head] = tries.get(head, 0) + 1
        if tries[head] <= 2:
            return reported(event, head)
        return reported(event, *[number for number in numbers(event) if number > head])

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 10)
        await harness.run_until_idle()
        assert await kept(harness) == 10

    harness = play(
        stream_app(
            work,
            batch_size=10,
            maximum_retry_attempts=2,
            bisect_batch_on_function_error=is_bisected,
            **REPORTS,
        ),
        scenario,
    )
    assert not harness.discarded
    assert sum(settled.count for settled in harness.settled) == 10


@pytest.mark.parametrize("settings", [{}, {"lanes": 2}, {"parallelization_factor": 2}])
def test_ages_are_looked_at_record_by_record_before_each_invocation(settings: dict[str, Any]) -> None:
    """A batch that was young when it failed first loses its records one by one as they grow too old."""
    calls: list[list[int]] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        calls.append(numbers(event))
        raise ValueError("always")

    async def scenario(harness: Harness) -> None:
        for number in range(1, 4):
            await send_numbers(harness, 1, first=number)
            await harness.advance(20)
        await harness.run_until_idle()
        records = [json.loads(message.body) for message in await harness.messages("failed")]
        assert {record["requestContext"]["condition"] for record in records} == {"RecordAgeExceeded"}
        assert sum(record["KinesisBatchInfo"]["batchSize"] for record in records) == 3
        assert not any("responseContext" in record for record in records)

    harness = play(
        stream_app(work, maximum_record_age_in_seconds=60, maximum_batching_window_in_seconds=45, **settings),
        scenario,
    )
    assert calls[0] == [1, 2, 3]
    assert [call for index, call in enumerate(calls) if index == 0 or call != calls[index - 1]] == [
        [1, 2, 3],
        [2, 3],
        [3],
    ]
    # Each was given up a minute after it came, and none earlier.
    given_up = [at.at_s for at in harness.happened if at.event in harness.discarded]
    assert [round(at_s) for at_s in given_up] == [60, 80, 100]


def test_what_is_given_up_is_named_from_its_first_record_to_its_last() -> None:
    """§4 "OnFailure record": shard, sequence numbers, arrivals in milliseconds, and no data."""

    async def work(event: dict[str, Any], context: Any) -> None:
        raise ValueError("always")

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 1)
        await harness.advance(1.25)
        await send_numbers(harness, 2, first=2)
        await harness.run_until_idle()
        (message,) = await harness.messages("failed")
        record = json.loads(message.body)
        assert list(record) == ["requestContext", "responseContext", "version", "timestamp", "KinesisBatchInfo"]
        assert record["KinesisBatchInfo"] == {
            "shardId": "shardId-000000000000",
            "startSequenceNumber": f"49{0:012}{0:042}",
            "endSequenceNumber": f"49{0:012}{2:042}",
            "approximateArrivalOfFirstRecord": "2026-01-01T00:00:00.000Z",
            "approximateArrivalOfLastRecord": "2026-01-01T00:00:01.250Z",
            "batchSize": 3,
            "streamArn": "arn:aws:kinesis:us-east-1:000000000000:stream/orders",
        }

    play(stream_app(work, maximum_retry_attempts=0, maximum_batching_window_in_seconds=2), scenario)

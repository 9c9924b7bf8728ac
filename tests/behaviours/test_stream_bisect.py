"""A failing batch is split in two, which costs no attempts (Lambda semantics §4, §12; trap 18)."""

from __future__ import annotations

import itertools
from typing import Any

from eventcore.testing.harness import Harness
from tests.behaviours.orders import numbers, play, send_numbers, stream_app


async def _send_four(harness: Harness) -> None:
    await send_numbers(harness, 4)
    await harness.run_until_idle()


def test_a_raising_handler_is_bisected_in_the_recorded_order() -> None:
    """bisect/raising-handler-four-records: `[1,2,3,4] [1,2] [1] [2] [2] [3,4]` with one retry allowed."""
    calls: list[list[int]] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        calls.append(numbers(event))
        if 2 in calls[-1]:
            raise ValueError("poison")

    app = stream_app(work, batch_size=4, maximum_retry_attempts=1, bisect_batch_on_function_error=True)
    harness = play(app, _send_four)
    assert calls == [[1, 2, 3, 4], [1, 2], [1], [2], [2], [3, 4]]
    (discarded,) = harness.discarded
    assert discarded.count == 1


def test_a_partial_report_is_bisected_in_the_recorded_order() -> None:
    """bisect/partial-report-four-records-kinesis: `[1,2,3,4] [2,3,4] [2] [2] [3,4]`, one id for the two `[2]`."""
    calls: list[list[int]] = []
    ids: list[str] = []

    async def work(event: dict[str, Any], context: Any) -> dict[str, Any]:
        calls.append(numbers(event))
        ids.append(context.aws_request_id)
        failed = [
            record["kinesis"]["sequenceNumber"]
            for number, record in zip(calls[-1], event["Records"], strict=True)
            if number == 2
        ]
        return {"batchItemFailures": [{"itemIdentifier": identifier} for identifier in failed]}

    app = stream_app(
        work,
        batch_size=4,
        maximum_retry_attempts=1,
        bisect_batch_on_function_error=True,
        function_response_types=["ReportBatchItemFailures"],
    )
    play(app, _send_four)
    assert calls == [[1, 2, 3, 4], [2, 3, 4], [2], [2], [3, 4]]
    assert ids[2] == ids[3]
    assert len(set(ids)) == 4


def test_without_bisect_the_whole_batch_is_given_up() -> None:
    """§4: good records beside the bad one go with it; `batchSize` counts them."""
    calls: list[list[int]] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        calls.append(numbers(event))
        if 2 in calls[-1]:
            raise ValueError("poison")

    harness = play(stream_app(work, batch_size=4, maximum_retry_attempts=1), _send_four)
    assert calls == [[1, 2, 3, 4], [1, 2, 3, 4]]
    assert harness.discarded[0].count == 4


def test_a_split_goes_on_at_once() -> None:
    """§12 "retry spacing": shortened or split batches follow in 10-50 ms; only the unchanged repeat is delayed."""

    async def work(event: dict[str, Any], context: Any) -> None:
        if 2 in numbers(event):
            raise ValueError("poison")

    app = stream_app(work, batch_size=4, maximum_retry_attempts=1, bisect_batch_on_function_error=True)
    harness = play(app, _send_four)
    begun = harness.times(type(harness.invocations[0]))
    gaps = [later - earlier for earlier, later in itertools.pairwise(begun)]
    assert [gap > 0.1 for gap in gaps] == [False, False, False, True, False]

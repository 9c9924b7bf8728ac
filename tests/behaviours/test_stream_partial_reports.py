"""`ReportBatchItemFailures` on streams: the lowest failed record is where the retry begins (Lambda semantics §4)."""

from __future__ import annotations

from typing import Any

import pytest

from eventcore.testing.harness import Harness
from tests.behaviours.orders import numbers, play, send_numbers, stream_app

REPORTS = {"function_response_types": ["ReportBatchItemFailures"]}


def test_the_retry_begins_at_the_failed_record_with_a_fresh_budget() -> None:
    """kinesis/partial-batch-bisects-at-the-failed-record: record 6 is delivered five times, the others once."""
    calls: list[list[int]] = []

    async def work(event: dict[str, Any], context: Any) -> dict[str, Any]:
        calls.append(numbers(event))
        return {
            "batchItemFailures": [
                {"itemIdentifier": record["kinesis"]["sequenceNumber"]}
                for number, record in zip(calls[-1], event["Records"], strict=True)
                if number == 6
            ]
        }

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 6)
        await harness.run_until_idle()

    harness = play(stream_app(work, batch_size=3, maximum_retry_attempts=3, **REPORTS), scenario)
    assert calls == [[1, 2, 3], [4, 5, 6], [6], [6], [6], [6]]
    (discarded,) = harness.discarded
    assert discarded.count == 1


@pytest.mark.parametrize("response", [None, "", [], {}, {"batchItemFailures": []}, {"batchItemFailures": None}])
def test_an_empty_answer_is_full_success(response: Any) -> None:
    """§3.1 "Partial response parsing", trap 10."""
    calls: list[list[int]] = []

    async def work(event: dict[str, Any], context: Any) -> Any:
        calls.append(numbers(event))
        return response

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 1)
        await harness.run_until_idle()

    play(stream_app(work, maximum_retry_attempts=2, **REPORTS), scenario)
    assert calls == [[1]]


@pytest.mark.parametrize(
    "response",
    [
        {"batchItemFailures": [{"itemIdentifier": None}]},
        {"batchItemFailures": [{"itemIdentifier": ""}]},
        {"batchItemFailures": [{"foo": 123}]},
        {"batchItemFailures": [{"itemIdentifier": "not-in-this-batch"}]},
        {"batchItemFailures": "nonsense"},
        "not an object",
    ],
)
def test_an_unusable_answer_fails_the_whole_batch_without_a_function_error(response: Any) -> None:
    """§3.1, trap 11; the record's `functionError` is null (trap 21)."""
    import json

    calls: list[list[int]] = []

    async def work(event: dict[str, Any], context: Any) -> Any:
        calls.append(numbers(event))
        return response

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 1)
        await harness.run_until_idle()
        (message,) = await harness.messages("failed")
        record = json.loads(message.body)
        assert record["requestContext"]["approximateInvokeCount"] == 3
        assert record["responseContext"]["functionError"] is None

    play(stream_app(work, maximum_retry_attempts=2, **REPORTS), scenario)
    assert calls == [[1], [1], [1]]


def test_a_report_is_ignored_where_the_mapping_does_not_read_it() -> None:
    """Trap 12."""
    calls: list[list[int]] = []

    async def work(event: dict[str, Any], context: Any) -> Any:
        calls.append(numbers(event))
        return {"batchItemFailures": [{"itemIdentifier": "x"}]}

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 2)
        await harness.run_until_idle()

    play(stream_app(work), scenario)
    assert calls == [[1, 2]]

"""Every row of the partial-response table, on standard queues and on FIFO queues (Lambda semantics §3.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

import eventcore
from eventcore.telemetry.events import BatchInvoked
from eventcore.testing.harness import Harness
from tests.behaviours.orders import numbers, play

both = pytest.mark.parametrize("is_fifo", [False, True], ids=["standard", "fifo"])
Deliveries = tuple[list[list[int]], list[float]]


def deliver(first: Callable[[dict[str, Any]], Any], *, is_fifo: bool, reports: bool = True) -> Deliveries:
    """Deliver three messages, of one group, in one batch; the first invocation answers as told, later ones nothing.

    Return the batches, and when each began, counted from the first.
    """
    batches: list[list[int]] = []

    async def work(event: dict[str, Any], context: Any) -> Any:
        batches.append(numbers(event))
        answer = first(event) if len(batches) == 1 else None
        return await answer if hasattr(answer, "__await__") else answer

    async def scenario(harness: Harness) -> None:
        await harness.send("queue:orders", ["1", "2", "3"], key="g")
        await harness.run_until_idle()

    app = eventcore.App()
    deduplication = {"fifo_queue": True, "content_based_deduplication": True} if is_fifo else {}
    app.queue("orders", visibility_timeout=5, **deduplication)
    app.function("work", runtime="inline", timeout=3)(work)
    types = ["ReportBatchItemFailures"] if reports else []
    app.mapping("orders", source="queue:orders", function="work", function_response_types=types)
    times = play(app, scenario).times(BatchInvoked)
    return batches, [round(at_s - times[0]) for at_s in times]


def named(event: dict[str, Any], *numbers_failed: int) -> dict[str, Any]:
    """A report of these messages."""
    ids = {int(record["body"]): record["messageId"] for record in event["Records"]}
    return {"batchItemFailures": [{"itemIdentifier": ids[number]} for number in numbers_failed]}


@both
@pytest.mark.parametrize("answer", [None, "", [], {}, {"batchItemFailures": []}, {"batchItemFailures": None}])
def test_an_empty_answer_is_full_success(answer: Any, is_fifo: bool) -> None:
    assert deliver(lambda _: answer, is_fifo=is_fifo) == ([[1, 2, 3]], [0])


@both
def test_listed_messages_are_kept_and_all_others_deleted(is_fifo: bool) -> None:
    """In a FIFO queue those behind a listed one too: the function must stop at its first failure."""
    assert deliver(lambda event: named(event, 2), is_fifo=is_fifo) == ([[1, 2, 3], [2]], [0, 5])
    assert deliver(lambda event: named(event, 2, 3), is_fifo=is_fifo) == ([[1, 2, 3], [2, 3]], [0, 5])


@both
@pytest.mark.parametrize(
    "failures",
    [
        [{"itemIdentifier": ""}],
        [{"itemIdentifier": None}],
        [{"foo": "1"}],
        [{"itemIdentifier": "nobody"}],
        [{"itemIdentifier": 1}],
        ["1"],
        "1",
    ],
)
def test_one_entry_that_names_no_message_fails_the_whole_batch(failures: Any, is_fifo: bool) -> None:
    """Also beside one that does."""
    beside = failures if isinstance(failures, str) else None
    for answer in (
        lambda _: {"batchItemFailures": failures},
        lambda event: {"batchItemFailures": beside or [*named(event, 2)["batchItemFailures"], *failures]},
    ):
        assert deliver(answer, is_fifo=is_fifo) == ([[1, 2, 3], [1, 2, 3]], [0, 5])


@both
@pytest.mark.parametrize("answer", ['{"batchItemFailures": [', "done", [1], 0, False, object()])
def test_what_is_no_object_of_json_fails_the_whole_batch(answer: Any, is_fifo: bool) -> None:
    assert deliver(lambda _: answer, is_fifo=is_fifo) == ([[1, 2, 3], [1, 2, 3]], [0, 5])


async def _raise() -> None:
    raise ValueError("always")


@both
@pytest.mark.parametrize("reports", [False, True])
def test_an_exception_fails_the_whole_batch_until_its_visibility_timeout(is_fifo: bool, reports: bool) -> None:
    batches, times = deliver(lambda _: _raise(), is_fifo=is_fifo, reports=reports)
    assert (batches, times) == ([[1, 2, 3], [1, 2, 3]], [0, 5])


@both
@pytest.mark.parametrize("reports", [False, True])
def test_a_timeout_fails_the_whole_batch_until_its_visibility_timeout(is_fifo: bool, reports: bool) -> None:
    """No early reset: they come back five seconds after the receive, not after the timeout."""
    batches, times = deliver(lambda _: anyio.sleep(60), is_fifo=is_fifo, reports=reports)
    assert (batches, times) == ([[1, 2, 3], [1, 2, 3]], [0, 5])


@both
def test_without_the_setting_every_answer_is_success(is_fifo: bool) -> None:
    for answer in (lambda event: named(event, 1), lambda _: {"batchItemFailures": "1"}, lambda _: "done"):
        assert deliver(answer, is_fifo=is_fifo, reports=False) == ([[1, 2, 3]], [0])

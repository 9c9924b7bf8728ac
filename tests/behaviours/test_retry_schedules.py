"""A mapping's own retry schedule, and its rules for single error types.

Lambda semantics §4 "Errors" leaves the pauses of streams open, and §3.1 returns what failed at the queue's visibility
timeout; a schedule says both.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from eventcore.model import DiscardReason
from eventcore.telemetry.events import BatchInvoked
from eventcore.testing.harness import Harness
from tests.behaviours.orders import numbers, play, queue_app, send_numbers, stream_app


async def _fail(event: dict[str, Any], context: Any) -> None:
    raise ValueError("always")


async def _send_one(harness: Harness) -> None:
    await send_numbers(harness, 1)
    await harness.run_until_idle()


async def _queue_one(harness: Harness) -> None:
    await send_numbers(harness, 1, source="queue:orders")
    await harness.run_until_idle()


def _pauses(harness: Harness) -> list[float]:
    times = harness.times(BatchInvoked)
    return [round(later - earlier, 2) for earlier, later in pairwise(times)]


def test_an_exponential_schedule_says_the_pauses_of_a_stream() -> None:
    schedule = {"kind": "exponential", "initial": 1, "factor": 3, "maximum": 20}
    harness = play(stream_app(_fail, maximum_retry_attempts=5, retry_schedule=schedule), _send_one)
    assert _pauses(harness) == [1, 3, 9, 20, 20]


def test_a_linear_schedule_grows_by_its_first_pause() -> None:
    schedule = {"kind": "linear", "initial": 10, "maximum": 35}
    harness = play(stream_app(_fail, maximum_retry_attempts=4, retry_schedule=schedule), _send_one)
    assert _pauses(harness) == [10, 20, 30, 35]


def test_a_list_says_every_pause_and_its_last_one_again() -> None:
    schedule = {"kind": "list", "seconds": [5, 0.5, 3600]}
    harness = play(stream_app(_fail, maximum_retry_attempts=4, retry_schedule=schedule), _send_one)
    assert _pauses(harness) == [5, 0.5, 3600, 3600]


def test_full_jitter_takes_anything_up_to_the_pause() -> None:
    schedule = {"kind": "linear", "initial": 100, "maximum": 100, "jitter": "full"}
    app = stream_app(_fail, maximum_retry_attempts=30, retry_schedule=schedule)
    pauses = _pauses(play(app, _send_one, seed=7))
    assert len(pauses) == 30
    assert min(pauses) < 30
    assert 70 < max(pauses) < 100.01
    assert pauses == _pauses(play(app, _send_one, seed=7))


def test_lanes_follow_the_schedule_too() -> None:
    schedule = {"kind": "list", "seconds": [7]}
    harness = play(stream_app(_fail, lanes=2, maximum_retry_attempts=2, retry_schedule=schedule), _send_one)
    assert _pauses(harness) == [7, 7]


def test_the_final_call_of_a_window_follows_the_schedule_too() -> None:
    """§4 "Tumbling windows": retry settings apply to the final call."""
    calls: list[int] = []

    async def work(event: dict[str, Any], context: Any) -> dict[str, Any]:
        if event["isFinalInvokeForWindow"] and len(calls) < 2:
            calls.append(1)
            raise ValueError("not yet")
        return {"state": {}}

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 1)
        await harness.advance(20)
        await send_numbers(harness, 1, first=2)
        await harness.advance(100)

    schedule = {"kind": "list", "seconds": [11]}
    harness = play(stream_app(work, tumbling_window_in_seconds=10, retry_schedule=schedule), scenario)
    first, second = harness.times(BatchInvoked)[:2]
    assert second - first == pytest.approx(20 + 2 * 11, abs=1)


def test_a_queues_message_comes_back_when_the_schedule_says() -> None:
    """Sooner than its visibility timeout, and later; by its receive count. To whole seconds, as SQS counts them."""
    schedule = {"kind": "list", "seconds": [2, 0.4, 100]}
    policy = {"dead_letter_queue": "dead", "max_receive_count": 5}
    queue = {"visibility_timeout": 30, "redrive_policy": policy}
    harness = play(queue_app(_fail, queue=queue, retry_schedule=schedule), _queue_one)
    assert [round(pause) for pause in _pauses(harness)] == [2, 1, 100, 100]


def test_without_a_schedule_a_rule_for_one_error_type_leaves_the_others_as_they_were() -> None:
    async def work(event: dict[str, Any], context: Any) -> None:
        count = int(event["Records"][0]["attributes"]["ApproximateReceiveCount"])
        raise OSError("slow down") if count == 2 else ValueError("as always")

    rule = {"error_type": "OSError", "retry_schedule": {"kind": "list", "seconds": [50]}}
    policy = {"dead_letter_queue": "dead", "max_receive_count": 4}
    queue = {"visibility_timeout": 5, "redrive_policy": policy}
    harness = play(queue_app(work, queue=queue, retry_exceptions=[rule]), _queue_one)
    assert [round(pause) for pause in _pauses(harness)] == [5, 50, 5]


def test_one_error_type_is_given_up_at_once_and_another_has_its_own_retries() -> None:
    calls: list[int] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        (number,) = numbers(event)
        calls.append(number)
        raise {1: KeyError, 2: OSError, 3: ValueError}[number]("no")

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 3)
        await harness.run_until_idle()

    rules = [{"error_type": "KeyError", "give_up": True}, {"error_type": "OSError", "maximum_retry_attempts": 3}]
    harness = play(stream_app(work, batch_size=1, maximum_retry_attempts=1, retry_exceptions=rules), scenario)
    assert calls == [1, 2, 2, 2, 2, 3, 3]
    assert {event.reason for event in harness.discarded} == {DiscardReason.RETRY_ATTEMPTS_EXHAUSTED}
    assert len(harness.discarded) == 3


def _pauses_of_a_rule(schedule: dict[str, Any], *, seed: int = 0) -> list[float]:
    """Return the pauses of a stream's record whose errors have a schedule of their own."""
    rules = [{"error_type": "ValueError", "retry_schedule": schedule}]
    app = stream_app(_fail, maximum_retry_attempts=4, retry_exceptions=rules)
    return _pauses(play(app, _send_one, seed=seed))


def test_a_rules_own_exponential_pauses_hold_for_its_error_type() -> None:
    schedule = {"kind": "exponential", "initial": 4, "factor": 3, "maximum": 20}
    assert _pauses_of_a_rule(schedule) == [4, 12, 20, 20]


def test_a_rules_own_list_of_pauses_holds_for_its_error_type() -> None:
    assert _pauses_of_a_rule({"kind": "list", "seconds": [5, 0.5, 3600]}) == [5, 0.5, 3600, 3600]


def test_a_rules_own_pauses_are_spread_where_it_says_so() -> None:
    pauses = _pauses_of_a_rule({"kind": "linear", "initial": 100, "maximum": 100, "jitter": "full"}, seed=7)
    assert len(pauses) == 4
    assert max(pauses) < 100


@pytest.mark.parametrize("source", ["stream:orders", "queue:orders"])
def test_tries_that_failed_otherwise_count_for_an_error_type_too(source: str) -> None:
    """One count for all: the type of the last failure says which number, and which pause, it is held against."""
    errors = [ValueError, ValueError, TimeoutError, ValueError, LookupError]
    calls: list[str] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        error = errors[len(calls)]
        calls.append(error.__name__)
        raise error("down")

    rules = [
        {"error_type": "TimeoutError", "maximum_retry_attempts": 3, "retry_schedule": {"kind": "linear", "initial": 7}},
        {"error_type": "LookupError", "maximum_retry_attempts": 4},
    ]
    schedule = {"kind": "list", "seconds": [5, 6, 1, 8]}
    make = stream_app if source.startswith("stream") else queue_app
    scenario = _send_one if source.startswith("stream") else _queue_one
    harness = play(make(work, retry_schedule=schedule, retry_exceptions=rules), scenario)
    assert calls == ["ValueError", "ValueError", "TimeoutError", "ValueError", "LookupError"]
    assert _pauses(harness) == pytest.approx([5, 6, 21, 8], abs=1.01)
    assert [each.reason for each in harness.discarded] == [DiscardReason.RETRY_ATTEMPTS_EXHAUSTED]


def test_a_split_isolates_the_record_that_is_given_up_at_once() -> None:
    """§4 "Bisect": what shares a batch with it must not be given up with it."""

    async def work(event: dict[str, Any], context: Any) -> None:
        if 2 in numbers(event):
            raise KeyError("poison")

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 4)
        await harness.run_until_idle()

    rules = [{"error_type": "KeyError", "give_up": True}]
    app = stream_app(work, bisect_batch_on_function_error=True, retry_exceptions=rules)
    (discarded,) = play(app, scenario).discarded
    assert discarded.count == 1


def test_a_queues_message_is_given_up_into_the_discards_and_leaves_no_failure_that_goes_on() -> None:
    """A batch that raises fails as one; a typed or reporting handler fails by record."""

    async def work(event: dict[str, Any], context: Any) -> None:
        count = int(event["Records"][0]["attributes"]["ApproximateReceiveCount"])
        raise OSError("first") if count == 1 else KeyError("poison")

    async def scenario(harness: Harness) -> None:
        await _queue_one(harness)
        assert len(await harness.messages("discards")) == 1
        assert await harness.messages("orders") == []
        assert [(failure.is_final, failure.attempts) for failure in await harness.failures()] == [(True, 2)]

    rules = [{"error_type": "KeyError", "give_up": True}]
    harness = play(queue_app(work, queue={"visibility_timeout": 5}, retry_exceptions=rules), scenario)
    assert len(harness.invocations) == 2
    (discarded,) = harness.discarded
    assert (discarded.count, discarded.reason) == (1, DiscardReason.RETRY_ATTEMPTS_EXHAUSTED)

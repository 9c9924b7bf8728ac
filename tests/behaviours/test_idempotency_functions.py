"""Idempotency keys that a function makes: as with paths, and what it does wrong loses nothing (§3, §4)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import pytest

from eventcore.testing import open_pipeline
from tests.behaviours import key_functions
from tests.behaviours.test_idempotency import SOURCES, Work, app_of, counters, orders

MODULE = "tests.behaviours.key_functions"


@pytest.fixture
def down() -> Iterator[set[int]]:
    yield key_functions.down
    key_functions.down.clear()


def keys_by(function: str, **others: Any) -> dict[str, Any]:
    return {"key": (), "key_function": f"{MODULE}.{function}", **others}


@pytest.mark.parametrize("source", SOURCES)
def test_a_function_makes_the_key(source: str) -> None:
    work = Work()
    with open_pipeline(app_of(work.handler(), source, keys=keys_by("by_id"))) as pipeline:
        pipeline.send(source, orders(1, 2))
        pipeline.run_until_idle()
        pipeline.send(source, orders(2, 3, 1, 3))
        pipeline.run_until_idle()
        assert sorted(chain.from_iterable(work.calls)) == [1, 2, 3]
        assert counters(pipeline).repeated == 3
        # What makes keys is not an invocation of the function.
        assert len(pipeline.invocations) == len(work.calls)


def test_it_may_take_the_record_itself_and_what_no_path_says() -> None:
    work = Work()
    with open_pipeline(app_of(work.handler(), keys=keys_by("by_kind_and_number"))) as pipeline:
        pipeline.send("queue:orders", [{"id": 1, "kind": "a", "number": "007"}, {"id": 2, "kind": "b", "number": 7}])
        pipeline.run_until_idle()
        pipeline.send("queue:orders", [{"id": 3, "kind": "a", "number": 7.0}])
        pipeline.run_until_idle()
        assert sorted(chain.from_iterable(work.calls)) == [1, 2]


@pytest.mark.parametrize("source", SOURCES)
def test_a_record_for_which_it_makes_none_or_that_it_cannot_read_has_no_key(source: str) -> None:
    work = Work()
    with open_pipeline(app_of(work.handler(), source, keys=keys_by("by_id"))) as pipeline:
        for _ in range(2):
            pipeline.send(source, [{"id": 0}, {"id": "not a number"}, {"id": 1}])
            pipeline.run_until_idle()
        assert sorted(map(str, chain.from_iterable(work.calls))) == ["0", "0", "1", "not a number", "not a number"]
        assert pipeline.discards == []


def test_none_is_refused_where_a_key_is_required() -> None:
    work = Work()
    with open_pipeline(app_of(work.handler(), keys=keys_by("by_id", require_key=True))) as pipeline:
        pipeline.send("queue:orders", orders(0, 1))
        pipeline.run_until_idle()
        assert work.calls == [[1]]
        assert [each.reason for each in pipeline.discards] == ["IdempotencyFailed"]


def test_a_payload_is_compared_beside_it() -> None:
    work = Work()
    with open_pipeline(app_of(work.handler(), keys=keys_by("by_id", payload="$.amount"))) as pipeline:
        pipeline.send("queue:orders", orders(1, amount=5))
        pipeline.run_until_idle()
        pipeline.send("queue:orders", [*orders(1, amount=5), *orders(1, amount=6)])
        pipeline.run_until_idle()
        assert work.calls == [[1]]
        assert [each.reason for each in pipeline.discards] == ["IdempotencyFailed"]


@pytest.mark.parametrize("source", SOURCES)
def test_a_record_for_which_it_raises_has_failed_and_is_tried_again(source: str, down: set[int]) -> None:
    work = Work()
    down.add(2)
    retries = {} if source.startswith("queue") else {"maximum_retry_attempts": 100}
    with open_pipeline(app_of(work.handler(), source, keys=keys_by("by_service"), **retries)) as pipeline:
        pipeline.send(source, orders(1, 2, 3), key="k")
        pipeline.advance(5)
        ran = list(chain.from_iterable(work.calls))
        # In order where there is one; messages of a queue don't wait for each other.
        assert sorted(ran) == ([1, 3] if source.startswith("queue") else [1])
        if source.startswith("queue"):
            told = [each.error_message for each in pipeline.failures]
        else:
            told = [shard.blocked.error_message for shard in pipeline.status.mappings[0].shards if shard.blocked]
        assert told == [f"key_function {MODULE}.by_service: the service of keys is down"]
        down.clear()
        pipeline.run_until_idle()
        assert sorted(chain.from_iterable(work.calls)) == [1, 2, 3]
        assert source.startswith("queue") or list(chain.from_iterable(work.calls)) == [1, 2, 3]
        assert pipeline.discards == []
        counters(pipeline)


def test_a_fifo_group_waits_behind_the_record_for_which_it_raises(down: set[int]) -> None:
    work = Work()
    down.add(2)
    queue = {"fifo_queue": True, "content_based_deduplication": True}
    with open_pipeline(app_of(work.handler(), queue=queue, keys=keys_by("by_service"))) as pipeline:
        pipeline.send("queue:orders", orders(1, 2, 3), key="g")
        pipeline.send("queue:orders", orders(4), key="h")
        pipeline.advance(5)
        assert sorted(chain.from_iterable(work.calls)) == [1, 4]
        down.clear()
        pipeline.run_until_idle()
        ran = list(chain.from_iterable(work.calls))
        assert [each for each in ran if each != 4] == [1, 2, 3]


def test_a_batch_whose_key_function_dies_is_tried_again_and_given_up_by_the_mappings_own_rules() -> None:
    work = Work()
    app = app_of(work.handler(), "stream:orders", keys=keys_by("ends_the_process"), maximum_retry_attempts=2)
    with open_pipeline(app) as pipeline:
        pipeline.send("stream:orders", orders(1, 2))
        pipeline.run_until_idle()
        assert work.calls == []
        assert [each.reason for each in pipeline.discards] == ["RetryAttemptsExhausted"]
        (failure,) = pipeline.failures
        assert failure.error_message.startswith(f"key_function {MODULE}.ends_the_process: ")


@pytest.mark.parametrize(
    ("function", "said"),
    [("of_event", "takes one record"), ("not_there", "Handler 'not_there' missing")],
)
def test_one_that_is_not_there_or_takes_no_record_is_the_mappings_problem(function: str, said: str) -> None:
    work = Work()
    with open_pipeline(app_of(work.handler(), keys=keys_by(function))) as pipeline:
        pipeline.send("queue:orders", orders(1))
        pipeline.advance(5)
        (mapping,) = pipeline.status.mappings
        assert said in mapping.reason
        assert work.calls == []
        # Nothing was taken: it is all there when the function is mended.
        (message,) = pipeline.delivered_to("queue:orders")
        assert message.body == b'{"id":1}'

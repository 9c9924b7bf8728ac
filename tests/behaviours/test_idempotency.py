"""Idempotency: a record whose key was processed is not invoked again (delivery is at least once, §3, §4, §5.1)."""

from __future__ import annotations

import base64
from collections.abc import Callable
from itertools import chain
from typing import Any

import anyio
import msgspec
import pytest

import eventcore
from eventcore.config.effective import resolve
from eventcore.engine.settler import SETTLE_GRACE_S
from eventcore.model import Batch, DiscardReason, OutgoingRecord
from eventcore.runtime.process import INIT_LIMIT_S, TERM_GRACE_S
from eventcore.telemetry.counters import CountersSnapshot
from eventcore.testing import open_pipeline
from eventcore.testing.virtual_pipeline import VirtualPipeline
from tests.behaviours.orders import Order


class Work:
    """A handler that remembers the ids of each invocation, takes its time, and fails with what it is told to."""

    def __init__(self, *, takes_s: float = 0, failing: tuple[int, ...] = ()) -> None:
        self.calls: list[list[int]] = []
        self.takes_s = takes_s
        self.failing = set(failing)

    def handler(self) -> Callable[..., Any]:
        async def work(batch: Batch) -> None:
            self.calls.append([msgspec.json.decode(record.body)["id"] for record in batch.records])
            if self.takes_s:
                await anyio.sleep(self.takes_s)
            if self.failing.intersection(self.calls[-1]):
                raise ValueError("poison")

        return work


def app_of(
    handler: Callable[..., Any],
    source: str = "queue:orders",
    *,
    queue: dict[str, Any] | None = None,
    keys: dict[str, Any] | None = None,
    concurrency: int = 10,
    **mapping: Any,
) -> eventcore.App:
    app = eventcore.App()
    app.kafka("local", bootstrap_servers="127.0.0.1:9")
    app.queue("orders", **(queue or {}))
    app.stream("orders", shards=1)
    app.function("work", runtime="inline", concurrency=concurrency)(handler)
    if not source.startswith("queue"):
        mapping = {"starting_position": "TRIM_HORIZON", "maximum_batching_window_in_seconds": 0, **mapping}
    idempotency = {"key": "$.id", **(keys or {})}
    app.mapping("orders", source=source, function="work", idempotency=idempotency, **mapping)
    return app


def counters(pipeline: VirtualPipeline, mapping: str = "orders") -> CountersSnapshot:
    found = next(each for each in pipeline.status.mappings if each.mapping == mapping).counters
    assert found is not None
    assert found.is_balanced, found
    return found


def orders(*ids: int, **fields: Any) -> list[dict[str, Any]]:
    return [{"id": number, **fields} for number in ids]


SOURCES = ["queue:orders", "stream:orders", "kafka:local/orders"]


@pytest.mark.parametrize("source", SOURCES)
def test_a_record_whose_key_was_processed_is_settled_without_an_invocation(source: str) -> None:
    work = Work()
    with open_pipeline(app_of(work.handler(), source)) as pipeline:
        pipeline.send(source, orders(1, 2))
        pipeline.run_until_idle()
        pipeline.send(source, orders(2, 3, 1))
        pipeline.run_until_idle()
        pipeline.send(source, orders(1, 2, 3))
        pipeline.run_until_idle()
        assert sorted(chain.from_iterable(work.calls)) == [1, 2, 3]
        found = counters(pipeline)
        assert (found.settled, found.repeated, found.invoked) == (8, 5, len(work.calls))
        assert pipeline.discards == []


@pytest.mark.parametrize("source", SOURCES)
def test_a_key_that_comes_again_in_its_batch_is_invoked_once(source: str) -> None:
    work = Work()
    with open_pipeline(app_of(work.handler(), source)) as pipeline:
        pipeline.send(source, orders(1, 2, 1, 1))
        pipeline.run_until_idle()
        assert work.calls == [[1, 2]]
        assert counters(pipeline).repeated == 2


def test_handlers_of_events_and_of_typed_records_need_no_code_for_it() -> None:
    seen: list[int] = []

    async def event_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
        bodies = [msgspec.json.decode(record["body"]) for record in event["Records"]]
        seen.extend(body["id"] for body in bodies)
        failed = [record["messageId"] for record, body in zip(event["Records"], bodies, strict=True) if body["id"] == 2]
        return {"batchItemFailures": [{"itemIdentifier": each} for each in failed]} if len(seen) < 4 else {}

    async def typed_handler(order: Order) -> None:
        seen.append(order.id)

    settings: dict[str, Any] = {"function_response_types": ["ReportBatchItemFailures"]}
    with open_pipeline(app_of(event_handler, **settings)) as pipeline:
        pipeline.send("queue:orders", orders(1, 2, 3, 1))
        pipeline.run_until_idle()
        assert seen == [1, 2, 3, 2]
        assert counters(pipeline).settled == 4
    seen.clear()
    with open_pipeline(app_of(typed_handler)) as pipeline:
        pipeline.send("queue:orders", orders(1, 2, 1))
        pipeline.run_until_idle()
        pipeline.send("queue:orders", orders(2))
        pipeline.run_until_idle()
        assert seen == [1, 2]


@pytest.mark.parametrize("source", SOURCES)
def test_what_failed_is_invoked_again_and_what_succeeded_beside_it_is_not(source: str) -> None:
    """Without idempotency the whole batch would run again (§3.1 "Outcome rules", §4 "Errors")."""
    calls: list[list[int]] = []

    async def work(batch: Batch) -> list[Any]:
        ids = [msgspec.json.decode(record.body)["id"] for record in batch.records]
        calls.append(ids)
        return [batch.records[ids.index(2)]] if len(calls) == 1 else []

    with open_pipeline(app_of(work, source)) as pipeline:
        pipeline.send(source, orders(1, 2, 3))
        pipeline.run_until_idle()
        assert calls == [[1, 2, 3], [2]]
        assert counters(pipeline).settled == 3
        if not source.startswith("queue"):
            # Its key was free at once: nothing waited for the end of a claim.
            assert pipeline.settlements[-1].at_s < 1


@pytest.mark.parametrize("source", ["stream:orders", "kafka:local/orders"])
def test_what_stands_behind_the_first_failure_that_a_streams_response_names_is_invoked_again(source: str) -> None:
    """§4: "checkpoint = lowest returned sequence number": a function may end there, as AWS's own samples do."""
    calls: list[list[int]] = []

    async def work(event: dict[str, Any], context: Any) -> dict[str, Any]:
        records = event["records"]["orders-0"] if "records" in event else event["Records"]
        data = [record["value"] if "value" in record else record["kinesis"]["data"] for record in records]
        calls.append([msgspec.json.decode(base64.b64decode(each))["id"] for each in data])
        if len(calls) > 1:
            return {}
        name = {"partition": "orders-0", "offset": records[1]["offset"]} if "records" in event else ""
        return {"batchItemFailures": [{"itemIdentifier": name or records[1]["kinesis"]["sequenceNumber"]}]}

    with open_pipeline(app_of(work, source, function_response_types=["ReportBatchItemFailures"])) as pipeline:
        pipeline.send(source, orders(1, 2, 3))
        pipeline.run_until_idle()
        assert calls == [[1, 2, 3], [2, 3]]
        pipeline.send(source, orders(1, 2, 3))
        pipeline.run_until_idle()
        assert len(calls) == 2


@pytest.mark.parametrize("source", SOURCES)
def test_a_batch_that_raises_beside_a_known_record_leaves_that_one_settled(source: str) -> None:
    work = Work()
    with open_pipeline(app_of(work.handler(), source)) as pipeline:
        pipeline.send(source, orders(1))
        pipeline.run_until_idle()
        work.failing = {2}
        pipeline.send(source, orders(1, 2))
        pipeline.advance(0.1)
        work.failing = set()
        pipeline.run_until_idle()
        assert work.calls[-1] == [2]
        assert counters(pipeline).settled == 3
        assert counters(pipeline).failed_invocations >= 1


def test_a_key_is_forgotten_after_its_time() -> None:
    work = Work()
    with open_pipeline(app_of(work.handler(), keys={"expires_after": 60})) as pipeline:
        for pause_s in (0, 59, 2, 0):
            pipeline.advance(pause_s)
            pipeline.send("queue:orders", orders(1))
            pipeline.run_until_idle()
        assert work.calls == [[1], [1]]


def test_expired_keys_are_swept() -> None:
    """They would fill the state file."""
    work = Work()
    with open_pipeline(app_of(work.handler(), keys={"expires_after": 60})) as pipeline:
        pipeline.send("queue:orders", orders(*range(50)))
        pipeline.run_until_idle()
        store: Any = pipeline._store
        assert len(store._keys._held) == 50
        pipeline.advance(200)
        assert not store._keys._held
        assert not store._keys._ends


@pytest.mark.parametrize("source", ["queue:orders", "stream:orders"])
def test_a_known_key_with_another_payload_has_failed_and_says_so(source: str) -> None:
    """Given up at once: no retry would change it."""
    work = Work()
    with open_pipeline(app_of(work.handler(), source, keys={"payload": "$.amount"})) as pipeline:
        pipeline.send(source, orders(1, amount=5, at="now"))
        pipeline.run_until_idle()
        pipeline.send(source, [*orders(1, amount=5, at="later"), *orders(1, amount=6), *orders(2, amount=6)])
        pipeline.run_until_idle()
        assert sorted(chain.from_iterable(work.calls)) == [1, 2]
        (discard,) = pipeline.discards
        assert (discard.reason, discard.count) == (DiscardReason.IDEMPOTENCY_FAILED, 1)
        (failure,) = pipeline.failures
        assert failure.error_type == "IdempotencyValidationError"
        assert "another payload" in failure.error_message
        assert failure.attempts == 0
        record = pipeline.delivered_to("queue:discards")[0].json
        assert record["requestContext"]["approximateInvokeCount"] == 0
        assert "responseContext" not in record


def test_another_payload_within_one_batch_has_failed_too() -> None:
    work = Work()
    with open_pipeline(app_of(work.handler(), keys={"payload": "$"})) as pipeline:
        pipeline.send("queue:orders", [*orders(1, amount=5), *orders(1, amount=6), *orders(1, amount=5)])
        pipeline.run_until_idle()
        assert work.calls == [[1]]
        assert [discard.count for discard in pipeline.discards] == [1]


def test_without_a_payload_path_only_the_key_counts() -> None:
    work = Work()
    with open_pipeline(app_of(work.handler())) as pipeline:
        pipeline.send("queue:orders", [*orders(1, amount=5), *orders(1, amount=6)])
        pipeline.run_until_idle()
        assert work.calls == [[1]]
        assert pipeline.discards == []


BODIES_WITHOUT_KEY = [b"no json", b"\xff", '{"id": null}', "[1]", '{"other": 1}']


def test_a_record_without_a_key_is_invoked_each_time_it_comes() -> None:
    counts: list[int] = []

    async def work(batch: Batch) -> None:
        counts.append(len(batch))

    with open_pipeline(app_of(work, "stream:orders")) as pipeline:
        for _ in range(2):
            pipeline.send("stream:orders", BODIES_WITHOUT_KEY)
            pipeline.run_until_idle()
        assert sum(counts) == 2 * len(BODIES_WITHOUT_KEY)


def test_a_record_without_a_key_has_failed_where_one_is_required() -> None:
    work = Work()
    with open_pipeline(app_of(work.handler(), "stream:orders", keys={"require_key": True})) as pipeline:
        pipeline.send("stream:orders", [*BODIES_WITHOUT_KEY, *orders(1)])
        pipeline.run_until_idle()
        assert work.calls == [[1]]
        assert sum(discard.count for discard in pipeline.discards) == len(BODIES_WITHOUT_KEY)
        assert {failure.error_type for failure in pipeline.failures} == {"IdempotencyKeyError"}


def test_several_paths_are_one_key() -> None:
    seen: list[Any] = []

    async def work(batch: Batch) -> None:
        seen.extend(msgspec.json.decode(record.body)["n"] for record in batch.records)

    bodies = [
        {"n": 1, "order": {"id": "a"}, "lines": [{"sku": 1}]},
        {"n": 2, "order": {"id": "a"}, "lines": [{"sku": 2}]},
        {"n": 3, "lines": [{"sku": 1}], "order": {"id": "a", "x": 1}},
    ]
    with open_pipeline(app_of(work, keys={"key": ["$.order.id", "lines[0].sku"]})) as pipeline:
        pipeline.send("queue:orders", bodies)
        pipeline.run_until_idle()
        assert seen == [1, 2]


# -- keys in progress --------------------------------------------------------------------------------------------------


def test_a_message_whose_key_is_in_progress_soon_looks_again() -> None:
    """Not after its whole visibility timeout, nor when the other's claim would end."""
    work = Work(takes_s=2)
    app = app_of(work.handler(), queue={"visibility_timeout": 300}, batch_size=1)
    with open_pipeline(app) as pipeline:
        pipeline.send("queue:orders", orders(1, 1, 2))
        pipeline.run_until_idle()
        assert sorted(work.calls) == [[1], [2]]
        assert 2 <= pipeline.now_s <= 6
        found = counters(pipeline)
        assert (found.settled, found.repeated, found.returned, found.invoked) == (3, 1, 1, 2)


@pytest.mark.parametrize("is_fifo", [False, True])
def test_a_message_that_waits_for_its_key_comes_no_closer_to_its_dead_letter_queue(is_fifo: bool) -> None:
    """§3.2: the redrive policy counts receives. The engine's death cost one of two; its claim outlasts many more."""
    work = Work(takes_s=2)
    kind = {"fifo_queue": True, "content_based_deduplication": True} if is_fifo else {}
    redrive = {"dead_letter_queue": "dead", "max_receive_count": 2}
    queue = {"visibility_timeout": 3, "redrive_policy": redrive, **kind}
    app = app_of(work.handler(), queue=queue, keys={"in_progress_timeout": 60})
    app.queue("dead", **({"fifo_queue": True} if is_fifo else {}))
    with open_pipeline(app) as pipeline:
        pipeline.send("queue:orders", orders(1, 2), key="g" if is_fifo else None)
        pipeline.advance(1)
        pipeline.crash()
        pipeline.run_until_idle()
        assert work.calls == [[1, 2], [1, 2]]
        assert pipeline.delivered_to("queue:dead") == []
        assert 60 <= pipeline.now_s <= 68
        assert [each.attempt for each in pipeline.invocations] == [1, 2]


def test_a_claim_outlasts_an_import_and_the_functions_timeout() -> None:
    """An import may take 10 seconds, and the handler's time begins after it."""
    app = app_of(Work(takes_s=1).handler())
    (mapping,) = resolve(app.loaded()).mappings.values()
    assert mapping.idempotency is not None
    assert mapping.idempotency.in_progress_timeout_s >= INIT_LIMIT_S + 3 + TERM_GRACE_S + SETTLE_GRACE_S


def test_a_message_that_waited_for_a_failure_runs_then() -> None:
    work = Work(takes_s=2, failing=(1,))
    app = app_of(work.handler(), queue={"visibility_timeout": 100}, batch_size=1)
    with open_pipeline(app) as pipeline:
        pipeline.send("queue:orders", orders(1, 1))
        pipeline.advance(3)
        work.failing = set()
        pipeline.run_until_idle()
        assert work.calls == [[1], [1]]


def two_streams(handler: Callable[..., Any]) -> eventcore.App:
    app = app_of(handler, "stream:orders")
    app.stream("others", shards=1)
    app.mapping(
        "others",
        source="stream:others",
        function="work",
        starting_position="TRIM_HORIZON",
        idempotency={"key": "$.id"},
    )
    return app


def test_a_key_in_progress_in_another_mapping_of_the_function_is_waited_for_in_order() -> None:
    work = Work(takes_s=2)
    with open_pipeline(two_streams(work.handler())) as pipeline:
        pipeline.send("stream:orders", orders(1))
        pipeline.advance(0.5)
        pipeline.send("stream:others", orders(5, 1, 6))
        pipeline.run_until_idle()
        assert work.calls == [[1], [5], [6]]
        settled = [each for each in pipeline.settlements if each.mapping == "others"]
        assert [(each.first, each.last) for each in settled] == [(0, 0), (1, 2)]
        assert settled[1].at_s == 4.5  # the call for 6 begins when that for 5 is over
        assert counters(pipeline, "others").retried == 0


def test_a_key_belongs_to_its_function() -> None:
    works = [Work(), Work()]
    app = app_of(works[0].handler())
    app.queue("others")
    app.function("other", runtime="inline")(works[1].handler())
    app.mapping("others", source="queue:others", function="other", idempotency={"key": "$.id"})
    with open_pipeline(app) as pipeline:
        pipeline.send("queue:orders", orders(1))
        pipeline.send("queue:others", orders(1))
        pipeline.run_until_idle()
        assert [work.calls for work in works] == [[[1]], [[1]]]


def test_a_fifo_group_waits_behind_its_key() -> None:
    work = Work(takes_s=2)
    app = app_of(work.handler(), queue={"fifo_queue": True, "content_based_deduplication": True})
    app.stream("others", shards=1)
    app.mapping(
        "others",
        source="stream:others",
        function="work",
        starting_position="TRIM_HORIZON",
        idempotency={"key": "$.id"},
    )
    with open_pipeline(app) as pipeline:
        pipeline.send("stream:others", orders(2))
        pipeline.advance(0.5)
        pipeline.send("queue:orders", orders(1, 2, 3), key="g")
        pipeline.run_until_idle()
        assert work.calls == [[2], [1], [3]]


def test_the_key_of_an_engine_that_died_is_free_after_its_time() -> None:
    work = Work(takes_s=2)
    app = app_of(work.handler(), "stream:orders", keys={"in_progress_timeout": 20})
    with open_pipeline(app) as pipeline:
        pipeline.send("stream:orders", orders(1, 2))
        pipeline.advance(1)
        pipeline.crash()
        pipeline.run_until_idle()
        assert work.calls == [[1, 2], [1, 2]]
        assert [each.at_s for each in pipeline.settlements] == [pytest.approx(22, abs=0.6)]


def test_a_stop_frees_the_keys_of_what_it_ends() -> None:
    work = Work(takes_s=2)
    app = app_of(work.handler(), "stream:orders", keys={"in_progress_timeout": 1000})
    app.settings(drain_timeout=0)
    with open_pipeline(app) as pipeline:
        pipeline.send("stream:orders", orders(1, 2))
        pipeline.advance(1)
        pipeline.restart()
        pipeline.run_until_idle()
        assert work.calls == [[1, 2], [1, 2]]
        assert pipeline.now_s < 10


def test_a_restart_knows_what_was_processed() -> None:
    work = Work()
    with open_pipeline(app_of(work.handler())) as pipeline:
        pipeline.send("queue:orders", orders(1))
        pipeline.run_until_idle()
        pipeline.crash()
        pipeline.send("queue:orders", orders(1, 2))
        pipeline.run_until_idle()
        assert work.calls == [[1], [2]]


# -- results -----------------------------------------------------------------------------------------------------------


def results_app(**keys: Any) -> eventcore.App:
    async def work(order: Order) -> OutgoingRecord:
        return OutgoingRecord(body=b"made of %d" % order.id, headers=(("h", b"v"),))

    return app_of(work, "kafka:local/orders", keys=keys, results="kafka:local/made", batch_size=10)


def test_a_known_records_result_is_sent_on_again() -> None:
    with open_pipeline(results_app()) as pipeline:
        pipeline.send("kafka:local/orders", orders(1, 2))
        pipeline.run_until_idle()
        pipeline.send("kafka:local/orders", orders(2, 3, 1))
        pipeline.run_until_idle()
        made = pipeline.delivered_to("kafka:local/made")
        assert [each.body for each in made] == [b"made of %d" % number for number in (1, 2, 2, 3, 1)]
        assert {each.headers["h"] for each in made} == {"v"}
        assert [record.body for each in pipeline.invocations for record in each.records] == [
            b'{"id":1}',
            b'{"id":2}',
            b'{"id":3}',
        ]


def test_a_result_that_is_too_large_is_not_remembered() -> None:
    """The record would come without its result: it is invoked again instead."""
    with open_pipeline(results_app(maximum_result_bytes=3)) as pipeline:
        for _ in range(2):
            pipeline.send("kafka:local/orders", orders(1))
            pipeline.run_until_idle()
        assert len(pipeline.delivered_to("kafka:local/made")) == 2
        assert len(pipeline.invocations) == 2

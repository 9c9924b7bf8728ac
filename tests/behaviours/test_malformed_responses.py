"""Malformed responses of every kind, from every kind of source: one that can't be read fails its whole batch, once.

Three records are delivered in one batch; what comes in a second one tells what became of the first. Source: Lambda
semantics §3.1 "Partial response parsing", §5.1 for Kafka's identifiers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import eventcore
from eventcore.testing import VirtualPipeline, open_pipeline
from tests.conformance.scenarios.stage import REPORTS, Stage, bodies, queue_app

SOURCES = ("queue", "fifo", "stream", "kafka")
HUGE = 100_000
WHOLE, LAST, NONE = [1, 2, 3], [3], []


def _nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def _cyclic(ids: list[Any]) -> Any:
    value: dict[str, Any] = {"batchItemFailures": []}
    value["again"] = value
    return value


def _failures(*entries: Any) -> dict[str, Any]:
    return {"batchItemFailures": list(entries)}


def _named(identifier: Any) -> dict[str, Any]:
    return _failures({"itemIdentifier": identifier})


#: What a response is, by the identifiers of the batch; and what is delivered again.
RESPONSES: dict[str, tuple[Callable[[list[Any]], Any], list[int]]] = {
    # of another type
    "a text": (lambda ids: "done", WHOLE),
    "a number": (lambda ids: 7, WHOLE),
    "a truth": (lambda ids: True, WHOLE),
    "a list": (lambda ids: [1], WHOLE),
    "bytes that are no text": (lambda ids: b"\xff\xfe", WHOLE),
    "failures: a text": (lambda ids: {"batchItemFailures": "x"}, WHOLE),
    "failures: a number": (lambda ids: {"batchItemFailures": 0}, WHOLE),
    "failures: an object": (lambda ids: {"batchItemFailures": {"itemIdentifier": ids[2]}}, WHOLE),
    "entry: an identifier": (lambda ids: _failures(ids[2]), WHOLE),
    "entry: null": (lambda ids: _failures(None), WHOLE),
    "entry: a list": (lambda ids: _failures([{"itemIdentifier": ids[2]}]), WHOLE),
    "identifier: a number": (lambda ids: _named(5), WHOLE),
    "identifier: a list": (lambda ids: _named([ids[2]]), WHOLE),
    "identifier: a truth": (lambda ids: _named(True), WHOLE),
    "identifier: half of one": (lambda ids: _named({"partition": "orders-0"}), WHOLE),
    "identifier: of another kind inside": (lambda ids: _named({"partition": 0, "offset": "2"}), WHOLE),
    "identifier: past every number": (lambda ids: _named({"partition": "orders-0", "offset": 2**70}), WHOLE),
    "identifier: no number": (lambda ids: _named({"partition": "orders-0", "offset": float("nan")}), WHOLE),
    # many
    # At most 6 MB, as in Lambda: a sequence number is long.
    "one identifier, very often": (lambda ids: _failures(*[{"itemIdentifier": ids[2]}] * (HUGE // 2)), LAST),
    "one identifier, too often": (lambda ids: _failures(*[{"itemIdentifier": ids[2]}] * HUGE * 2), WHOLE),
    "unknown ones, very many": (lambda ids: _failures(*({"itemIdentifier": f"{n}"} for n in range(HUGE))), WHOLE),
    "known ones, and one unknown behind": (
        lambda ids: _failures(*[{"itemIdentifier": ids[2]}] * (HUGE // 2), {"itemIdentifier": "x"}),
        WHOLE,
    ),
    "a long identifier": (lambda ids: _named("x" * 1_000_000), WHOLE),
    "much beside": (lambda ids: {**_named(ids[2]), "more": ["x"] * HUGE}, LAST),
    # no JSON
    "a set of objects": (lambda ids: {object()}, WHOLE),
    "an object of its own": (lambda ids: object(), WHOLE),
    "a function": (lambda ids: {"batchItemFailures": lambda: None}, WHOLE),
    "half a character": (lambda ids: _named("\ud800"), WHOLE),
    "keys that are no text": (lambda ids: {("a", "b"): []}, WHOLE),
    "itself": (_cyclic, WHOLE),
    # deep
    "deep": (lambda ids: _nested(HUGE), WHOLE),
    "deep, as failures": (lambda ids: {"batchItemFailures": _nested(HUGE)}, WHOLE),
    "deep, as an identifier": (lambda ids: _named(_nested(HUGE)), WHOLE),
    "deep, beside": (lambda ids: {"more": _nested(900), **_named(ids[2])}, LAST),
    # told twice
    "each twice, out of order": (lambda ids: _failures(*({"itemIdentifier": n} for n in (ids[2], ids[2]))), LAST),
    "success": (lambda ids: {"batchItemFailures": [], "statusCode": "500"}, NONE),
}


def _identifiers(source: str, event: Any) -> list[Any]:
    if source in {"stream", "kafka"}:
        stage = Stage(source)
        return [stage.identify(event, number) for number in stage.numbers(event)]
    return [record["messageId"] for record in event["Records"]]


@contextmanager
def _open(source: str, work: Callable[..., Any]) -> Iterator[VirtualPipeline]:
    """A pipeline with three records, sent at once: one batch."""
    if source in {"stream", "kafka"}:
        stage = Stage(source)
        reference, app = stage.source, stage.app(function_response_types=REPORTS, maximum_retry_attempts=3)
    else:
        reference, app = "queue:orders", _queue(source)
    with open_pipeline(app, functions={"work": work}) as pipeline:
        pipeline.send(reference, [1, 2, 3], key="k" if source != "queue" else None)
        yield pipeline


def _queue(source: str) -> eventcore.App:
    if source == "queue":
        return queue_app(function_response_types=REPORTS)
    app = eventcore.App()
    app.queue("orders", fifo_queue=True, content_based_deduplication=True)
    app.function("work", handler="nowhere.work")
    app.mapping("orders", source="queue:orders", function="work", function_response_types=REPORTS)
    return app


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", RESPONSES)
def test_a_malformed_response(name: str, source: str) -> None:
    build, again = RESPONSES[name]
    calls = 0

    def work(event: Any, context: Any) -> Any:
        nonlocal calls
        calls += 1
        return build(_identifiers(source, event)) if calls == 1 else None

    with _open(source, work) as pipeline:
        pipeline.run_until_idle()
        assert sorted(bodies(pipeline)) == sorted([1, 2, 3, *again])
        assert calls == (2 if again else 1)
        (mapping,) = pipeline.status.mappings
        assert not mapping.reason
        assert mapping.counters is not None
        assert mapping.counters.in_flight == mapping.counters.retrying == 0
        assert sum(mapping.counters.discarded.values()) == 0

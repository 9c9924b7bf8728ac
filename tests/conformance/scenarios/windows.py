"""Tumbling windows (Lambda semantics §4, §12 "windows"): the recorded cases of the family, on an embedded stream.

Virtual time begins at a multiple of ten seconds.
"""

from __future__ import annotations

from typing import Any

import pytest

from eventcore.errors import ConfigError
from eventcore.testing import open_pipeline
from tests.conformance.scenarios.stage import REPORTS, Stage, batches
from tests.conformance.scenarios.table import scenario

STREAM = Stage("stream")
WINDOW = {"tumbling_window_in_seconds": 10, "batch_size": 1}
ARN = "arn:aws:kinesis:us-east-1:000000000000:stream/orders"


def _count(event: Any, context: Any) -> Any:
    return {"state": {"count": event["state"].get("count", 0) + len(event["Records"])}}


def _window(event: Any) -> tuple[str, str]:
    """Minute and second of a window's start and end."""
    start, end = event["window"]["start"], event["window"]["end"]
    assert start[:14] == end[:14]
    assert start.endswith("Z")
    assert end.endswith("Z")
    return start[14:-1], end[14:-1]


def _events(pipeline: Any) -> list[Any]:
    return [call.event for call in pipeline.invocations]


@scenario("windows/state-is-handed-on-inside-one-window")
def handed_on() -> None:
    returned = {"seen": [1], "text": "é"}
    with STREAM.open(lambda event, context: {"state": returned}, **WINDOW) as pipeline:
        STREAM.send(pipeline, 2)
        pipeline.advance(2)
        first, second = _events(pipeline)
    assert first["window"] == second["window"]
    assert (first["state"], second["state"]) == ({}, returned)
    for event in (first, second):
        assert event["shardId"] == "shardId-000000000000"
        assert event["eventSourceARN"] == ARN
        assert event["isFinalInvokeForWindow"] is False
        assert event["isWindowTerminatedEarly"] is False


@scenario("windows/bounds-are-multiples-of-the-length")
def bounds() -> None:
    with STREAM.open(_count, enabled=False, **WINDOW) as pipeline:
        pipeline.advance(17)
        STREAM.send(pipeline, 1)
        pipeline.advance(46)
        pipeline.restart(STREAM.app(**WINDOW), functions={"work": _count})
        pipeline.advance(5)
        assert _window(_events(pipeline)[0]) == ("00:10", "00:20")


def _idle(seconds: float) -> Any:
    """A record, so long nothing after its window's end, and a record of a later window."""
    with STREAM.open(_count, **WINDOW) as pipeline:
        STREAM.send(pipeline, 1)
        pipeline.advance(10 + seconds)
        assert batches(pipeline) == [[1]]
        STREAM.send(pipeline, 1, first=2)
        sent_s = pipeline.now_s
        pipeline.advance(2)
        _, final, later = pipeline.invocations
        assert (final.event["Records"], final.event["isFinalInvokeForWindow"]) == ([], True)
        assert (_window(final.event), final.event["state"]) == (("00:00", "00:10"), {"count": 1})
        assert later.event["state"] == {}
        assert later.bodies == [2]
        assert _window(later.event) > _window(final.event)
        assert later.at_s - sent_s < 1


@scenario("windows/closed-by-a-record-of-a-later-window")
def closed_by_later() -> None:
    for seconds in (111, 48, 41):
        _idle(seconds)


@scenario("windows/idle-94-seconds-without-final-call")
def idle_94() -> None:
    _idle(94)


@scenario("windows/failing-final-call-does-not-hold-the-shard")
def failing_final_call() -> None:
    def work(event: Any, context: Any) -> Any:
        if not event["Records"]:
            raise ValueError("at the end")
        return _count(event, context)

    with STREAM.open(work, maximum_retry_attempts=0, **WINDOW) as pipeline:
        STREAM.send(pipeline, 1)
        pipeline.advance(15)
        STREAM.send(pipeline, 1, first=2)
        pipeline.advance(2)
        assert batches(pipeline) == [[1], [], [2]]
        final, later = pipeline.invocations[1:]
        assert later.at_s - final.at_s < 0.5
        assert later.event["state"] == {}
        pipeline.advance(600)
        old = [event for event in _events(pipeline) if _window(event) == ("00:00", "00:10")]
        assert [len(event["Records"]) for event in old] == [1, 0]


@scenario("windows/five-records-two-windows")
def five_records() -> None:
    with STREAM.open(_count, **WINDOW) as pipeline:
        STREAM.send(pipeline, 4)
        pipeline.advance(12)
        STREAM.send(pipeline, 1, first=5)
        pipeline.advance(2)
        events = _events(pipeline)
        assert batches(pipeline) == [[1], [2], [3], [4], [], [5]]
    assert [event["state"].get("count", 0) for event in events] == [0, 1, 2, 3, 4, 0]
    assert events[5]["state"] == {}
    for event in events:
        assert event["shardId"] == "shardId-000000000000"
        assert event["eventSourceARN"] == ARN
        assert event["isWindowTerminatedEarly"] is False
    assert [_window(event) for event in events] == [("00:00", "00:10")] * 5 + [("00:10", "00:20")]


@scenario("windows/state-may-come-with-batch-item-failures")
def state_beside_a_report() -> None:
    def work(event: Any, context: Any) -> Any:
        return {"batchItemFailures": [], **_count(event, context)}

    with STREAM.open(work, function_response_types=REPORTS, **WINDOW) as pipeline:
        STREAM.send(pipeline, 2)
        pipeline.advance(2)
        assert pipeline.retries == []
        assert [event["state"] for event in _events(pipeline)] == [{}, {"count": 1}]


@scenario("dynamodb/tumbling-window-oversized-state")
def oversized_state() -> None:
    state = {"text": "x" * 1_048_629}  # 1,048,640 characters, as in the capture

    def work(event: Any, context: Any) -> Any:
        return {"state": state}

    with STREAM.open(work, **WINDOW) as pipeline:
        STREAM.send(pipeline, 1)
        pipeline.advance(2)
        first, final = _events(pipeline)
        assert len(first["Records"]) == 1
        assert final["Records"] == []
        assert final["isFinalInvokeForWindow"] is True
        assert final["isWindowTerminatedEarly"] is True
        assert final["state"] == state


@scenario("parallelization/window-and-factor-2-rejected-kinesis")
def window_and_factor() -> None:
    def load(**mapping: Any) -> None:
        with open_pipeline(STREAM.app(**mapping), functions={"work": _count}):
            pass

    load(parallelization_factor=2)
    load(tumbling_window_in_seconds=5)
    with pytest.raises(ConfigError):
        load(parallelization_factor=2, tumbling_window_in_seconds=5)

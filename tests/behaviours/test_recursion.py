"""Loops are ended: after 16 invocations of a function in one chain its event is given up (Lambda semantics §2.3)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

import eventcore
from eventcore.delivery.lineage import CHAIN_MAX, LINEAGE
from eventcore.engine.results import Results
from eventcore.model import DiscardReason, Outcome, OutcomeKind, OutgoingRecord, Record
from eventcore.ports.sources import ResultRecord
from eventcore.telemetry.events import EventDiscarded
from eventcore.testing.harness import Harness
from eventcore.testing.virtual_loop import run_virtual
from tests.behaviours.orders import play, queue_app, stream_app


def _circle(calls: Counter[str], *, fails: bool = False, ends_after: int = 10**9, **settings: Any) -> eventcore.App:
    """Two functions, each the other's destination."""
    app = eventcore.App()
    app.queue("failed")

    async def work(event: Any, context: Any) -> str:
        calls[context.function_name] += 1
        if fails or calls.total() > ends_after:
            raise ValueError("fails")
        return "done"

    way = "on_failure" if fails else "on_success"
    shared = {"runtime": "inline", "maximum_retry_attempts": 0, **({} if fails else {"on_failure": "queue:failed"})}
    app.function("there", **{**shared, way: "function:back", **settings})(work)
    app.function("back", **{**shared, way: "function:there", **settings})(work)
    return app


async def _begin(harness: Harness) -> None:
    await harness.invoke_async("there", {"id": 1})
    await harness.run_until_idle()


def test_a_chain_through_functions_ends_and_the_event_goes_to_its_destination() -> None:
    calls: Counter[str] = Counter()

    async def scenario(harness: Harness) -> None:
        await _begin(harness)
        (message,) = await harness.messages("failed")
        record = json.loads(message.body)
        assert record["requestContext"]["condition"] == "Recursion"
        assert record["requestContext"]["approximateInvokeCount"] == 0
        assert "responseContext" not in record

    harness = play(_circle(calls), scenario)
    assert calls == {"there": CHAIN_MAX, "back": CHAIN_MAX}
    (discarded,) = harness.events(EventDiscarded)
    assert discarded.reason is DiscardReason.RECURSION


def test_a_loop_of_destinations_for_failures_ends_in_the_built_in_queue() -> None:
    """A function that is told of the end of a loop might be a part of it."""
    calls: Counter[str] = Counter()

    async def scenario(harness: Harness) -> None:
        await _begin(harness)
        (message,) = await harness.messages("discards")
        assert json.loads(message.body)["requestContext"]["condition"] == "Recursion"

    play(_circle(calls, fails=True), scenario)
    assert calls == {"there": CHAIN_MAX, "back": CHAIN_MAX}


def test_recursive_loop_allows_a_loop() -> None:
    calls: Counter[str] = Counter()
    harness = play(_circle(calls, recursive_loop="Allow", ends_after=100), _begin)
    assert calls.total() == 101
    assert DiscardReason.RECURSION not in {event.reason for event in harness.events(EventDiscarded)}


# -- through queues and streams ----------------------------------------------------------------------------------------


def _through_a_stream(calls: Counter[str]) -> eventcore.App:
    """A mapping whose failures come back to it: through a function's events, and that one's results."""
    app = eventcore.App()

    async def work(event: dict[str, Any], context: Any) -> None:
        calls.update(record["eventID"] for record in event["Records"])
        raise ValueError("goes on to on_failure")

    app.function("work", runtime="inline")(work)
    app.function("bridge", runtime="inline", on_success="stream:orders")(_bridge)
    app.stream("orders", shards=1)
    app.mapping(
        "orders",
        source="stream:orders",
        function="work",
        starting_position="TRIM_HORIZON",
        maximum_retry_attempts=0,
        on_failure="function:bridge",
    )
    return app


async def _bridge(event: Any, context: Any) -> str:
    return "passed on"


def test_a_stream_that_comes_back_through_a_function_ends() -> None:
    """stream -> work fails -> on_failure function:bridge -> on_success stream: each hop carries the lineage."""
    calls: Counter[str] = Counter()

    async def scenario(harness: Harness) -> None:
        await harness.send("stream:orders", ["1", "2"])
        await harness.run_until_idle()
        conditions = [
            json.loads(message.body)["requestContext"]["condition"] for message in await harness.messages("discards")
        ]
        assert set(conditions) == {"Recursion"}

    harness = play(_through_a_stream(calls), scenario)
    assert harness.discarded[-1].reason is DiscardReason.RECURSION
    # The batch of two became one discard, and so one record of each further round.
    assert len(calls) == 2 + CHAIN_MAX - 1
    assert max(calls.values()) == 1


async def _play_lineage(harness: Harness, source: str, count: int) -> None:
    await harness.send(source, ["first"])
    await harness.send(source, ["round"], headers={LINEAGE: f"work={count},other=40"})
    await harness.send(source, ["last"])
    await harness.run_until_idle()


@pytest.mark.parametrize("source", ["queue:orders", "stream:orders"])
@pytest.mark.parametrize(("count", "is_ended"), [(CHAIN_MAX - 1, False), (CHAIN_MAX, True)])
def test_a_record_in_the_midst_of_others_is_ended_alone(source: str, count: int, is_ended: bool) -> None:
    seen: list[str] = []

    async def work(batch: eventcore.Batch) -> None:
        seen.extend(record.body.decode() for record in batch if record.body)

    make = queue_app if source.startswith("queue") else stream_app
    harness = play(make(work), lambda harness: _play_lineage(harness, source, count))
    assert seen == (["first", "last"] if is_ended else ["first", "round", "last"])
    assert [entry.reason for entry in harness.discarded] == [DiscardReason.RECURSION] * is_ended
    assert [entry.destination for entry in harness.discarded] == ["queue:discards"] * is_ended


@pytest.mark.parametrize("source", ["queue:orders", "stream:orders"])
def test_a_mapping_whose_function_allows_loops_lets_them_pass(source: str) -> None:
    seen: list[str] = []

    async def work(batch: eventcore.Batch) -> None:
        seen.extend(record.body.decode() for record in batch if record.body)

    app = eventcore.App()
    app.queue("orders") if source.startswith("queue") else app.stream("orders", shards=1)
    app.function("work", runtime="inline", recursive_loop="Allow")(work)
    start = {} if source.startswith("queue") else {"starting_position": "TRIM_HORIZON"}
    app.mapping("orders", source=source, function="work", **start)
    play(app, lambda harness: _play_lineage(harness, source, 1000))
    assert seen == ["first", "round", "last"]


def test_a_queue_of_ended_loops_that_is_read_again_ends_them_for_good() -> None:
    """Else what ends there would come back to it without end."""

    async def work(batch: eventcore.Batch) -> None:
        raise AssertionError("it is ended")

    async def scenario(harness: Harness) -> None:
        await harness.send("queue:discards", ["round"], headers={LINEAGE: f"work={CHAIN_MAX}"})
        await harness.run_until_idle(within_s=600)
        assert [failure.reason for failure in await harness.failures()] == ["Recursion"]

    app = eventcore.App()
    app.function("work", runtime="inline")(work)
    app.mapping("again", source="queue:discards", function="work")
    harness = play(app, scenario)
    assert [entry.destination for entry in harness.discarded] == [""]


def test_a_function_does_not_see_the_lineage_of_a_message() -> None:
    seen: list[dict[str, Any]] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        seen.extend(event["Records"])

    async def scenario(harness: Harness) -> None:
        await harness.send("queue:orders", ["1"], headers={LINEAGE: "work=3", "Title": "x"})
        await harness.send("queue:orders", ["2"], headers={LINEAGE: "work=3"})
        await harness.run_until_idle()

    play(queue_app(work), scenario)
    assert [set(record["messageAttributes"]) for record in seen] == [{"Title"}, set()]
    assert "md5OfMessageAttributes" not in seen[1]


def test_results_carry_the_lineage_of_all_that_they_were_made_of() -> None:
    """And a result whose maker copied its record's headers counts on: the last header of a name holds."""
    sent: list[ResultRecord] = []

    class Topics:
        async def produce(self, shard: str, epoch: int, records: Sequence[ResultRecord]) -> None:
            sent.extend(records)

    lineage = (LINEAGE, b"work=3,other=7")
    records = [Record(position=0, body=b""), Record(position=1, body=b"", headers=(lineage,))]
    made = OutgoingRecord(body=b"made", key=b"k", headers=(("Title", b"x"), lineage))
    outcome = Outcome(kind=OutcomeKind.SUCCESS, results=((0, made), (1, made)))

    async def write() -> None:
        results = Results(Topics(), function="work", topic="out", discards_topic="")
        await results.write("orders-0", 1, outcome, records[:1], [])
        await results.write("orders-0", 1, outcome, records, [])

    run_virtual(write)
    assert [record.topic for record in sent] == ["out"] * 3
    assert sent[0].record.headers == (("Title", b"x"), lineage, (LINEAGE, b"work=1"))
    assert [dict(record.record.headers)[LINEAGE] for record in sent[1:]] == [b"work=4,other=7"] * 2
    assert (sent[0].record.body, sent[0].record.key) == (b"made", b"k")

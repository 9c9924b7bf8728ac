"""A circuit breaker stops pulling while what the function needs is down, and burns no attempts meanwhile.

Lambda has none; what must not change is what an attempt is: §3.2 receive counts, §4 retries.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import anyio
import msgspec
import pytest

import eventcore
from eventcore.errors import CommandError
from eventcore.telemetry.events import BatchInvoked, BreakerChanged, RecordsReceived
from eventcore.testing.harness import Harness
from tests.behaviours.control import Control
from tests.behaviours.orders import Order, numbers, play, queue_app, send_numbers, stream_app
from tests.behaviours.scripted_source import ScriptedStream, Settled, play_scripted, record, scripted_app


class Dependency:
    """What a function needs: down until it is up."""

    def __init__(self) -> None:
        self.is_up = False
        self.error: type[Exception] = ConnectionError
        self.done: list[int] = []
        self.counts: list[int] = []

    async def work(self, event: dict[str, Any], context: Any) -> None:
        for each in event["Records"]:
            self.counts.append(int(each.get("attributes", {}).get("ApproximateReceiveCount", "0")))
        if not self.is_up:
            raise self.error("down")
        self.done += numbers(event)


def _states(harness: Harness) -> list[str]:
    return [event.state for event in harness.events(BreakerChanged)]


def test_a_queue_is_not_read_while_it_is_open_and_no_receive_is_burnt() -> None:
    dependency = Dependency()
    queue = {"visibility_timeout": 20, "redrive_policy": {"dead_letter_queue": "dead", "max_receive_count": 3}}
    breaker = {"failures": 2, "pause": 30, "maximum_pause": 40}
    app = queue_app(dependency.work, queue=queue, batch_size=1, maximum_concurrency=2, circuit_breaker=breaker)

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 20, source="queue:orders")
        await harness.advance(2)
        before = len(harness.events(RecordsReceived))
        await harness.advance(25)
        assert len(harness.events(RecordsReceived)) == before
        assert len(harness.invocations) <= 3
        await harness.advance(10_000)
        assert await harness.messages("dead") == []
        # Two opened it; a few were received beside them, and every probe since then costs nothing.
        assert len(harness.invocations) > 200
        dependency.is_up = True
        await harness.run_until_idle()
        assert await harness.messages("dead") == []

    harness = play(app, scenario)
    assert sorted(dependency.done) == list(range(1, 21))
    assert max(dependency.counts) <= 2
    assert _states(harness)[:4] == ["open", "half-open", "open", "half-open"]
    assert _states(harness)[-1] == "closed"


def test_a_streams_probes_come_after_longer_and_longer_pauses_and_cost_no_attempts() -> None:
    dependency = Dependency()
    breaker = {"failures": 2, "pause": 10, "maximum_pause": 35}
    app = stream_app(dependency.work, maximum_retry_attempts=2, circuit_breaker=breaker)

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 3)
        await harness.advance(200)
        dependency.is_up = True
        await harness.run_until_idle()

    harness = play(app, scenario)
    pauses = [round(later - earlier) for earlier, later in pairwise(harness.times(BatchInvoked))]
    assert pauses[1:6] == [10, 20, 35, 35, 35]
    assert dependency.done == [1, 2, 3]
    assert harness.discarded == []
    assert {event.attempt for event in harness.invocations} == {1, 2, 3}


@pytest.mark.parametrize("settings", [{"lanes": 4}, {"parallelization_factor": 4}, {}])
def test_half_open_one_batch_alone_is_tried(settings: dict[str, Any]) -> None:
    dependency = Dependency()
    breaker = {"failures": 1, "pause": 100, "maximum_pause": 100}
    app = stream_app(dependency.work, shards=4, batch_size=1, circuit_breaker=breaker, **settings)

    async def scenario(harness: Harness) -> None:
        for number in range(12):
            await harness.send("stream:orders", [str(number)], key=str(number))
        await harness.advance(90)
        before = len(harness.invocations)
        await harness.advance(100)
        assert len(harness.invocations) == before + 1
        await harness.advance(100)
        assert len(harness.invocations) == before + 2
        dependency.is_up = True
        await harness.run_until_idle()

    play(app, scenario)
    assert sorted(dependency.done) == list(range(12))


def test_half_open_nobody_but_the_probe_writes_a_mark() -> None:
    """Every shard has a batch that failed, which is marked when it is tried again."""
    dependency = Dependency()
    stream = ScriptedStream({f"orders-{shard}": [record(position) for position in range(3)] for shard in range(4)})
    breaker = {"failures": 4, "pause": 100, "maximum_pause": 100}
    app = scripted_app(dependency.work, maximum_retry_attempts=1000, circuit_breaker=breaker)

    async def write(settled: Settled) -> None:
        await anyio.sleep(0.1)

    async def scenario(harness: Harness) -> None:
        stream.on_settle = write
        await harness.advance(90)
        assert _states(harness) == ["open"]
        del stream.settled[:]
        before = len(harness.invocations)
        await harness.advance(50)
        assert len(harness.invocations) == before + 1
        assert len([settled for settled in stream.settled if settled.state.marked]) == 1
        dependency.is_up = True
        await harness.run_until_idle()

    play_scripted(app, scenario, stream)
    assert len(dependency.done) == 12


def test_only_the_named_error_types_count() -> None:
    dependency = Dependency()
    dependency.error = ValueError
    breaker = {"failures": 1, "error_types": ["ConnectionError"]}

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 1)
        await harness.advance(5)
        assert _states(harness) == []
        dependency.error = ConnectionError
        await harness.advance(60)
        assert _states(harness)[0] == "open"

    play(stream_app(dependency.work, circuit_breaker=breaker), scenario)


def test_a_success_between_failures_starts_the_count_anew() -> None:
    calls: list[int] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        calls.append(1)
        if len(calls) % 2:
            raise ConnectionError("now and then")

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 10)
        await harness.run_until_idle()

    harness = play(stream_app(work, batch_size=1, circuit_breaker={"failures": 2}), scenario)
    assert _states(harness) == []


def test_its_state_is_shown_while_it_is_open() -> None:
    dependency = Dependency()

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 1)
        await harness.advance(10)
        (status,) = (await harness.status()).mappings
        assert status.breaker is not None
        assert (status.breaker.state, status.breaker.why) == ("open", "ConnectionError: down")
        assert status.breaker.next_probe_ms - status.breaker.since_ms == 30_000
        assert status.pause is not None
        assert status.pause.by == "its circuit breaker"

    play(stream_app(dependency.work, circuit_breaker={"failures": 1}), scenario)


def test_a_person_closes_it_by_resuming_the_mapping() -> None:
    dependency = Dependency()
    app = stream_app(dependency.work, circuit_breaker={"failures": 1, "pause": 3600, "maximum_pause": 3600})

    async def scenario(harness: Harness) -> None:
        control = Control(app, harness)
        await send_numbers(harness, 1)
        await harness.advance(10)
        assert _states(harness) == ["open"]
        dependency.is_up = True
        await control.resume()
        await harness.advance(10)
        assert dependency.done == [1]
        assert _states(harness) == ["open", "closed"]
        with pytest.raises(CommandError, match="is not paused"):
            await control.resume()

    play(app, scenario)


def test_a_probe_whose_shard_is_lost_lets_the_next_batch_be_the_probe() -> None:
    calls: list[int] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError("down")
        await anyio.sleep(2)

    app = scripted_app(work, circuit_breaker={"failures": 1, "pause": 10})
    stream = ScriptedStream({"orders-0": [record(0)]})

    async def scenario(harness: Harness) -> None:
        await harness.advance(11)
        assert len(calls) == 2
        await stream.lose()
        await stream.source.take()
        await harness.advance(30)

    harness = play_scripted(app, scenario, stream)
    assert len(calls) == 3
    assert _states(harness) == ["open", "half-open", "closed"]


SHARDS = ("orders-0", "orders-1", "orders-2")


def _three_shards() -> ScriptedStream:
    """Each record says its shard and its position."""
    return ScriptedStream(
        {
            shard: [msgspec.structs.replace(record(at), body=b"%d%d" % (number, at)) for at in range(3)]
            for number, shard in enumerate(SHARDS)
        }
    )


def test_shards_take_turns_in_probing() -> None:
    async def work(event: dict[str, Any], context: Any) -> None:
        raise ConnectionError("down")

    async def scenario(harness: Harness) -> None:
        await harness.advance(10 * 13)

    app = scripted_app(work, batch_size=1, circuit_breaker={"failures": 1, "pause": 10, "maximum_pause": 10})
    harness = play_scripted(app, scenario, _three_shards())
    probes = [event.shard for event in harness.events(BatchInvoked)][1:]
    assert len(probes) >= 9
    for first in (0, 3, 6):
        assert sorted(probes[first : first + 3]) == sorted(SHARDS)


@pytest.mark.parametrize("poisoned", range(3))
def test_a_poison_record_holds_up_no_other_shard_for_long(poisoned: int) -> None:
    """Whichever of them wakes first: a probe of another shard closes the breaker."""
    done: list[int] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        # Until the poison has been seen, the others fail too.
        if poisoned * 10 in numbers(event) or not seen:
            seen.extend(number for number in numbers(event) if number == poisoned * 10)
            raise ConnectionError("always")
        done.extend(numbers(event))

    seen: list[int] = []

    async def scenario(harness: Harness) -> None:
        await harness.advance(200)

    app = scripted_app(work, batch_size=1, circuit_breaker={"failures": 1, "pause": 10, "maximum_pause": 10})
    play_scripted(app, scenario, _three_shards())
    assert sorted(done) == [shard * 10 + at for shard in range(3) if shard != poisoned for at in range(3)]
    assert len(seen) > 3


def test_one_poison_message_does_not_keep_it_open() -> None:
    done: list[int] = []

    async def work(event: dict[str, Any], context: Any) -> None:
        if numbers(event) == [1]:
            raise ConnectionError("always")
        done.extend(numbers(event))

    queue = {"visibility_timeout": 20, "redrive_policy": {"dead_letter_queue": "dead", "max_receive_count": 3}}
    breaker = {"failures": 1, "pause": 60, "maximum_pause": 60}

    async def scenario(harness: Harness) -> None:
        for number in range(1, 20):
            await send_numbers(harness, 1, source="queue:orders", first=number)
            await harness.advance(60)
        await harness.run_until_idle()
        assert [message.body for message in await harness.messages("dead")] == [b"1"]

    harness = play(queue_app(work, queue=queue, batch_size=1, circuit_breaker=breaker), scenario)
    assert sorted(done) == list(range(2, 20))
    assert _states(harness)[-1] == "closed"


# -- what counts as a failure ------------------------------------------------------------------------------------------

SOURCES = pytest.mark.parametrize("source", ["queue:orders", "stream:orders"])


def _app_of(source: str, handler: Any, **mapping: Any) -> eventcore.App:
    made = queue_app if source.startswith("queue") else stream_app
    return made(handler, circuit_breaker={"failures": 1, "pause": 10, "maximum_pause": 10}, **mapping)


def _report_all(event: dict[str, Any]) -> Any:
    names = [
        each["messageId"] if "messageId" in each else each["kinesis"]["sequenceNumber"] for each in event["Records"]
    ]
    return {"batchItemFailures": [{"itemIdentifier": name} for name in names]}


@SOURCES
@pytest.mark.parametrize("respond", [_report_all, lambda event: {"batchItemFailures": [{}]}])
def test_a_response_that_names_every_record_or_none_that_is_known_counts(source: str, respond: Any) -> None:
    async def work(event: dict[str, Any], context: Any) -> Any:
        return respond(event)

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 2, source=source)
        await harness.advance(5)
        assert _states(harness) == ["open"]

    play(_app_of(source, work, function_response_types=["ReportBatchItemFailures"]), scenario)


@SOURCES
def test_a_response_that_names_some_records_does_not_count(source: str) -> None:
    async def work(event: dict[str, Any], context: Any) -> Any:
        return {"batchItemFailures": _report_all(event)["batchItemFailures"][1:]}

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 2, source=source)
        await harness.advance(5)
        assert _states(harness) == []

    play(_app_of(source, work, function_response_types=["ReportBatchItemFailures"]), scenario)


@SOURCES
def test_a_typed_handler_that_fails_with_the_first_of_a_batch_counts(source: str) -> None:
    """Of a shard it is called with no other; of a queue with all, and each fails."""

    async def work(order: Order) -> None:
        raise ConnectionError("down")

    async def scenario(harness: Harness) -> None:
        await harness.send(source, [{"id": 1}, {"id": 2}], key="a")
        await harness.advance(5)
        assert _states(harness) == ["open"]

    play(_app_of(source, work), scenario)


def test_a_probe_that_can_not_be_decoded_tells_nothing() -> None:
    """The function was not called: the next batch is the probe, and no message of an outage is tried for real."""
    is_up = False

    async def work(order: Order) -> None:
        if not is_up:
            raise ConnectionError("down")

    async def scenario(harness: Harness) -> None:
        nonlocal is_up
        await harness.send("queue:orders", [{"id": 1}])
        await harness.advance(5)
        await harness.send("queue:orders", [b"no order"])
        await harness.advance(7)
        assert _states(harness) == ["open", "half-open"]
        assert [each.reason for each in harness.discarded] == ["Undecodable"]
        await harness.advance(200)
        assert "closed" not in _states(harness)
        is_up = True
        await harness.run_until_idle()
        assert _states(harness)[-1] == "closed"

    play(_app_of("queue:orders", work, batch_size=1), scenario)


def test_a_batch_that_can_not_be_decoded_does_not_end_a_row_of_failures() -> None:
    async def work(order: Order) -> None:
        raise ConnectionError("down")

    async def scenario(harness: Harness) -> None:
        for body in ({"id": 1}, b"no order", {"id": 2}):
            await harness.send("queue:orders", [body])
            await harness.advance(1)
        assert _states(harness) == ["open"]

    breaker = {"failures": 2, "pause": 10}
    play(queue_app(work, batch_size=1, circuit_breaker=breaker), scenario)


@SOURCES
def test_a_probe_without_an_invocation_lets_the_next_batch_be_the_probe(source: str) -> None:
    dependency = Dependency()
    dependency.is_up = True
    lanes = {} if source.startswith("queue") else {"lanes": 2}

    async def scenario(harness: Harness) -> None:
        await harness.send(source, ["1"], key="a")
        await harness.advance(5)
        dependency.is_up = False
        await harness.send(source, ["2"], key="b")
        await harness.advance(5)
        await harness.send(source, ["1"], key="a")
        await harness.advance(300)
        assert len(_states(harness)) > 4
        assert "closed" not in _states(harness)
        dependency.is_up = True
        await harness.run_until_idle()
        assert _states(harness)[-1] == "closed"

    play(_app_of(source, dependency.work, batch_size=1, idempotency={"key": "$"}, **lanes), scenario)
    assert dependency.done == [1, 2]


@SOURCES
def test_records_that_idempotency_refuses_do_not_open_it(source: str) -> None:
    dependency = Dependency()
    dependency.is_up = True
    keys = {"key": "$.id", "require_key": True}

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 3, source=source)
        await harness.run_until_idle()
        assert _states(harness) == []

    harness = play(_app_of(source, dependency.work, idempotency=keys), scenario)
    assert sum(each.count for each in harness.discarded) == 3


@SOURCES
def test_a_refused_record_is_given_up_while_it_is_half_open(source: str) -> None:
    dependency = Dependency()
    dependency.error = LookupError
    lanes = {} if source.startswith("queue") else {"lanes": 2}

    async def scenario(harness: Harness) -> None:
        await harness.send(source, [{"id": 1}], key="a")
        await harness.advance(5)
        assert _states(harness) == ["open"]
        await harness.send(source, ["7"], key="b")
        await harness.advance(300)
        assert "closed" not in _states(harness)
        assert [each.reason for each in harness.discarded] == ["IdempotencyFailed"]

    keys = {"key": "$.id", "require_key": True}
    play(_app_of(source, dependency.work, batch_size=1, idempotency=keys, **lanes), scenario)


@SOURCES
def test_a_batch_that_raises_beside_a_known_record_counts(source: str) -> None:
    dependency = Dependency()
    dependency.is_up = True

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 1, source=source)
        await harness.advance(5)
        dependency.is_up = False
        await send_numbers(harness, 2, source=source)
        await harness.advance(10)
        assert _states(harness) == ["open"]

    play(_app_of(source, dependency.work, maximum_batching_window_in_seconds=1, idempotency={"key": "$"}), scenario)


@pytest.mark.parametrize(
    ("failures", "age_s", "reason"),
    [
        (2, -1, None),
        (3, -1, "RetryAttemptsExhausted"),
        (2, 3600, "RecordAgeExceeded"),
    ],
)
def test_a_record_that_opens_it_before_its_retries_are_used_up_is_not_given_up_by_them(
    failures: int, age_s: int, reason: str | None
) -> None:
    """What `validate` warns of as EC164, and what it says to do about it."""
    breaker: Any = {"failures": failures, "pause": 30}
    app = stream_app(
        Dependency().work, maximum_retry_attempts=2, maximum_record_age_in_seconds=age_s, circuit_breaker=breaker
    )

    async def scenario(harness: Harness) -> None:
        await send_numbers(harness, 1)
        await harness.advance(6 * 3600)
        assert [each.reason for each in harness.discarded] == ([reason] if reason else [])

    play(app, scenario)

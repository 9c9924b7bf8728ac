"""SIGKILL at every step of settling, on real SQLite: nothing is lost, nothing is told twice.

Each case kills a real engine at a named point (`eventcore.signals`), starts another one on the same state, and reads
what became of five records of which one is poison. The rows are those of the table in `engine/settler.py`.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from tests.crash.killed_engine import (
    COUNT,
    POISON,
    count_invoked,
    kill_and_restart,
    open_state,
    read_calls,
    read_failed,
    read_messages,
    run_engine,
    run_until_it_lives,
    send,
)

pytestmark = pytest.mark.slow


# The k-th pass of each point: early ones hit the first batches, later ones the bisect and the discard.
STREAM_POINTS = [
    *[(point, k) for point in ("dispatcher.before_invoke", "dispatcher.after_invoke") for k in (1, 3, 5)],
    ("settler.before_store", 1),
    ("settler.after_store", 1),
    *[(point, k) for point in ("settler.before_ack", "settler.after_ack") for k in (1, 2, 4, 6, 8)],
    ("poller.received", 1),
]


@pytest.mark.parametrize(("point", "times"), STREAM_POINTS)
async def test_a_stream_loses_nothing_and_discards_once(tmp_path: Path, point: str, times: int) -> None:
    state = tmp_path / "state"
    await send(state, "stream")
    kill_and_restart(state, "stream", point, times)
    invoked = count_invoked(state)
    assert set(invoked) == set(range(1, COUNT + 1))
    records = await read_failed(state)
    assert [record["requestContext"]["condition"] for record in records] == ["RetryAttemptsExhausted"]
    assert records[0]["KinesisBatchInfo"]["batchSize"] == 1
    # Neither the death nor the invocation that it ended is an attempt: it was given both that it is allowed.
    assert records[0]["requestContext"]["approximateInvokeCount"] == 2


async def test_what_was_discarded_before_its_ack_was_lost_is_not_invoked_again(tmp_path: Path) -> None:
    """Row "after the store's commit, before the ack": the note covers the record."""
    state = tmp_path / "state"
    await send(state, "stream")
    assert run_engine(state, "stream", EVENTCORE_KILL_AT="settler.after_store:1") == -signal.SIGKILL
    before = count_invoked(state)[POISON]
    assert run_engine(state, "stream") == 0
    assert count_invoked(state)[POISON] == before
    assert len(await read_failed(state)) == 1


@pytest.mark.parametrize(
    ("point", "times"),
    [("dispatcher.after_invoke", 2), ("settler.before_ack", 3), ("settler.after_ack", 2), ("settler.after_ack", 4)],
)
async def test_a_windows_state_stands_for_exactly_the_records_before_the_checkpoint(
    tmp_path: Path, point: str, times: int
) -> None:
    """The state is written with the checkpoint, in one transaction: none is counted twice, and none is forgotten."""
    state = tmp_path / "state"
    await send(state, "stream")
    kill_and_restart(state, "stream-windows", point, times)
    calls = read_calls(state)
    assert len(calls) >= 3
    for call in calls:
        if call["bodies"]:
            # All before the first record of the call, or, at the edge of a window, none.
            assert call["known"] in ([*range(1, call["bodies"][0])], [])
    assert [*calls[-1]["known"], *calls[-1]["bodies"]] == [*range(1, COUNT + 1)]


@pytest.mark.parametrize(
    ("point", "times", "calls"),
    [
        # The last call that was allowed comes once more, but where its end was durable.
        ("dispatcher.after_invoke", 3, 3),
        ("settler.before_store", 1, 3),
        ("settler.after_store", 1, 3),
        ("settler.after_ack", 5, 2),
    ],
)
async def test_the_discard_of_a_windows_final_call_is_there_once(
    tmp_path: Path, point: str, times: int, calls: int
) -> None:
    """Row "a window's final call is given up": it is called again with the same state, and told once."""
    state = tmp_path / "state"
    await send(state, "stream")
    kill_and_restart(state, "stream-window-ends", point, times)
    lines = read_calls(state)
    finals = [line for line in lines if line["is_final"]]
    assert len(finals) == calls
    assert {line["known"] > 1024 * 1024 for line in finals} == {True}
    assert lines.index(finals[-1]) < next(index for index, line in enumerate(lines) if 3 in line["bodies"])
    (record,) = await read_failed(state)
    assert record["requestContext"]["condition"] == "RetryAttemptsExhausted"
    assert record["timeWindowInfo"]["isWindowTerminatedEarly"]
    async with open_state(state) as store:
        assert len(await store.failures(count_max=10)) == 1


@pytest.mark.parametrize(
    ("point", "times"),
    [
        ("dispatcher.after_invoke", 3),
        ("settler.after_store", 1),
        ("settler.after_ack", 1),
        ("settler.before_ack", 7),
        ("settler.after_ack", 6),
    ],
)
async def test_a_parent_that_was_split_is_drained_before_its_children_whenever_the_engine_dies(
    tmp_path: Path, point: str, times: int
) -> None:
    state = tmp_path / "state"
    await send(state, "stream-split")
    kill_and_restart(state, "stream-split", point, times)
    calls = [call["bodies"] for call in read_calls(state)]
    assert {body for call in calls for body in call} == set(range(1, COUNT + 1))
    of_children = [index for index, call in enumerate(calls) if max(call) > POISON]
    assert of_children == list(range(of_children[0], len(calls)))
    assert len(await read_failed(state)) == 1


QUEUE_POINTS = [
    *[(point, k) for point in ("dispatcher.before_invoke", "dispatcher.after_invoke") for k in (1, 4)],
    ("settler.before_store", 1),
    ("settler.after_store", 1),
    *[(point, k) for point in ("settler.before_ack", "settler.after_ack") for k in (1, 4)],
]


@pytest.mark.parametrize(("point", "times"), QUEUE_POINTS)
async def test_a_queue_loses_nothing_and_redrives_once(tmp_path: Path, point: str, times: int) -> None:
    state = tmp_path / "state"
    await send(state, "queue")
    kill_and_restart(state, "queue", point, times)
    assert set(count_invoked(state)) >= set(range(1, COUNT + 1)) - {POISON}
    async with open_state(state) as store:
        dead = [message.body for message in await store.peek("failed", count_max=100)]
        kept = await store.failures(count_max=100)
    assert dead == [str(POISON).encode()]
    assert len(kept) == len({failure.id for failure in kept}) == 1


@pytest.mark.parametrize(
    ("point", "receives"), [("dispatcher.before_invoke", [2]), ("dispatcher.after_invoke", [1, 2])]
)
async def test_what_a_dead_engine_had_in_hand_counts_as_received(
    tmp_path: Path, point: str, receives: list[int]
) -> None:
    """Row "before or during the invocation": hidden until its visibility timeout ends, then there once more."""
    state = tmp_path / "state"
    await send(state, "queue")
    kill_and_restart(state, "queue", point, 1)
    by_body = [(call["bodies"][0], call["receives"][0]) for call in read_calls(state)]
    in_hand = {body for body, count in by_body if count == 2} - {POISON}
    assert in_hand
    assert all([count for body, count in by_body if body == each] in (receives, [2]) for each in in_hand)


@pytest.mark.parametrize("kind", ["queue", "stream"])
async def test_what_was_acked_is_done(tmp_path: Path, kind: str) -> None:
    """Row "after the ack"."""
    state = tmp_path / "state"
    await send(state, kind)
    assert run_engine(state, kind, EVENTCORE_KILL_AT="settler.after_ack:2") == -signal.SIGKILL
    before = count_invoked(state)
    async with open_state(state) as store:
        if kind == "queue":
            left = {int(message.body) for message in await store.peek("orders", count_max=100)}
        else:
            (checkpoint,) = await store.checkpoints("orders")
            left = set(range(checkpoint.position + 1, COUNT + 1))
    done = set(range(1, COUNT + 1)) - left
    assert done
    assert run_engine(state, kind) == 0
    assert all(count_invoked(state)[number] == before[number] for number in done)


KEY_POINTS = ("dispatcher.before_invoke", "settler.before_ack", "settler.after_ack")


@pytest.mark.parametrize(
    ("kind", "point", "times"),
    [
        *[("stream-keys", point, times) for point in KEY_POINTS for times in (1, 3)],
        *[("queue-keys", point, 1) for point in KEY_POINTS],
    ],
)
async def test_a_completed_key_is_never_invoked_again(tmp_path: Path, kind: str, point: str, times: int) -> None:
    """Killed before an invocation, or between a key's completion and the source's ack, each record runs once."""
    state = tmp_path / "state"
    await send(state, kind)
    kill_and_restart(state, kind, point, times)
    assert count_invoked(state) == Counter(range(1, COUNT + 1))


@pytest.mark.parametrize(("kind", "again"), [("stream-keys", [1, 2]), ("queue-keys", [1, 2, 3, 4, 5])])
async def test_a_crash_between_an_invocation_and_the_completion_of_its_keys_runs_them_twice(
    tmp_path: Path, kind: str, again: list[int]
) -> None:
    """The one gap: no store can know what the handler has done. They run once their claim has ended."""
    state = tmp_path / "state"
    await send(state, kind)
    assert run_engine(state, kind, EVENTCORE_KILL_AT="dispatcher.after_invoke:1") == -signal.SIGKILL
    assert run_engine(state, kind) == 0
    invoked = count_invoked(state)
    assert set(invoked) == set(range(1, COUNT + 1))
    twice = [body for body, count in invoked.items() if count == 2]
    assert sorted(twice) == again
    assert max(invoked.values()) == 2


@pytest.mark.parametrize("point", ["outbox.before_send", "outbox.after_send", "outbox.after_mark"])
async def test_the_outbox_hands_over_at_least_once_with_one_key(tmp_path: Path, point: str) -> None:
    """Row "in the outbox: after the send, before its mark": sent again, with the same key."""
    state = tmp_path / "state"
    await send(state, "stream")
    keys: list[str] = []
    async with _http_sink(keys) as url:
        killed = await anyio.to_thread.run_sync(
            lambda: run_engine(state, "stream-http", EVENTCORE_KILL_AT=point, SINK_URL=url)
        )
        assert killed == -signal.SIGKILL
        assert await anyio.to_thread.run_sync(lambda: run_engine(state, "stream-http", SINK_URL=url)) == 0
    assert len(keys) == (2 if point == "outbox.after_send" else 1)
    assert len(set(keys)) == 1


@asynccontextmanager
async def _http_sink(keys: list[str]) -> AsyncIterator[str]:
    """A local server that takes every POST and notes its key."""

    async def serve(connection: anyio.abc.SocketStream) -> None:
        async with connection:
            data = b""
            while b"\r\n\r\n" not in data:
                data += await connection.receive()
            head, _, body = data.partition(b"\r\n\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head.decode().split("\r\n")[1:])
            while len(body) < int(headers["content-length"]):
                body += await connection.receive()
            keys.append(headers["idempotency-key"])
            await connection.send(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        yield f"http://127.0.0.1:{port}/results"
        tasks.cancel_scope.cancel()


async def test_a_record_that_kills_an_inline_engine_each_time_is_discarded_after_its_marks(tmp_path: Path) -> None:
    """Design §3: marks are counted apart from attempts; at max(3, attempts allowed) it is an `EngineCrash`."""
    state = tmp_path / "state"
    await send(state, "stream-killer")
    run_until_it_lives(state, "stream-killer", deaths_max=8)
    records = await read_failed(state)
    assert [record["requestContext"]["condition"] for record in records] == ["EngineCrash"]
    assert records[0]["KinesisBatchInfo"]["batchSize"] == 1
    assert set(count_invoked(state)) == set(range(1, COUNT + 1))


async def test_neighbours_of_a_record_that_kills_engines_are_not_given_up_with_it(tmp_path: Path) -> None:
    """Four shards are invoked at the same time; only the batch that kills collects marks."""
    state = tmp_path / "state"
    await send(state, "stream-neighbours")
    run_until_it_lives(state, "stream-neighbours", deaths_max=12)
    records = await read_failed(state)
    assert [record["requestContext"]["condition"] for record in records] == ["EngineCrash"]
    assert records[0]["KinesisBatchInfo"]["batchSize"] == 1
    assert set(count_invoked(state)) == set(range(1, COUNT + 1))


# -- events that wait for a function (the table in `engine/event_settling.py`) -----------------------------------------

EVENT_POINTS = [
    (point, k)
    for point in ("dispatcher.before_invoke", "dispatcher.after_invoke", "events.before_store", "events.after_store")
    for k in (1, 3, 5)
]


@pytest.mark.parametrize(("point", "times"), EVENT_POINTS)
async def test_an_event_is_lost_nowhere_and_told_once(tmp_path: Path, point: str, times: int) -> None:
    """It leaves its queue in the commit that writes its records: both are there, or neither."""
    state = tmp_path / "state"
    await send(state, "events")
    kill_and_restart(state, "events", point, times)
    assert set(count_invoked(state)) == set(range(1, COUNT + 1))
    told = await read_messages(state, "done")
    assert sorted(record["requestPayload"] for record in told) == [n for n in range(1, COUNT + 1) if n != POISON]
    dead, failed = sorted(await read_messages(state, "failed"), key=str)
    assert dead == POISON
    assert failed["requestPayload"] == POISON
    assert failed["requestContext"]["condition"] == "RetriesExhausted"
    assert await read_messages(state, "events.work") == []


async def test_an_event_that_kills_engines_is_given_up_after_three_deaths(tmp_path: Path) -> None:
    """Each death is seen by the receive that nobody has settled; those that were in hand beside it are delivered."""
    state = tmp_path / "state"
    await send(state, "events-killer")
    assert run_until_it_lives(state, "events-killer", deaths_max=5) == 3
    assert count_invoked(state)[POISON] == 3
    dead, failed = sorted(await read_messages(state, "failed"), key=str)
    assert dead == POISON
    assert failed["requestContext"]["condition"] == "EngineCrash"
    told = await read_messages(state, "done")
    assert {record["requestPayload"] for record in told} == {n for n in range(1, COUNT + 1) if n != POISON}
    assert await read_messages(state, "events.work") == []

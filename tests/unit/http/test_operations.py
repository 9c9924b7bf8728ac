"""What commands may ask, carried out on a store without an engine."""

from __future__ import annotations

import msgspec
import pytest

from eventcore.clock import SystemClock
from eventcore.delivery.ordering import Part, ShardState
from eventcore.errors import CommandError
from eventcore.http.contract import (
    PEEK_BYTES_MAX,
    SEND_RECORDS_MAX,
    Base64,
    DropFailures,
    FollowMove,
    GetStatus,
    Invoke,
    ListFailures,
    ListMoves,
    ListQueues,
    PeekQueue,
    PlanRedrive,
    PurgeQueue,
    RetryFailure,
    Send,
    ShowFailure,
    StartMove,
)
from eventcore.http.functions import OneTimeRunner
from eventcore.http.operations import Operations
from eventcore.ids import SystemIds
from eventcore.model import OutcomeKind, Record
from eventcore.ports.connectors import OutgoingRecord
from eventcore.ports.store import Failure, KeepFailure, SaveCheckpoint, Store, TakeShard
from tests.unit.http.pipeline import make_app, open_operations, received


def records(*bodies: bytes, key: bytes | None = None) -> tuple[OutgoingRecord, ...]:
    return tuple(OutgoingRecord(body=body, key=key) for body in bodies)


def make_failure(**changes: object) -> Failure:
    failure = Failure(
        id="0123456789abcdef0123",
        mapping="native",
        function="work",
        source="stream:orders",
        shard="shardId-000000000000",
        first="7",
        last="8",
        count=2,
        reason="RetryAttemptsExhausted",
        attempts=3,
        error_type="ValueError",
        error_message="as asked",
        created_ms=1000,
        event=b'{"Records": []}',
        records=msgspec.msgpack.encode([Record(position=7, body=b"a", key=b"k"), Record(position=8, body=b"b")]),
    )
    return msgspec.structs.replace(failure, **changes)


async def keep(store: Store, **changes: object) -> str:
    failure = make_failure(**changes)
    await store.commit([KeepFailure(failure=failure)])
    return failure.id


# -- sending -----------------------------------------------------------------------------------------------------------


async def test_records_are_sent_and_their_places_told() -> None:
    async with open_operations() as (operations, store):
        places = await operations.perform(Send(reference="stream:orders", records=records(b"a", b"b", key=b"k")))
        assert [place.position for place in places] == [0, 1]
        assert len({place.shard for place in places}) == 1
        (place,) = await operations.perform(Send(reference="queue:orders", records=records(b"c"), delay_s=60))
        (message,) = await operations.perform(PeekQueue(queue="orders"))
        assert (message.id, message.body, message.state) == (place.id, "c", "delayed")
        assert sum([extent.end for extent in await store.extents("orders")]) == 2


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (Send(reference="queue:nix", records=records(b"a")), "no queue nix"),
        (Send(reference="stream:nix", records=records(b"a")), "no stream nix"),
        (Send(reference="kafka:nix/t", records=records(b"a")), r"no \[kafka.nix\]"),
        (Send(reference="stream:orders", records=records(b"a"), delay_s=1), "only queues"),
        (Send(reference="http:x", records=records(b"a")), "can be sent to"),
        (Send(reference="queue:orders", records=records(*[b"a"] * (SEND_RECORDS_MAX + 1))), "at most"),
    ],
)
async def test_what_cannot_be_sent_is_refused(request_: Send, said: str) -> None:
    async with open_operations() as (operations, _):
        with pytest.raises(CommandError, match=said):
            await operations.perform(request_)


# -- status ------------------------------------------------------------------------------------------------------------


async def test_status_without_an_engine_tells_where_each_mapping_stands() -> None:
    """Checkpoint, lag, and a failing batch that an engine left."""
    async with open_operations() as (operations, store):
        await operations.perform(Send(reference="stream:orders", records=records(b"a", b"b", b"c", key=b"k")))
        (index,) = [extent.shard for extent in await store.extents("orders") if extent.end]
        name = f"orders/shardId-{index:012d}"
        (taken,) = await store.commit([TakeShard(mapping="native", shard=name)])
        state = ShardState(parts=(Part(last=2, attempt=2, first_failure_ms=500),))
        save = SaveCheckpoint(mapping="native", shard=name, epoch=taken.epoch, position=1, state=state)
        await store.commit([save])
        report = await operations.perform(GetStatus())
        mappings = {mapping.mapping: mapping for mapping in report.mappings}
        (shard,) = mappings["native"].shards
        assert (report.is_running, mappings["native"].state) == (False, "Stopped")
        assert (shard.checkpoint, shard.lag) == (1, 2)
        assert shard.blocked is not None
        assert (shard.blocked.position, shard.blocked.attempt, shard.blocked.since_ms) == (1, 2, 500)
        assert len(mappings["reports"].shards) == 0
        assert {depth.queue for depth in report.queues} == {"orders", "dead", "discards", "parked"}


# -- queues ------------------------------------------------------------------------------------------------------------


async def test_peek_pages_through_large_messages() -> None:
    """One answer holds a bounded number of bytes; behind its last message the next one begins."""
    async with open_operations() as (operations, _):
        for _ in range(40):
            await operations.perform(Send(reference="queue:orders", records=records(b"x" * 1_000_000)))
        seen, after = 0, 0
        answers = 0
        while messages := await operations.perform(PeekQueue(queue="orders", count_max=1000, after_number=after)):
            assert sum(len(str(message.body)) for message in messages) <= PEEK_BYTES_MAX + 16 * 1_000_000
            seen, after, answers = seen + len(messages), messages[-1].number, answers + 1
        assert seen == 40
        assert answers > 1


async def test_what_is_not_text_is_base64() -> None:
    async with open_operations() as (operations, _):
        await operations.perform(Send(reference="queue:orders", records=records(b"\xff")))
        (message,) = await operations.perform(PeekQueue(queue="orders"))
        assert message.body == Base64("/w==")
        assert msgspec.json.decode(msgspec.json.encode(message))["body"] == {"base64": "/w=="}


async def test_a_dead_letter_queue_is_redriven_to_its_source() -> None:
    async with open_operations() as (operations, _):
        await operations.perform(Send(reference="queue:dead", records=records(*[b"m"] * 700)))
        await operations.perform(Send(reference="queue:dead", records=records(b"later"), delay_s=60))
        plan = await operations.perform(PlanRedrive(queue="dead"))
        assert (plan.target, plan.visible, plan.hidden) == ("orders", 700, 1)
        task = await operations.perform(StartMove(queue="dead"))
        assert (task.state, task.target, task.expected, task.moved) == ("RUNNING", "orders", 700, 0)
        moved = []
        while not task.is_over:
            task = await operations.perform(FollowMove(id=task.id))
            moved.append(task.moved)
        assert (task.state, moved) == ("COMPLETED", [500, 700, 700])
        assert await operations.perform(ListMoves()) == [task]
        assert (await operations.perform(PurgeQueue(queue="dead"))).deleted == 1
        depths = {depth.queue: depth.visible for depth in await operations.perform(ListQueues())}
        assert depths == {"dead": 0, "discards": 0, "orders": 700, "parked": 0}


# -- functions ---------------------------------------------------------------------------------------------------------


async def test_a_function_is_invoked_once() -> None:
    async with open_operations() as (operations, _):
        invoked = await operations.perform(Invoke(function="answer", event=msgspec.Raw(b'{"a": 1}')))
        assert invoked.kind is OutcomeKind.SUCCESS
        assert msgspec.json.decode(invoked.response) == {"a": 1}
        assert received == [{"a": 1}]
        assert any(line.text.startswith("START RequestId") for line in invoked.lines)


async def test_an_unknown_function_is_told_with_the_known_ones() -> None:
    async with open_operations() as (operations, _):
        with pytest.raises(CommandError) as caught:
            await operations.perform(Invoke(function="nix", event=msgspec.Raw(b"{}")))
        assert caught.value.hint == "known: answer, work"


# -- failures ----------------------------------------------------------------------------------------------------------


async def test_a_failure_is_shown_with_its_records() -> None:
    async with open_operations() as (operations, store):
        failure_id = await keep(store)
        (summary,) = await operations.perform(ListFailures())
        report = await operations.perform(ShowFailure(id=failure_id[:6]))
        assert summary.id == report.id == failure_id
        assert [(record.position, record.key, record.body) for record in report.records] == [
            (7, "k", "a"),
            (8, None, "b"),
        ]
        assert msgspec.json.decode(report.event) == {"Records": []}


async def test_a_retry_gives_the_function_exactly_what_was_kept() -> None:
    async with open_operations() as (operations, store):
        failure_id = await keep(store)
        retried = await operations.perform(RetryFailure(id=failure_id))
        assert received == [[b"a", b"b"]]
        assert (retried.is_settled, retried.destination) == (True, "queue:dead")
        assert await store.failure(failure_id) is None


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"records": msgspec.msgpack.encode([Record(position=7, body=b"raise")])}, "ValueError: as asked"),
        ({"records": msgspec.msgpack.encode([Record(position=7, body=b"report")])}, "reports 1 of 2 records"),
        ({"function": "answer", "mapping": "reports", "event": b'{"raise": true}'}, "ValueError: as asked"),
        ({"function": "answer", "mapping": "reports", "event": b'{"report": true}'}, "the response reports"),
    ],
)
async def test_what_fails_again_stays_kept(changes: dict[str, object], problem: str) -> None:
    """Also when it is only reported: one failed record is enough."""
    async with open_operations() as (operations, store):
        failure_id = await keep(store, **changes)
        retried = await operations.perform(RetryFailure(id=failure_id))
        assert not retried.is_settled
        assert problem in retried.problem
        assert await store.failure(failure_id) is not None


async def test_what_was_not_kept_cannot_be_run_again() -> None:
    async with open_operations() as (operations, store):
        failure_id = await keep(store, event=b"", records=b"")
        with pytest.raises(CommandError, match="can't be run again"):
            await operations.perform(RetryFailure(id=failure_id))
        assert await store.failure(failure_id) is not None


async def test_failures_are_dropped_all_or_none() -> None:
    async with open_operations() as (operations, store):
        failure_id = await keep(store)
        with pytest.raises(CommandError, match="there is no failure"):
            await operations.perform(DropFailures(ids=(failure_id, "ffffffff")))
        assert await store.failure(failure_id) is not None
        assert (await operations.perform(DropFailures(ids=(failure_id[:8],)))).ids == (failure_id,)
        assert await store.failure(failure_id) is None


async def test_without_a_store_what_needs_one_is_refused() -> None:
    app, clock, ids = make_app(), SystemClock(), SystemIds()
    loaded = app.loaded()
    runner = OneTimeRunner(loaded, app.targets, clock=clock, ids=ids)
    operations = Operations(loaded, None, clock=clock, ids=ids, runner=runner, retry_runner=runner)
    with pytest.raises(CommandError, match="needs the pipeline's state"):
        await operations.perform(GetStatus())

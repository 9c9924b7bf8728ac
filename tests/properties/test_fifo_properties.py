"""The stores agree on FIFO queues, and both keep their promises, whatever is done to them (Lambda semantics §3.2)."""

from collections import defaultdict

import anyio
from hypothesis import given
from hypothesis import strategies as st

from eventcore.ports import store as port
from eventcore.ports.store import Store
from eventcore.store.memory import open_memory_store
from eventcore.store.sqlite import open_sqlite_store
from tests.properties.test_store_properties import (
    NOW_MS,
    Receipts,
    attempt,
    operation,
    receipts,
    receipts_in,
    state_folder,
)

#: One has a dead-letter queue, one a delay and a short retention, one deduplicates by group and content.
QUEUES = ("one", "two", "three")
queues = st.sampled_from(QUEUES)
counts = st.sampled_from([0, 1, 2, 3, 10])
messages = st.lists(
    st.builds(
        port.NewMessage,
        id=st.sampled_from("abcdefgh"),
        body=st.sampled_from([b"", b"\x00", b"xyz"]),
        headers=st.sampled_from([(), (("h", b"\x00\xff"),)]),
        group=st.sampled_from("gggk"),
        deduplication_id=st.sampled_from(["", *"0123456789"]),
    ),
    max_size=5,
).map(tuple)
steps = st.one_of(
    st.tuples(st.just("pass_time"), st.sampled_from([0, 1, 400, 1000, 5000, 60_000, 300_000])),
    st.tuples(st.just("send"), queues, messages),
    st.tuples(st.just("send"), queues, messages),
    st.tuples(st.just("receive"), queues, counts, st.sampled_from([None, 0, 1, 5])),
    st.tuples(st.just("receive"), queues, counts, st.sampled_from([None, 5])),
    st.tuples(st.just("delete"), queues, receipts),
    st.tuples(st.just("change"), queues, receipts, st.sampled_from([0, 1, 5])),
    st.tuples(st.just("purge"), queues),
    st.tuples(st.just("move"), queues, queues, st.integers(0, 4), st.sampled_from([0, 0, 3, 8])),
    st.tuples(st.just("drop"), queues, st.lists(st.sampled_from("abcdefgh"), max_size=2)),
    st.tuples(st.just("delay"), st.sampled_from([0, 1, 3])),
)
lists_of_steps = st.lists(st.lists(steps, min_size=1, max_size=3), min_size=5, max_size=50)


def settings(**own: object) -> port.QueueSettings:
    return port.QueueSettings(fifo_queue=True, **own)


def define_two(delay_s: int) -> port.DefineQueue:
    return port.DefineQueue(queue="two", settings=settings(delay=delay_s, message_retention_period=6))


def make(step: tuple, now_ms: int, known: list[str]) -> port.Operation:
    match step:
        case ("delay", delay_s):
            return define_two(delay_s)
        case ("delete", queue, Receipts(picks=picks)):
            picked = tuple(known[-1 - index] for index in picks if index < len(known))
            return port.DeleteMessages(queue=queue, receipts=picked, now_ms=now_ms)
    return operation(step, now_ms, known)


async def look(store: Store, now_ms: int) -> list[object]:
    seen: list[object] = [await store.queue_depths()]
    for queue in QUEUES:
        seen.append(await store.peek(queue, count_max=100, now_ms=now_ms))
        seen.append(await store.peek(queue, count_max=2, after_number=2))
    return seen


def check_promises(held: list[port.StoredMessage], brought: list[port.StoredMessage], now_ms: int) -> None:
    """Of a group none is handed out while another is hidden, nor before an older one of it."""
    handed_out = defaultdict(list)
    for message in brought:
        handed_out[message.group].append(message.number)
    for group, numbers in handed_out.items():
        assert numbers == sorted(numbers)
        of_group = [message for message in held if message.group == group]
        assert {message.number for message in of_group if message.visible_ms > now_ms} <= set(numbers)
        assert all(message.number > numbers[-1] or message.number in numbers for message in of_group)


async def check(lists: list[list[tuple]]) -> None:
    with state_folder() as folder:
        async with open_memory_store() as memory, open_sqlite_store(folder / "state.db") as sqlite:
            by_content = settings(
                visibility_timeout=2, content_based_deduplication=True, deduplication_scope="messageGroup"
            )
            policy = settings(visibility_timeout=1, dead_letter_queue="two", max_receive_count=2)
            defined = [
                define_two(1),
                port.DefineQueue(queue="one", settings=policy),
                port.DefineQueue(queue="three", settings=by_content),
            ]
            for store in (memory, sqlite):
                await store.commit(defined)
            now_ms, known = NOW_MS, []
            for steps_of_list in lists:
                now_ms += sum(step[1] for step in steps_of_list if step[0] == "pass_time")
                operations = [make(step, now_ms, known) for step in steps_of_list if step[0] != "pass_time"]
                expected = await attempt(memory, operations)
                assert await attempt(sqlite, operations) == expected, operations
                known.extend(receipts_in(expected))
                assert await look(sqlite, now_ms) == await look(memory, now_ms), operations
                if len(operations) == 1 and isinstance(expected, list):
                    (result,), queue = expected, getattr(operations[0], "queue", "")
                    if isinstance(result, port.ReceiveResult):
                        held = await sqlite.peek(queue, count_max=1000, now_ms=now_ms)
                        check_promises(list(held), list(result.messages), now_ms)


@given(lists_of_steps)
def test_memory_and_sqlite_agree_and_keep_groups_in_order(lists):
    anyio.run(check, lists)

"""A store with many pending timers (delays, visibility timeouts, retries) and an empty one, which take turns.

The clock is in the operations: it stands still while messages are sent and received, and is then put forward, so that
some timers are due. What is timed is real.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from eventcore.app import tune_collector
from eventcore.ports.store import (
    ChangeVisibility,
    DefineQueue,
    DeleteMessages,
    NewMessage,
    Operation,
    QueueSettings,
    ReceiveMessages,
    ReceiveResult,
    SendMessages,
    Store,
)
from eventcore.store.sqlite import open_sqlite_store
from tests.benchmarks.measure import Figures

QUEUE = "work"
BODY = b"x" * 256
#: When it is, milliseconds: any time.
NOW_MS = 1_700_000_000_000
#: Timers end this long after it, seconds: from the first on, so many different times.
FIRST_DUE_S, DUE_TIMES = 100, 800
#: Of these, so many times are waited for.
DUE_STEPS = 20
#: Messages of one commit that fills the store.
FILL = 3_000
#: What a mapping's receive of a queue has.
BATCH = 10
#: Sends, receives and deletes of a turn.
TURN = 50


class Turn(msgspec.Struct, frozen=True):
    """Seconds of a turn's sends, and of its receives with their deletes."""

    sending_s: float
    receiving_s: float


async def against_empty(pending: int, turns: int) -> dict[str, Figures]:
    """Send to and receive from a queue with pending timers, in turns with an empty one; then let some be due.

    Args:
        pending: timers; a third of each kind.
        turns: of each store.
    """
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="eventcore-bench-")))
        full, empty = [
            await stack.enter_async_context(open_sqlite_store(folder / f"{name}.db")) for name in ("full", "empty")
        ]
        for store in (full, empty):
            await store.commit([DefineQueue(queue=QUEUE, settings=QueueSettings())])
        await _fill(full, pending, DUE_TIMES)
        await _turn(empty)
        tune_collector()  # as the command does
        pair: list[tuple[Store, list[Turn]]] = [(full, []), (empty, [])]
        for number in range(turns):
            for store, taken in pair if number % 2 else reversed(pair):
                taken.append(await _turn(store))
        (_, own), (_, other) = pair
        # As many that are due, and none behind them.
        await _fill(empty, pending * DUE_STEPS // DUE_TIMES, DUE_STEPS)
        due_ms: tuple[list[float], list[float]] = [], []
        for step in range(DUE_STEPS):
            for store, found_ms in zip((full, empty), due_ms, strict=True):
                found_ms.append(await _find_due_ms(store, NOW_MS + (FIRST_DUE_S + step) * 1000))
        return {
            "ours": _figures(own) | {"due_ms": statistics.median(due_ms[0])},
            "peer": _figures(other) | {"due_ms": statistics.median(due_ms[1])},
        }


def _figures(turns: Sequence[Turn]) -> Figures:
    count = TURN * BATCH
    return {
        "sent_per_s": statistics.median(count / turn.sending_s for turn in turns),
        "received_per_s": statistics.median(count / turn.receiving_s for turn in turns),
    }


async def _turn(store: Store) -> Turn:
    """Send batches, each durable, and then receive and delete them."""
    began_s = time.perf_counter()
    for _ in range(TURN):
        await store.commit([_send(BATCH)])
    sent_s = time.perf_counter()
    for _ in range(TURN):
        (received,) = await store.commit([_receive(BATCH)])
        assert len(received.messages) == BATCH
        await store.commit([_delete(received)])
    return Turn(sent_s - began_s, time.perf_counter() - sent_s)


async def _find_due_ms(store: Store, now_ms: int) -> float:
    """Receive what has become due by then, and return how long that took."""
    began_s = time.perf_counter()
    (received,) = await store.commit([_receive(BATCH, now_ms=now_ms)])
    taken_s = time.perf_counter() - began_s
    assert len(received.messages) == BATCH
    return taken_s * 1e3


_ids = map("message-{:027}".format, itertools.count())


def _send(count: int, delays_s: Iterator[int] | None = None) -> SendMessages:
    messages = [
        NewMessage(id=next(_ids), body=BODY, delay_s=None if delays_s is None else next(delays_s)) for _ in range(count)
    ]
    return SendMessages(queue=QUEUE, messages=tuple(messages), now_ms=NOW_MS)


def _receive(count: int, *, now_ms: int = NOW_MS, timeout_s: int = 3_600) -> ReceiveMessages:
    return ReceiveMessages(queue=QUEUE, count_max=count, now_ms=now_ms, visibility_timeout_s=timeout_s)


def _delete(received: ReceiveResult) -> DeleteMessages:
    return DeleteMessages(queue=QUEUE, receipts=tuple(message.receipt for message in received.messages), now_ms=NOW_MS)


async def _fill(store: Store, pending: int, times: int) -> None:
    """Put timers that end at so many times into a store.

    A third are delays, a third visibility timeouts, a third retries of single messages.
    """
    times_s = itertools.cycle(range(FIRST_DUE_S, FIRST_DUE_S + times))
    for _ in range(0, pending, 3 * FILL):
        await store.commit([_send(FILL, times_s)])
        await store.commit([_send(FILL)])
        await store.commit([_receive(BATCH, timeout_s=next(times_s)) for _ in range(FILL // BATCH)])
        await store.commit([_send(FILL)])
        for _ in range(FILL // 1_000):
            (received,) = await store.commit([_receive(1_000)])
            retries: list[Operation] = [
                ChangeVisibility(queue=QUEUE, receipts=(each.receipt,), timeout_s=next(times_s), now_ms=NOW_MS)
                for each in received.messages
            ]
            await store.commit(retries)

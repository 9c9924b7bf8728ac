"""SIGKILL at every step of settling a FIFO queue, on real SQLite: order, no loss, and what was sent is sent once."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.crash.killed_engine import (
    GROUPS,
    POISON,
    count_invoked,
    kill_and_restart,
    open_state,
    read_calls,
    read_messages,
    send,
    send_fifo,
)

pytestmark = pytest.mark.slow

SENT = {number for numbers in GROUPS.values() for number in numbers}
#: The k-th pass of each: the first messages of both groups, and those around the poison one.
POINTS = [
    ("dispatcher.before_invoke", 1),
    ("dispatcher.after_invoke", 5),
    ("settler.before_store", 1),
    ("settler.after_store", 1),
    ("settler.before_ack", 1),
    ("settler.before_ack", 5),
    ("settler.after_ack", 5),
]


def _assert_in_order(state: Path, batch_size: int) -> None:
    """Each group's messages come in order; what is not settled yet may come once more, and nothing before it."""
    order = [body for call in read_calls(state) for body in call["bodies"]]
    for numbers in GROUPS.values():
        places = [numbers.index(body) for body in order if body in numbers]
        assert places[0] == 0
        steps = {later - earlier for earlier, later in itertools.pairwise(places)}
        assert steps <= set(range(1 - batch_size, 2)), places
        assert list(dict.fromkeys(places)) == list(range(len(numbers)))


async def _assert_sent_before(state: Path) -> None:
    """What was sent within five minutes is a duplicate after the crash too, settled or not."""
    async with open_state(state) as store:
        await send_fifo(store)
    assert await read_messages(state, "orders") == []


@pytest.mark.parametrize(("point", "times"), POINTS)
async def test_a_group_stays_in_order_and_nothing_is_lost(tmp_path: Path, point: str, times: int) -> None:
    """A message at a time; the one that always fails goes to the dead-letter queue, and then its group goes on."""
    state = tmp_path / "state"
    await send(state, "fifo")
    kill_and_restart(state, "fifo", point, times)
    _assert_in_order(state, batch_size=1)
    invoked = count_invoked(state)
    assert set(invoked) == SENT
    # Both groups had a message in hand: those may have come twice.
    again = [number for number, count in invoked.items() if count > 1 and number != POISON]
    assert len(again) <= len(GROUPS)
    assert max(invoked.values()) <= 2
    assert await read_messages(state, "failed") == [POISON]
    await _assert_sent_before(state)


@pytest.mark.parametrize("point", ["dispatcher.after_invoke", "settler.after_ack"])
async def test_a_batch_of_several_groups_comes_back_whole_and_in_order(tmp_path: Path, point: str) -> None:
    state = tmp_path / "state"
    await send(state, "fifo-batches")
    kill_and_restart(state, "fifo-batches", point, 1)
    _assert_in_order(state, batch_size=3)
    invoked = count_invoked(state)
    assert set(invoked) == SENT
    assert max(invoked.values()) <= 2
    assert await read_messages(state, "failed") == []
    await _assert_sent_before(state)

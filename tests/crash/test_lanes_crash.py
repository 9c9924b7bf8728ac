"""SIGKILL while keys of a shard fail side by side and one of them is parked, on real SQLite.

A key is parked in three steps: its name into the checkpoint's state, its records into their queue, then the checkpoint.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from eventcore.embedded.shapes import sequence_position
from tests.crash.killed_engine import (
    KEYS,
    count_invoked,
    kill_and_restart,
    read_failed,
    read_messages,
    send,
    sent_in_turn,
)

pytestmark = pytest.mark.slow

PARKED = list(KEYS["b"])
#: Before and after each of the steps.
POINTS = [
    ("settler.before_ack", 6),
    ("settler.after_ack", 6),
    ("settler.before_store", 1),
    ("settler.after_store", 1),
    ("settler.before_ack", 7),
    ("settler.after_ack", 7),
]


@pytest.mark.parametrize(("point", "times"), POINTS)
async def test_a_key_that_is_being_parked_loses_nothing_and_stays_in_order(
    tmp_path: Path, point: str, times: int
) -> None:
    """Each record is processed, parked or given up; of a key that is parked nothing later is invoked."""
    state = tmp_path / "state"
    await send(state, "stream-lanes")
    kill_and_restart(state, "stream-lanes", point, times)
    invoked = count_invoked(state)
    order = [*sent_in_turn(KEYS)]
    infos = [record["KinesisBatchInfo"] for record in await read_failed(state)]
    given_up = [order[sequence_position(info["startSequenceNumber"])] for info in infos]
    parked = await read_messages(state, "parked")
    assert {*invoked, *parked, *given_up} == set(order)
    assert len(given_up) == len(set(given_up))
    assert [*dict.fromkeys(parked)] in (PARKED, [])
    assert not set(parked) & set(given_up)
    assert not set(parked[1:]) & set(invoked)
    assert set(order) - set(parked) <= set(invoked)
    if (point, times) != POINTS[0]:
        assert len(parked) == len(PARKED), "it was parked before, and is not parked twice"

"""What goes wrong at the store and the source, and a journal of who did what to a shard."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import anyio
import msgspec

from eventcore.delivery.ordering import ShardState
from eventcore.model import Record
from eventcore.ports.store import Failure, KeepFailure, Operation, ReceiveMessages, SaveCheckpoint, TakeShard
from eventcore.testing import Fate, Faults


class Entry(NamedTuple):
    """Something that happened to a shard: it was taken, or its checkpoint was written."""

    shard: str
    kind: str  #: "taken" or "settled"
    epoch: int
    checkpoint: int
    attempt: int  #: of its failing work
    is_answer_lost: bool = False  #: whoever wrote it does not know


class GivenUp(NamedTuple):
    """What was given up for good."""

    at_s: float
    shard: str
    first: str  #: position or message id; of a final call what stands for its window
    last: str
    positions: frozenset[int] = frozenset()  #: in its shard: a lane's batch is no range of them


class Trouble(Faults):
    """What goes wrong at the store and the source, by the dice; and a journal of who owned what."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.store_calls = 0  #: commits that still may fail
        self.settle_calls = 0
        self._is_answer_lost = False
        self.journal: list[Entry] = []
        self.disturbed: list[float] = []  #: when answers were refused or lost
        self.given_up: list[GivenUp] = []  #: as the store was told

    def fate_of_commit(self, operations: Sequence[Operation]) -> Fate:
        self.store_calls, is_near = max(0, self.store_calls - 1), self.store_calls > 0
        # A store that says it failed has written nothing (`Store.commit`).
        fate = self._draw(is_near)
        return Fate.DONE if fate is Fate.DONE else Fate.REFUSED

    def fate_of_settle(self, shard: str) -> Fate:
        self.settle_calls, is_near = max(0, self.settle_calls - 1), self.settle_calls > 0
        fate = self._draw(is_near)
        self._is_answer_lost = fate is Fate.LOST
        return fate

    def _draw(self, is_near: bool) -> Fate:
        if not is_near or self.dice.random() < 0.5:
            return Fate.DONE
        self.disturbed.append(anyio.current_time())
        return self.dice.choice((Fate.REFUSED, Fate.LOST))

    def on_committed(self, operations: Sequence[Operation], results: Sequence[Any]) -> None:
        for operation, result in zip(operations, results, strict=True):
            if isinstance(operation, TakeShard):
                self.journal.append(Entry(operation.shard, "taken", result.epoch, result.position, 0))
            elif isinstance(operation, SaveCheckpoint):
                self.on_settled("", operation.shard, operation.epoch, operation.position, operation.state)
            elif isinstance(operation, KeepFailure) and operation.failure.is_final:
                self.given_up.append(_given_up(operation.failure))
            elif isinstance(operation, ReceiveMessages):
                self.given_up += [GivenUp(anyio.current_time(), "", each.id, each.id) for each in result.moved]

    def on_taken(self, source: str, shard: str, epoch: int) -> None:
        self.journal.append(Entry(shard, "taken", epoch, -1, 0))

    def on_settled(self, source: str, shard: str, epoch: int, checkpoint: int, state: ShardState) -> None:
        attempt = state.parts[0].attempt if state.parts else 0
        self.journal.append(Entry(shard, "settled", epoch, checkpoint, attempt, self._is_answer_lost))
        self._is_answer_lost = False


def _given_up(failure: Failure) -> GivenUp:
    records = msgspec.msgpack.decode(failure.records, type=list[Record]) if failure.shard and failure.records else []
    positions = frozenset(record.position for record in records)
    return GivenUp(anyio.current_time(), failure.shard, failure.first, failure.last, positions)

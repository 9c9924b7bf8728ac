"""Lanes: records of one shard that are worked on side by side, in order per key.

A shard's checkpoint is contiguous, so with lanes some records behind it are settled already: after a crash those come
again. How far it may fall behind what was taken is therefore bounded (`skew_max`), and at the bound a key that keeps
failing is *parked*: its records, and later ones of it, wait elsewhere until they are redriven, and the others go on.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from eventcore.delivery.ordering import EMPTY, LaneState, ShardState
from eventcore.model import Record

#: The least number of records that may lie between a shard's checkpoint and the last one that was taken.
SKEW_RECORDS_MIN = 10_000
#: Records of that skew for each lane: a key that waits for its turn must not starve the others.
SKEW_RECORDS_PER_LANE = 50
#: Lanes of a shard that may fail at a time: their attempts travel in the checkpoint's state (design §12).
FAILING_LANES_MAX = 16
#: Keys of a shard that may be parked: their names travel there too, and none may be forgotten.
PARKED_KEYS_MAX = 24
#: Bytes of the hash that stands for a key in the state.
_NAME_BYTES = 8

#: More than the highest parallelization factor, so that no two factors share a lane's number.
_FACTOR_STEP = 16

#: What a lane keeps in order: the records of one key; those without a key by blocks, whose number stands for them.
LaneKey = bytes | int


def skew_max(lanes: int) -> int:
    """Return how many records may lie between a shard's checkpoint and the last one that was taken."""
    return max(SKEW_RECORDS_MIN, lanes * SKEW_RECORDS_PER_LANE)


def failing_max(lanes: int) -> int:
    """Return how many lanes may fail at a time: never more than half, so that what works goes on."""
    return max(1, min(FAILING_LANES_MAX, lanes // 2))


def lane_key(record: Record, batch_size: int) -> LaneKey:
    """Return what keeps a record in order: its key; without one, nothing does, and blocks make full batches."""
    return record.position // batch_size if record.key is None else record.key


def hashed_key(record: Record, factor: int, batch_size: int) -> LaneKey:
    """Return which of ``factor`` lanes a record belongs to: all of one key to the same, and unlike keys share them.

    That is Lambda's parallelization (§4): order per partition key, batches of several keys. Numbers below zero, and of
    one factor alone: what is kept under another factor, or of a block of keyless records, is never taken for a lane's.
    """
    lane = (record.position // batch_size if record.key is None else zlib.crc32(record.key)) % factor
    return -(factor * _FACTOR_STEP + lane)


def lane_name(key: LaneKey) -> str:
    """Return the short text that stands for a lane's key in the checkpoint's state."""
    if isinstance(key, int):
        return f"#{key}"
    digest = hashlib.blake2b(key, digest_size=_NAME_BYTES).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


class LaneWindow:
    """Positions of a shard that were taken, from the first that is not settled."""

    def __init__(self, checkpoint: int) -> None:
        self._taken: deque[int] = deque()
        self._settled: set[int] = set()
        self._behind = checkpoint  #: what was settled last without a gap, plus one

    def __len__(self) -> int:
        """Return how many records lie between the checkpoint and the last one taken."""
        return len(self._taken)

    @property
    def checkpoint(self) -> int:
        """All before it is settled; -1 when nothing was ever taken."""
        return self._taken[0] if self._taken else self._behind

    def add(self, position: int) -> None:
        """Note a record that was taken; positions rise."""
        self._taken.append(position)

    def settle(self, positions: Iterable[int]) -> None:
        """Note records that are settled, each once, and move the checkpoint over those in front."""
        taken, settled = self._taken, self._settled
        settled.update(positions)
        while taken and taken[0] in settled:
            position = taken.popleft()
            settled.remove(position)
            self._behind = max(self._behind, position + 1)

    def is_settled(self, position: int) -> bool:
        """Tell whether a record is settled."""
        return position < self.checkpoint or position in self._settled

    def reach(self, end: int) -> bool:
        """Note that nothing before a position is missing but what was taken; tell whether that moves the checkpoint."""
        before = self.checkpoint
        self._behind = max(self._behind, end)
        return self.checkpoint > before

    def skip_to(self, checkpoint: int) -> None:
        """Move the checkpoint over what the source lost; nothing that was taken waits."""
        self._behind = max(self._behind, checkpoint)


class _Kept(NamedTuple):
    """Failing work of a key."""

    state: ShardState  #: with parts
    first: int  #: all of the key before this position is settled

    @property
    def attempt(self) -> int:
        """How often its batch has failed."""
        return self.state.parts[0].attempt


class LaneStates:
    """What is kept of the lanes of one shard: failing work by key, and the keys that are parked.

    Invariant: what an owner before us kept stays until its key comes, or until the checkpoint has passed it.
    """

    def __init__(self, taken: ShardState) -> None:
        """Go on with what the owner before left."""
        self._kept: dict[LaneKey, _Kept] = {}
        self._restored = {lane.name: lane for lane in taken.lanes}
        #: By name: position of the first parked record that was not redriven.
        self.parked: dict[str, int] = dict(taken.parked)
        self._redriven = set(taken.redriven)  #: names of parked keys whose position is behind what was redriven

    def repeated_before(self, key: LaneKey, position: int) -> int | None:
        """Return where the failing work of a key begins, if what comes before is there once more; else None.

        Args:
            key: whose.
            position: of the first of its records that is there.
        """
        if key in self._kept or not self._restored:
            return None
        lane = self._restored.get(lane_name(key))
        return lane.first if lane is not None and position < lane.first else None

    def take_over(self, key: LaneKey, position: int) -> ShardState:
        """Return the failing work of a key, which its lane goes on with; none while it is not there yet.

        Args:
            key: whose.
            position: of the first of its records that is there.
        """
        if key in self._kept:
            return self._kept[key].state
        if not self._restored or self.repeated_before(key, position) is not None:
            return EMPTY
        lane = self._restored.pop(lane_name(key), None)
        if lane is None:
            return EMPTY
        state = ShardState(parts=lane.parts, marked=lane.marked)
        self.keep(key, state, position)
        return state

    def keep(self, key: LaneKey, state: ShardState, first: int) -> None:
        """Replace what is kept of a key; all of it before a position is settled."""
        if state.parts:
            self._kept[key] = _Kept(state, first)
        else:
            self._kept.pop(key, None)

    def failing(self) -> Iterator[tuple[LaneKey, int]]:
        """Return the keys whose batch has failed, the newest last, and how often each has."""
        return ((key, kept.attempt) for key, kept in self._kept.items() if kept.attempt)

    def is_failing(self, key: LaneKey) -> bool:
        """Tell whether a key's batch has failed and is not settled."""
        return key in self._kept and self._kept[key].attempt > 0

    def is_parked(self, key: LaneKey) -> bool:
        """Tell whether the records of a key wait elsewhere."""
        return bool(self.parked) and lane_name(key) in self.parked

    @property
    def can_park(self) -> bool:
        """Whether another key may be parked."""
        return len(self.parked) < PARKED_KEYS_MAX

    def park(self, key: LaneKey, position: int) -> None:
        """Note that a key's records wait elsewhere, from a position on."""
        self._kept.pop(key, None)
        name = lane_name(key)
        if name in self._redriven or position < self.parked.get(name, position + 1):
            self.parked[name] = position
            self._redriven.discard(name)

    def is_redriven(self, name: str) -> bool:
        """Tell whether all that was found of a parked key was redriven: no record waits at its position."""
        return name in self._redriven

    def redrive(self, name: str, last: int, following: int | None) -> None:
        """Note how far a parked key was redriven.

        Args:
            name: of the key.
            last: position of the last record that was.
            following: of the next that is known to wait; None without one.
        """
        self.parked[name] = last + 1 if following is None else following
        if following is None:
            self._redriven.add(name)
        else:
            self._redriven.discard(name)

    def release(self, name: str) -> None:
        """Let a key be as any other again: nothing of it waits elsewhere."""
        del self.parked[name]
        self._redriven.discard(name)

    @property
    def of_parked(self) -> ShardState:
        """What of the state holds whatever the position of the shard is: the keys that are parked."""
        redriven = tuple(name for name in self.parked if name in self._redriven)
        return ShardState(parked=tuple(self.parked.items()), redriven=redriven)

    def compose(self, checkpoint: int) -> ShardState:
        """Return what goes with the shard's checkpoint."""
        for name in [name for name, lane in self._restored.items() if lane.parts[-1].last < checkpoint]:
            del self._restored[name]
        if not (self._kept or self._restored or self.parked):
            return EMPTY
        kept = [
            LaneState(lane_name(key), state.parts, state.marked, first) for key, (state, first) in self._kept.items()
        ]
        # What comes again of a key may fail before what its last owner left: there is one state a key.
        names = {lane.name for lane in kept}
        waiting = [lane for lane in self._restored.values() if lane.name not in names]
        return msgspec.structs.replace(
            self.of_parked,
            # What does not fit is left out from the end: marks of what has not failed, and is no suspect.
            lanes=tuple(sorted((*kept, *waiting), key=_rank)),
        )


def _rank(lane: LaneState) -> tuple[bool, int, bool]:
    part = lane.parts[0]
    return not part.is_suspect, -part.attempt, not lane.marked

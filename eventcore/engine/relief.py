"""Which failing keys of a shard are parked because they would hold the others up."""

from __future__ import annotations

from collections.abc import Callable

from eventcore.delivery.lanes import LaneKey, LaneStates, failing_max
from eventcore.engine.gate import Gate


class Relief:
    """Chooses keys to park; a key that was held meanwhile gets one more try before."""

    def __init__(self, shard: str, gate: Gate, states: LaneStates, *, lanes: int) -> None:
        """Choose for a shard.

        Args:
            shard: its name.
            gate: says whether the shard is held.
            states: of its lanes.
            lanes: keys at the same time.
        """
        self._shard = shard
        self._gate = gate
        self._states = states
        self._failing_max = failing_max(lanes)
        self._is_held = False  #: nobody may run, when the gate was last looked at
        self._excused: dict[LaneKey, int] = {}  #: attempts for which a key is not parked: it was held after them

    def look_at_gate(self) -> None:
        """Let every key that has failed before a hold, or within it, try once more after it before it is parked."""
        is_held = self._gate.find(self._shard) is not None
        if is_held or self._is_held:
            self._excused = dict(self._states.failing())
        self._is_held = is_held

    def choose(self, can_leave: Callable[[LaneKey], bool], is_at_bound: Callable[[LaneKey], bool]) -> list[LaneKey]:
        """Return the failing keys to park: those at the bound of the skew, and one too many.

        Args:
            can_leave: tells whether a key has a lane that is not being parked already.
            is_at_bound: tells whether a key keeps the shard at the bound of its skew.
        """
        failing = [
            key for key, attempt in self._states.failing() if can_leave(key) and self._excused.get(key) != attempt
        ]
        if not failing or self._gate.find(self._shard) is not None:
            # Who may not run can't succeed.
            return []
        leaving = [key for key in failing if is_at_bound(key)]
        if len(failing) > self._failing_max:
            leaving.append(failing[-1])
        return leaving

"""Idempotency keys in memory."""

from __future__ import annotations

import heapq

import msgspec

from eventcore.ports import keys as port
from eventcore.ports.keys import CLAIMED, KeyKind, KeyState


class _Held(msgspec.Struct):
    owner: str  #: empty: completed
    expires_ms: int
    payload: bytes = b""
    result: bytes = b""


class MemoryKeys:
    """Every key of a store."""

    def __init__(self) -> None:
        self._held: dict[bytes, _Held] = {}
        self._ends: list[tuple[int, bytes]] = []

    def claim(self, operation: port.ClaimKeys) -> list[KeyState]:
        """Carry out `ClaimKeys`."""
        states: list[KeyState] = []
        for key in operation.keys:
            state = self._claim(key, operation)
            states.append(state)
            if operation.is_ordered and state.kind is KeyKind.IN_PROGRESS:
                states += [state] * (len(operation.keys) - len(states))
                break
        return states

    def _claim(self, key: bytes, operation: port.ClaimKeys) -> KeyState:
        held = self._held.get(key)
        if held is None or held.expires_ms <= operation.now_ms:
            self._put(key, _Held(operation.owner, operation.until_ms))
            return CLAIMED
        if held.owner:
            return KeyState(KeyKind.IN_PROGRESS, until_ms=held.expires_ms)
        return KeyState(KeyKind.COMPLETED, payload=held.payload, result=held.result)

    def complete(self, operation: port.CompleteKeys) -> int:
        """Carry out `CompleteKeys`."""
        count = 0
        for each in operation.completions:
            held = self._held.get(each.key)
            if held is None or held.owner == operation.owner or held.expires_ms <= operation.now_ms:
                self._put(each.key, _Held("", operation.expires_ms, each.payload, each.result))
                count += 1
        return count

    def release(self, operation: port.ReleaseKeys) -> None:
        """Carry out `ReleaseKeys`."""
        for key in operation.keys:
            held = self._held.get(key)
            if held is not None and held.owner == operation.owner:
                del self._held[key]

    def sweep(self, operation: port.SweepKeys) -> int:
        """Carry out `SweepKeys`."""
        count = 0
        while count < operation.count_max and self._ends and self._ends[0][0] <= operation.now_ms:
            expires_ms, key = heapq.heappop(self._ends)
            held = self._held.get(key)
            if held is not None and held.expires_ms == expires_ms:
                del self._held[key]
                count += 1
        return count

    def _put(self, key: bytes, held: _Held) -> None:
        self._held[key] = held
        heapq.heappush(self._ends, (held.expires_ms, key))

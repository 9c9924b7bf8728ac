"""Kept failures in memory."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import msgspec

from eventcore.ports import store as port
from eventcore.ports.store import Failure
from eventcore.store.rules import FAILURE_PREFIX_MIN, failure_size_bytes


class MemoryFailures:
    """Every failure that is kept."""

    def __init__(self) -> None:
        self._failures: dict[str, Failure] = {}
        self._size_bytes = 0

    # -- writes --------------------------------------------------------------------------------------------------------

    def keep(self, operation: port.KeepFailure) -> None:
        """Carry out `KeepFailure`."""
        self._forget(operation.failure.id)
        self._failures[operation.failure.id] = operation.failure
        self._size_bytes += failure_size_bytes(operation.failure)

    def seal(self, operation: port.SealFailures) -> int:
        """Carry out `SealFailures`."""
        found = [failure for key in dict.fromkeys(operation.ids) if (failure := self._failures.get(key))]
        for failure in found:
            self._failures[failure.id] = msgspec.structs.replace(failure, reason=operation.reason, is_final=True)
        return len(found)

    def drop(self, operation: port.DropFailures) -> int:
        """Carry out `DropFailures`."""
        return sum(map(self._forget, operation.ids))

    def trim(self, operation: port.TrimFailures) -> int:
        """Carry out `TrimFailures`."""
        oldest = [(failure.created_ms, failure.id) for failure in self._failures.values()]
        heapq.heapify(oldest)
        count = 0
        while oldest and (oldest[0][0] < operation.before_ms or self._size_bytes > operation.size_bytes_max):
            count += self._forget(heapq.heappop(oldest)[1])
        return count

    def _forget(self, key: str) -> bool:
        failure = self._failures.pop(key, None)
        if failure is not None:
            self._size_bytes -= failure_size_bytes(failure)
        return failure is not None

    # -- reads ---------------------------------------------------------------------------------------------------------

    def newest(self, *, mapping: str | None, count_max: int, before_id: str) -> Sequence[Failure]:
        """Return failures, newest first; see `Store.failures`."""
        before = self._failures.get(before_id)
        if before_id and before is None:
            return []
        listed = [
            failure
            for failure in self._failures.values()
            if (mapping is None or failure.mapping == mapping) and (before is None or _age(failure) < _age(before))
        ]
        newest = sorted(listed, key=_age, reverse=True)[:count_max]
        return [msgspec.structs.replace(failure, event=b"", records=b"") for failure in newest]

    def find(self, prefix: str) -> Failure | None:
        """Return one whole failure by its id or a prefix of it; see `Store.failure`."""
        if prefix in self._failures:
            return self._failures[prefix]
        if len(prefix) < FAILURE_PREFIX_MIN:
            return None
        found = [failure for key, failure in self._failures.items() if key.startswith(prefix)]
        return found[0] if len(found) == 1 else None


def _age(failure: Failure) -> tuple[int, str]:
    return failure.created_ms, failure.id

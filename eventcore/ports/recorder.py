"""Who remembers failures.

The recorder never writes by itself: it returns operations that the settler puts into its own transaction, so that a
failure is kept exactly when its batch is settled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from eventcore.model import Batch, Outcome
from eventcore.ports.sources import EventShape, LostRange
from eventcore.ports.store import Operation


class FailedBatch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch, or the part of one, that failed."""

    batch: Batch
    function: str
    shape: EventShape
    reason: str  #: a `DiscardReason`, or "Failing"
    attempts: int
    outcome: Outcome | None  #: None when it was given up without an invocation
    first_failure_ms: int
    now_ms: int
    is_final: bool = True


class FailedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event that waited for its function, and was given up."""

    request_id: str
    function: str
    event: bytes  #: JSON
    reason: str  #: a `DiscardReason`
    attempts: int
    outcome: Outcome | None  #: of the last try; None when it was given up without one
    now_ms: int


class Recorder(Protocol):
    """Keeps failures."""

    def failure_id(self, failed: FailedBatch) -> str:
        """Return the failure's id: the same for the same records of the same mapping, whenever it is computed."""
        ...

    def keep(self, failed: FailedBatch) -> Sequence[Operation]:
        """Return the writes that keep a failure."""
        ...

    def keep_lost(
        self, lost: LostRange, *, mapping: str, function: str, source: str, now_ms: int
    ) -> tuple[str, Sequence[Operation]]:
        """Return the id of, and the writes that keep, a range of records that its source dropped unread."""
        ...

    def keep_event(self, failed: FailedEvent) -> tuple[str, Sequence[Operation]]:
        """Return the id of, and the writes that keep, an event that was given up."""
        ...

    def message_failure_id(self, mapping: str, source: str, message_id: str) -> str:
        """Return the id under which a queue's failing message is kept."""
        ...

    def seal(self, ids: Sequence[str], reason: str) -> Sequence[Operation]:
        """Return the writes that make kept failures final: their messages left the queue for good."""
        ...

    def finish(self, ids: Sequence[str]) -> Sequence[Operation]:
        """Return the writes that forget failures whose records have succeeded after all."""
        ...

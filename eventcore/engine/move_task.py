"""A message-move task as data: what was asked for, and how it stands. Source: Lambda semantics §3.2."""

from __future__ import annotations

import enum

import msgspec

#: Messages of one step of a task without a rate: one transaction of some 10 ms.
STEP_MESSAGES = 500
#: The highest rate that can be asked for, messages a second (§3.2).
RATE_MAX = 500
#: Steps a second of a task with a rate: smooth enough to look like a steady flow.
STEPS_PER_S = 10


class MoveState(enum.StrEnum):
    """How a task stands, in AWS's words."""

    RUNNING = "RUNNING"
    CANCELLING = "CANCELLING"  #: ends before its next step
    CANCELLED = "CANCELLED"  #: what was moved stays moved
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


class MoveTask(msgspec.Struct, frozen=True, kw_only=True):
    """A task, or what became of it."""

    id: str
    queue: str
    target: str
    state: MoveState = MoveState.RUNNING
    rate: int = 0  #: messages a second; 0: as fast as the store writes
    expected: int  #: messages that were visible when it began
    taken: int = 0  #: messages that have left the queue
    moved: int = 0  #: of them, those that are in the target: not those that are expired, or that a FIFO target knows
    through_number: int  #: messages that were sent later stay
    started_ms: int
    ended_ms: int = 0  #: 0 while it runs
    why_failed: str = ""

    @property
    def is_over(self) -> bool:
        """Whether it does nothing any more."""
        return self.ended_ms > 0

    @property
    def pause_s(self) -> float:
        """How long to wait between two steps, seconds."""
        return self.step_messages / self.rate if self.rate else 0.0

    @property
    def step_messages(self) -> int:
        """How many messages one step takes at most."""
        return max(1, self.rate // STEPS_PER_S) if self.rate else STEP_MESSAGES

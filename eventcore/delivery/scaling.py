"""How many batches of a queue mapping may run at the same time. Pure.

Source: Lambda semantics §3.1 "Polling/scaling": a mapping starts with five, adds 300 a minute while messages wait, up
to `maximum_concurrency` or what its function may have (AWS's own cap of 1,250 is above that), and falls back to five
when it is idle. Repeated errors of the function make it cut them, unless it reports failed messages. How far and how
fast is not documented: here by halves, to two, and back with each batch that succeeds. Of a FIFO queue as many batches
as it has active groups run, from the start.
"""

from __future__ import annotations

#: Batches that a mapping starts with, and keeps when it is idle.
STARTS_WITH = 5
#: While messages wait, so many more, so often: 300 a minute.
STEP = 5
STEP_S = 1.0
#: Errors of the function never cut a mapping to fewer than this.
LEAST = 2
#: Failed batches in a row that count as repeated errors.
REPEATED = 2


class QueueScaling:
    """The limit of one mapping, as it rises and falls."""

    def __init__(self, *, maximum: int, is_fifo: bool = False, cuts_on_errors: bool = True) -> None:
        """Begin a mapping's life.

        Args:
            maximum: never more than this.
            is_fifo: its queue is a FIFO queue.
            cuts_on_errors: its function does not report failed messages.
        """
        self._maximum = maximum
        self._start = maximum if is_fifo else min(STARTS_WITH, maximum)
        self._least = min(LEAST, maximum)
        self._cuts_on_errors = cuts_on_errors
        self._failures = 0  #: failed batches in a row
        self._since_s: float | None = None  #: since when more were wanted than may run, or when it last rose
        self.limit = self._start

    @property
    def next_rise_s(self) -> float | None:
        """When the limit may rise if messages still wait; None at its maximum, or while nobody waits."""
        return None if self._since_s is None or self.limit >= self._maximum else self._since_s + STEP_S

    def want_more(self, now_s: float) -> None:
        """Note that messages wait, and as many batches run as may.

        No step of the way up counts while the function keeps failing: it would undo each cut within a second.
        """
        if self._since_s is None or self._is_failing:
            self._since_s = now_s
        steps = int((now_s - self._since_s) / STEP_S)
        if steps:
            self._since_s += steps * STEP_S
            self.limit = max(self.limit, min(self._maximum, self.limit + steps * STEP))

    def want_no_more(self) -> None:
        """Note that what waits can run."""
        self._since_s = None

    def rest(self) -> None:
        """Note that the mapping is idle."""
        self.limit = min(self.limit, self._start)
        self._since_s = None

    def note_error(self) -> None:
        """Note that the function has failed with a batch."""
        self._failures += 1
        if self._is_failing:
            self.limit = max(self._least, self.limit // 2)

    @property
    def _is_failing(self) -> bool:
        return self._cuts_on_errors and self._failures >= REPEATED

    def note_success(self) -> None:
        """Note that a batch came back."""
        if self._failures or self.limit < self._start:
            self._failures = 0
            self.limit = max(self.limit, min(self._start, self.limit + 1))

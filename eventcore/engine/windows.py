"""The tumbling windows of one shard: which one is open, what waits for its end, and how long."""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from eventcore.clock import Clock
from eventcore.delivery.batching import BatchPolicy, cut
from eventcore.delivery.ordering import ShardState, Window
from eventcore.delivery.windows import IDLE_S, NOT_CALLED, count_inside, open_window
from eventcore.engine.batcher import RecordBuffer
from eventcore.engine.intake import ShardIntake
from eventcore.loop import loop_time
from eventcore.model import Record
from eventcore.ports.sources import LostRange, StreamSource


class ShardWindows:
    """The open window of one shard; what it is goes with the shard's checkpoint."""

    def __init__(self, length_s: int, current: Window | None, clock: Clock) -> None:
        """Go on with what the owner before left.

        Args:
            length_s: of windows that are opened from now on.
            current: the open one; None without one.
            clock: of the wall.
        """
        self._length_s = length_s
        self._clock = clock
        self.current = current
        #: The open one is to be closed before more records are handed out.
        self.is_over = current is not None and (current.is_early or current.final != NOT_CALLED)
        self._quiet_since_s = loop_time()

    def take(self, records: Sequence[Record]) -> None:
        """Note that records are handed out; the first of them opens a window where none is."""
        self._quiet_since_s = loop_time()
        if self.current is None:
            self.current = open_window(records[0], self._length_s)

    def count_inside(self, records: Sequence[Record]) -> int:
        """Return how many of the records that wait belong to one window: the open one, or that which they open."""
        return count_inside(records, self.current or open_window(records[0], self._length_s))

    def end(self) -> None:
        """Have the open window closed."""
        self.is_over = True

    def replace(self, window: Window | None) -> None:
        """Take over what became of the open window; None: it is closed."""
        self.current = window
        self.is_over = window is not None and (self.is_over or window.is_early)

    @property
    def pause_s(self) -> float | None:
        """For how long the open window waits for a record before it is closed; None without one."""
        if self.current is None:
            return None
        # Both: a shard that is read long after its records came must not be closed between two reads.
        by_clock_s = (self.current.end_ms - self._clock.now_ms()) / 1000 + IDLE_S
        by_quiet_s = self._quiet_since_s + IDLE_S - loop_time()
        return max(by_clock_s, by_quiet_s, 0.0)


class WindowBuffer(RecordBuffer):
    """Records of one shard; a batch ends where its window does, and then does not wait for more."""

    def __init__(self, policy: BatchPolicy, windows: ShardWindows, *, size_bytes_max: int) -> None:
        super().__init__(policy, size_bytes_max=size_bytes_max)
        self._windows = windows

    def _find_batch(self) -> tuple[int, float]:
        inside = self._windows.count_inside(self._records)
        if inside == len(self._records):
            return super()._find_batch()
        if not inside:
            # The open window is over. They stay, and have waited for their own batch since they came.
            self.interrupt()
            return 0, 0.0
        # Nothing more comes for this window.
        count, _ = cut(self._records[:inside], self._policy)
        return count, 0.0

    @property
    def is_past_window(self) -> bool:
        """Whether what waits is of a later window than the open one."""
        return bool(self._records) and not self._windows.count_inside(self._records)


class WindowIntake(ShardIntake):
    """Records of one shard on their way into batches, none of which is of two windows.

    The end of a window is a barrier, as a lost range is: it is closed before the records behind it are handed out.
    """

    def __init__(self, source: StreamSource, shard: str, buffer: WindowBuffer, windows: ShardWindows) -> None:
        super().__init__(source, shard, buffer)
        self._windowed = buffer
        self._windows = windows
        self._is_ended = False

    def end(self) -> None:
        """Note that nothing more is offered: the window is over when all that waits is settled."""
        self._is_ended = True
        if not len(self):
            self._buffer.interrupt()

    @property
    def barrier(self) -> LostRange | Window | None:
        """The window that is to be closed now, or the lost range that is to be told."""
        return self._windows.current if self._windows.is_over else super().barrier

    async def take(self, state: ShardState) -> Sequence[Record] | None:
        """Wait for what is tried next and take it; see `Intake.take`. A window that is over has to be closed first."""
        windows = self._windows
        if self._is_ended and windows.current is not None and not state.parts and not len(self):
            windows.end()
            return ()
        # A window is idle while no record waits: one that waits for its batch is of it.
        with anyio.move_on_after(None if state.parts or len(self) else windows.pause_s) as patience:
            records = await super().take(state)
        if patience.cancelled_caught:
            if not len(self):
                windows.end()
            return ()
        if not records:
            if not state.parts and self._windowed.is_past_window:
                windows.end()
            return records
        windows.take(records)
        return records

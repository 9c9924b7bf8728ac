"""What a replay tells as it goes: failures, its progress, and how far each shard is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from eventcore.cli.output import Output, clear_line, show_line, show_span
from eventcore.cli.replay_state import Position, ReplayState

if TYPE_CHECKING:
    from eventcore.archive.replay import ReplayFailure, ReplayReport, ReplayShard


class Listener:
    """Tells failures as they happen, and keeps how far the replay is."""

    def __init__(
        self, output: Output, state: ReplayState, shards: Sequence[ReplayShard], advance: Callable[[int], None]
    ) -> None:
        """Begin.

        Args:
            output: where failures are told.
            state: where positions are kept.
            shards: what is going to run.
            advance: moves the bar by a number of positions.
        """
        self._output = output
        self._state = state
        self._advance = advance
        self._positions = {shard.shard: Position(shard.shard, shard.position, shard.end) for shard in shards}
        state.write(list(self._positions.values()), is_urgent=True)

    def on_done(self, shard: str, position: int) -> None:
        """Note how far a shard is."""
        passed = position - self._positions[shard].position
        self._positions[shard] = msgspec.structs.replace(self._positions[shard], position=position)
        self._state.write(list(self._positions.values()))
        # Positions, not records: their number is what was said before, gaps and all.
        self._advance(passed)

    def on_failure(self, failure: ReplayFailure) -> None:
        """Say what failed and where; its traceback is among the lines that the function wrote."""
        if not self._output.is_table:
            return
        where = f" ({failure.location})" if failure.location else ""
        last = f"-{failure.last}" if failure.last != failure.first else ""
        error = f"{failure.error_type}: {failure.error_message}" if failure.error_type else failure.error_message
        clear_line()
        self._output.warn(f"{failure.shard} [{failure.first}{last}] failed: {show_line(error)}{where}")

    def on_wait(self, shard: str, wait_s: float) -> None:
        """Say that the next record of a shard comes much later, as it did then: nothing hangs."""
        clear_line()
        self._output.note(f"{shard}: the next record is due in {show_span(wait_s * 1000)}")

    def finish(self, report: ReplayReport) -> None:
        """Keep how far it is, or forget it when nothing is left."""
        if report.left:
            self._state.write(list(self._positions.values()), is_urgent=True)
        else:
            self._state.clear()

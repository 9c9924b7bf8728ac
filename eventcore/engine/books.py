"""The books of one shard: what it was given must be settled, given up or handed back, each record once."""

from __future__ import annotations

from eventcore.engine.reporter import Reporter


class Books:
    """How many records of a shard were taken and are neither settled nor discarded."""

    def __init__(self, reporter: Reporter, shard: str) -> None:
        self._reporter = reporter
        self._shard = shard
        self._open_count = 0

    def open(self, count: int) -> None:
        """Count records that were taken."""
        self._open_count += count

    def done(self, count: int) -> None:
        """Count records that were settled or discarded."""
        self._open_count -= count

    def close(self) -> None:
        """Tell what goes back to the source, once."""
        count, self._open_count = self._open_count, 0
        self._reporter.returned(self._shard, count, "the shard was given up")

"""What has to be done now and then: retention of streams, queues and kept failures."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import anyio

from eventcore.clock import Clock
from eventcore.embedded.trimming import trim_stream
from eventcore.errors import StoreUnavailable
from eventcore.ports.keys import SWEEP_MAX, SweepKeys
from eventcore.ports.store import ReceiveMessages, Store, StreamSettings, TrimFailures

#: Retention is counted in minutes and more: once a minute is exact enough, and free.
INTERVAL_S = 60.0


class Maintenance:
    """Keeps the store within its retention."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        streams: Mapping[str, StreamSettings],
        *,
        failures_bytes_max: int,
        failures_age_s: int,
    ) -> None:
        self._store = store
        self._clock = clock
        self._streams = streams
        self._failures_bytes_max = failures_bytes_max
        self._failures_age_s = failures_age_s

    async def run(self) -> None:
        """Sweep until cancelled. A store that can't be written now is swept the next time."""
        while True:
            # Mappings that need the store show it as their problem; there is nothing to add here.
            with suppress(StoreUnavailable):
                await self.sweep()
            await anyio.sleep(INTERVAL_S)

    async def sweep(self) -> None:
        """Drop what is past its retention, once."""
        now_ms = self._clock.now_ms()
        for name, settings in self._streams.items():
            await trim_stream(self._store, name, settings, now_ms)
        for depth in await self._store.queue_depths():
            # Receives sweep their own queue; this one is for queues that nobody receives from, as `discards`.
            await self._store.commit([ReceiveMessages(queue=depth.queue, count_max=0, now_ms=now_ms)])
        await self._store.commit(
            [TrimFailures(before_ms=now_ms - self._failures_age_s * 1000, size_bytes_max=self._failures_bytes_max)]
        )
        swept = SWEEP_MAX
        while swept == SWEEP_MAX:
            (swept,) = await self._store.commit([SweepKeys(now_ms=now_ms)])

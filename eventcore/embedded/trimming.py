"""How records get out of an embedded stream: by their age and their bytes."""

from __future__ import annotations

from eventcore.ports.store import Store, StreamSettings, TrimStream

#: Records that one step of trimming drops, and steps of one call: about a second of the writer in short turns.
TRIM_STEP_RECORDS = 1000
TRIM_STEPS_MAX = 100


async def trim_stream(store: Store, stream: str, settings: StreamSettings, now_ms: int) -> int:
    """Drop records that are older or more than the stream's retention allows; return how many were dropped.

    Stops after `TRIM_STEPS_MAX` steps: a later call goes on.
    """
    before_ms = now_ms - settings.retention_period * 1000
    dropped = 0
    for _ in range(TRIM_STEPS_MAX):
        (count,) = await store.commit([TrimStream(stream=stream, before_ms=before_ms, count_max=TRIM_STEP_RECORDS)])
        dropped += count
        if not count:
            break
    return dropped

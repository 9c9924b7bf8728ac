"""The window that is open in a shard when its mapping is begun without `tumbling_window_in_seconds`.

Its state stands for records that are settled and come no more, so it is not dropped in silence. Its function may know
nothing of windows now: the final call is not made but given up, so that the destination is told, and the event with
the state is kept as a failure, which a person can have run.
"""

from __future__ import annotations

import msgspec

from eventcore.delivery.decide import find_mark
from eventcore.delivery.windows import view
from eventcore.engine.shard_context import ShardContext
from eventcore.model import Batch, DiscardReason
from eventcore.ports.sources import TakenShard


def without_window(taken: TakenShard) -> TakenShard:
    """Return a shard as it is once its open window was given up; a mark that stood for the final call is gone too."""
    return msgspec.structs.replace(taken, state=msgspec.structs.replace(find_mark(taken.state), window=None))


async def give_up_window(context: ShardContext, taken: TakenShard) -> None:
    """Give up the open window that a shard was taken with, durably; nothing without one.

    Raises:
        ShardLost: another owner has the shard.
        StoreUnavailable, SourceUnavailable: the window is still there.
    """
    window = taken.state.window
    if window is None:
        return
    call = window.final
    batch = Batch(
        mapping=context.mapping,
        source=context.source_reference,
        shard=taken.shard,
        records=(),
        attempt=call.attempt + 1,
        request_id=call.request_id or context.ids.new_id(),
        window=view(window, is_final=True),
    )
    entry = await context.settler.discard_final(
        batch,
        DiscardReason.WINDOWS_REMOVED,
        None,
        position=taken.checkpoint,
        invocations=call.attempt,
        first_failure_ms=call.first_failure_ms,
    )
    context.reporter.discarded(batch, [entry])
    left = without_window(taken).state
    await context.source.settle(taken.shard, taken.epoch, taken.checkpoint, left, is_urgent=True)

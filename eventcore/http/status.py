"""What a pipeline does, from its running engine; or where it stands, from its state alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eventcore import __version__
from eventcore.clock import Clock
from eventcore.config.effective import EffectiveMapping, EffectivePipeline
from eventcore.embedded.sharding import shard_name
from eventcore.embedded.stream import checkpoint_shard
from eventcore.engine.engine import Engine
from eventcore.engine.gate import ALL, read_pauses
from eventcore.engine.status import Blocked, MappingState, MappingStatus, Pause, ShardStatus
from eventcore.http.contract import StatusReport
from eventcore.ports.store import Checkpoint, Store


async def report_running(engine: Engine) -> StatusReport:
    """Return what a running engine says of itself, and the depths of its queues."""
    status = await engine.status()
    return StatusReport(
        is_running=True,
        now_ms=engine.clock.now_ms(),
        version=status.version,
        pid=status.pid,
        started_ms=status.started_ms,
        is_draining=status.is_draining,
        mappings=status.mappings,
        destinations=status.destinations,
        queues=await engine.store.queue_depths(),
        functions=status.functions,
    )


async def report_stopped(pipeline: EffectivePipeline, store: Store, clock: Clock) -> StatusReport:
    """Return where each mapping of a pipeline stands while no engine runs it.

    Shards of systems outside are not asked for: their checkpoints stand there.
    """
    return StatusReport(
        is_running=False,
        now_ms=clock.now_ms(),
        version=__version__,
        mappings=[await _stopped_mapping(mapping, store) for mapping in pipeline.mappings.values()],
        queues=await store.queue_depths(),
    )


async def _stopped_mapping(mapping: EffectiveMapping, store: Store) -> MappingStatus:
    pauses = await read_pauses(store, mapping.name)
    return MappingStatus(
        mapping=mapping.name,
        source=str(mapping.source),
        function=mapping.function,
        state=MappingState.STOPPED if mapping.enabled else MappingState.DISABLED,
        shards=await _stopped_shards(mapping, store, pauses) if mapping.source.kind == "stream" else (),
        pause=pauses.get(ALL),
    )


async def _stopped_shards(
    mapping: EffectiveMapping, store: Store, pauses: Mapping[str, Pause]
) -> Sequence[ShardStatus]:
    """Return the shards that the mapping has ever taken; none before its first start."""
    checkpoints = {checkpoint.shard: checkpoint for checkpoint in await store.checkpoints(mapping.name)}
    shards = []
    for extent in await store.extents(mapping.source.name):
        name = shard_name(extent.shard)
        checkpoint = checkpoints.get(checkpoint_shard(mapping.source.name, name))
        if checkpoint is not None and checkpoint.position >= 0:
            lag = max(0, extent.end - max(checkpoint.position, extent.first))
            shards.append(
                ShardStatus(
                    shard=name,
                    checkpoint=checkpoint.position,
                    lag=lag,
                    buffered=0,
                    blocked=_blocked(checkpoint),
                    pause=pauses.get(name) or pauses.get(ALL),
                    parked=len(checkpoint.state.parked),
                )
            )
    return shards


def _blocked(checkpoint: Checkpoint) -> Blocked | None:
    """Return the failing batch that an engine left; its error went with that engine."""
    head = checkpoint.state.parts[0] if checkpoint.state.parts else None
    if head is None or not head.attempt:
        return None
    return Blocked(
        position=checkpoint.position,
        since_ms=head.first_failure_ms,
        attempt=head.attempt,
        error_type="",
        error_message="",
        location="",
        next_try_ms=0,
    )

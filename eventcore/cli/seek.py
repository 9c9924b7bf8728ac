"""Which positions a seek means: where each shard is, and where it goes."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import msgspec

from eventcore.cli.place import PipelinePlace, read_pipeline
from eventcore.cli.reach import Asker
from eventcore.cli.replay_range import Bound, read_bound
from eventcore.cli.replay_source import open_source_of
from eventcore.config.reference import Reference, parse_reference
from eventcore.engine.status import MappingState, MappingStatus
from eventcore.errors import CommandError


class Move(msgspec.Struct, frozen=True):
    """One shard's way."""

    shard: str
    at: int  #: its checkpoint; what it keeps first, where it has none
    to: int


def plan_seek(place: PipelinePlace, asker: Asker, mapping: MappingStatus, shard: str, target: str) -> Sequence[Move]:
    """Return the moves of the shards that are meant.

    Raises:
        CommandError: the mapping reads a queue, is not running and keeps its positions elsewhere, has no shards here,
            or not the one that is named.
        UsageError: the target can't be read.
        SourceUnavailable: the stream can't be reached.
    """
    bound = read_bound(target)
    reference = parse_reference(mapping.source)
    if not reference.is_stream:
        raise CommandError(f"a queue has no positions, and `{mapping.mapping}` reads one")
    if reference.kind != "stream" and mapping.state is not MappingState.ENABLED:
        raise CommandError(
            f"`{mapping.mapping}` keeps its positions in its consumer group, and no engine runs here that is a member",
            hint="start it: eventcore run",
        )
    # Children of a shard that was split or merged, which is still read, have not been begun: there is nothing to move.
    begun = [entry for entry in mapping.shards if not entry.waits_for]
    owned = {entry.shard: entry.checkpoint for entry in begun if shard in {"", entry.shard}}
    if not owned:
        names = ", ".join(entry.shard for entry in mapping.shards) or "none"
        what = f"has not the shard {shard}" if shard else "has no shards"
        raise CommandError(f"`{mapping.mapping}` {what} now", hint=f"it has: {names}")
    return anyio.run(_find_moves, place, asker, reference, owned, bound)


async def _find_moves(
    place: PipelinePlace, asker: Asker, reference: Reference, owned: dict[str, int], bound: Bound
) -> list[Move]:
    async with open_source_of(reference, asker, read_pipeline(place)) as source:
        extents = {extent.shard: extent for extent in await source.open()}
        found = await source.find(bound.at_ms) if bound.at_ms is not None else {}
        moves = []
        for shard, checkpoint in owned.items():
            extent = extents.get(shard)
            if extent is None:
                raise CommandError(f"{shard} is not there any more")
            to = min(max(bound.of(extent.end, found.get(shard), extent), extent.first), extent.end)
            moves.append(Move(shard, max(checkpoint, extent.first), to))
        return moves

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
from eventcore.http.contract import ListShards


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
    known = {entry.shard: entry.checkpoint for entry in mapping.shards}
    drained = _find_drained(asker, mapping, reference) if known else {}
    # By name parents come before their children: these begin once more when all before them is settled.
    meant = {name: at for name, at in sorted((known | drained).items()) if shard in {"", name}}
    if not meant:
        names = ", ".join(entry.shard for entry in mapping.shards) or "none"
        what = f"has not the shard {shard}" if shard else "has no shards"
        raise CommandError(f"`{mapping.mapping}` {what} now", hint=f"it has: {names}")
    moves = anyio.run(_find_moves, place, asker, reference, meant, bound)
    return [move for move in moves if move.shard not in drained or move.to < move.at]


def _find_drained(asker: Asker, mapping: MappingStatus, reference: Reference) -> dict[str, int]:
    """Return the shards that were split or merged and are read to their ends, each with its end.

    A running engine does not count them among its shards any more.
    """
    if reference.kind != "stream" or mapping.state is not MappingState.ENABLED:
        return {}
    counted = {entry.shard for entry in mapping.shards}
    shards = asker.ask(ListShards(stream=reference.name))
    return {shard.shard: shard.end for shard in shards if shard.children and shard.shard not in counted}


async def _find_moves(
    place: PipelinePlace, asker: Asker, reference: Reference, meant: dict[str, int], bound: Bound
) -> list[Move]:
    async with open_source_of(reference, asker, read_pipeline(place)) as source:
        extents = {extent.shard: extent for extent in await source.open()}
        found = await source.find(bound.at_ms) if bound.at_ms is not None else {}
        moves = []
        for shard, checkpoint in meant.items():
            extent = extents.get(shard)
            if extent is None:
                raise CommandError(f"{shard} is not there any more")
            to = min(max(bound.of(extent.end, found.get(shard), extent), extent.first), extent.end)
            moves.append(Move(shard, max(checkpoint, extent.first), to))
        return moves

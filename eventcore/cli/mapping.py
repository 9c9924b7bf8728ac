"""`eventcore mapping`: what people do with a mapping while it runs."""

from __future__ import annotations

import click
import msgspec

from eventcore.cli.complete import complete_names
from eventcore.cli.options import LazyGroup, Options, pass_options
from eventcore.cli.output import show_count, show_progress
from eventcore.cli.place import find_place
from eventcore.cli.reach import Asker, reach
from eventcore.engine.status import MappingStatus, ParkedRedriven, ShardStatus
from eventcore.errors import CommandError
from eventcore.http.contract import GetStatus, RedriveParked
from eventcore.http.targets import name_known

mapping_command = LazyGroup("mapping", help="What to do with a mapping while it runs.")


@mapping_command.command("redrive")
@click.argument("mapping", shell_complete=complete_names("mappings"))
@click.option("--shard", default="", metavar="SHARD", help="of this shard alone  [default: every one that is owned]")
@pass_options
def redrive_command(options: Options, mapping: str, shard: str) -> int:
    """Give the parked records of a mapping with lanes back to its function, in order per key.

    A key of which nothing is left is worked on as before; one that fails again stays parked at the record that failed.
    Exits with 1 when one did. Interrupted, what was done stays done.
    """
    output = options.output
    with reach(find_place(options)) as asker:
        shards = _choose(_find(asker, mapping), shard)
        results = [_redrive(asker, mapping, entry) for entry in shards]
    if not output.is_table:
        output.data(results)
    for result in results if output.is_table else ():
        output.text(f"{result.shard}: {show_count(result.redriven, 'record')} redriven")
        if result.failed:
            where = f" at {result.location}" if result.location else ""
            output.text(f"{result.shard}: {show_count(len(result.failed), 'key')} failed again: {result.error}{where}")
    return int(any(result.failed for result in results))


def _find(asker: Asker, name: str) -> MappingStatus:
    mappings = asker.ask(GetStatus()).mappings
    for mapping in mappings:
        if mapping.mapping == name:
            return mapping
    raise CommandError(
        f"there is no mapping `{name}`", hint=name_known(name, [mapping.mapping for mapping in mappings])
    )


def _choose(mapping: MappingStatus, shard: str) -> list[ShardStatus]:
    """Return the shards that are meant; what is wrong with them, the engine says."""
    if shard:
        named = [entry for entry in mapping.shards if entry.shard == shard]
        return named or [ShardStatus(shard=shard, checkpoint=-1, lag=-1, buffered=0)]
    return [entry for entry in mapping.shards if entry.parked]


def _redrive(asker: Asker, mapping: str, shard: ShardStatus) -> ParkedRedriven:
    """Give back what is parked of a shard in bounded steps, until nothing is left or nothing succeeds any more."""
    total = 0
    failed: tuple[str, ...] = ()
    first: ParkedRedriven | None = None  #: the first step in which a key failed
    with show_progress(None, f"redriving {shard.shard}") as advance:
        while True:
            step = asker.ask(RedriveParked(mapping=mapping, shard=shard.shard, besides=failed))
            total += step.redriven
            failed = (*failed, *step.failed)
            first = first or (step if step.failed else None)
            advance(step.redriven)
            if not step.redriven:
                told = first or step
                return msgspec.structs.replace(
                    step, redriven=total, failed=failed, error=told.error, location=told.location
                )

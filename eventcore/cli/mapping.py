"""`eventcore mapping`: what people do with a mapping while it runs."""

from __future__ import annotations

import getpass

import click

from eventcore.cli.complete import complete_names
from eventcore.cli.options import LazyGroup, Options, pass_options
from eventcore.cli.output import confirm, show_count, show_line, show_progress, show_time
from eventcore.cli.place import find_place
from eventcore.cli.reach import Asker, reach
from eventcore.engine.status import MappingStatus, ParkedRedriven, ShardStatus
from eventcore.errors import CommandError
from eventcore.http.contract import (
    GetMappingLog,
    GetStatus,
    PauseMapping,
    RedriveParked,
    ResumeMapping,
    SeekMapping,
    SkipRecords,
)
from eventcore.http.targets import name_known

mapping_command = LazyGroup("mapping", help="Pause, resume, move and skip; redrive what is parked; who did it.")

_mapping = click.argument("mapping", shell_complete=complete_names("mappings"))


def _user() -> str:
    """Return who does it, for the book."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "somebody without a name"


@mapping_command.command("pause")
@_mapping
@click.option("--shard", default="", metavar="SHARD", help="this shard alone")
@pass_options
def pause_command(options: Options, mapping: str, shard: str) -> None:
    """Pause a mapping, or one shard of it: what runs is finished, and nothing is begun until it is resumed.

    It survives restarts, `status` shows it, and no group is left: nothing is rebalanced.
    """
    with reach(find_place(options)) as asker:
        asker.ask(PauseMapping(mapping=mapping, shard=shard, by=_user()))
    resume = f"eventcore mapping resume {mapping}{f' --shard {shard}' if shard else ''}"
    options.output.note(options.repeat_in(f"{_name(mapping, shard)} is paused; {resume} ends it"))


@mapping_command.command("resume")
@_mapping
@click.option("--shard", default="", metavar="SHARD", help="this shard alone  [default: all that is paused of it]")
@pass_options
def resume_command(options: Options, mapping: str, shard: str) -> None:
    """End a pause; without a shard, close the mapping's circuit breaker, too."""
    with reach(find_place(options)) as asker:
        asker.ask(ResumeMapping(mapping=mapping, shard=shard, by=_user()))
    options.output.note(f"{_name(mapping, shard)} goes on")


@mapping_command.command("seek")
@_mapping
@click.option("--to", "target", required=True, metavar="WHERE", help="`beginning`, `end`, an offset, a time, or `-2h`")
@click.option("--shard", default="", metavar="SHARD", help="this shard alone  [default: every one]")
@click.option("--yes", is_flag=True, help="do not ask before records are skipped")
@click.option("--dry-run", is_flag=True, help="say what would be moved, and move nothing")
@pass_options
def seek_command(options: Options, mapping: str, target: str, shard: str, yes: bool, dry_run: bool) -> None:
    """Move the positions of a stream's mapping: back, to run records again, or forward, to leave some out.

    The batch that runs is finished or handed back first; what keeps failing is forgotten. A shard that was split or
    merged is read again before those that it became, which wait for it.
    """
    from eventcore.cli.seek import plan_seek

    output = options.output
    place = find_place(options)
    with reach(place) as asker:
        moves = plan_seek(place, asker, _find(asker, mapping), shard, target)
        skipped = sum(max(move.to - move.at, 0) for move in moves)
        again = sum(max(move.at - move.to, 0) for move in moves)
        if skipped and not yes and not dry_run:
            confirm(f"Up to {show_count(skipped, 'record')} will never run. Go on?")
        if not dry_run:
            positions = {move.shard: move.to for move in moves}
            asker.ask(SeekMapping(mapping=mapping, positions=positions, by=_user()))
    if not output.is_table:
        output.data(moves)
        return
    for move in moves:
        output.text(f"{move.shard}: from {move.at} to {move.to}")
    would = "would " if dry_run else ""
    again_text, skipped_text = show_count(again, "record"), show_count(skipped, "record")
    output.note(f"up to {again_text} {would}come again, up to {skipped_text} {would}never run")


@mapping_command.command("skip")
@_mapping
@click.option("--shard", required=True, metavar="SHARD", help="the shard that is held up")
@click.option(
    "--count", type=click.IntRange(min=1), help="records from its failing batch's front  [default: all of it]"
)
@pass_options
def skip_command(options: Options, mapping: str, shard: str, count: int | None) -> None:
    """Give up what holds up a shard: it is discarded like any other batch, to on_failure, and kept as a failure."""
    with reach(find_place(options)) as asker:
        skipped = asker.ask(SkipRecords(mapping=mapping, shard=shard, count=count or 0, by=_user()))
    if not options.output.is_table:
        options.output.data(skipped)
    elif skipped.failure_ids:
        failures = ", ".join(skipped.failure_ids)
        what = show_count(skipped.count, "record") if skipped.count else "the final call of a window"
        options.output.text(f"gave up {what} to {skipped.destination}: failure {failures}")
    else:
        options.output.text("nothing was given up: what held the shard up has succeeded, or the shard has left")


@mapping_command.command("log")
@_mapping
@pass_options
def log_command(options: Options, mapping: str) -> None:
    """List what people did to a mapping: when, who, what."""
    with reach(find_place(options)) as asker:
        entries = asker.ask(GetMappingLog(mapping=mapping))
    if not options.output.is_table:
        options.output.data(entries)
        return
    options.output.table(
        ("WHEN", "WHO", "WHAT", "SHARD", "DETAIL"),
        [
            (show_time(entry.at_ms), show_line(entry.by), entry.action, entry.shard or "all", entry.detail)
            for entry in entries
        ],
    )


def _name(mapping: str, shard: str) -> str:
    return f"{shard} of {mapping}" if shard else mapping


@mapping_command.command("redrive")
@_mapping
@click.option("--shard", default="", metavar="SHARD", help="of this shard alone  [default: every one that is owned]")
@click.option("--give-up-missing", is_flag=True, help="go on without parked records that are nowhere to be found")
@pass_options
def redrive_command(options: Options, mapping: str, shard: str, give_up_missing: bool) -> int:
    """Give the parked records of a mapping with lanes back to its function, in order per key.

    A key of which nothing is left is worked on as before; one that fails again stays parked at the record that failed.
    So does one whose first record is not where the mapping parks now: it expired, was purged, or was parked elsewhere.
    Exits with 1 when one did. Interrupted, what was done stays done.
    """
    output = options.output
    with reach(find_place(options)) as asker:
        shards = _choose(_find(asker, mapping), shard)
        results = [_redrive(asker, mapping, entry, gives_up_missing=give_up_missing) for entry in shards]
    if not output.is_table:
        output.data(results)
    for result in results if output.is_table else ():
        output.text(f"{result.shard}: {show_count(result.redriven, 'record')} redriven")
        if result.failed:
            where = f" at {result.location}" if result.location else ""
            output.text(f"{result.shard}: {show_count(len(result.failed), 'key')} failed again: {result.error}{where}")
        if result.missing:
            keys = show_count(len(result.missing), "key")
            output.text(f"{result.shard}: {keys} stay parked: their first records are not where the mapping parks now")
            output.note("set `parking` back to where they are, or go on without them: --give-up-missing")
    return int(any(result.failed or result.missing for result in results))


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


def _redrive(asker: Asker, mapping: str, shard: ShardStatus, *, gives_up_missing: bool) -> ParkedRedriven:
    """Give back what is parked of a shard in bounded steps, until nothing is left or nothing succeeds any more."""
    total: ParkedRedriven | None = None
    with show_progress(None, f"redriving {shard.shard}") as advance:
        while True:
            besides = total.besides if total is not None else ()
            step = asker.ask(
                RedriveParked(mapping=mapping, shard=shard.shard, besides=besides, gives_up_missing=gives_up_missing)
            )
            total = step if total is None else total.plus(step)
            advance(step.redriven)
            if step.is_last:
                return total

"""`eventcore replay`: runs what a stream or topic still keeps once more, without moving anybody's position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
import msgspec

from eventcore.cli.complete import complete_names, complete_references
from eventcore.cli.options import Options, PipelineCommand, pass_options
from eventcore.cli.output import Output, confirm, show_count, show_line, show_progress
from eventcore.cli.place import PipelinePlace, ReadPipeline, find_place, read_pipeline
from eventcore.cli.replay_range import Bound, read_bound
from eventcore.cli.replay_state import Position, ReplayState
from eventcore.errors import CommandError
from eventcore.http.refusals import ExitCode
from eventcore.http.targets import name_known

if TYPE_CHECKING:
    from eventcore.archive.replay import ReplayFailure, ReplayReport, ReplayShard
    from eventcore.config.effective import EffectiveMapping, EffectivePipeline
    from eventcore.config.reference import Reference
    from eventcore.ports.ranges import RangeSource

SPEEDS = {"max": 0.0, "1x": 1.0, "10x": 10.0}


class _Plan(msgspec.Struct, frozen=True):
    """What is going to run."""

    reference: str
    function: str
    shards: Sequence[Any]  #: `ReplayShard`

    @property
    def count(self) -> int:
        return sum(shard.count for shard in self.shards)


@click.command("replay", cls=PipelineCommand)
@click.argument("reference", metavar="REF", shell_complete=complete_references)
@click.option("--from", "begin", metavar="WHERE", help="where to begin: `beginning`, an offset, a time, or `-2h` ago")
@click.option("--to", "end", metavar="WHERE", help="where to stop, the same way  [default: the end as it is now]")
@click.option("--partition", type=click.IntRange(min=0), metavar="N", help="this partition or shard alone")
@click.option("--function", "function", metavar="NAME", default="", shell_complete=complete_names("functions"))
@click.option(
    "--mapping", metavar="NAME", default="", shell_complete=complete_names("mappings"), help="imitate this one"
)
@click.option("--speed", type=click.Choice(list(SPEEDS)), default="max", show_default=True, help="1x: as they came")
@click.option("--dry-run", is_flag=True, help="count what would run, and run nothing")
@click.option("--yes", is_flag=True, help="do not ask")
@click.option("--resume", is_flag=True, help="go on where the last replay of REF was interrupted")
@pass_options
def replay_command(
    options: Options,
    reference: str,
    begin: str | None,
    end: str | None,
    partition: int | None,
    function: str,
    mapping: str,
    speed: str,
    dry_run: bool,
    yes: bool,
    resume: bool,
) -> int:
    """Run a function with what REF (stream:NAME or kafka:NAME/TOPIC) still keeps, from --from to --to.

    Handlers have their real effects, and run in processes of this command's own, with the code that stands there now:
    a debugger can be attached. No group is joined, no position moves, and a running engine is left alone. A batch runs
    once; what fails is told, passed by, and makes the exit code 6.
    """
    target = _read_reference(reference)
    if (begin is None) == (not resume):
        raise click.UsageError("say where to begin: --from beginning, an offset, a time, or -2h; or --resume")
    place = find_place(options)
    pipeline = read_pipeline(place)
    import anyio

    bounds = (read_bound(begin), read_bound(end)) if begin is not None else None
    request = _Request(
        target=target,
        bounds=bounds,
        partition=partition,
        function=function,
        mapping=mapping,
        speed=SPEEDS[speed],
        is_dry=dry_run,
        is_confirmed=yes,
    )
    return anyio.run(_Command(options.output, place, pipeline, request).run)


def _read_reference(text: str) -> Reference:
    from eventcore.config.reference import BadReference, parse_reference

    try:
        reference = parse_reference(text)
    except BadReference as error:
        raise CommandError(str(error), exit_code=ExitCode.USAGE) from error
    if not reference.is_stream:
        hint = "its messages are gone once they are done; failures: eventcore failures retry"
        raise CommandError(f"`{text}` keeps nothing to run again", exit_code=ExitCode.USAGE, hint=hint)
    return reference


class _Request(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for."""

    target: Any  #: `Reference`
    bounds: tuple[Bound, Bound] | None  #: None: resumed
    partition: int | None
    function: str
    mapping: str
    speed: float
    is_dry: bool
    is_confirmed: bool


class _Command:
    """One run of the command."""

    def __init__(self, output: Output, place: PipelinePlace, pipeline: ReadPipeline, request: _Request) -> None:
        from eventcore.config.effective import resolve

        self._output = output
        self._place = place
        self._pipeline = pipeline
        self._effective: EffectivePipeline = resolve(pipeline.loaded)
        self._request = request
        self._mapping = self._find_mapping()
        self._function = request.function or (self._mapping.function if self._mapping else "")
        if self._function not in pipeline.loaded.config.functions:
            hint = name_known(self._function, list(pipeline.loaded.config.functions))
            raise CommandError(f"there is no function `{self._function}`", exit_code=ExitCode.USAGE, hint=hint)
        self._state = ReplayState(place.state, str(request.target), self._function)

    def _find_mapping(self) -> EffectiveMapping | None:
        """Return the mapping that is imitated: its function, batches and reports."""
        request = self._request
        found = [entry for entry in self._effective.mappings.values() if entry.source == request.target]
        if request.mapping:
            found = [entry for entry in found if entry.name == request.mapping]
            if not found:
                raise CommandError(f"no mapping `{request.mapping}` reads {request.target}", exit_code=ExitCode.USAGE)
        elif request.function:
            found = [entry for entry in found if entry.function == request.function]
        if len(found) > 1:
            names = ", ".join(entry.name for entry in found)
            raise CommandError(f"several mappings read {request.target}: {names}", hint="choose one: --mapping NAME")
        if not found and not request.function:
            raise CommandError(f"no mapping reads {request.target}", hint="say what to run: --function NAME")
        return found[0] if found else None

    async def run(self) -> int:
        from eventcore.cli.replay_source import open_source

        async with open_source(self._request.target, self._place, self._pipeline) as source:
            plan = await self._plan(source)
            if self._request.is_dry:
                self._tell_plan(plan, "would run")
                return ExitCode.OK
            if not plan.count:
                self._tell_plan(plan, "nothing to run:")
                return ExitCode.OK
            self._tell_plan(plan, "runs")
            if not self._request.is_confirmed:
                confirm("The handler has its real effects. Go on?")
            return await self._replay(source, plan)

    async def _plan(self, source: RangeSource) -> _Plan:
        from eventcore.archive.replay import ReplayShard

        extents = [
            extent
            for extent in await source.open()
            if self._request.partition is None or _number(extent.shard) == self._request.partition
        ]
        if not extents:
            raise CommandError(f"{self._request.target} has no partition {self._request.partition}")
        if self._request.bounds is None:
            kept = {position.shard: position for position in self._state.read()}
            shards = [
                ReplayShard(shard=extent.shard, position=max(kept[extent.shard].position, extent.first), end=end)
                for extent in extents
                if extent.shard in kept and (end := min(kept[extent.shard].end, extent.end)) >= 0
            ]
        else:
            begin, stop = self._request.bounds
            begins, stops = await _positions(source, begin), await _positions(source, stop)
            shards = [
                ReplayShard(
                    shard=extent.shard,
                    position=max(begin.of(extent.first, begins.get(extent.shard), extent), extent.first),
                    end=min(stop.of(extent.end, stops.get(extent.shard), extent), extent.end),
                )
                for extent in extents
            ]
        return _Plan(str(self._request.target), self._function, [shard for shard in shards if shard.count])

    def _tell_plan(self, plan: _Plan, verb: str) -> None:
        if not self._output.is_table:
            if self._request.is_dry:
                self._output.data({"records": plan.count, "function": plan.function, "shards": plan.shards})
            return
        shards = ", ".join(f"{shard.shard} from {shard.position} to {shard.end - 1}" for shard in plan.shards)
        count = f"up to {show_count(plan.count, 'record')}"
        self._output.note(f"{verb} {count} of {plan.reference} through {plan.function}{': ' if shards else ''}{shards}")

    async def _replay(self, source: RangeSource, plan: _Plan) -> int:
        from eventcore.cli.replay_run import open_replay

        with show_progress(plan.count, f"replaying {plan.reference}") as advance:
            listener = _Listener(self._output, self._state, plan.shards, advance)
            replay_opened = open_replay(
                self._pipeline,
                self._mapping,
                self._function,
                source,
                listener,
                reference=plan.reference,
                speed=self._request.speed,
            )
            async with replay_opened as replay:
                try:
                    await replay.run(plan.shards)
                finally:
                    report: ReplayReport = replay.report
                    listener.finish(report)
        self._tell_report(report)
        return ExitCode.SOME_FAILED if report.failed else ExitCode.OK

    def _tell_report(self, report: ReplayReport) -> None:
        if not self._output.is_table:
            self._output.data(report)
            return
        failed = f", {show_count(report.failed, 'record')} failed" if report.failed else ""
        invocations = show_count(report.invocations, "invocation")
        self._output.text(f"ran {show_count(report.records, 'record')} in {invocations}{failed}")


class _Listener:
    """Tells failures as they happen, and keeps how far the replay is."""

    def __init__(self, output: Output, state: ReplayState, shards: Sequence[ReplayShard], advance: Any) -> None:
        self._output = output
        self._state = state
        self._advance = advance
        self._positions = {shard.shard: Position(shard.shard, shard.position, shard.end) for shard in shards}
        state.write(list(self._positions.values()), is_urgent=True)

    def on_done(self, shard: str, position: int, count: int) -> None:
        """Note how far a shard is."""
        self._positions[shard] = msgspec.structs.replace(self._positions[shard], position=position)
        self._state.write(list(self._positions.values()))
        self._advance(count)

    def on_failure(self, failure: ReplayFailure) -> None:
        """Say what failed and where; the traceback with `-v`."""
        if not self._output.is_table:
            return
        where = f" ({failure.location})" if failure.location else ""
        last = f"-{failure.last}" if failure.last != failure.first else ""
        error = f"{failure.error_type}: {failure.error_message}" if failure.error_type else failure.error_message
        self._output.warn(f"{failure.shard} [{failure.first}{last}] failed: {show_line(error)}{where}")
        if self._output.verbosity > 0 and failure.stack_trace:
            for line in failure.stack_trace.rstrip().splitlines():
                self._output.note(show_line(line))

    def finish(self, report: ReplayReport) -> None:
        """Forget where it was when it is through; else say how to go on."""
        if not report.left:
            self._state.clear()
            return
        self._state.write(list(self._positions.values()), is_urgent=True)
        self._output.warn(f"interrupted after {show_count(report.records, 'record')}; --resume goes on from there")


async def _positions(source: RangeSource, bound: Bound) -> Mapping[str, int]:
    return await source.find(bound.at_ms) if bound.at_ms is not None else {}


def _number(shard: str) -> int:
    """Return a shard's number: what stands behind its last hyphen, for Kafka and for embedded streams."""
    return int(shard.rpartition("-")[2])

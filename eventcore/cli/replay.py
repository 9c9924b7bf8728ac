"""`eventcore replay`: runs what a stream or topic still keeps once more, without moving anybody's position."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import click
import msgspec

from eventcore.cli.complete import complete_names, complete_references
from eventcore.cli.options import Options, PipelineCommand, pass_options
from eventcore.cli.output import clear_line, confirm, show_count, show_progress
from eventcore.cli.place import PipelinePlace, ReadPipeline, find_place, read_pipeline
from eventcore.cli.replay_listener import Listener
from eventcore.cli.replay_range import Bound, find_left, find_range, read_bound, shard_number
from eventcore.cli.replay_state import ReplayState
from eventcore.errors import CommandError
from eventcore.http.refusals import ExitCode
from eventcore.http.targets import name_known
from eventcore.patterns.topics import TopicPattern

if TYPE_CHECKING:
    from eventcore.archive.replay import Replay, ReplayFailure, ReplayReport
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
@click.option(
    "--to", "end", metavar="WHERE", help="the first that is not run, the same way  [default: the end as it is now]"
)
@click.option("--partition", type=click.IntRange(min=0), metavar="N", help="this partition or shard alone")
@click.option(
    "--function",
    metavar="NAME",
    default="",
    shell_complete=complete_names("functions"),
    help="what runs  [default: the mapping's]",
)
@click.option(
    "--mapping",
    metavar="NAME",
    default="",
    shell_complete=complete_names("mappings"),
    help="whose batches and reports are imitated  [default: the only one of REF]",
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
    once; what fails is told, passed by, and makes the exit code 6. Ctrl-C lets the running batches end; twice aborts.
    """
    target = _read_reference(reference)
    if (begin is None) == (not resume):
        raise click.UsageError("say where to begin: --from beginning, an offset, a time, or -2h; or --resume")
    if resume and (end is not None or partition is not None):
        raise click.UsageError(
            "--resume goes on with the range and the partitions that it had: no --to, no --partition"
        )
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
        speed=speed,
        is_dry=dry_run,
        is_confirmed=yes,
    )
    return anyio.run(_Command(options, place, pipeline, request).run)


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


def _reads(source: Reference, target: Reference) -> bool:
    """Tell whether a mapping's source is what is run again, or an expression that the topic matches."""
    if source == target:
        return True
    is_one_of = source.is_pattern and (source.kind, source.name) == (target.kind, target.name)
    return is_one_of and not target.is_pattern and TopicPattern(source.part).match(target.part)


class _Request(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for."""

    target: Any  #: `Reference`
    bounds: tuple[Bound, Bound] | None  #: None: resumed
    partition: int | None
    function: str
    mapping: str
    speed: str  #: of `SPEEDS`
    is_dry: bool
    is_confirmed: bool


class _Command:
    """One run of the command."""

    def __init__(self, options: Options, place: PipelinePlace, pipeline: ReadPipeline, request: _Request) -> None:
        from eventcore.config.effective import resolve

        self._options = options
        self._output = options.output
        self._place = place
        self._pipeline = pipeline
        self._effective: EffectivePipeline = resolve(pipeline.loaded)
        self._request = request
        self._mapping = self._find_mapping()
        if self._mapping is not None and self._mapping.window_length_s and not request.function:
            problem = f"`{self._mapping.name}` has tumbling windows, and a replay has no state to hand on"
            hint = "run another function: --function NAME; or one failed batch: eventcore failures retry ID"
            raise CommandError(problem, exit_code=ExitCode.USAGE, hint=hint)
        self._function = request.function or (self._mapping.function if self._mapping else "")
        if self._function not in pipeline.loaded.config.functions:
            hint = name_known(self._function, list(pipeline.loaded.config.functions))
            raise CommandError(f"there is no function `{self._function}`", exit_code=ExitCode.USAGE, hint=hint)
        self._state = ReplayState(place.state, str(request.target), self._function)

    def _find_mapping(self) -> EffectiveMapping | None:
        """Return the mapping that is imitated: its function, batches and reports."""
        request = self._request
        found = [entry for entry in self._effective.mappings.values() if _reads(entry.source, request.target)]
        if request.mapping:
            found = [entry for entry in found if entry.name == request.mapping]
            if not found:
                raise CommandError(f"no mapping `{request.mapping}` reads {request.target}", exit_code=ExitCode.USAGE)
        # Another function than the mapping's gets the batches that the mapping's own would get.
        found = [entry for entry in found if entry.function == request.function] or found
        if len(found) > 1:
            problem = f"several mappings read {request.target}: {', '.join(entry.name for entry in found)}"
            raise CommandError(problem, exit_code=ExitCode.USAGE, hint="choose one: --mapping NAME")
        if not found and not request.function:
            problem, hint = f"no mapping reads {request.target}", "say what to run: --function NAME"
            raise CommandError(problem, exit_code=ExitCode.USAGE, hint=hint)
        return found[0] if found else None

    async def run(self) -> int:
        from eventcore.cli.replay_source import open_source

        # A count leaves nothing behind, and asks for the file only to read in it.
        has_file = not self._request.is_dry or self._request.bounds is None
        with self._state.hold() if has_file else nullcontext():
            async with open_source(self._request.target, self._place, self._pipeline) as source:
                return await self._run(source)

    async def _run(self, source: RangeSource) -> int:
        from eventcore.archive.replay import ReplayReport

        plan = await self._plan(source)
        if self._request.is_dry:
            self._tell_dry(plan)
            return ExitCode.OK
        self._output.note(f"{'runs' if plan.count else 'nothing to run:'} {self._show_plan(plan)}")
        if not plan.count:
            self._tell_report(ReplayReport(records=0, invocations=0, failed=0, failures=(), left=()))
            return ExitCode.OK
        self._tell_not_imitated()
        if not self._request.is_confirmed:
            confirm("The handler has its real effects. Go on?")
        return await self._replay(source, plan)

    async def _plan(self, source: RangeSource) -> _Plan:
        extents = [
            extent
            for extent in await source.open()
            if self._request.partition is None or shard_number(extent.shard) == self._request.partition
        ]
        if not extents:
            raise CommandError(f"{self._request.target} has no partition {self._request.partition}")
        bounds = self._request.bounds
        shards = await find_range(source, extents, *bounds) if bounds else find_left(extents, self._state.read())
        return _Plan(str(self._request.target), self._function, [shard for shard in shards if shard.count])

    def _tell_dry(self, plan: _Plan) -> None:
        if self._output.is_table:
            self._output.note(f"would run {self._show_plan(plan)}")
        else:
            self._output.data({"records": plan.count, "function": plan.function, "shards": plan.shards})

    def _show_plan(self, plan: _Plan) -> str:
        shards = ", ".join(f"{shard.shard} from {shard.position} to {shard.end - 1}" for shard in plan.shards)
        count = f"up to {show_count(plan.count, 'record')}"
        return f"{count} of {plan.reference} through {plan.function}{': ' if shards else ''}{shards}"

    def _tell_not_imitated(self) -> None:
        """Say what has no effect here: some of the mapping's settings, and --resume beside another replay."""
        if not self._state.is_mine:
            self._output.warn("another replay of them runs: interrupted, this one can't go on with --resume")
        mapping = self._mapping
        if mapping is None:
            return
        if mapping.results is not None:
            self._output.note(f"what {self._function} returns is not sent to {mapping.results}")
        if mapping.parallelization_factor > 1:
            self._output.note("without the parallelization factor: a shard's batches run one after the other")
        if mapping.lanes > 1:
            self._output.note("without lanes: a partition's records run in its own order, of several keys a batch")

    async def _replay(self, source: RangeSource, plan: _Plan) -> int:
        from eventcore.cli.replay_run import open_replay, run_until_signal

        with show_progress(plan.count, f"replaying {plan.reference}") as advance:
            listener = Listener(self._output, self._state, plan.shards, advance)
            replay_opened = open_replay(
                self._pipeline,
                self._mapping,
                self._function,
                source,
                listener,
                reference=plan.reference,
                speed=SPEEDS[self._request.speed],
            )
            async with replay_opened as replay:
                try:
                    is_interrupted = await run_until_signal(replay, plan.shards, self._output)
                finally:
                    self._keep(replay, listener)
        self._tell_report(replay.report)
        if is_interrupted:
            return ExitCode.INTERRUPTED
        return ExitCode.SOME_FAILED if replay.report.failed else ExitCode.OK

    def _keep(self, replay: Replay, listener: Listener) -> None:
        """Forget how far it was when it is through; else say how to go on."""
        report = replay.report
        listener.finish(report)
        if report.left:
            done = show_count(report.records, "record")
            again = f"; to go on: {self._repeat('--resume')}" if self._state.is_mine else ""
            clear_line()
            self._output.warn(f"interrupted after {done}{again}")

    def _repeat(self, *arguments: str, topic: str = "") -> str:
        """Return the command once more, with other arguments for its range, and one of its topics alone."""
        request = self._request
        target = msgspec.structs.replace(request.target, part=topic) if topic else request.target
        words = [str(target), "--function", self._function]
        if request.mapping:
            words += ["--mapping", request.mapping]
        if request.speed != "max":
            words += ["--speed", request.speed]
        return self._options.repeat_in(f"eventcore replay {shlex.join([*words, *arguments])}")

    def _tell_report(self, report: ReplayReport) -> None:
        if not self._output.is_table:
            self._output.data(report)
            return
        failed = f", {show_count(report.failed, 'record')} failed" if report.failed else ""
        invocations = show_count(report.invocations, "invocation")
        filtered = f"; {show_count(report.filtered, 'record')} filtered out" if report.filtered else ""
        self._output.text(f"ran {show_count(report.records, 'record')} in {invocations}{failed}{filtered}")
        if report.failures:
            self._output.note(f"the first failure alone, once more: {self._repeat_failure(report.failures[0])}")

    def _repeat_failure(self, failure: ReplayFailure) -> str:
        shard = ("--partition", str(shard_number(failure.shard)))
        topic = failure.shard.rpartition("-")[0] if self._request.target.is_pattern else ""
        return self._repeat(*shard, "--from", str(failure.first), "--to", str(failure.last + 1), topic=topic)

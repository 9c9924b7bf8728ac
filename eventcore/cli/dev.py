"""`eventcore dev`: runs a pipeline and shows what happens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from eventcore.cli.options import Options, PipelineCommand, pass_options
from eventcore.cli.place import PipelinePlace, ReadPipeline, find_place, read_pipeline

if TYPE_CHECKING:
    from eventcore.cli.running import SignalledEngine
    from eventcore.telemetry.events import EngineEvent


@click.command("dev", cls=PipelineCommand)
@click.argument("config", metavar="[FILE | module:app]", default="")
@pass_options
def dev_command(options: Options, config: str) -> int:
    """Run a pipeline and watch it: what comes, invocations, retries, splits, discards, what functions write.

    Ctrl-C once drains, twice aborts, as for `run`. With `-o ndjson` each event is printed as a line of JSON.
    """
    options.choose(config)
    place = find_place(options)
    pipeline = read_pipeline(place)
    for warning in pipeline.loaded.warnings:
        options.output.warn(str(warning))

    import anyio

    from eventcore.cli.run_log import log_to_stderr
    from eventcore.cli.running import SignalledEngine

    log_to_stderr(min(options.verbosity, 0) - 1)
    running = SignalledEngine(options.output, drain_timeout_s=pipeline.loaded.config.settings.drain_timeout)
    anyio.run(_run, options, pipeline, place, running)
    return running.exit_code


async def _run(options: Options, pipeline: ReadPipeline, place: PipelinePlace, running: SignalledEngine) -> None:
    import anyio

    from eventcore.cli.live import LiveView
    from eventcore.cli.output import GuardedWriter
    from eventcore.cli.running import LOGS_FOLDER
    from eventcore.telemetry.events import EngineEvents
    from eventcore.telemetry.logs import FunctionLogs

    output, events = options.output, EngineEvents()
    # `eventcore dev | head`: whoever watched has seen enough.
    view = LiveView(GuardedWriter(output.note, running.drain), repeat_in=options.repeat_in)
    write_data = GuardedWriter(output.data, running.drain)
    events.subscribe(view.on_event if output.is_table else lambda event: write_data(_as_data(event)))
    with FunctionLogs(place.state / LOGS_FOLDER) as logs:
        logs.subscribe(view.on_line)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(view.run)
            await running.run(pipeline, place.state, events, logs)
            tasks.cancel_scope.cancel()


def _as_data(event: EngineEvent) -> dict[str, object]:
    import msgspec

    return {"event": event.NAME, **msgspec.to_builtins(event)}

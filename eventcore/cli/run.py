"""`eventcore run`: runs a pipeline in production."""

from __future__ import annotations

import click

from eventcore.cli.options import Options, PipelineCommand, pass_options
from eventcore.cli.place import find_place, read_pipeline


@click.command("run", cls=PipelineCommand)
@click.argument("config", metavar="[FILE | module:app]", default="")
@pass_options
def run_command(options: Options, config: str) -> int:
    """Run a pipeline until Ctrl-C or SIGTERM; logs go to standard error.

    The first signal drains: nothing new is taken, and running invocations get `drain_timeout` to finish. The second
    one aborts them; their records go back to their source.
    """
    options.choose(config)
    place = find_place(options)
    pipeline = read_pipeline(place)
    for warning in pipeline.loaded.warnings:
        options.output.warn(str(warning))

    import anyio

    from eventcore.cli.run_log import log_to_stderr
    from eventcore.cli.running import LOGS_FOLDER, SignalledEngine
    from eventcore.telemetry.engine_log import log_event
    from eventcore.telemetry.events import EngineEvents
    from eventcore.telemetry.logs import FunctionLogs

    log_to_stderr(options.verbosity)
    events = EngineEvents()
    events.subscribe(log_event)
    running = SignalledEngine(options.output, drain_timeout_s=pipeline.loaded.config.settings.drain_timeout)
    with FunctionLogs(place.state / LOGS_FOLDER) as logs:
        anyio.run(running.run, pipeline, place.state, events, logs)
    return running.exit_code

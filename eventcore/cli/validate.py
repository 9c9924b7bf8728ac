"""`eventcore validate`: all that is wrong with a pipeline, at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from eventcore.cli.options import Options, PipelineCommand, pass_options
from eventcore.cli.output import Output, show_count
from eventcore.cli.place import find_place, read_pipeline
from eventcore.errors import ConfigError
from eventcore.http.refusals import ExitCode

if TYPE_CHECKING:
    from eventcore.config.load import LoadedConfig


@click.command("validate", cls=PipelineCommand)
@click.option("--explain", is_flag=True, help="print each value that holds and where it comes from; secrets masked")
@click.option("--schema", is_flag=True, help="print the JSON Schema of pipeline files, for editors")
@click.argument("config", metavar="[FILE | module:app]", default="")
@pass_options
def validate_command(options: Options, explain: bool, schema: bool, config: str) -> int:
    """Check a pipeline: all of its mistakes at once, each with its line and what to write instead.

    Handlers are looked for in their files, and no code of yours runs.

    Exits with 3 when there are mistakes; warnings alone let it pass.
    """
    options.choose(config)
    output = options.output
    if schema:
        from eventcore.config.schema import json_schema

        output.text(msgspec.json.format(msgspec.json.encode(json_schema()), indent=2).decode())
        return ExitCode.OK
    from eventcore.config.lint_handlers import lint_handlers

    try:
        loaded = read_pipeline(find_place(options), also=lint_handlers).loaded
    except ConfigError as error:
        if output.is_table:
            raise
        output.data({"mistakes": error.mistakes})
        return ExitCode.CONFIG_INVALID
    for warning in loaded.warnings:
        output.warn(str(warning))
    if explain:
        _explain(output, loaded)
    else:
        _summarise(output, loaded)
    return ExitCode.OK


def _explain(output: Output, loaded: LoadedConfig) -> None:
    from eventcore.config.effective import explain, resolve

    rows = explain(resolve(loaded))
    if not output.is_table:
        output.data(rows)
        return
    output.table(
        ("SETTING", "VALUE", "FROM"), [(row.path, msgspec.json.encode(row.value).decode(), row.origin) for row in rows]
    )


def _summarise(output: Output, loaded: LoadedConfig) -> None:
    counts = {table: len(getattr(loaded.config, table)) for table in ("functions", "mappings", "queues", "streams")}
    if not output.is_table:
        output.data({"file": loaded.provenance.file, **counts, "warnings": loaded.warnings})
        return
    parts = [show_count(count, table.removesuffix("s")) for table, count in counts.items() if count]
    output.text(f"{loaded.provenance.file} is valid: {', '.join(parts)}")

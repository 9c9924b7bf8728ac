"""`eventcore validate`: all that is wrong with a pipeline, at once."""

from __future__ import annotations

import click
import msgspec

from eventcore.cli.options import Options, PipelineCommand, pass_options
from eventcore.cli.place import find_place, read_pipeline
from eventcore.config.load import LoadedConfig


@click.command("validate", cls=PipelineCommand)
@click.option("--explain", is_flag=True, help="print each value that holds and where it comes from; secrets masked")
@click.option("--schema", is_flag=True, help="print the JSON Schema of pipeline files, for editors")
@click.argument("config", metavar="[FILE | module:app]", default="")
@pass_options
def validate_command(options: Options, explain: bool, schema: bool, config: str) -> None:
    """Check a pipeline: all of its mistakes at once, each with its line and what to write instead.

    Exits with 3 when there are mistakes; warnings alone let it pass.
    """
    output = options.output
    if schema:
        from eventcore.config.schema import json_schema

        click.echo(msgspec.json.format(msgspec.json.encode(json_schema()), indent=2))
        return
    loaded = read_pipeline(find_place(options, config)).loaded
    for warning in loaded.warnings:
        output.warn(str(warning))
    if explain:
        _explain(options, loaded)
        return
    counts = {table: len(getattr(loaded.config, table)) for table in ("functions", "mappings", "queues", "streams")}
    if not output.is_table:
        output.data({"file": loaded.provenance.file, **counts, "warnings": loaded.warnings})
        return
    parts = ", ".join(f"{count} {table if count != 1 else table[:-1]}" for table, count in counts.items() if count)
    output.text(f"{loaded.provenance.file} is valid: {parts}")


def _explain(options: Options, loaded: LoadedConfig) -> None:
    from eventcore.config.effective import explain, resolve

    rows = explain(resolve(loaded))
    output = options.output
    if not output.is_table:
        output.data(rows)
        return
    output.table(
        ("SETTING", "VALUE", "FROM"), [(row.path, msgspec.json.encode(row.value).decode(), row.origin) for row in rows]
    )

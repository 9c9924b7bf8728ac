"""`eventcore init`: writes a pipeline to begin with."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import click

from eventcore.cli.options import Options, PipelineCommand, pass_options
from eventcore.errors import CommandError

TEMPLATES = ("stream", "queue", "kafka")


def find_template(name: str) -> Traversable:
    """Return the folder of a template."""
    return files("eventcore.cli") / "templates" / name


@click.command("init", cls=PipelineCommand)
@click.option("--template", type=click.Choice(TEMPLATES), default="stream", show_default=True, help="what to write")
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(file_okay=False, path_type=Path))
@pass_options
def init_command(options: Options, template: str, folder: Path) -> None:
    """Write a pipeline that runs as it is into DIR: the pipeline file, a handler, a README.

    A file that is there already is never overwritten.
    """
    output = options.output
    written = write_template(find_template(template), folder)
    if output.is_table:
        for path in written:
            output.text(str(path))
    else:
        output.data([str(path) for path in written])
    output.note("")
    output.note("next:")
    if template == "kafka":
        output.note("  eventcore up kafka --topic orders:4      in a terminal of its own, unless there is a broker")
    if folder != Path():
        output.note(f"  cd {folder}")
    output.note("  eventcore dev")
    output.note(f"and in a second terminal what {folder / 'README.md'} says")


def write_template(template: Traversable, folder: Path) -> list[Path]:
    """Copy a template's files into a folder, and return them.

    Raises:
        CommandError: one of them is there already, or can't be written; the first of these wrote nothing.
    """
    sources = [source for source in sorted(template.iterdir(), key=lambda file: file.name) if source.is_file()]
    present = [folder / source.name for source in sources if (folder / source.name).exists()]
    if present:
        names = ", ".join(str(path) for path in present)
        raise CommandError(f"nothing was written: {names} would be overwritten", hint="name another folder")
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for source in sources:
            path = folder / source.name
            with path.open("xb") as file:
                file.write(source.read_bytes())
            written.append(path)
    except OSError as error:
        raise CommandError(f"{error.filename} can't be written: {error.strerror}") from error
    return written

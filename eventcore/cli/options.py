"""What every command takes: which pipeline, which state, how to print. May stand before the command or behind it."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import click
import msgspec

from eventcore.cli.output import FORMS, Output

#: A command's first sentence, in the help of its group.
SUMMARY_CHARACTERS_MAX = 100

#: A command in a hint that means one pipeline; `init` and `completion` mean none.
_COMMAND = re.compile(
    r"\beventcore (?=(?:validate|run|dev|status|invoke|send|logs|mapping|queue|stream|replay|failures)\b)"
)


class Options(msgspec.Struct):
    """What was given, gathered from both places."""

    config: str = ""  #: pipeline file, its folder, or `module:app`; empty for the default
    state: str = ""  #: state folder; empty for the default
    form: str = "table"
    verbosity: int = 0  #: `-v` counts up, `-q` down

    def choose(self, config: str) -> None:
        """Take a command's own argument, which stands above `--config`."""
        self.config = config or self.config

    def repeat_in(self, hint: str) -> str:
        """Return a hint whose commands name the pipeline and the state as they were given: it can be typed as it is."""
        given = [
            word for flag, value in (("-c", self.config), ("--state", self.state)) if value for word in (flag, value)
        ]
        return _COMMAND.sub(lambda found: found.group() + "".join(f"{shlex.quote(word)} " for word in given), hint)

    @property
    def output(self) -> Output:
        """Where the command's data and words go."""
        return Output(self.form, verbosity=self.verbosity)


pass_options = click.make_pass_decorator(Options, ensure=True)


def _set(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def put(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        assert parameter.name is not None
        if context.get_parameter_source(parameter.name) is click.core.ParameterSource.DEFAULT:
            return
        options = context.find_root().ensure_object(Options)
        if name == "quiet":
            options.verbosity -= value
        elif name == "verbosity":
            options.verbosity += value
        elif name != "no_color":  # looked for by `cli.main`, which also needs it where a command is not even found
            setattr(options, name, value)

    return put


@cache
def _global_options(*, is_hidden: bool) -> Sequence[click.Parameter]:
    def option(name: str, *declarations: str, **settings: Any) -> click.Option:
        return click.Option(
            [*declarations, f"_{name}"], callback=_set(name), expose_value=False, hidden=is_hidden, **settings
        )

    return [
        option(
            "config",
            "-c",
            "--config",
            metavar="FILE",
            help="pipeline file, its folder, or module:app  [default: ./eventcore.toml]",
        ),
        option("state", "--state", metavar="DIR", help="state folder  [default: .eventcore beside the pipeline file]"),
        option("form", "-o", "--output", type=click.Choice(FORMS), help="how data is printed  [default: table]"),
        option("quiet", "-q", "--quiet", count=True, help="say less on standard error"),
        option("verbosity", "-v", "--verbose", count=True, help="say more; twice for everything"),
        option("no_color", "--no-color", is_flag=True, help="print without colors, as NO_COLOR=1 does"),
    ]


class PipelineCommand(click.Command):
    """A command that takes the global options too, without listing them again in its help."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the command's own parameters and the global ones, with `--help` last."""
        return [*self.params, *_global_options(is_hidden=True), *super().get_params(ctx)[len(self.params) :]]


class LazyGroup(click.Group):
    """Commands that are imported when they are run: `--help` and completion must not pay for the engine."""

    command_class = PipelineCommand

    def __init__(self, *arguments: Any, modules: Sequence[tuple[str, str, str]] = (), **settings: Any) -> None:
        """Prepare a group.

        Args:
            arguments: click's.
            modules: name, `module:attribute` and one line of help of each lazy command, in the order of the help.
            settings: click's.
        """
        super().__init__(*arguments, **settings)
        self._modules = {name: (place, summary) for name, place, summary in modules}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of the help."""
        return [*self._modules, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None when there is none of the name."""
        found = self._modules.get(cmd_name)
        if found is None:
            return super().get_command(ctx, cmd_name)
        import importlib

        module, _, attribute = found[0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that was named.

        Raises:
            UsageError: there is none of the name; those that look like it are named.
        """
        names = self.list_commands(ctx)
        if args and args[0] not in names and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], names, n=2)
            meant = f" Did you mean {' or '.join(close)}?" if close else f" There are: {', '.join(names)}."
            ctx.fail(f"No such command '{args[0]}'.{meant}")
        return super().resolve_command(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the global options, shown where the group is `eventcore` itself."""
        own = super().get_params(ctx)
        return [*_global_options(is_hidden=ctx.parent is not None), *own]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands' names and summaries; lazy ones are not imported for that."""
        rows = [
            (name, self._modules[name][1] if name in self._modules else self._summary(ctx, name))
            for name in self.list_commands(ctx)
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def _summary(self, ctx: click.Context, name: str) -> str:
        command = self.get_command(ctx, name)
        return command.get_short_help_str(limit=SUMMARY_CHARACTERS_MAX) if command is not None else ""

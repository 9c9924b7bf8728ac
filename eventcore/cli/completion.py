"""`eventcore completion`: the script that completes commands in a shell."""

from __future__ import annotations

import click

from eventcore.cli.options import Options, PipelineCommand, pass_options
from eventcore.cli.output import is_interactive

SHELLS = ("bash", "zsh", "fish")
_WHERE = {
    "bash": 'eval "$(eventcore completion bash)"      # in ~/.bashrc',
    "zsh": 'eval "$(eventcore completion zsh)"       # in ~/.zshrc, behind compinit',
    "fish": "eventcore completion fish | source      # in ~/.config/fish/config.fish",
}


@click.command("completion", cls=PipelineCommand)
@click.argument("shell", type=click.Choice(SHELLS))
@pass_options
def completion_command(options: Options, shell: str) -> None:
    """Print the script that completes commands in SHELL."""
    from click.shell_completion import get_completion_class

    from eventcore.cli.main import COMPLETION_VARIABLE, PROGRAM
    from eventcore.cli.root import cli

    completion_class = get_completion_class(shell)
    assert completion_class is not None, "click knows the shells that are offered"
    click.echo(completion_class(cli, {}, PROGRAM, COMPLETION_VARIABLE).source())
    if is_interactive():
        # Sourced or written to a file, the script is all that is wanted.
        options.output.note(_WHERE[shell])

"""`eventcore`: the commands, each in a file of its own."""

from __future__ import annotations

import click

from eventcore import __version__
from eventcore.cli.options import LazyGroup

_COMMANDS = [
    ("init", "write a pipeline to begin with"),
    ("validate", "check a pipeline; say what each value is and where it comes from"),
    ("run", "run a pipeline until Ctrl-C or SIGTERM"),
    ("dev", "run a pipeline and watch what happens"),
    ("status", "what the pipeline does: states, rates, lags, blocked shards"),
    ("invoke", "run a function once"),
    ("send", "send records to a queue, stream or topic"),
    ("logs", "what functions wrote"),
    ("mapping", "what to do with a mapping while it runs"),
    ("queue", "look into queues, redrive and purge them"),
    ("stream", "look at the shards of streams, split and merge them"),
    ("replay", "run what a stream or topic still keeps once more"),
    ("failures", "look at what failed and why; run it again"),
    ("up", "start a Kafka broker for development"),
    ("completion", "complete commands in bash, zsh or fish"),
]

cli = LazyGroup(
    name="eventcore",
    help="Event pipelines with AWS Lambda's delivery semantics, without the cloud.",
    epilog="The options may stand before the command or behind it. Data goes to standard output, all else to standard "
    "error. Exit codes: eventcore/cli/README.md.",
    modules=[(name, f"eventcore.cli.{name}:{name}_command", summary) for name, summary in _COMMANDS],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
click.version_option(__version__, prog_name="eventcore", message="%(prog)s %(version)s")(cli)

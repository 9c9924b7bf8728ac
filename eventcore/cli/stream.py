"""`eventcore stream`: the shards of embedded streams, and how they are split and merged."""

from __future__ import annotations

import click

from eventcore.cli.complete import complete_names
from eventcore.cli.embedded_name import EmbeddedName
from eventcore.cli.options import LazyGroup, Options, pass_options
from eventcore.cli.place import find_place
from eventcore.cli.reach import reach
from eventcore.http.contract import ListShards, MergeStreamShards, Resharded, SplitStreamShard

stream_command = LazyGroup("stream", help="Look at the shards of embedded streams, split and merge them.")

_stream_argument = click.argument("stream", type=EmbeddedName("stream"), shell_complete=complete_names("streams"))


@stream_command.command("shards")
@_stream_argument
@pass_options
def shards_command(options: Options, stream: str) -> None:
    """List a stream's shards with their hash keys; those that were split or merged are closed."""
    with reach(find_place(options)) as asker:
        shards = asker.ask(ListShards(stream=stream))
    if not options.output.is_table:
        options.output.data(shards)
        return
    options.output.table(
        ("SHARD", "HASH KEYS", "RECORDS", "PARENTS", "CLOSED INTO"),
        [
            (
                shard.shard,
                f"{shard.first_hash_key} - {shard.last_hash_key}",
                f"{shard.end - shard.first:,}",
                " ".join(shard.parents),
                " ".join(shard.children),
            )
            for shard in shards
        ],
    )


@stream_command.command("split")
@_stream_argument
@click.argument("shard")
@click.option("--at", metavar="HASH_KEY", default="", help="first hash key of the upper half; the middle without it")
@pass_options
def split_command(options: Options, stream: str, shard: str, at: str) -> None:
    """Split a shard in two, also while mappings read it: they read it to its end, then both halves at once."""
    if at and not at.isdecimal():
        raise click.BadParameter("a hash key is a decimal number, as `eventcore stream shards` shows them")
    with reach(find_place(options)) as asker:
        _tell(options, asker.ask(SplitStreamShard(stream=stream, shard=shard, at=at)))


@stream_command.command("merge")
@_stream_argument
@click.argument("shard")
@click.argument("other")
@pass_options
def merge_command(options: Options, stream: str, shard: str, other: str) -> None:
    """Merge two shards whose hash keys adjoin; mappings read both to their ends, then the one that they became."""
    with reach(find_place(options)) as asker:
        _tell(options, asker.ask(MergeStreamShards(stream=stream, shard=shard, other=other)))


def _tell(options: Options, done: Resharded) -> None:
    if options.output.is_table:
        options.output.text(f"{' and '.join(done.closed)} closed, {' and '.join(done.opened)} opened")
    else:
        options.output.data(done)

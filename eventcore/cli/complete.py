"""Names for the shell to complete, read from the pipeline file without checking it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
from click.shell_completion import CompletionItem

#: Completes a parameter: its context, itself, what was typed so far.
Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def complete_names(table: str) -> Complete:
    """Return what completes the names of a table: functions, queues, mappings."""

    def complete(context: click.Context, _: click.Parameter, typed: str) -> list[CompletionItem]:
        return [CompletionItem(name) for name in _names(context, table) if name.startswith(typed)]

    return complete


def complete_references(context: click.Context, _: click.Parameter, typed: str) -> list[CompletionItem]:
    """Complete what records can be sent to."""
    references = [f"{kind}:{name}" for kind in ("queue", "stream") for name in _names(context, f"{kind}s")]
    references += [f"kafka:{name}/" for name in _names(context, "kafka")]
    return [CompletionItem(reference) for reference in references if reference.startswith(typed)]


def complete_failures(context: click.Context, _: click.Parameter, typed: str) -> list[CompletionItem]:
    """Complete the ids of failures, with their errors; none where they can't be had at once."""
    from eventcore.cli.event_text import FAILURE_DIGITS
    from eventcore.cli.options import Options
    from eventcore.cli.place import find_place
    from eventcore.cli.reach import reach
    from eventcore.errors import EventcoreError
    from eventcore.http.contract import ListFailures

    place = find_place(context.find_root().ensure_object(Options))
    if not place.state.is_dir():
        return []  # completion makes no state
    try:
        with reach(place) as asker:
            failures = asker.ask(ListFailures())
    except EventcoreError:
        return []
    return [
        CompletionItem(failure.id[:FAILURE_DIGITS], help=failure.error_type or failure.reason)
        for failure in failures
        if failure.id.startswith(typed)
    ]


def _names(context: click.Context, table: str) -> list[str]:
    """Return a table's names; none where the file can't be read: a shell that completes says nothing."""
    import tomllib

    from eventcore.cli.options import Options
    from eventcore.cli.place import PIPELINE_FILE

    path = Path(context.find_root().ensure_object(Options).config or PIPELINE_FILE)
    if path.is_dir():
        path /= PIPELINE_FILE
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8")).get(table, {})
    except (OSError, ValueError):
        return []
    return sorted(found) if isinstance(found, dict) else []

"""`eventcore queue`: looks into queues, moves their messages back, empties them."""

from __future__ import annotations

import time
from contextlib import suppress

import click

from eventcore.cli.complete import complete_names
from eventcore.cli.embedded_name import EmbeddedName
from eventcore.cli.options import LazyGroup, Options, pass_options
from eventcore.cli.output import confirm, show_count, show_progress, show_span, show_time
from eventcore.cli.place import find_place
from eventcore.cli.reach import Asker, reach
from eventcore.engine.move_task import RATE_MAX, MoveState, MoveTask
from eventcore.errors import CommandError
from eventcore.http.contract import (
    PEEK_MESSAGES_MAX,
    CancelMove,
    FollowMove,
    GetStatus,
    ListMoves,
    ListQueues,
    Message,
    PeekQueue,
    PlanRedrive,
    PurgeQueue,
    StartMove,
)

#: Pause between two looks at a task that somebody else carries out, seconds.
LOOK_S = 0.1

queue_command = LazyGroup("queue", help="Look into queues, move their messages back, empty them.")

_queue_argument = click.argument("queue", type=EmbeddedName("queue"), shell_complete=complete_names("queues"))


@queue_command.command("ls")
@pass_options
def ls_command(options: Options) -> None:
    """List the queues and how many messages each holds."""
    output = options.output
    with reach(find_place(options)) as asker:
        if not output.is_table:
            output.data(asker.ask(ListQueues()))
            return
        report = asker.ask(GetStatus())
    output.table(
        ("QUEUE", "VISIBLE", "HIDDEN", "DELAYED", "OLDEST", "DEAD-LETTER QUEUE"),
        [
            (
                depth.queue,
                f"{depth.visible:,}",
                f"{depth.hidden:,}",
                f"{depth.delayed:,}",
                show_span(report.now_ms - depth.oldest_ms) if depth.oldest_ms else "",
                depth.settings.dead_letter_queue,
            )
            for depth in report.queues
        ],
    )


@queue_command.command("peek")
@_queue_argument
@click.option("-n", "--count", type=click.IntRange(min=1), default=10, show_default=True, help="messages at most")
@pass_options
def peek_command(options: Options, queue: str, count: int) -> None:
    """Print messages in the order they were sent, without receiving them: nothing about them changes."""
    output = options.output
    with reach(find_place(options)) as asker:
        messages: list[Message] = []
        after = 0
        while len(messages) < count:
            wanted = min(PEEK_MESSAGES_MAX, count - len(messages))
            found = asker.ask(PeekQueue(queue=queue, count_max=wanted, after_number=after))
            if not found:
                break
            messages.extend(found)
            after = found[-1].number
    if not output.is_table:
        output.data(messages)
        return
    output.table(
        ("ID", "SENT", "RECEIVED", "STATE", "BODY"),
        [
            (
                message.id,
                show_time(message.sent_ms),
                str(message.receive_count),
                message.state,
                str(message.body),
            )
            for message in messages
        ],
    )


@queue_command.command("redrive")
@_queue_argument
@click.option(
    "--to",
    "target",
    type=EmbeddedName("queue"),
    metavar="QUEUE",
    default="",
    help="target, instead of the queue it is dead-letter queue of",
)
@click.option("--rate", type=click.IntRange(1, RATE_MAX), metavar="N", help="messages a second at most; else no limit")
@click.option("--dry-run", is_flag=True, help="say what would be moved, and move nothing")
@pass_options
def redrive_command(options: Options, queue: str, target: str, rate: int | None, dry_run: bool) -> None:
    """Move the messages of a dead-letter queue back to where they came from, as new messages.

    Moves what was there when it began, oldest first, so that what fails again meanwhile does not go round and round.
    Interrupted, it ends: what was moved stays moved, and nothing is lost.
    """
    output = options.output
    with reach(find_place(options)) as asker:
        plan = asker.ask(PlanRedrive(queue=queue, target=target))
        if dry_run:
            if output.is_table:
                output.text(f"would move {show_count(plan.visible, 'message')} from {plan.queue} to {plan.target}")
            else:
                output.data(plan)
            return
        task = _follow(asker, asker.ask(StartMove(queue=plan.queue, target=plan.target, rate=rate or 0)))
    if output.is_table:
        output.text(f"moved {show_count(task.moved, 'message')} from {task.queue} to {task.target}")
    else:
        output.data(task)
    if plan.hidden:
        output.note(f"{show_count(plan.hidden, 'message')} hidden or delayed: left there")
    if task.state is not MoveState.COMPLETED:
        raise CommandError(f"the move has ended before it was done: {task.why_failed or task.state.lower()}")


def _follow(asker: Asker, task: MoveTask) -> MoveTask:
    """Return a task when it is over; one that nobody waits for any more is cancelled."""
    try:
        with show_progress(task.expected, f"moving to {task.target}") as advance:
            while not task.is_over:
                before = task.taken
                task = asker.ask(FollowMove(id=task.id))
                advance(task.taken - before)
                if not task.is_over:
                    time.sleep(max(task.pause_s, LOOK_S if task.taken == before else 0.0))
    except KeyboardInterrupt:
        with suppress(CommandError):  # it has ended by itself
            asker.ask(CancelMove(queue=task.queue))
        raise
    return task


@queue_command.command("moves")
@pass_options
def moves_command(options: Options) -> None:
    """List what `redrive` has moved lately, and what it moves now."""
    output = options.output
    with reach(find_place(options)) as asker:
        tasks = asker.ask(ListMoves())
    if not output.is_table:
        output.data(tasks)
        return
    output.table(
        ("QUEUE", "TARGET", "STATE", "MOVED", "OF", "RATE", "STARTED"),
        [
            (
                task.queue,
                task.target,
                task.state.lower(),
                f"{task.moved:,}",
                f"{task.expected:,}",
                f"{task.rate}/s" if task.rate else "",
                show_time(task.started_ms),
            )
            for task in tasks
        ],
    )


@queue_command.command("cancel-move")
@_queue_argument
@pass_options
def cancel_move_command(options: Options, queue: str) -> None:
    """End the move of a queue's messages that runs; what was moved stays moved."""
    with reach(find_place(options)) as asker:
        task = asker.ask(CancelMove(queue=queue))
    if options.output.is_table:
        options.output.text(f"{task.state.lower()}: {show_count(task.moved, 'message')} moved so far")
    else:
        options.output.data(task)


@queue_command.command("purge")
@_queue_argument
@click.option("--yes", is_flag=True, help="do not ask")
@pass_options
def purge_command(options: Options, queue: str, yes: bool) -> None:
    """Delete every message of a queue, hidden ones too."""
    if not yes:
        confirm(f"Delete every message of {queue}?")
    with reach(find_place(options)) as asker:
        purged = asker.ask(PurgeQueue(queue=queue))
    if options.output.is_table:
        options.output.text(f"deleted {show_count(purged.deleted, 'message')} of {purged.queue}")
    else:
        options.output.data(purged)

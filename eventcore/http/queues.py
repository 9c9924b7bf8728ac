"""Looks into queues, moves their messages, empties them."""

from __future__ import annotations

from collections.abc import Sequence

from eventcore.clock import Clock
from eventcore.engine.move_task import MoveTask
from eventcore.engine.moving import MoveTasks
from eventcore.errors import CommandError
from eventcore.http.contract import (
    FAILURES_MAX,
    PEEK_BYTES_MAX,
    PEEK_MESSAGES_MAX,
    PURGED,
    CancelMove,
    FollowMove,
    Header,
    ListMoves,
    Message,
    PeekQueue,
    PlanRedrive,
    Purged,
    PurgeQueue,
    RedrivePlan,
    StartMove,
    as_text,
)
from eventcore.http.targets import name_known
from eventcore.ports.store import PurgeQueue as Purge
from eventcore.ports.store import QueueDepth, SealFailures, Store, StoredMessage

#: Messages read at once while looking into a queue: with the largest bodies, some 16 MiB.
_READ_STEP = 16


class QueueOperations:
    """What people may do with the queues of a store."""

    def __init__(self, store: Store, clock: Clock, moves: MoveTasks, *, is_engine_running: bool) -> None:
        """Work on a store; ``moves`` are the engine's where one runs: it carries them out."""
        self._store = store
        self._clock = clock
        self._moves = moves
        self._is_engine_running = is_engine_running

    async def peek(self, request: PeekQueue) -> Sequence[Message]:
        """Return messages in the order they were sent, as many as fit into `PEEK_BYTES_MAX`.

        Raises:
            CommandError: there is no such queue.
        """
        await self._find(request.queue)
        now_ms = self._clock.now_ms()
        messages: list[Message] = []
        wanted = min(request.count_max, PEEK_MESSAGES_MAX)
        after, size_bytes = request.after_number, 0
        while len(messages) < wanted and size_bytes < PEEK_BYTES_MAX:
            count_max = min(_READ_STEP, wanted - len(messages))
            found = await self._store.peek(request.queue, count_max=count_max, after_number=after, now_ms=now_ms)
            if not found:
                break
            messages.extend(_describe(message, now_ms) for message in found)
            size_bytes += sum(len(message.body) for message in found)
            after = found[-1].number
        return messages

    async def plan_redrive(self, request: PlanRedrive) -> RedrivePlan:
        """Return what a redrive would do.

        Raises:
            CommandError: `start_move` would be refused.
        """
        depth = await self._find(request.queue)
        target = await self._find(request.target or await self._find_source(request.queue))
        await self._moves.check(depth, target)
        return RedrivePlan(
            queue=request.queue, target=target.queue, visible=depth.visible, hidden=depth.hidden + depth.delayed
        )

    async def start_move(self, request: StartMove) -> MoveTask:
        """Begin to move the visible messages of a queue.

        Raises:
            CommandError: there is no such queue, it is not known where its messages came from, or they can't go there.
            StoreUnavailable: nothing was begun.
        """
        source = await self._find(request.queue)
        target = await self._find(request.target or await self._find_source(request.queue))
        return await self._moves.start(source, target, rate=request.rate)

    async def follow_move(self, request: FollowMove) -> MoveTask:
        """Return how a move task stands; without an engine, carry out its next step.

        Raises:
            CommandError: it is not known, or not any more.
            StoreUnavailable: nothing was moved.
        """
        task = await self._moves.find(request.id)
        return task if task.is_over or self._is_engine_running else await self._moves.step(task.queue)

    async def cancel_move(self, request: CancelMove) -> MoveTask:
        """Have a queue's move task end before its next step: at once where no engine runs.

        Raises:
            CommandError: none runs.
            StoreUnavailable: it goes on.
        """
        task = await self._moves.cancel(request.queue)
        return task if self._is_engine_running else await self._moves.step(task.queue)

    async def list_moves(self, _: ListMoves) -> Sequence[MoveTask]:
        """Return the move tasks that are known, newest first."""
        return await self._moves.all()

    async def purge(self, request: PurgeQueue) -> Purged:
        """Delete every message, hidden ones too.

        Raises:
            CommandError: there is no such queue.
            StoreUnavailable: nothing was deleted.
        """
        await self._find(request.queue)
        # First, and at once with the purge: nothing that is kept may promise a message that is gone.
        ids = await self._failing(request.queue)
        deleted, *_ = await self._store.commit([Purge(queue=request.queue), SealFailures(ids=ids, reason=PURGED)])
        return Purged(queue=request.queue, deleted=deleted)

    async def _failing(self, queue: str) -> tuple[str, ...]:
        """Return the kept failures whose messages the queue would hand out again."""
        ids: list[str] = []
        before_id = ""
        while found := await self._store.failures(count_max=FAILURES_MAX, before_id=before_id):
            ids += [failure.id for failure in found if failure.source == f"queue:{queue}" and not failure.is_final]
            before_id = found[-1].id
        return tuple(ids)

    async def _find(self, queue: str) -> QueueDepth:
        depths = await self._store.queue_depths()
        for depth in depths:
            if depth.queue == queue:
                return depth
        raise CommandError(f"there is no queue `{queue}`", hint=name_known(queue, [depth.queue for depth in depths]))

    async def _find_source(self, queue: str) -> str:
        sources = [
            depth.queue for depth in await self._store.queue_depths() if depth.settings.dead_letter_queue == queue
        ]
        if len(sources) == 1:
            return sources[0]
        if not sources:
            raise CommandError(f"`{queue}` is the dead-letter queue of no queue", hint="name a target: --to QUEUE")
        raise CommandError(
            f"`{queue}` is the dead-letter queue of {', '.join(sources)}", hint="choose the target: --to QUEUE"
        )


def _describe(message: StoredMessage, now_ms: int) -> Message:
    state = "visible"
    if message.visible_ms > now_ms:
        state = "hidden" if message.receive_count else "delayed"
    return Message(
        number=message.number,
        id=message.id,
        body=as_text(message.body),
        headers=[Header(name=name, value=as_text(value)) for name, value in message.headers],
        group=message.group,
        sent_ms=message.sent_ms,
        receive_count=message.receive_count,
        visible_ms=message.visible_ms,
        state=state,
        deduplication_id=message.deduplication_id,
    )

"""Message-move tasks: the messages of a dead-letter queue go back to where they came from, as new messages.

Source: Lambda semantics §3.2 "StartMessageMoveTask". A task is a note in the store: the next engine goes on where this
one ended. A message is gone in the transaction that holds its copy, never before. What comes to the queue after a task
has begun is not moved by it: a message that fails again and comes back does not go round and round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import anyio
import msgspec

from eventcore.clock import Clock
from eventcore.engine.move_task import RATE_MAX, MoveState, MoveTask
from eventcore.errors import CommandError, StoreUnavailable
from eventcore.ids import IdFactory
from eventcore.ports.store import MovedCount, MoveMessages, PutNote, QueueDepth, Store

#: Finished tasks that are remembered: enough to see what was done lately.
TASKS_KEPT = 50
#: A store that can't be written is tried again after so long, seconds.
RETRY_S = 1.0
_NOTE = "queue-moves"


_decode = msgspec.json.Decoder(list[MoveTask]).decode


class MoveTasks:
    """The tasks of one store: one at a time a queue."""

    def __init__(self, store: Store, clock: Clock, ids: IdFactory) -> None:
        self._store = store
        self._clock = clock
        self._ids = ids
        self._writing = anyio.Lock()  #: the note is read and written as a whole
        self._changed = anyio.Event()

    async def all(self) -> Sequence[MoveTask]:
        """Return the tasks that are known, newest first."""
        note = await self._store.note(_NOTE)
        return _decode(note) if note else []

    async def check(self, source: QueueDepth, target: QueueDepth) -> None:
        """Refuse what `start` would refuse now; see there."""
        _check_pair(source, target)
        _check_alone(await self.all(), source.queue)

    async def start(self, source: QueueDepth, target: QueueDepth, *, rate: int = 0) -> MoveTask:
        """Begin a task.

        Args:
            source: the queue whose messages are moved.
            target: where they go.
            rate: messages a second, 1-`RATE_MAX`; 0: as fast as the store writes.

        Raises:
            CommandError: the queue has a task that runs, is its own target, or is of another type than its target.
        """
        if not 0 <= rate <= RATE_MAX:
            raise CommandError(f"a rate is 1-{RATE_MAX} messages a second, not {rate}")
        _check_pair(source, target)
        task = MoveTask(
            id=self._ids.new_id(),
            queue=source.queue,
            target=target.queue,
            rate=rate,
            expected=source.visible,
            through_number=source.last_number,
            started_ms=self._clock.now_ms(),
        )
        async with self._writing:
            tasks = await self.all()
            _check_alone(tasks, task.queue)
            running = [other for other in tasks if not other.is_over]
            over = [other for other in tasks if other.is_over]
            await self._store.commit([_note([task, *running, *over[:TASKS_KEPT]])])
        self._changed.set()
        return task

    async def cancel(self, queue: str) -> MoveTask:
        """Have the task of a queue end before its next step; what was moved stays moved.

        Raises:
            CommandError: no task of the queue runs.
        """
        return await self._change(queue, lambda task: msgspec.structs.replace(task, state=MoveState.CANCELLING))

    async def find(self, task_id: str) -> MoveTask:
        """Return a task.

        Raises:
            CommandError: it is not known, or not any more.
        """
        for task in await self.all():
            if task.id == task_id:
                return task
        raise CommandError(f"there is no move task {task_id}")

    async def step(self, queue: str) -> MoveTask:
        """Move the next messages of a queue's task, or end it.

        Raises:
            CommandError: no task of the queue runs.
            StoreUnavailable: nothing was moved.
        """
        async with self._writing:
            tasks = list(await self.all())
            task = _running(tasks, queue)
            if task.state is MoveState.CANCELLING:
                return await self._write(tasks, self._end(task, MoveState.CANCELLED))
            before = await self._find_depth(task.queue)
            if before is None or await self._find_depth(task.target) is None:
                failed = msgspec.structs.replace(task, why_failed="one of its queues is gone")
                return await self._write(tasks, self._end(failed, MoveState.FAILED))
            count = task.step_messages
            move = MoveMessages(
                source=task.queue,
                target=task.target,
                count_max=count,
                now_ms=self._clock.now_ms(),
                ids=tuple([self._ids.new_id() for _ in range(count)]),
                through_number=task.through_number,
            )
            return await self._move(tasks, task, move)

    async def _move(self, tasks: list[MoveTask], task: MoveTask, move: MoveMessages) -> MoveTask:
        done: MovedCount
        (done,) = await self._store.commit([move])
        # Killed before this is written, the task goes on, and has moved more than it says.
        task = msgspec.structs.replace(task, taken=task.taken + done.taken, moved=task.moved + done.moved)
        if not done.taken:
            task = self._end(task, MoveState.COMPLETED)
        return await self._write(tasks, task)

    def _end(self, task: MoveTask, state: MoveState) -> MoveTask:
        return msgspec.structs.replace(task, state=state, ended_ms=self._clock.now_ms())

    async def _change(self, queue: str, change: Callable[[MoveTask], MoveTask]) -> MoveTask:
        async with self._writing:
            tasks = list(await self.all())
            task = await self._write(tasks, change(_running(tasks, queue)))
        self._changed.set()
        return task

    async def _write(self, tasks: Sequence[MoveTask], task: MoveTask) -> MoveTask:
        await self._store.commit([_note([task if other.id == task.id else other for other in tasks])])
        return task

    async def _find_depth(self, queue: str) -> QueueDepth | None:
        return next((depth for depth in await self._store.queue_depths() if depth.queue == queue), None)

    # -- in an engine --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Carry out the tasks that run, each at its own rate, until cancelled."""
        async with anyio.create_task_group() as group:
            at_work: set[str] = set()
            while True:
                self._changed = anyio.Event()
                for task in await self._read():
                    if not task.is_over and task.id not in at_work:
                        at_work.add(task.id)
                        group.start_soon(self._carry_out, task)
                await self._changed.wait()

    async def _read(self) -> Sequence[MoveTask]:
        while True:
            with suppress(StoreUnavailable):
                return await self.all()
            await anyio.sleep(RETRY_S)

    async def _carry_out(self, task: MoveTask) -> None:
        while not task.is_over:
            try:
                task = await self.step(task.queue)
            except StoreUnavailable:
                # The task goes on where it is: mappings that need the store show it as their problem.
                await anyio.sleep(RETRY_S)
            else:
                await anyio.sleep(0 if task.is_over else task.pause_s)


def _check_pair(source: QueueDepth, target: QueueDepth) -> None:
    if source.queue == target.queue:
        raise CommandError("a queue can't be redriven into itself")
    if source.settings.fifo_queue is not target.settings.fifo_queue:
        raise CommandError(f"`{source.queue}` and `{target.queue}` are not of one type: one is a FIFO queue")


def _check_alone(tasks: Sequence[MoveTask], queue: str) -> None:
    if any(other.queue == queue and not other.is_over for other in tasks):
        raise CommandError(
            f"messages of `{queue}` are being moved already",
            hint=f"see `eventcore queue moves`, or end it: eventcore queue cancel-move {queue}",
        )


def _running(tasks: Sequence[MoveTask], queue: str) -> MoveTask:
    for task in tasks:
        if task.queue == queue and not task.is_over:
            return task
    raise CommandError(f"no messages of `{queue}` are being moved")


def _note(tasks: Sequence[MoveTask]) -> PutNote:
    return PutNote(name=_NOTE, value=msgspec.json.encode(list(tasks)))

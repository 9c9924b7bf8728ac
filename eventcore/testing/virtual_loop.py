"""An event loop whose time jumps to the next timer when nothing is ready: six hours of retries in about a second.

Everything that waits with anyio or asyncio waits in virtual time, so that a run takes no longer than its work and is
the same each time. Whatever answers in real time can't be part of it: threads, sockets, subprocesses and signals are
refused by name, because virtual time would run past every deadline before the first answer.

One thing is not the same on every run: anyio cancels the tasks of a scope in no fixed order. What must repeat exactly
stops its tasks one by one.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import selectors
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar, TypeVarTuple

import anyio

from eventcore.errors import ProgrammingError
from eventcore.ids import SeededIds

#: Virtual time ends here, seconds: past every retention, record age and retry there is. Only a run that nothing ends
#: gets there, as a test that waits for what never comes while a heartbeat ticks.
LIMIT_S = 400 * 86_400.0
#: asyncio looks ahead by one day at most, seconds. A timer that is further off than two is met when it comes; one that
#: never comes (`anyio.sleep_forever` sets it at infinity) is no timer.
QUIET_S = 2 * 86_400.0
#: Instants that are nearer to each other than this are one, seconds: above what a float resolves at `LIMIT_S`.
RESOLUTION_S = 1e-7
#: How long cleaning up after an error waits for a thread that was started all the same, seconds of real time.
CLEAN_UP_S = 2.0
#: Tasks that an error lists, and the innermost frames that it shows of each.
TASKS_SHOWN_MAX = 50
FRAMES_SHOWN_MAX = 8

_LOOP_CODE = (str(Path(asyncio.__file__).parent), str(Path(anyio.__file__).parent))

T = TypeVar("T")
Args = TypeVarTuple("Args")

_THREAD = "a thread takes real time, and virtual time would pass every deadline before it answers"
_PROCESS = "a process takes real time, and virtual time would pass every deadline before it answers"
_SOCKET = "what comes from outside comes in real time; use embedded sources on the memory store, or a real loop"
_SIGNAL = "a signal comes at a real time, and no run would repeat another; call what its handler calls"

_REFUSED = {
    "run_in_executor": _THREAD,
    "set_default_executor": _THREAD,
    "getaddrinfo": _THREAD,
    "getnameinfo": _THREAD,
    "subprocess_exec": _PROCESS,
    "subprocess_shell": _PROCESS,
    "connect_read_pipe": _PROCESS,
    "connect_write_pipe": _PROCESS,
    "add_signal_handler": _SIGNAL,
    "add_reader": _SOCKET,
    "add_writer": _SOCKET,
    "connect_accepted_socket": _SOCKET,
    "create_connection": _SOCKET,
    "create_datagram_endpoint": _SOCKET,
    "create_server": _SOCKET,
    "create_unix_connection": _SOCKET,
    "create_unix_server": _SOCKET,
    "sendfile": _SOCKET,
    "sock_accept": _SOCKET,
    "sock_connect": _SOCKET,
    "sock_recv": _SOCKET,
    "sock_recv_into": _SOCKET,
    "sock_recvfrom": _SOCKET,
    "sock_recvfrom_into": _SOCKET,
    "sock_sendall": _SOCKET,
    "sock_sendfile": _SOCKET,
    "sock_sendto": _SOCKET,
    "start_tls": _SOCKET,
}


class VirtualTimeError(ProgrammingError):
    """Something can't be done in virtual time."""


class Deadlock(VirtualTimeError):
    """Nothing is ready, no timer is set, and tasks wait."""


class _Selector(selectors.SelectSelector):
    """Waits for nothing: tells the loop how long it would have to."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        error = self._loop.pass_time(timeout)
        if error is None:
            return []
        # Cleaning up: a cancelled task may wait for a thread that was started all the same.
        is_stuck = timeout is None
        events = super().select(CLEAN_UP_S if is_stuck and self._loop.strangers() else 0)
        if is_stuck and not events:
            raise error
        return events


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """The loop. Time begins at 0, or where a loop before it ended, and stands still while anything is ready.

    Its first error ends the run; what is left of the loop after that is for the cancelled tasks to end.
    """

    def __init__(self, seed: int = 0, start_s: float = 0.0) -> None:
        self._now_s = start_s
        self._active_s = start_s
        self._own_thread = threading.get_ident()
        self._known_threads = frozenset(threading.enumerate())
        self._error: VirtualTimeError | None = None
        self._is_cleaning_up = False
        self._ids = SeededIds(seed) if seed else None
        self._due: list[_Timer] = []
        super().__init__(_Selector(self))
        # asyncio's own attribute: how much earlier than its instant a timer may fire. Its value from the real clock is
        # less than what a float resolves after some months, and then no timer would be due at its instant.
        self._clock_resolution = RESOLUTION_S

    def time(self) -> float:
        """Return the virtual seconds since the loop was made."""
        return self._now_s

    def pass_time(self, timeout_s: float | None) -> VirtualTimeError | None:
        """Let virtual time pass up to the next timer; return the error that is being cleaned up after.

        Args:
            timeout_s: seconds until the next timer; 0 when something is ready, None when there is no timer.

        Raises:
            VirtualTimeError: what can't be in virtual time has happened.
        """
        if not self._is_cleaning_up:
            if self._error is None and timeout_s != 0:
                self._error = self._find_error(timeout_s)
            if self._error is not None:
                self._is_cleaning_up = True
                raise self._error
        self._now_s += timeout_s or 0.0
        if timeout_s is not None and timeout_s * 2 < QUIET_S:
            self._active_s = self._now_s
        return self._error

    def strangers(self) -> list[threading.Thread]:
        """Return the threads that were started since the loop was made and have not ended."""
        return [thread for thread in threading.enumerate() if thread not in self._known_threads]

    def _find_error(self, timeout_s: float | None) -> VirtualTimeError | None:
        if strangers := self.strangers():
            return VirtualTimeError(f"the thread `{strangers[0].name}` was started: {_THREAD}{self._waiting()}")
        if timeout_s is not None and self._now_s <= LIMIT_S:
            return None
        if timeout_s is None or self._now_s - self._active_s > QUIET_S:
            return Deadlock(f"nothing is ready and no timer is set, at {self._active_s:g} s{self._waiting()}")
        return VirtualTimeError(f"{LIMIT_S:g} s have passed and nothing ended the run{self._waiting()}")

    def _waiting(self) -> str:
        """Return the waiting tasks, each with the frames that it waits in, innermost last."""
        tasks = sorted(asyncio.all_tasks(self), key=lambda task: (len(task.get_name()), task.get_name()))
        lines = [f"\n  {task.get_name()}{_position(task)}" for task in tasks[:TASKS_SHOWN_MAX]]
        more = f"\n  and {len(tasks) - TASKS_SHOWN_MAX} more" if len(tasks) > TASKS_SHOWN_MAX else ""
        return f"; these tasks wait:{''.join(lines)}{more}" if tasks else ""

    def call_soon_threadsafe(
        self, callback: Callable[[*Args], object], *args: *Args, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """Call from the loop's own thread; from another one, end the run with an error that names the thread."""
        if threading.get_ident() != self._own_thread and self._error is None:
            # Raised in the loop at its next turn: in the other thread nobody would see it.
            name = threading.current_thread().name
            self._error = VirtualTimeError(f"call_soon_threadsafe was called from the thread `{name}`: {_THREAD}")
        return super().call_soon_threadsafe(callback, *args, context=context)

    # -- timers that are due at the same instant -----------------------------------------------------------------------

    def call_at(
        self, when: float, callback: Callable[[*Args], object], *args: *Args, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Call at a virtual time; see `virtual_loop` for those of one instant."""
        if self._ids is None:
            return super().call_at(when, callback, *args, context=context)
        timer = _Timer(functools.partial(callback, *args), context or contextvars.copy_context())
        timer.handle = super().call_at(when, self._collect, timer)
        return timer.handle

    def _collect(self, timer: _Timer) -> None:
        if not self._due:
            self.call_soon(self._release)
        self._due.append(timer)

    def _release(self) -> None:
        assert self._ids is not None, "only timers of a seeded loop are collected"
        due, self._due = self._due, []
        order = [self._ids.random_bits(32) for _ in due]
        for _, timer in sorted(zip(order, due, strict=True), key=lambda pair: pair[0]):
            self.call_soon(timer.fire, context=timer.context)


class _Timer:
    """A timer of a seeded loop: its handle is known only after it is set."""

    handle: asyncio.TimerHandle

    def __init__(self, callback: Callable[[], object], context: contextvars.Context) -> None:
        self._callback = callback
        self.context = context

    def fire(self) -> None:
        if not self.handle.cancelled():
            self._callback()


def _refuse(name: str, why: str) -> Callable[..., None]:
    def refuse(*_: object, **__: object) -> None:
        raise VirtualTimeError(f"{name} is refused in virtual time: {why}")

    return refuse


for _name, _why in _REFUSED.items():
    setattr(VirtualTimeLoop, _name, _refuse(_name, _why))


def _position(task: asyncio.Task[Any]) -> str:
    """Return where a task waits: the frames outside of the event loop's own code, and the innermost one."""
    frames = list(_frames(task.get_coro()))
    shown = [frame for frame in frames[:-1] if not frame.f_code.co_filename.startswith(_LOOP_CODE)] + frames[-1:]
    places = [f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}" for frame in shown]
    return "".join(f"\n    {place}" for place in places[-FRAMES_SHOWN_MAX:])


def _frames(awaited: object) -> Iterator[FrameType]:
    """Yield the frames of a suspended coroutine, outermost first; `Task.get_stack` knows only that one."""
    while awaited is not None:
        for frame, inner in (("cr_frame", "cr_await"), ("gi_frame", "gi_yieldfrom"), ("ag_frame", "ag_await")):
            if hasattr(awaited, frame):
                if getattr(awaited, frame) is not None:
                    yield getattr(awaited, frame)
                awaited = getattr(awaited, inner)
                break
        else:
            return


def virtual_loop(seed: int = 0) -> VirtualTimeLoop:
    """Return a new loop in virtual time, for `loop_factory` of anyio and asyncio and for pytest-asyncio's hook.

    Args:
        seed: 0 runs timers of the same instant in the order of a real loop. Any other number shuffles them, equally
            for equal seeds: an order that a real loop promises nobody, and a test should not rely on.
    """
    return VirtualTimeLoop(seed)


def run_virtual(function: Callable[[*Args], Awaitable[T]], *args: *Args, seed: int = 0) -> T:
    """Run an async function to its end in virtual time and return its result.

    Raises:
        VirtualTimeError: it starts threads or processes, opens sockets or waits for signals.
        Deadlock: it waits for what can't happen; the message lists the waiting tasks.
    """
    loop_factory = functools.partial(virtual_loop, seed)
    return anyio.run(function, *args, backend="asyncio", backend_options={"loop_factory": loop_factory})

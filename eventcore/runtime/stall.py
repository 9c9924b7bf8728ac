"""Names the inline handler that blocks the event loop, by function, file and line.

The loop beats while handlers run; a thread that misses a beat for too long looks where the loop stands. It looks as
Python code, holding the interpreter's lock: faulthandler's timer walks frames without it, and was seen to end the
process (signal 11) when it fired on a busy machine. What it saw is read when the loop runs again, so a handler that
never comes back is named by the traceback of the Ctrl-C that ends it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable
from functools import partial
from types import FrameType
from typing import NamedTuple

import anyio
import anyio.to_thread

from eventcore.loop import loop_clock
from eventcore.ports.runtime import FunctionSpec
from eventcore.runtime.handler import Loaded
from eventcore.runtime.report import Reporter

#: Places named, each once: a handler that blocks does it with every record.
PLACES_MAX = 1000
#: Frames looked at, the deepest first: a handler that recurses without end must not cost the memory of its stack twice.
FRAMES_MAX = 1000

Handlers = Callable[[], Iterable[tuple[FunctionSpec, Loaded]]]


class _Frame(NamedTuple):
    file: str
    line: int
    name: str


class StallWatch:
    """Watches the loop that it was made in, while handlers run."""

    def __init__(self, stall_s: float, handlers: Handlers, is_busy: Callable[[], bool], reporter: Reporter) -> None:
        """Watch nothing yet.

        Args:
            stall_s: what blocks the loop for longer is named.
            handlers: yields every function whose handler is imported.
            is_busy: tells whether a handler runs; a beat after the last one, nothing beats and no thread wakes.
            reporter: takes the line that names a handler.
        """
        self._stall_s = stall_s
        self._handlers = handlers
        self._is_busy = is_busy
        self._reporter = reporter
        self._named: set[str] = set()
        self._now = loop_clock()
        self._loop_thread = threading.get_ident()
        self._beat_at = 0.0
        self._is_armed = False
        self._is_used = False  #: a handler has begun since the last beat
        self._armed_in_loop = anyio.Event()
        self._armed_in_thread = threading.Event()
        self._closed = threading.Event()
        self._seen: list[_Frame] = []

    def arm(self) -> None:
        """Watch from now on, because a handler begins; it may block before anything else of the loop runs."""
        self._is_used = True
        if not self._is_armed:
            self._is_armed = True
            self._beat_at = self._now()
            self._armed_in_loop.set()
            self._armed_in_thread.set()

    async def run(self) -> None:
        """Watch until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(anyio.to_thread.run_sync, self._look, limiter=anyio.CapacityLimiter(1)))
            try:
                while True:
                    await self._armed_in_loop.wait()
                    await self._beat()
            finally:
                # What blocked last may have been seen, and no beat come after it.
                self._name_what_stalled()
                self._closed.set()
                self._armed_in_thread.set()

    async def _beat(self) -> None:
        """Beat until no handler runs and none has begun since the last beat.

        Short ones that follow each other would else have the watch begin and end with each.
        """
        while self._is_used or self._is_busy():
            self._is_used = False
            self._beat_at = self._now()
            self._name_what_stalled()
            await anyio.sleep(self._stall_s / 2)
        self._name_what_stalled()
        self._armed_in_loop = anyio.Event()
        self._armed_in_thread.clear()
        self._is_armed = False

    def _look(self) -> None:
        """Wait for missed beats, in a thread, and keep where the loop stood at each."""
        # A beat is late once the loop has been blocked for the whole of `stall_s`, wherever between two that began.
        late_s = self._stall_s * 1.5
        while True:
            self._armed_in_thread.wait()
            beat_at = self._beat_at
            if self._closed.wait(max(0.0, beat_at + late_s - self._now())):
                return
            if beat_at == self._beat_at and self._armed_in_thread.is_set():
                # Python's documented way to another thread's stack, its name notwithstanding.
                self._seen = _frames_of(sys._current_frames().get(self._loop_thread))  # noqa: SLF001
                if self._closed.wait(self._stall_s):
                    return

    def _name_what_stalled(self) -> None:
        frames, self._seen = self._seen, []
        if not frames:
            return
        for function, loaded in self._handlers():
            place = _find_place(frames, loaded)
            if place and place not in self._named and len(self._named) < PLACES_MAX:
                self._named.add(place)
                self._reporter.say(
                    function.name,
                    "",
                    f"{function.handler} blocked the event loop for more than {self._stall_s:g} s at {place}: "
                    'await there, or give the function runtime = "process"',
                )


def _frames_of(frame: FrameType | None) -> list[_Frame]:
    """Return where a thread stands, the deepest frame first."""
    frames: list[_Frame] = []
    while frame is not None and len(frames) < FRAMES_MAX:
        frames.append(_Frame(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
        frame = frame.f_back
    return frames


def _find_place(frames: list[_Frame], loaded: Loaded) -> str:
    """Return where beneath a handler the loop stood: in the user's code if possible; empty if not beneath it."""
    code = getattr(loaded.call, "__code__", None)
    if code is None:
        return ""
    for index, frame in enumerate(frames):
        if (frame.file, frame.name) == (code.co_filename, code.co_name):
            beneath = frames[: index + 1]
            own = [each for each in beneath if each.file.startswith(loaded.code) and "site-packages" not in each.file]
            deepest = (own or beneath)[0]
            return f"{deepest.file}:{deepest.line} in {deepest.name}"
    return ""

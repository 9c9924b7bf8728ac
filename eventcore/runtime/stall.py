"""Names the inline handler that blocks the event loop, by function, file and line.

A timer in a thread of faulthandler's own, in C, which needs neither the loop nor the interpreter: the loop puts it
off every half period, and when it can't, the traceback is written. It is read when the loop runs again, so a handler
that never comes back is named by the traceback of the Ctrl-C that ends it.
"""

from __future__ import annotations

import faulthandler
import re
import tempfile
import threading
from collections.abc import Callable, Iterable
from typing import IO

import anyio

from eventcore.ports.runtime import FunctionSpec
from eventcore.runtime.handler import Loaded
from eventcore.runtime.report import Reporter

#: Places named, each once: a handler that blocks does it with every record.
PLACES_MAX = 1000

_FRAME = re.compile(r'^  File "(?P<file>.+)", line (?P<line>\d+) in (?P<name>.+)$')

Handlers = Callable[[], Iterable[tuple[FunctionSpec, Loaded]]]


class StallWatch:
    """Watches the loop that it runs in."""

    def __init__(self, stall_s: float, handlers: Handlers, reporter: Reporter) -> None:
        self._stall_s = stall_s
        self._handlers = handlers
        self._reporter = reporter
        self._thread = f"0x{threading.get_ident():016x}"
        self._named: set[str] = set()

    async def run(self) -> None:
        """Watch until cancelled. For one watch a process: the timer is the process's only one."""
        with tempfile.TemporaryFile() as dump:
            try:
                while True:
                    faulthandler.dump_traceback_later(self._stall_s, file=dump)
                    await anyio.sleep(self._stall_s / 2)
                    faulthandler.cancel_dump_traceback_later()
                    self._name_what_stalled(dump)
            finally:
                faulthandler.cancel_dump_traceback_later()

    def _name_what_stalled(self, dump: IO[bytes]) -> None:
        dump.seek(0)
        text = dump.read().decode(errors="replace")
        dump.seek(0)
        dump.truncate()
        frames = _frames_of(text, self._thread)
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


def _frames_of(text: str, thread: str) -> list[tuple[str, int, str]]:
    """Return the frames of one thread, the deepest first."""
    frames = []
    is_ours = False
    for line in text.splitlines():
        if not line.startswith(" "):
            is_ours = thread in line
        elif is_ours and (match := _FRAME.match(line)):
            frames.append((match["file"], int(match["line"]), match["name"]))
    return frames


def _find_place(frames: list[tuple[str, int, str]], loaded: Loaded) -> str:
    """Return where beneath a handler the loop stood: in the user's code if possible; empty if not beneath it."""
    code = getattr(loaded.call, "__code__", None)
    if code is None:
        return ""
    for index, (file, _, name) in enumerate(frames):
        if (file, name) == (code.co_filename, code.co_name):
            beneath = frames[: index + 1]
            own = [frame for frame in beneath if frame[0].startswith(loaded.code) and "site-packages" not in frame[0]]
            deepest = (own or beneath)[0]
            return f"{deepest[0]}:{deepest[1]} in {deepest[2]}"
    return ""

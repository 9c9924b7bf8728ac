"""An environment as the engine holds it: its channel, its output, its process, and why it was ended."""

from __future__ import annotations

import enum
import math
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import anyio
import msgspec

from eventcore.ports.runtime import HandlerForm
from eventcore.runtime import protocol
from eventcore.runtime.channel import Channel, Deadlines
from eventcore.runtime.output import OutputCapture
from eventcore.runtime.tree import signal_group


class EndReason(enum.Enum):
    """Why the engine ended an environment."""

    TIMEOUT = "timeout"
    MEMORY = "memory"
    STORAGE = "storage"
    RELEASED = "released"  #: `Runtime.kill`, or nobody waits for its invocation any more
    UNFIT = "unfit"  #: it could not start, closed its channel, or wrote what is no reply
    UNUSED = "unused"  #: idle too long, or its function was retired


class RemoteEnvironment:
    """One environment, from the request for it until its process is gone. Not reusable."""

    def __init__(
        self, number: int, temporary: Path, output: OutputCapture, deadlines: Deadlines, *, replaces_lost: bool
    ) -> None:
        self.number = number
        self.temporary = temporary  #: its TMPDIR
        self.output = output
        #: It goes on where one that timed out or crashed ended: with its folder, and without an init of its own.
        self.replaces_lost = replaces_lost
        self.form = HandlerForm.EVENT  #: known once it is ready
        self.request_id: str | None = None  #: what it serves; None while idle
        self.idle_since = 0.0
        self.is_frozen = False
        self.peak_kb = 0
        self.exit_code: int | None = None
        self.ended_by: EndReason | None = None
        self.why_not_started = ""
        self._deadlines = deadlines
        self._pid: int | None = None
        self._is_killed = False
        self._exited = anyio.Event()
        self._channel: Channel
        self._on_exit: Callable[[RemoteEnvironment], None]

    def open(self, on_exit: Callable[[RemoteEnvironment], None]) -> tuple[int, ...]:
        """Make its descriptors and return those of its process (`environment.Descriptors`), owned by the caller.

        Args:
            on_exit: called once its process is gone.

        Raises:
            OSError: no more files can be opened; none is left open.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._channel = Channel(ours, self._deadlines)
        self._on_exit = on_exit
        try:
            writing = self.output.open()
        except OSError:
            self._channel.close()
            theirs.close()
            raise
        return theirs.detach(), *writing

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        return self._pid if self.exit_code is None else None

    @property
    def is_alive(self) -> bool:
        """Whether its process is there and nobody has killed it."""
        return self.exit_code is None and not self._is_killed

    @property
    def was_never_started(self) -> bool:
        """Whether no process was ever heard of."""
        return self._pid is None

    def send(self, frame: msgspec.Struct) -> None:
        """Send a frame; an environment that is gone takes it to nowhere."""
        self._channel.send(protocol.encode(frame))

    async def receive(self, deadline: float = math.inf) -> protocol.FromEnvironment | None:
        """Return the next frame; None when the environment is gone or writes what is none.

        Raises:
            TimeoutError: the loop's time passed ``deadline``, and there was none.
        """
        body = await self._channel.receive(deadline)
        if body is None:
            return None
        try:
            return protocol.FROM_ENVIRONMENT.decode(body)
        except msgspec.DecodeError:
            return None

    def thaw(self) -> None:
        """Let its processes run again if they were frozen."""
        if self.is_frozen:
            self.is_frozen = False
            self.signal(signal.SIGCONT)

    def freeze(self) -> None:
        """Stop its processes until they are thawed or killed."""
        self.is_frozen = True
        self.signal(signal.SIGSTOP)

    def signal(self, signum: int) -> None:
        """Send a signal to its process group."""
        if self.pid is not None:
            signal_group(self.pid, signum)

    def kill(self, reason: EndReason) -> None:
        """Kill its process group; the zygote kills what descends from it besides. The first reason stands."""
        self.ended_by = self.ended_by or reason
        self._is_killed = True
        self.signal(signal.SIGKILL)

    async def wait_exited(self) -> None:
        """Wait until its process is gone."""
        await self._exited.wait()

    def set_started(self, pid: int) -> None:
        """Take note of its process; one that was killed before it was there is killed now."""
        self._pid = pid
        if self._is_killed:
            self.signal(signal.SIGKILL)

    def set_exited(self, exit_code: int) -> None:
        """Take note that its process is gone: take in what it still said, and wake who waits."""
        if self.exit_code is not None:
            return
        self._channel.read_last()
        self._channel.close()
        self.exit_code = exit_code
        self.output.end()
        self.output.close()
        self._exited.set()
        self._on_exit(self)

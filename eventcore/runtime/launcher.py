"""The engine's side of a zygote: starts it, asks it for environments, hears of their ends, ends it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import anyio

from eventcore.errors import RuntimeUnavailable
from eventcore.runtime import protocol
from eventcore.runtime.channel import Channel, Deadlines
from eventcore.runtime.remote import RemoteEnvironment

#: How long a zygote may take to kill everything and end; it allows itself 0.8 s. Then it is killed.
CLOSE_WAIT_S = 2.0
#: Environments asked for at a time: the socket holds some 250 requests, and more would be refused, not queued.
STARTS_MAX = 64
#: Exit code of environments whose zygote ended: the kernel has killed them.
_KILLED = -signal.SIGKILL


class Launcher:
    """A zygote and the environments forked from it. Made by `open_launcher`; `listen` runs in the owner's group."""

    def __init__(self, process: subprocess.Popen[bytes], channel: Channel, errors: IO[bytes]) -> None:
        self._process = process
        self._channel = channel
        self._errors = errors
        self._environments: dict[int, RemoteEnvironment] = {}
        self._slots = anyio.Semaphore(STARTS_MAX)
        self._closed = anyio.Event()
        self.refusal = ""  #: why the zygote would not start: its preload

    @property
    def is_open(self) -> bool:
        """Whether environments can be had."""
        return self._channel.is_open

    async def reserve(self) -> None:
        """Wait until one more environment may be asked for; then `start` or `give_back` must follow at once."""
        await self._slots.acquire()

    def give_back(self) -> None:
        """Say that what was reserved is not needed."""
        self._slots.release()

    def start(self, environment: RemoteEnvironment, descriptors: Sequence[int]) -> None:
        """Ask for the process of an environment; takes the descriptors, which are its ends."""
        self._environments[environment.number] = environment
        try:
            self._channel.send(protocol.encode(protocol.Start(environment.number)), tuple(descriptors))
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        if not self.is_open:
            environment.set_exited(_KILLED)

    async def listen(self) -> None:
        """Take the zygote's messages until it ends, then give up its environments."""
        try:
            while (body := await self._channel.receive()) is not None:
                self._hear(protocol.FROM_ZYGOTE.decode(body))
        finally:
            for environment in list(self._environments.values()):
                environment.signal(signal.SIGKILL)
                environment.set_exited(_KILLED)
            self._channel.close()
            self._closed.set()
            for _ in range(self._slots.statistics().tasks_waiting):
                self.give_back()

    def _hear(self, message: protocol.FromZygote) -> None:
        match message:
            case protocol.Started(number, pid):
                self.give_back()
                self._environments[number].set_started(pid)
            case protocol.NotStarted(number, reason):
                self.give_back()
                environment = self._environments.pop(number)
                environment.why_not_started = reason
                environment.set_exited(_KILLED)
            case protocol.Exited(number, exit_code):
                self._environments.pop(number).set_exited(exit_code)
            case protocol.Refused(reason):
                self.refusal = reason

    def give_up(self) -> None:
        """Kill a zygote that does not answer; the next environment gets another."""
        self._process.kill()

    async def close(self) -> None:
        """End the zygote and everything that came from it; returns when all is gone. Safe to repeat."""
        with anyio.move_on_after(CLOSE_WAIT_S, shield=True):
            self._process.terminate()
            await self._closed.wait()
        if not self._closed.is_set():
            self._process.kill()
        # Its end of the channel closed with it: this returns at once.
        self._process.wait(timeout=CLOSE_WAIT_S)
        self._errors.close()

    def why_ended(self) -> RuntimeUnavailable:
        """Return the error that says why there is no zygote, with the last of its own words."""
        self._errors.seek(0)
        words = self._errors.read().decode(errors="replace").strip().splitlines()[-1:]
        return RuntimeUnavailable(": ".join(["no environment can be started", "the zygote ended", *words]))


def open_launcher(
    folder: Path, variables: Mapping[str, str], *, code: Path | None = None, preload: Sequence[str] = ()
) -> Launcher:
    """Start a zygote.

    Args:
        folder: where environments' folders lie; the zygote deletes it when the engine is killed.
        variables: its environment.
        code: for a function's own zygote, the folder of its code.
        preload: the modules that it imports.

    Raises:
        OSError: no more files can be opened, or no more processes started.
    """
    with contextlib.ExitStack() as opened:
        errors = opened.enter_context(tempfile.TemporaryFile())
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        opened.enter_context(ours)
        command = [sys.executable, "-P", "-m", "eventcore.runtime.zygote", str(theirs.fileno()), str(folder)]
        with theirs:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [*command, *([] if code is None else [str(code)]), *preload],
                env=dict(variables),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # Ctrl-C is for the engine, which drains; not for those it drains
            )
        opened.pop_all()  # from here on it is the launcher that closes them
    return Launcher(process, Channel(ours, Deadlines()), errors)

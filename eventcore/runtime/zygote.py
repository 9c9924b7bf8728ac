"""The zygote: the process that every environment is forked from (``python -m eventcore.runtime.zygote``).

One thread, the standard library, msgspec and eventcore's model; for a function with `preload`, those modules too. It
never imports a handler and never sees a function's variables or events. It hears of every end: it is the subreaper
of all environments, and since each of those is the subreaper of its own descendants, a child of the zygote that is no
environment must have lost one, and is killed. The end of its control socket is the engine's end: then everything is.
"""

from __future__ import annotations

import asyncio  # noqa: F401 - not for this process: so that environments of asynchronous handlers find it imported
import gc
import os
import select
import shutil
import signal
import socket
import sys

from eventcore.runtime import environment, preload, protocol
from eventcore.runtime.environment import Descriptors
from eventcore.runtime.tree import adopt_orphans, children_of, die_with_parent, kill_all, signal_group

#: How long the last kills are waited for after the engine's end; all are to be gone within a second.
END_WAIT_MS = 800
#: A look at what is still there, meanwhile.
_END_STEP_MS = 20
#: How often, and after what pause, strays are looked for after an end: the kernel's list of children may skip some
#: while it changes, and a stray may have forked another before it died.
_SWEEPS = 3
_SWEEP_MS = 20
#: What the kernel sends at the engine's death; SIGTERM is the engine's own word, that it cleans up itself.
_ENGINE_DIED = signal.SIGHUP
_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, _ENGINE_DIED)
_DESCRIPTORS = len(Descriptors._fields)


class Zygote:
    """Forks environments as the engine asks, and reports their ends."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._frames = protocol.FrameBuffer()
        self._numbers: dict[int, int] = {}  #: environments by their pid
        self._sweeps_due = 0
        self._is_ended = False
        self.is_orphaned = False  #: the engine ended without ending this zygote
        self._wake, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        for signum in _SIGNALS:
            signal.signal(signum, lambda *_: None)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)

    def supervise(self) -> Descriptors | None:
        """Serve the engine until it ends, then return None; in a forked child, return its descriptors."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while not self._is_ended:
            for number, _ in poll.poll(_SWEEP_MS if self._sweeps_due else None):
                if number == self._wake:
                    self._hear_signals()
                elif (descriptors := self._hear_engine()) is not None:
                    return descriptors
            if self._sweeps_due:
                self._kill_strays()
        self._end_everything()
        return None

    def _hear_signals(self) -> None:
        heard = os.read(self._wake, 4096)
        self._is_ended |= signal.SIGTERM in heard or _ENGINE_DIED in heard
        self.is_orphaned |= _ENGINE_DIED in heard
        self._reap()

    def _hear_engine(self) -> Descriptors | None:
        try:
            data, numbers, _, _ = socket.recv_fds(
                self._control, 65_536, _DESCRIPTORS, getattr(socket, "MSG_CMSG_CLOEXEC", 0)
            )
        except ConnectionResetError:
            data, numbers = b"", []
        if not data:
            self._is_ended = self.is_orphaned = True
            return None
        # A read never goes past a message with descriptors: there is one frame here, and these are its own.
        (body,) = self._frames.feed(data)
        descriptors = Descriptors(*numbers)
        is_child = self._fork(protocol.TO_ZYGOTE.decode(body).number)
        if is_child:
            return descriptors
        for number in descriptors:
            os.close(number)
        return None

    def _fork(self, number: int) -> bool:
        try:
            pid = os.fork()
        except OSError as error:
            self._tell(protocol.NotStarted(number, str(error)))
            return False
        if pid == 0:
            self._leave()
            return True
        self._numbers[pid] = number
        self._tell(protocol.Started(number, pid))
        return False

    def _leave(self) -> None:
        """Forget, in a forked child, that this was a zygote."""
        signal.set_wakeup_fd(-1)
        for signum in _SIGNALS:
            signal.signal(signum, signal.SIG_DFL)
        for descriptor in (self._wake, self._wake_write):
            os.close(descriptor)
        self._control.close()
        gc.enable()

    def _reap(self) -> None:
        while (ended := _find_ended()) is not None:
            number = self._numbers.pop(ended, None)
            if number is not None:
                # Before it is reaped: until then nobody else's group can have this number.
                signal_group(ended, signal.SIGKILL)
            _, status = os.waitpid(ended, 0)
            self._sweeps_due = _SWEEPS
            if number is not None:
                self._kill_strays()
                self._tell(protocol.Exited(number, os.waitstatus_to_exitcode(status)))

    def _kill_strays(self) -> None:
        strays = [child for child in children_of(os.getpid()) if child not in self._numbers]
        kill_all(strays)
        self._sweeps_due = _SWEEPS if strays else max(0, self._sweeps_due - 1)

    def _end_everything(self) -> None:
        """Kill every environment and all that they left, and wait for it, not for ever."""
        for pid in self._numbers:
            signal_group(pid, signal.SIGKILL)
        self._numbers.clear()
        for _ in range(END_WAIT_MS // _END_STEP_MS):
            self._reap()
            self._kill_strays()
            if not children_of(os.getpid()):
                break
            if select.select([self._wake], [], [], _END_STEP_MS / 1000)[0]:
                os.read(self._wake, 4096)

    def _tell(self, frame: protocol.FromZygote) -> None:
        try:
            self._control.sendall(protocol.encode(frame))
        except (BrokenPipeError, ConnectionResetError):
            self._is_ended = self.is_orphaned = True


def _find_ended() -> int | None:
    """Return a child that has ended, without reaping it."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return None if found is None else found.si_pid


def main() -> None:
    """Run a zygote.

    Arguments: the control socket's descriptor; the folder of the environments' folders, deleted when the engine can
    do it no more; then, for a function's own zygote, the folder of its code and the modules to preload.
    """
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    folder, code, modules = sys.argv[2], sys.argv[3:4], sys.argv[4:]
    die_with_parent(_ENGINE_DIED)  # the end of file is late where somebody else holds the engine's end
    adopt_orphans()
    sys.path[:0] = code
    reason = preload.import_all(modules)
    if reason is not None:
        control.sendall(protocol.encode(protocol.Refused(reason)))
        return
    gc.collect()
    gc.freeze()  # what is here now is never collected in a child: collecting would copy the pages it shares
    gc.disable()
    zygote_pid = os.getpid()
    zygote = Zygote(control)
    descriptors = zygote.supervise()
    if descriptors is not None:
        environment.begin(descriptors, zygote_pid)
    if zygote.is_orphaned:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()

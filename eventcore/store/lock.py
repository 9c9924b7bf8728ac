"""One engine a state folder: a lock on `<folder>/lock`, freed by the operating system when its process ends."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from eventcore.errors import StateInUse, StoreUnavailable

#: Only the owner may look into the state: it holds events, and the control socket.
FOLDER_MODE = 0o700
LOCK_MODE = 0o600
#: A process id in digits; what is longer was not written by us.
PID_BYTES_MAX = 20


class StateLock(msgspec.Struct, frozen=True, kw_only=True):
    """The exclusive right to a state folder."""

    folder: Path
    pid: int  #: of the process that holds it: this one


@contextmanager
def hold_state(folder: Path) -> Iterator[StateLock]:
    """Hold the exclusive right to a state folder while the context lasts; the folder is made where it is missing.

    The right ends with the process, however it ends. Child processes do not inherit it across exec.

    Raises:
        StateInUse: another process holds it; the message names the process and the folder.
        StoreUnavailable: the folder can't be made, or can't be written to.
    """
    descriptor = _open(folder)
    try:
        _lock(descriptor, folder)
        pid = os.getpid()
        _write_pid(descriptor, folder, str(pid))
        try:
            yield StateLock(folder=folder, pid=pid)
        finally:
            # A stale number would only mislead; where it can't be taken out, the lock is free all the same.
            with suppress(OSError):
                os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _open(folder: Path) -> int:
    try:
        folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        return os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, LOCK_MODE)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in {errno.EAGAIN, errno.EACCES}:
            raise _unwritable(folder, error) from error
        # The other one may not have written its number yet.
        pid = os.pread(descriptor, PID_BYTES_MAX, 0).decode("ascii", "replace").strip()
        owner = f"process {pid}" if pid.isdigit() else "another process"
        raise StateInUse(
            f"the state folder {folder} is in use by {owner}: stop it, or choose another folder with --state"
        ) from error


def _write_pid(descriptor: int, folder: Path, pid: str) -> None:
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, pid.encode(), 0)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: OSError) -> StoreUnavailable:
    return StoreUnavailable(f"the state folder {folder} can't be written to: {os.strerror(error.errno or errno.EIO)}")

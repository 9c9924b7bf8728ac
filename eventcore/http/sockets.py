"""The control socket in its folder: bound by the engine, reached by commands.

A Unix socket's path has room for about a hundred bytes. A longer one is reached through a descriptor of its folder,
as `/proc/self/fd/7/control.sock`, where the system has that.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eventcore.errors import CommandError

SOCKET_NAME = "control.sock"
#: What `sun_path` holds without its final zero: 107 bytes on Linux, 103 on macOS.
PATH_BYTES_MAX = 103
#: Commands that connect at the same instant wait here for the loop to accept them.
BACKLOG = 64

_DESCRIPTORS = Path("/proc/self/fd")


@contextmanager
def short_path(folder: Path) -> Iterator[str]:
    """Give a path of the folder's control socket that is short enough, valid within the block.

    Raises:
        CommandError: the path is too long and the system offers no other way.
    """
    path = str(folder / SOCKET_NAME)
    if len(os.fsencode(path)) <= PATH_BYTES_MAX:
        yield path
        return
    if not _DESCRIPTORS.is_dir():
        raise CommandError(
            f"the path of the state folder is too long for a socket ({len(os.fsencode(path))} bytes of "
            f"{PATH_BYTES_MAX})",
            hint="give it another folder with --state",
        )
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield str(_DESCRIPTORS / str(descriptor) / SOCKET_NAME)
    finally:
        os.close(descriptor)


def bind_control(folder: Path) -> socket.socket:
    """Return a listening socket in the state folder, for its owner alone; a stale one is replaced.

    The caller holds the state folder's lock: whatever stands there belongs to nobody.

    Raises:
        CommandError: the folder's file system takes no socket.
    """
    (folder / SOCKET_NAME).unlink(missing_ok=True)
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # By the mask, not by chmod: there must be no moment in which others can connect.
    mask = os.umask(0o177)
    try:
        with short_path(folder) as path:
            control.bind(path)
    except OSError as error:
        control.close()
        raise CommandError(f"no control socket can be made in {folder}: {error.strerror or error}") from error
    finally:
        os.umask(mask)
    control.listen(BACKLOG)
    control.setblocking(False)
    return control


def connect_control(folder: Path, timeout_s: float) -> socket.socket | None:
    """Return a connection to the engine that runs on a state folder; None when none answers there.

    Raises:
        CommandError: it belongs to somebody else.
    """
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    control.settimeout(timeout_s)
    try:
        with short_path(folder) as path:
            control.connect(path)
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        control.close()
        return None
    except OSError as error:
        control.close()
        raise CommandError(f"the engine on {folder} can't be reached: {error.strerror or error}") from error
    return control

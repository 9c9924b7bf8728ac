"""Ports for the servers of tests: no two processes of any run get the same, though they are taken moments later."""

from __future__ import annotations

import fcntl
import os
import tempfile
from functools import cache
from pathlib import Path

from eventcore_connectors.kafka.local import ports

_given: set[int] = set()


def free_ports(count: int) -> list[int]:
    """Return so many ports of loopback that nobody has, and that no process that runs tests has been given."""
    return ports.free_ports(count, is_wanted=reserve)


def reserve(port: int) -> bool:
    """Take a port for as long as this process lives; False where it or another one has it already.

    A byte of one file stands for it, which is locked: the system lets go of it whatever ends the process.
    """
    if not port:
        return True  # the system chooses one
    if port in _given:
        return False
    try:
        fcntl.lockf(_lock_file(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    _given.add(port)
    return True


@cache
def _lock_file() -> int:
    """Return the descriptor of the file, never closed: the locks would go with it."""
    name = f"eventcore-test-ports-{os.getuid()}"
    return os.open(Path(tempfile.gettempdir()) / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

"""The tree of processes beneath one: who descends from whom, what memory they hold, and signals to all of them.

An environment is a subreaper: whatever its handler forks stays beneath it as long as it lives, also when a parent in
between ends or a child starts a session of its own. Read from ``/proc``; where there is none, nothing is found.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

#: Descendants looked at, at most: Lambda's limit of processes in an environment (Lambda semantics §7.1).
DESCENDANTS_MAX = 1024

#: Linux may be built without these files; then every process is looked at.
_HAS_CHILDREN_FILES = Path("/proc/thread-self/children").exists()
_PAGE_BYTES = resource.getpagesize()
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
# Looked up once, before any fork: in a child each first touch of a page is a copy.
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else lambda *_: 0


def adopt_orphans() -> None:
    """Make this process the parent of every descendant whose own parent ends."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent(signum: int) -> None:
    """Have the kernel send this process a signal when its parent ends."""
    _prctl(_PR_SET_PDEATHSIG, signum, 0, 0, 0)


def children_of(pid: int) -> list[int]:
    """Return the processes whose parent is ``pid``, also those that have ended and wait to be reaped."""
    if not _HAS_CHILDREN_FILES:
        return _scan_for_children(pid) if sys.platform == "linux" else []
    children: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - this runs every few milliseconds
            children += map(int, _read(f"/proc/{pid}/task/{thread}/children").split())
    return children


def _scan_for_children(parent: int) -> list[int]:
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            # The command's name, in parentheses, may hold anything; the parent is the second field behind it.
            fields = _read(f"/proc/{name}/stat").rpartition(b")")[2].split()
            if int(fields[1]) == parent:
                found.append(int(name))
    return found


def descendants_of(pid: int) -> list[int]:
    """Return everything beneath ``pid``, parents first, at most `DESCENDANTS_MAX`."""
    found = children_of(pid)
    for child in found:
        if len(found) >= DESCENDANTS_MAX:
            break
        found += children_of(child)
    return found[:DESCENDANTS_MAX]


def resident_kb(pids: Iterable[int]) -> int:
    """Return the resident memory of processes, in KB; those that are gone count nothing."""
    pages = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            pages += int(_read(f"/proc/{pid}/statm").split(b" ", 2)[1])
    return pages * _PAGE_BYTES // 1024


def signal_group(pid: int, signum: int) -> None:
    """Send a signal to a process and its group; to nobody when they are gone.

    Both, because a hostile handler may have left its own group.
    """
    for send in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            send(pid, signum)


def kill_all(pids: Iterable[int]) -> None:
    """Kill processes; those that are gone are no error."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, 65_536)
    finally:
        os.close(descriptor)

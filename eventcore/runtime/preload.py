"""Importing a function's `preload` modules in a zygote of its own, and refusing what must not be forked.

A thread does not survive a fork but the locks it held do; a socket or an event loop would be shared by every
environment, and replies cross. Thread pools of numerical libraries start again in a child by themselves.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterable
from pathlib import Path

from eventcore.runtime.fault import Border, describe

#: Parts of the file names of libraries whose native threads come back after a fork (they register with the C library).
KNOWN_POOLS = ("openblas", "libmkl", "libgomp", "libiomp", "libomp", "libtbb", "jemalloc", "libarrow")


def import_all(names: Iterable[str]) -> str | None:
    """Import modules one after the other; return why the first bad one is refused, or None."""
    known = _open_descriptors()
    for name in names:
        with Border() as border:
            importlib.import_module(name)
        if border.error is not None:
            return f"preload of {name!r} failed: {type(border.error).__name__}: {describe(border.error)}"
        left = _find_left(known)
        if left:
            return (
                f"preload of {name!r} was refused: its import left {left}, which must not be forked; "
                "open it on first use, or take the module out of `preload`"
            )
    return None


def _find_left(known: set[tuple[str, str]]) -> str:
    """Return what an import left running or open; empty when nothing."""
    threads = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    if threads:
        return f"the thread {threads[0]!r} running"
    opened = sorted(_open_descriptors() - known)
    kinds = [target for _, target in opened]
    if any("eventpoll" in kind for kind in kinds):
        return "an event loop open"
    if any(kind.startswith("socket:") for kind in kinds):
        return "a socket open"
    native = len(_list("/proc/self/task")) - 1
    if native > 0 and not _has_known_pool():
        return f"{native} native threads running"
    return ""


def _open_descriptors() -> set[tuple[str, str]]:
    """Return this process's descriptors, each with what it is open on."""
    found = set()
    for number in _list("/proc/self/fd"):
        link = Path("/proc/self/fd", number)
        if link.is_symlink():
            found.add((number, str(link.readlink())))
    return found


def _has_known_pool() -> bool:
    maps = Path("/proc/self/maps").read_text()
    return any(name in maps for name in KNOWN_POOLS)


def _list(folder: str) -> list[str]:
    return [entry.name for entry in Path(folder).iterdir()] if Path(folder).is_dir() else []

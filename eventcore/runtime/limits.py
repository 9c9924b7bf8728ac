"""What an environment may use: descriptors, memory, disk.

Memory and disk are sampled by the engine while an invocation runs (`watch`); beneath that lies a fuse in the process
itself, for a handler that allocates faster than anybody can look. Never ``RLIMIT_AS``: numpy hangs under it.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path

#: Open files of an environment. Source: Lambda semantics §7.1.
DESCRIPTORS_MAX = 1024
#: Open files of the engine: four for each of the thousand environments that a function may have, and room beside.
ENGINE_DESCRIPTORS = 8192
#: Threads that the fuse leaves room for: the kernel counts their stacks as data. Source: Lambda semantics §7.1.
THREADS_MAX = 1024
#: What the fuse allows beyond `memory_size`, so that the sampling, which reports properly, comes first.
FUSE_SLACK_BYTES = 64 * 1024 * 1024
#: Files and folders looked at when a folder is measured; more than that are not counted.
FILES_MAX = 100_000


def limit_this_process(memory_size_mb: int) -> None:
    """Set the limits of an environment that begins."""
    _lower(resource.RLIMIT_NOFILE, DESCRIPTORS_MAX)
    _lower(resource.RLIMIT_CORE, 0)  # a crash is reported; its image of some hundred megabytes helps nobody
    data_bytes = _data_bytes()
    if data_bytes is not None:
        stack_bytes = max(resource.getrlimit(resource.RLIMIT_STACK)[0], 0) or 8 * 1024 * 1024
        _lower(
            resource.RLIMIT_DATA,
            data_bytes + memory_size_mb * 1024 * 1024 + FUSE_SLACK_BYTES + THREADS_MAX * stack_bytes,
        )


def _lower(limit: int, value: int) -> None:
    _, hard = resource.getrlimit(limit)
    allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(limit, (allowed, allowed))


def _data_bytes() -> int | None:
    """Return how large this process's data and stack are now; None where the system doesn't tell."""
    try:
        descriptor = os.open("/proc/self/statm", os.O_RDONLY)
    except FileNotFoundError:
        return None
    pages = int(os.read(descriptor, 256).split()[5])
    os.close(descriptor)
    return pages * resource.getpagesize()


def raise_descriptor_limit() -> None:
    """Let this process, the engine, open the files that its environments need, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENGINE_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(ENGINE_DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def folder_bytes(folder: Path) -> int:
    """Return the size of a folder's files on disk, looking at no more than `FILES_MAX` of them."""
    total = seen = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            seen += 1
            try:
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512  # noqa: PTH118 - hot for many files
            except FileNotFoundError:
                continue
        if seen >= FILES_MAX:
            break
    return total

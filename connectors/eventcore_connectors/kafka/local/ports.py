"""Ports of loopback for a server that is started a moment later, and perhaps again after that."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from eventcore_connectors.kafka.local.settings import HOST

#: Ports below are often other servers'.
_FIRST_PORT = 15_000
#: Where outgoing connections begin, if the system does not say: what Linux has; others begin higher.
_USUAL_OUTGOING = 32_768
_OUTGOING_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")
#: With fewer to choose from, two that ask at the same time would meet too often.
_CHOICE_MIN = 1_000


def free_ports(
    count: int, *, randomness: random.Random | None = None, is_wanted: Callable[[int], bool] = lambda _: True
) -> list[int]:
    """Return so many ports of loopback, each another one, that nobody has.

    They are none of those that the system gives to outgoing connections: one of these could be taken between this
    call and the server's start, or while the server restarts.

    Args:
        count: how many, at least 1.
        randomness: chooses among them, so that two that ask at the same time seldom get the same.
        is_wanted: tells which may be chosen at all, so that they never do.

    Raises:
        OSError: the machine has not so many.
    """
    limit = _first_outgoing()
    if limit - _FIRST_PORT < _CHOICE_MIN:
        candidates: list[int] = [0] * count
    else:
        candidates = (randomness or random.SystemRandom()).sample(range(_FIRST_PORT, limit), limit - _FIRST_PORT)
    with ExitStack() as stack:
        ports: list[int] = []
        for candidate in filter(is_wanted, candidates):
            probe = stack.enter_context(socket.socket())
            try:
                probe.bind((HOST, candidate))
            except OSError:
                continue
            ports.append(probe.getsockname()[1])
            if len(ports) == count:
                return ports
    raise OSError(f"{HOST} has no {count} free ports")


def _first_outgoing() -> int:
    """Return the first port that the system gives to outgoing connections."""
    try:
        return int(_OUTGOING_FILE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return _USUAL_OUTGOING

"""Ports for the servers of tests: no two of a run get the same, though they are taken moments later."""

from __future__ import annotations

import os

from eventcore_connectors.kafka.local import ports

#: Processes that run tests at the same time: each has ports of its own.
WORKERS_MAX = 8
_given: set[int] = set()


def free_ports(count: int) -> list[int]:
    """Return so many ports of loopback that nobody has, and that this process has not returned before."""
    name = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    worker = int(name.removeprefix("gw")) % WORKERS_MAX
    found = ports.free_ports(count, is_wanted=lambda port: port % WORKERS_MAX == worker and port not in _given)
    _given.update(found)
    return found

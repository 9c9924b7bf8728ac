"""The ports that servers of tests get: two runs on one machine, and the workers of one, never share any."""

import os
import subprocess
import sys
from pathlib import Path

from tests.servers.ports import free_ports, reserve

ROOT = Path(__file__).parents[3]
ASK = """
import sys
from tests.servers.ports import reserve
print([reserve(int(port)) for port in sys.argv[1:]])
"""


def ask_elsewhere(ports: list[int]) -> str:
    """Return whether another process is given ports."""
    command = [sys.executable, "-c", ASK, *map(str, ports)]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def test_what_one_process_has_been_given_no_other_is():
    ports = free_ports(3)
    assert ask_elsewhere(ports) == "[False, False, False]"
    assert [reserve(port) for port in ports] == [False, False, False]


def test_what_a_process_had_is_free_with_its_end():
    # Below those that servers get, and no other run's: nobody else asks for it.
    port = 14_000 + os.getpid() % 1_000
    assert [ask_elsewhere([port]) for _ in range(2)] == ["[True]", "[True]"]

"""Named points in the engine where tests wait, fail and kill."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from eventcore import signals
from eventcore.testing.virtual_loop import run_virtual

POINT = "settler.after_store"
REACH_3_TIMES = f"""
import anyio
from eventcore import signals

async def main():
    for number in range(3):
        await signals.reach({POINT!r})
        print(number, flush=True)

anyio.run(main)
"""


def _counting() -> tuple[list[str], signals.Hook]:
    passed: list[str] = []

    async def hook() -> None:
        passed.append("hook")

    return passed, hook


def test_a_point_without_a_hook_is_passed() -> None:
    run_virtual(signals.reach, POINT)


def test_a_hook_runs_at_its_point_alone() -> None:
    passed, hook = _counting()
    signals.set_hook(POINT, hook)
    run_virtual(signals.reach, "settler.before_store")
    assert passed == []
    run_virtual(signals.reach, POINT)
    assert passed == ["hook"]


def test_a_later_hook_replaces_the_earlier_one() -> None:
    first, hook = _counting()
    signals.set_hook(POINT, hook)
    second, hook = _counting()
    signals.set_hook(POINT, hook)
    run_virtual(signals.reach, POINT)
    assert (first, second) == ([], ["hook"])


def test_hooks_are_forgotten() -> None:
    passed, hook = _counting()
    signals.set_hook(POINT, hook)
    signals.clear_hooks()
    run_virtual(signals.reach, POINT)
    assert passed == []


def test_a_point_that_does_not_exist_is_an_error() -> None:
    """Else a test that kills at a misspelt point would pass without killing anything."""
    with pytest.raises(KeyError, match="after_lunch"):
        signals.set_hook("settler.after_lunch", _counting()[1])


@pytest.mark.parametrize(("spec", "printed"), [(POINT, ""), (f"{POINT}:1", ""), (f"{POINT}:3", "0\n1\n")])
def test_the_environment_kills_a_real_process_there(spec: str, printed: str) -> None:
    """The crash tests' way: SIGKILL at the point, the first or the K-th time."""
    done = subprocess.run(
        [sys.executable, "-c", REACH_3_TIMES],
        env={"EVENTCORE_KILL_AT": spec},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == printed


def test_nothing_is_killed_at_a_point_that_is_not_reached() -> None:
    done = subprocess.run(
        [sys.executable, "-c", REACH_3_TIMES],
        env={"EVENTCORE_KILL_AT": "outbox.after_mark"},
        capture_output=True,
        check=True,
        timeout=30,
    )
    assert done.stdout.split() == [b"0", b"1", b"2"]

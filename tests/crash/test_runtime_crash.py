"""Whoever is killed, engine, zygote or environment: nothing of ours goes on running, and nothing is left."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import anyio
import pytest

from eventcore.clock import SystemClock
from eventcore.errors import EventcoreError, InvocationError
from eventcore.ids import SeededIds
from eventcore.model import FaultCause
from eventcore.ports.runtime import LogLine
from eventcore.runtime.process import open_process_runtime
from eventcore.runtime.tree import children_of
from eventcore.testing.conformance.runtime_under_test import FUNCTIONS, RuntimeUnderTest, is_running, until

ENGINE = Path(__file__).parent / "runtime_engine.py"
HANDLERS = Path(__file__).parents[1] / "conformance" / "functions"
#: A second is promised; this is what a machine may take that runs a whole test suite besides.
GONE_WITHIN_S = 5.0
STARTED_WITHIN_S = 30.0


def _wait(happened: Callable[[], object], within_s: float) -> None:
    end = time.monotonic() + within_s
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def _parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@contextmanager
def _busy_engine(folder: Path, *preload: str, **variables: str) -> Iterator[tuple[int, int, int, int]]:
    """Run an engine with a busy handler; yield engine, zygote, environment, and a child of a session of its own."""
    pids = folder / "pids"
    event = json.dumps({"pids": str(pids), "forks": True})
    command = [sys.executable, str(ENGINE), str(FUNCTIONS), "conformance_harms.spin", event, str(folder), *preload]
    found: list[int] = []
    with subprocess.Popen(command, env={**os.environ, **variables}) as engine:
        try:
            _wait(lambda: pids.exists() and len(pids.read_text().split()) == 2, STARTED_WITHIN_S)
            environment, child = map(int, pids.read_text().split())
            found = [engine.pid, _parent_of(environment), environment, child]
            assert _parent_of(found[1]) == engine.pid
            assert all(map(is_running, found))
            yield engine.pid, found[1], environment, child
        finally:
            engine.kill()
            for pid in found:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("preload", [(), ("json",)], ids=["root zygote", "zygote of its own"])
def test_nothing_outlives_an_engine_that_is_killed(tmp_path: Path, preload: tuple[str, ...]):
    """During a busy handler that ignores SIGTERM and has forked a child into a session of its own."""
    with _busy_engine(tmp_path, *preload) as (engine, *others):
        os.kill(engine, signal.SIGKILL)
        _wait(lambda: not any(map(is_running, others)), GONE_WITHIN_S)
        assert not (tmp_path / "environments").exists()


def test_nothing_outlives_an_engine_whose_descriptors_others_hold(tmp_path: Path):
    """Then the end of file does not come; the kernel's word does."""
    with _busy_engine(tmp_path, ENGINE_FORKS="1") as (engine, zygote, *others):
        holder = next(pid for pid in children_of(engine) if pid != zygote)
        try:
            os.kill(engine, signal.SIGKILL)
            _wait(lambda: not any(map(is_running, (zygote, *others))), GONE_WITHIN_S)
            assert is_running(holder)
        finally:
            os.kill(holder, signal.SIGKILL)
        assert not (tmp_path / "environments").exists()


def test_no_environment_outlives_engine_and_zygote(tmp_path: Path):
    """Where nobody is left to kill it, the kernel does."""
    with _busy_engine(tmp_path) as (engine, zygote, environment, _):
        os.kill(engine, signal.SIGSTOP)  # so that it can't be the engine that does it
        os.kill(zygote, signal.SIGKILL)
        _wait(lambda: not is_running(environment), GONE_WITHIN_S)


async def test_an_invocation_whose_zygote_is_killed_fails_and_the_next_one_runs(tmp_path: Path):
    """The kernel kills the environment with its zygote; a new zygote is started when one is needed."""
    pids = tmp_path / "pids"
    lines: list[LogLine] = []
    async with open_process_runtime(SystemClock(), SeededIds(1), lines.extend, tmp_path / "state") as runtime:
        test = RuntimeUnderTest(runtime, lines)
        await test.result("echo", 1)
        async with test.running("conformance_harms.spin", {"pids": str(pids)}) as running:
            await until(lambda: pids.exists() and pids.read_text())
            environment = int(pids.read_text())
            os.kill(_parent_of(environment), signal.SIGKILL)
        assert running.outcome is not None
        assert running.outcome.fault is not None
        assert running.outcome.fault.cause is FaultCause.EXIT
        await until(lambda: not is_running(environment))
        assert runtime.statistics().environments == 0
        assert await test.result("echo", 2) == 2


async def test_a_handler_that_kills_its_zygote_fails_by_itself(tmp_path: Path):
    """It counts as its attempt, or it would be tried for ever."""
    lines: list[LogLine] = []
    async with open_process_runtime(SystemClock(), SeededIds(1), lines.extend, tmp_path / "state") as runtime:
        test = RuntimeUnderTest(runtime, lines)
        for _ in range(2):
            fault = await test.fault(test.function("process_handlers.kill_parent", code=HANDLERS))
            assert fault.error_type == "Runtime.ExitError"
        assert await test.result("echo", 1) == 1


async def test_everything_is_gone_when_the_runtime_is_closed(tmp_path: Path):
    """At once, and whatever handlers have left behind."""
    left, busy = tmp_path / "left", tmp_path / "busy"
    lines: list[LogLine] = []
    async with open_process_runtime(SystemClock(), SeededIds(1), lines.extend, tmp_path / "state") as runtime:
        test = RuntimeUnderTest(runtime, lines)
        await test.result("conformance_harms.leave_children", {"pids": str(left)})
        async with test.running("conformance_harms.spin", {"pids": str(busy), "forks": True}) as running:
            await until(lambda: busy.exists() and busy.read_text())
            found = [int(pid) for pid in f"{left.read_text()} {busy.read_text()}".split()]
            assert len(found) == 5
            assert all(map(is_running, found))
            zygote = _parent_of(found[0])
            running.scope.cancel()
    assert not any(map(is_running, [*found, zygote]))


async def test_an_engine_that_cannot_start_environments_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It is not the function's fault, and is not reported as such."""
    lines: list[LogLine] = []
    async with open_process_runtime(SystemClock(), SeededIds(1), lines.extend, tmp_path / "state") as runtime:
        test = RuntimeUnderTest(runtime, lines)
        broken = tmp_path / "broken" / "msgspec.py"
        broken.parent.mkdir()
        broken.write_text("raise ImportError('msgspec is broken')")
        monkeypatch.setenv("PYTHONPATH", str(broken.parent), prepend=os.pathsep)
        with pytest.raises(EventcoreError) as raised:
            await test.call("echo", 1)
        assert not isinstance(raised.value, InvocationError)
        message = "no environment can be started: the zygote ended: ImportError: msgspec is broken"
        assert str(raised.value) == message
        monkeypatch.undo()
        with anyio.fail_after(STARTED_WITHIN_S):
            assert await test.result("echo", 1) == 1

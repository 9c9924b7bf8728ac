"""What the command takes: to be ready, to say its version, and while nothing happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.benchmarks.measure import Figures

#: Idle use is looked at for so long, seconds.
IDLE_S = 5.0
#: After the first invocation everything is imported; what that leaves is let go first, seconds.
SETTLE_S = 2.0
READY_S_MAX = 20.0
PIPELINE = """
[functions.echo]
handler = "bench_handlers.echo"

[queues.work]

[mappings.work]
source = "queue:work"
function = "echo"
"""
HANDLERS = """
def echo(event, context):
    return event
"""
COMMAND = (sys.executable, "-m", "eventcore")


def _folder(name: str) -> Path:
    folder = Path(name)
    (folder / "bench_handlers.py").write_text(HANDLERS)
    (folder / "eventcore.toml").write_text(PIPELINE)
    return folder


def _start(folder: Path) -> tuple[subprocess.Popen[str], float]:
    """Start `dev`; return it, and how long it took until it said that it runs, seconds."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [*COMMAND, "dev"], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "running" in line:
            return process, time.perf_counter() - began
        if time.perf_counter() - began > READY_S_MAX:
            break
    process.kill()
    raise RuntimeError("`eventcore dev` did not become ready")


def _stop(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    process.stderr.read()
    process.wait(30)


def ready() -> Figures:
    """Start `eventcore dev` on a small pipeline."""
    with tempfile.TemporaryDirectory(prefix="eventcore-bench-") as name:
        process, ready_s = _start(_folder(name))
        _stop(process)
    return {"ready_s": ready_s}


def idle() -> Figures:
    """Look at an engine that has nothing to do, and at its zygote."""
    with tempfile.TemporaryDirectory(prefix="eventcore-bench-") as name:
        folder = _folder(name)
        process, _ = _start(folder)
        send = [*COMMAND, "invoke", "echo", "{}"]
        subprocess.run(send, cwd=folder, check=True, capture_output=True, timeout=60)
        time.sleep(SETTLE_S)
        engine = psutil.Process(process.pid)
        zygote = next(child for child in engine.children() if "zygote" in " ".join(child.cmdline()))
        watched = [engine, zygote, *zygote.children(recursive=True)]
        used = [each.cpu_times() for each in watched]
        time.sleep(IDLE_S)
        after = [each.cpu_times() for each in watched]
        used_s = sum(b.user + b.system - a.user - a.system for a, b in zip(used, after, strict=True))
        figures = {
            "engine_mb": _pss_mb(engine.pid),
            "zygote_mb": _pss_mb(zygote.pid),
            "idle_percent": used_s / IDLE_S * 100,
        }
        _stop(process)
    return figures


def _pss_mb(pid: int) -> float:
    """Return a process's proportional share of memory, MB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("the system tells no PSS")


def _start_up(command: list[str], count: int) -> Figures:
    began = time.perf_counter()
    for _ in range(count):
        subprocess.run(command, check=True, capture_output=True, env=dict(os.environ))
    return {"start_ms": (time.perf_counter() - began) / count * 1000}


def version(count: int) -> Figures:
    """Run `eventcore --version`, as it is installed."""
    return _start_up([str(Path(sys.executable).with_name("eventcore")), "--version"], count)


def bare_python(count: int) -> Figures:
    """Start the interpreter and do nothing."""
    return _start_up([sys.executable, "-c", "pass"], count)

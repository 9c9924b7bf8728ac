"""`make demo` isolates a poison record, checks itself by another process, and leads on with commands that work."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import eventcore.cli
from tests.behaviours.commands import PATIENCE_S, run, running

pytestmark = pytest.mark.slow

TEMPLATE = Path(eventcore.cli.__file__).parent / "templates" / "demo"


def run_demo(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "eventcore.cli.demo", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
        check=False,
    )


def poison(output: str) -> str:
    return re.findall(r"order (\d+) has a quantity of -1", output)[0]


def test_it_shows_everything_it_promises_and_its_next_steps_work(tmp_path: Path) -> None:
    """Records sent, invocations, a failing record retried, the split, the discard with its reason, the rest settled."""
    done = run_demo(cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    for part in (
        "is in GBP, whose rate is missing at the first try",
        "24 records sent to stream:orders",
        "invokes price-orders with 8 records",
        "split into ",
        "attempt 2 failed; again in ",
        f"RetryAttemptsExhausted after ValueError: order {poison(done.stdout)}: a quantity of -1 (orders.py:",
        "TimeoutError",
        "they agree with the events",
    ):
        assert part in done.stdout, part
    steps = [shlex.split(line)[1:] for line in done.stdout.partition("what to try next")[2].splitlines() if line]
    *before, dev, send, _ = steps
    assert (dev[-1], send[2], steps[-1][-1]) == ("dev", "send", "ls")
    for step in before:
        assert run(*step, cwd=tmp_path).returncode == 0, step
    with running(*dev, cwd=tmp_path) as engine:
        assert run(*send, cwd=tmp_path).returncode == 0
        engine.wait_line("discarded to queue:failed-orders")
        listed = run(*steps[-1], cwd=tmp_path)
    assert "RetryAttemptsExhausted" in listed.stdout


def test_a_seed_moves_the_poison_record(tmp_path: Path) -> None:
    one, other = run_demo("--seed", "7", cwd=tmp_path), run_demo("--seed", "8", cwd=tmp_path)
    assert (one.returncode, other.returncode) == (0, 0)
    assert poison(one.stdout) != poison(other.stdout)


def test_it_notices_a_pipeline_that_does_not_isolate(tmp_path: Path) -> None:
    """With bisect switched off, good records are given up with the poison one: that is no success."""
    folder = tmp_path / "pipeline"
    shutil.copytree(TEMPLATE, folder)
    file = folder / "eventcore.toml"
    text = file.read_text()
    assert "bisect_batch_on_function_error = true" in text
    file.write_text(text.replace("bisect_batch_on_function_error = true", "bisect_batch_on_function_error = false"))
    done = run_demo("--pipeline", str(folder), cwd=tmp_path)
    assert done.returncode == 5
    assert "was to be discarded alone" in done.stdout
    left = {path.name for path in folder.iterdir()} - {"__pycache__"}
    assert left == {"README.md", "eventcore.toml", "orders.py"}, "its state is not left in the pipeline's folder"

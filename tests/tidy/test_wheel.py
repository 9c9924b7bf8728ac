"""The built wheel is all there: in an empty environment, outside the checkout, it runs the demo and a user's tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tidy.test_testing_readme import run_pytest, write_examples

ROOT = Path(__file__).parents[2]
#: Installing the dependencies may have to fetch them, seconds.
INSTALL_S = 240


def _run(*command: str | Path, cwd: Path, timeout: float) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_wheel_runs_the_demo_in_an_empty_environment(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    _run(*build, cwd=tmp_path, timeout=60)
    (wheel,) = tmp_path.glob("eventcore_engine-*.whl")
    _run(sys.executable, "-m", "venv", tmp_path / "empty", cwd=tmp_path, timeout=60)
    python = tmp_path / "empty" / "bin" / "python"
    install = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    _run(*install, wheel, cwd=tmp_path, timeout=INSTALL_S)
    outside = tmp_path / "outside"
    outside.mkdir()
    output = _run(python, "-m", "eventcore.cli.demo", "--seed", "5", cwd=outside, timeout=60)
    assert "discarded to queue:failed-orders: RetryAttemptsExhausted" in output
    where = _run(
        python,
        "-c",
        "import eventcore_connectors.kafka, eventcore_functions.http_post.handler as f; print(f.__file__)",
        cwd=outside,
        timeout=30,
    )
    assert str(tmp_path / "empty") in where
    _run(*install, f"{wheel}[test]", cwd=tmp_path, timeout=INSTALL_S)
    project = tmp_path / "project"
    project.mkdir()
    count = write_examples(project)
    code, output = run_pytest(python, project)
    assert code == 0, output
    assert f"{count} passed" in output

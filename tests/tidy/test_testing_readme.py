"""eventcore/testing/README.md is true: its examples run, as they stand, in a folder that holds nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "eventcore/testing/README.md").read_text()
#: A generous bound for a few tests in virtual time, seconds.
PYTEST_S = 60


def write_examples(folder: Path) -> int:
    """Write the page's project; return how many tests it has."""
    (pipeline,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    functions, *tests = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (folder / "eventcore.toml").write_text(pipeline)
    (folder / "orders.py").write_text(functions)
    (folder / "test_orders.py").write_text("\n\n".join(["import eventcore", *tests]))
    return sum(text.count("def test_") for text in tests)


def run_pytest(python: str | Path, folder: Path, *options: str) -> tuple[int, str]:
    """Run pytest on a folder as its owner would; return the exit code and what it printed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHON"))}
    # Outside of any project, and without what this suite sets up for itself.
    command = [python, "-m", "pytest", "-p", "no:cacheprovider", "--durations=0", "-vv", *options]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PYTEST_S, check=False
    )
    return done.returncode, done.stdout + done.stderr


def plugin() -> list[str]:
    """Name the plugin where this environment was installed before the package had it."""
    is_found = bool(entry_points(group="pytest11", name="eventcore"))
    return [] if is_found else ["-p", "eventcore.testing.pytest_plugin"]


@pytest.mark.slow
def test_every_example_runs(tmp_path: Path) -> None:
    count = write_examples(tmp_path)
    assert count >= 4
    code, output = run_pytest(sys.executable, tmp_path, *plugin())
    assert code == 0, output
    assert f"{count} passed" in output, output


@pytest.mark.slow
def test_a_test_that_fails_shows_what_happened(tmp_path: Path) -> None:
    """And the seed that repeats it, given on the command line."""
    write_examples(tmp_path)
    (tmp_path / "test_orders.py").write_text(
        "def test_none(eventcore_pipeline):\n"
        "    pipeline = eventcore_pipeline('eventcore.toml')\n"
        "    pipeline.send('queue:orders', [{'id': 1, 'quantity': -1}])\n"
        "    pipeline.advance(1)\n"
        "    assert pipeline.discards\n"
    )
    code, output = run_pytest(sys.executable, tmp_path, *plugin(), "--eventcore-seed", "7")
    assert code == 1, output
    assert "eventcore, seed 7: what happened" in output
    assert "invoked price with 1 records of orders, attempt 1: failure" in output
    assert "ValueError: order 1: a quantity of -1" in output


@pytest.mark.slow
def test_a_pipeline_that_ends_with_an_error_leaves_no_other_open(tmp_path: Path) -> None:
    write_examples(tmp_path)
    (tmp_path / "test_orders.py").write_text(
        "import pytest\n"
        "from eventcore.errors import ProgrammingError\n"
        "from eventcore.testing import VirtualPipeline\n"
        "opened = []\n"
        "close = VirtualPipeline.close\n"
        "def close_with_an_error(self):\n"
        "    close(self)\n"
        "    if self is opened[1]:\n"
        "        raise RuntimeError('what ended the engine')\n"
        "VirtualPipeline.close = close_with_an_error\n"
        "@pytest.fixture\n"
        "def looked_at():\n"
        "    yield\n"
        "    for pipeline in opened:\n"
        "        with pytest.raises(ProgrammingError, match='closed'):\n"
        "            pipeline.advance(1)\n"
        "    print('all are closed')\n"
        "def test_one(looked_at, eventcore_pipeline):\n"
        "    opened.append(eventcore_pipeline('eventcore.toml'))\n"
        "    opened.append(eventcore_pipeline('eventcore.toml'))\n"
    )
    code, output = run_pytest(sys.executable, tmp_path, *plugin(), "-s")
    assert code == 1, output
    assert "1 passed, 1 error" in output, output
    assert "RuntimeError: what ended the engine" in output, output
    assert "all are closed" in output, output


@pytest.mark.slow
def test_the_example_of_the_first_page_runs(tmp_path: Path) -> None:
    """With the pipeline and the function that stand further up on it."""
    page = (ROOT / "README.md").read_text()
    (tmp_path / "eventcore.toml").write_text(re.findall(r"```toml\n(.*?)```", page, re.DOTALL)[0])
    functions, *others = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "orders.py").write_text(functions)
    (tmp_path / "test_orders.py").write_text(next(text for text in others if "eventcore_pipeline" in text))
    code, output = run_pytest(sys.executable, tmp_path, *plugin())
    assert code == 0, output
    assert "1 passed" in output, output


def test_the_page_names_what_the_pipeline_has() -> None:
    """Every method and property of `VirtualPipeline` stands in one of the two tables, and nothing else."""
    from eventcore.testing import VirtualPipeline

    tables = PAGE.split("| Do |")[1].split("All are plain structs")[0]
    rows = [line.split("|")[1] for line in tables.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)", row)}
    public = {name for name in vars(VirtualPipeline) if not name.startswith("_")}
    assert named == public - {"close", "abandon"}


def test_the_extra_brings_pytest() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert any(each.startswith("pytest>") for each in project["optional-dependencies"]["test"])

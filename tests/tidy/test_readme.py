"""README.md is true: its commands run, its files exist, its pipeline is the one that `init` writes."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import anyio
import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
#: A generous bound for one command, seconds.
COMMAND_S = 30


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def _commands() -> list[str]:
    return [line[2:] for block in _blocks("console") for line in block.splitlines() if line.startswith("$ ")]


def _start(command: str, folder: Path) -> subprocess.Popen[bytes]:
    program, *arguments = shlex.split(command)
    assert program == "eventcore"
    return subprocess.Popen(
        [sys.executable, "-m", "eventcore", *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "NO_COLOR": "1"},
    )


def _finish(command: str, process: subprocess.Popen[bytes]) -> str:
    output, _ = process.communicate(timeout=COMMAND_S)
    text = output.decode()
    assert process.returncode == 0, f"$ {command}\n{text}"
    return text


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_every_command_runs_in_the_order_of_the_page(tmp_path: Path) -> None:
    """As a reader would: `dev` keeps running, the function is mended before its failure is retried."""
    running: subprocess.Popen[bytes] | None = None
    folder = tmp_path / "my-pipeline"
    try:
        for command in _commands():
            if command.endswith(" dev"):
                running = _start(command, tmp_path)
                with anyio.fail_after(COMMAND_S):
                    while not (folder / ".eventcore" / "control.sock").exists():  # noqa: ASYNC110 - another process
                        await anyio.sleep(0.05)
                continue
            if " failures " in command:
                await _wait_for_failure(folder)
            if " failures retry" in command:
                source = (folder / "orders.py").read_text()
                (folder / "orders.py").write_text(source.replace("raise ValueError", "print"))
            output = _finish(command, _start(command, tmp_path))
            if " failures show" in command:
                assert "ValueError: order 2: a quantity of -1" in output
                assert "orders.py:" in output
        assert running is not None
        running.send_signal(signal.SIGTERM)
        _finish("dev", running)
    finally:
        if running is not None and running.poll() is None:
            running.kill()


async def _wait_for_failure(folder: Path) -> None:
    """Wait until the poison order is given up: three tries take about a second."""
    command = f"eventcore -c {folder} -o json failures ls"
    with anyio.fail_after(COMMAND_S):
        while "RetryAttemptsExhausted" not in _finish(command, _start(command, folder)):  # noqa: ASYNC110
            await anyio.sleep(0.2)


def test_its_pipeline_is_the_one_that_init_writes() -> None:
    """What the page shows and what a newcomer gets agree in everything that both say."""
    shown = tomllib.loads(_blocks("toml")[0])
    written = tomllib.loads((ROOT / "eventcore/cli/templates/stream/eventcore.toml").read_text())
    for table in ("streams", "queues"):
        assert shown[table] == written[table]
    assert shown["functions"] == written["functions"]
    for setting, value in shown["mappings"]["orders"].items():
        assert written["mappings"]["orders"][setting] == value
    assert len([line for line in _blocks("toml")[0].splitlines() if line.strip()]) <= 15


@pytest.mark.parametrize("page", sorted(ROOT.glob("**/README.md")), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    if any(part.startswith(".") for part in page.relative_to(ROOT).parts):
        pytest.skip("not ours")
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


def test_make_targets_that_it_names_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"\bmake ([a-z]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"


def test_the_hops_name_files_that_exist() -> None:
    """eventcore/README.md: each hop's file can be opened."""
    page = (ROOT / "eventcore/README.md").read_text()
    table = page.split("## Follow one record")[1].split("\n## ")[0]
    named = re.findall(r"`([a-z_/]+\.py)`", table)
    assert len(named) >= 10
    for name in named:
        assert (ROOT / "eventcore" / name).exists() or (ROOT / name).exists(), name


def test_every_row_of_the_crash_table_names_tests_that_exist() -> None:
    page = (ROOT / "eventcore/README.md").read_text().split("## Crash after step k")[1].split("\n## ")[0]
    sources = [*(ROOT / "tests/crash").glob("test_*.py"), *(ROOT / "tests/servers").glob("test_*.py")]
    known = set(re.findall(r"^(?:async )?def (test_\w+)", "\n".join(map(Path.read_text, sources)), re.MULTILINE))
    rows = [line for line in page.splitlines() if line.startswith("|")][2:]
    assert len(rows) >= 10
    assert [row for row in rows if not re.search(r"`test_\w+`", row)] == []
    assert set(re.findall(r"`(test_\w+)`", page)) <= known

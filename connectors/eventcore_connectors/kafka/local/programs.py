"""Runs a program to its end: what Java, Maven and Docker are asked."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path


def run_program(
    command: Sequence[str | Path], *, timeout_s: float, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program, which gets nothing to read, and return its exit code and all that it wrote.

    Raises:
        OSError: it can't be started.
        subprocess.TimeoutExpired: it took longer, and was killed.
    """
    return subprocess.run(  # noqa: S603 - programs that the user has, with arguments that are ours
        command,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_s,
        check=False,
    )

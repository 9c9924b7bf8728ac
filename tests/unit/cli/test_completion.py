"""The shell completes commands, and the names that the pipeline file declares."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PIPELINE = """
[functions.price-order]
handler = "a.b"
[queues.orders]
[queues.failed-orders]
[streams.clicks]
[kafka.local]
bootstrap_servers = "x:1"
[mappings.first]
source = "queue:orders"
"""


def complete(typed: str, cwd: Path) -> list[str]:
    words = typed.split(" ")
    done = subprocess.run(
        [sys.executable, "-m", "eventcore"],
        cwd=cwd,
        env=os.environ
        | {"_EVENTCORE_COMPLETE": "bash_complete", "COMP_WORDS": typed, "COMP_CWORD": str(len(words) - 1)},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("eventcore fa", ["failures"]),
        ("eventcore queue pee", ["peek"]),
        ("eventcore queue peek ", ["failed-orders", "orders"]),
        ("eventcore invoke pr", ["price-order"]),
        ("eventcore send ", ["queue:failed-orders", "queue:orders", "stream:clicks", "kafka:local/"]),
        ("eventcore failures ls --mapping f", ["first"]),
    ],
)
def test_names_are_completed(tmp_path: Path, typed: str, found: list[str]) -> None:
    """From a pipeline file that need not be right."""
    (tmp_path / "eventcore.toml").write_text(PIPELINE)
    assert complete(typed, tmp_path) == found


@pytest.mark.parametrize("text", [None, "no toml ["])
def test_without_a_file_that_can_be_read_nothing_is_said(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "eventcore.toml").write_text(text)
    assert complete("eventcore queue peek ", tmp_path) == []


def test_failures_are_completed_by_their_ids_and_no_state_is_made(tmp_path: Path) -> None:
    (tmp_path / "eventcore.toml").write_text("[queues.orders]\n")
    assert complete("eventcore failures show ", tmp_path) == []
    assert not (tmp_path / ".eventcore").exists()

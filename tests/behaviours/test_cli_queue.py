"""`eventcore queue` looks without touching, moves in bounded steps, deletes only when it was told twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.behaviours.commands import POISONED, ask, run, running, write_pipeline

pytestmark = pytest.mark.slow

QUEUES = """
[queues.orders]
redrive_policy = { dead_letter_queue = "dead", max_receive_count = 2 }

[queues.dead]

[queues.other]

[functions.work]
handler = "handlers.work"

[mappings.orders]
source = "queue:orders"
function = "work"
enabled = false
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_pipeline(tmp_path, POISONED, QUEUES)


def fill(folder: Path, queue: str, count: int) -> None:
    assert run("send", f"queue:{queue}", "m{n}", "--count", str(count), cwd=folder).returncode == 0


def bodies(folder: Path, queue: str) -> list[str]:
    return [message["body"] for message in ask("queue", "peek", queue, "-n", "5000", cwd=folder)]


def test_peek_changes_nothing(folder: Path) -> None:
    fill(folder, "orders", 12)
    first = ask("queue", "peek", "orders", cwd=folder)
    assert [message["body"] for message in first] == [f"m{number}" for number in range(1, 11)]
    assert {message["receive_count"] for message in first} == {0}
    assert ask("queue", "peek", "orders", cwd=folder) == first
    assert "m12" in run("queue", "peek", "orders", "-n", "12", cwd=folder).stdout


def test_redrive_moves_everything_back_in_order(folder: Path) -> None:
    """More than one step's worth; a dry run says how many and moves none."""
    fill(folder, "dead", 1200)
    would = run("queue", "redrive", "dead", "--dry-run", cwd=folder)
    assert would.stdout == "would move 1,200 messages from dead to orders\n"
    assert len(bodies(folder, "dead")) == 1200
    task = ask("queue", "redrive", "dead", cwd=folder)
    assert (task["target"], task["state"], task["expected"], task["moved"]) == ("orders", "COMPLETED", 1200, 1200)
    assert bodies(folder, "orders") == [f"m{number}" for number in range(1, 1201)]
    assert bodies(folder, "dead") == []


def test_a_redrive_at_a_rate_is_remembered(folder: Path) -> None:
    fill(folder, "dead", 30)
    assert (
        run("queue", "redrive", "dead", "--rate", "20", cwd=folder).stdout == "moved 30 messages from dead to orders\n"
    )
    (task,) = ask("queue", "moves", cwd=folder)
    assert (task["queue"], task["state"], task["rate"], task["moved"]) == ("dead", "COMPLETED", 20, 30)
    assert "completed" in run("queue", "moves", cwd=folder).stdout
    refused = run("queue", "cancel-move", "dead", cwd=folder)
    assert (refused.returncode, "no messages of `dead` are being moved" in refused.stderr) == (1, True)
    assert run("queue", "redrive", "dead", "--rate", "501", cwd=folder).returncode == 2


def test_a_running_engine_moves_and_is_asked_how_it_stands(folder: Path) -> None:
    fill(folder, "dead", 700)
    with running("run", cwd=folder):
        task = ask("queue", "redrive", "dead", cwd=folder)
        assert (task["state"], task["moved"]) == ("COMPLETED", 700)
    assert len(bodies(folder, "orders")) == 700


def test_redrive_needs_a_target_where_none_is_known(folder: Path) -> None:
    fill(folder, "other", 1)
    refused = run("queue", "redrive", "other", cwd=folder)
    assert refused.returncode == 1
    assert "--to QUEUE" in refused.stderr
    assert run("queue", "redrive", "other", "--to", "nix", cwd=folder).returncode == 1
    assert run("queue", "redrive", "other", "--to", "other", cwd=folder).returncode == 1
    assert run("queue", "redrive", "other", "--to", "dead", cwd=folder).stdout == "moved 1 message from other to dead\n"


def test_purge_asks(folder: Path) -> None:
    fill(folder, "other", 3)
    assert run("queue", "purge", "other", cwd=folder, data="n\n").returncode == 130
    assert len(bodies(folder, "other")) == 3
    assert run("queue", "purge", "other", cwd=folder, data="y\n").stdout == "deleted 3 messages of other\n"
    assert ask("queue", "purge", "other", "--yes", cwd=folder) == {"queue": "other", "deleted": 0}


def test_ls_counts(folder: Path) -> None:
    fill(folder, "orders", 2)
    depths = {depth["queue"]: depth for depth in ask("queue", "ls", cwd=folder)}
    assert depths["orders"]["visible"] == 2
    assert depths["orders"]["settings"]["dead_letter_queue"] == "dead"
    table = run("queue", "ls", cwd=folder).stdout.splitlines()
    assert table[0].split() == ["QUEUE", "VISIBLE", "HIDDEN", "DELAYED", "OLDEST", "DEAD-LETTER", "QUEUE"]


@pytest.mark.parametrize("command", ["peek", "redrive", "purge"])
def test_a_queue_that_is_not_there_is_named_with_those_that_are(folder: Path, command: str) -> None:
    arguments = ["--yes"] if command == "purge" else []
    done = run("queue", command, "nix", *arguments, cwd=folder)
    assert done.returncode == 1
    assert "there is no queue `nix`" in done.stderr
    assert "dead, discards, orders, other" in done.stderr


def test_a_queue_may_be_named_by_its_reference(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path, POISONED)
    assert run("send", "queue:failed", "a", cwd=folder).returncode == 0
    assert ask("queue", "peek", "queue:failed", cwd=folder) == ask("queue", "peek", "failed", cwd=folder) != []

"""`eventcore replay`, as people type it."""

from __future__ import annotations

import shlex
import signal
from pathlib import Path

import pytest

from tests.behaviours.commands import (
    GATED,
    POISONED,
    STREAM,
    ask,
    open_gate,
    run,
    running,
    wait_gated,
    write_gated,
    write_pipeline,
)

pytestmark = pytest.mark.slow

ONE_BY_ONE = STREAM.replace("batch_size = 10", "batch_size = 1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = write_pipeline(tmp_path, POISONED, ONE_BY_ONE)
    assert run("send", "stream:orders", "a", "poison", "b", "--key", "k", cwd=made).returncode == 0
    return made


def test_it_says_what_it_runs_and_what_failed_where(folder: Path) -> None:
    done = run("replay", "stream:orders", "--from", "beginning", "--yes", cwd=folder)
    assert done.returncode == 6
    assert done.stdout == "ran 3 records in 3 invocations, 1 record failed\n"
    assert "runs up to 3 records of stream:orders through work: shardId-000000000000 from 0 to 2" in done.stderr
    assert "shardId-000000000000 [1] failed: ValueError: a poison order" in done.stderr
    assert "handlers.py:8" in done.stderr
    assert "work | order b" in done.stderr


def test_it_moves_no_position_and_keeps_no_failure(folder: Path) -> None:
    before = ask("status", cwd=folder)["mappings"]
    run("replay", "stream:orders", "--from", "beginning", "--yes", cwd=folder)
    assert ask("status", cwd=folder)["mappings"] == before
    assert ask("failures", "ls", cwd=folder) == []


@pytest.mark.parametrize(
    ("bounds", "records"),
    [
        (["--from", "2"], 1),
        (["--from", "0", "--to", "1"], 1),
        (["--from", "-1h"], 3),
        (["--from", "-1h", "--to", "-30m"], 0),
        (["--from", "2020-01-01T00:00:00", "--to", "end"], 3),
        (["--from", "2035-01-01T00:00:00+00:00"], 0),
        (["--from", "1960-01-01T00:00:00+00:00"], 3),
    ],
)
def test_a_dry_run_counts_and_runs_nothing(folder: Path, bounds: list[str], records: int) -> None:
    plan = ask("replay", "stream:orders", *bounds, "--dry-run", cwd=folder)
    assert (plan["records"], plan["function"]) == (records, "work")
    shown = run("replay", "stream:orders", *bounds, "--dry-run", cwd=folder)
    assert "work | order" not in shown.stderr


def test_it_says_how_the_first_failure_is_run_again(folder: Path) -> None:
    """As it stands there: that batch alone."""
    done = run("replay", "stream:orders", "--from", "beginning", "--yes", cwd=folder)
    _, _, command = done.stderr.partition("alone, once more: eventcore ")
    again = run(*shlex.split(command), "--yes", cwd=folder)
    assert (again.returncode, again.stdout) == (6, "ran 1 record in 1 invocation, 1 record failed\n")
    assert 'work |     raise ValueError("a poison order")' in again.stderr


def test_another_function_gets_the_batches_of_the_mapping(folder: Path) -> None:
    with (folder / "eventcore.toml").open("a") as pipeline:
        pipeline.write('\n[functions.other]\nhandler = "handlers.other"\n')
    with (folder / "handlers.py").open("a") as handlers:
        handlers.write("\ndef other(event, context):\n    print('other', len(event['Records']))\n")
    done = run("replay", "stream:orders", "--from", "0", "--function", "other", "--yes", cwd=folder)
    assert (done.returncode, done.stdout) == (0, "ran 3 records in 3 invocations\n")
    assert done.stderr.count("other | other 1") == 3


def test_of_several_mappings_one_is_chosen(folder: Path) -> None:
    pipeline = (folder / "eventcore.toml").read_text()
    _, _, mapping = pipeline.partition("[mappings.orders]")
    again = mapping.partition("[queues.failed]")[0].replace('"work"', '"other"').replace("size = 1", "size = 10")
    other = '[functions.other]\nhandler = "handlers.work"\n'
    (folder / "eventcore.toml").write_text(f"{pipeline}\n{other}\n[mappings.all]{again}")
    unclear = run("replay", "stream:orders", "--from", "0", "--yes", cwd=folder)
    assert unclear.returncode == 2
    assert "several mappings read stream:orders: orders, all" in unclear.stderr
    for choice in (("--mapping", "all"), ("--function", "other")):
        done = run("replay", "stream:orders", "--from", "0", *choice, "--yes", cwd=folder)
        assert done.stdout == "ran 3 records in 1 invocation, 3 records failed\n"


def test_nothing_to_run_is_a_report_as_well(folder: Path) -> None:
    report = ask("replay", "stream:orders", "--from", "3", cwd=folder)
    assert (report["records"], report["invocations"], report["left"]) == (0, 0, [])


def test_a_range_without_failures_ends_with_0(folder: Path) -> None:
    report = ask("replay", "stream:orders", "--from", "2", "--yes", cwd=folder)
    assert (report["records"], report["failed"], report["left"]) == (1, 0, [])


def test_it_asks_before_it_runs(folder: Path) -> None:
    asked = run("replay", "stream:orders", "--from", "beginning", cwd=folder, data="n\n")
    assert asked.returncode == 130
    assert "work | order" not in asked.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["queue:failed", "--from", "0"], 2, "keeps nothing to run again"),
        (["stream:orders"], 2, "say where to begin"),
        (["stream:orders", "--from", "0", "--resume"], 2, "say where to begin"),
        (["stream:orders", "--resume", "--to", "2"], 2, "the range and the partitions that it had"),
        (["stream:orders", "--resume", "--partition", "0"], 2, "the range and the partitions that it had"),
        (["stream:orders", "--from", "soon"], 2, "`soon` is neither"),
        (["stream:orders", "--from", "0001-01-01T00:00:00"], 2, "is neither"),
        (["stream:orders", "--from", "0", "--function", "nix"], 2, "no function `nix`"),
        (["stream:orders", "--from", "0", "--mapping", "nix"], 2, "no mapping `nix` reads stream:orders"),
        (["stream:orders", "--from", "0", "--partition", "7"], 1, "has no partition 7"),
        (["stream:nix", "--from", "0", "--function", "work", "--yes"], 4, "no stream nix"),
        (["stream:orders", "--resume"], 1, "no replay of stream:orders through work was interrupted"),
    ],
)
def test_what_can_not_be_run_is_refused_with_a_reason(
    folder: Path, arguments: list[str], code: int, words: str
) -> None:
    refused = run("replay", *arguments, cwd=folder)
    assert refused.returncode == code, refused.stderr
    assert words in refused.stderr


def test_beside_a_running_engine_it_reads_through_it(tmp_path: Path) -> None:
    """The engine has the state; its own work goes on, and its position is its own."""
    folder = write_pipeline(tmp_path, POISONED.replace('b"poison"', 'b"never"'), ONE_BY_ONE)
    with running("run", cwd=folder) as engine:
        assert run("send", "stream:orders", "a", "b", "--key", "k", cwd=folder).returncode == 0
        report = ask("replay", "stream:orders", "--from", "0", "--yes", cwd=folder)
        assert report["records"] == 2
        engine.send_signal(signal.SIGTERM)
        assert engine.wait() == 0


def test_engines_start_and_end_while_it_runs(tmp_path: Path) -> None:
    """It has the state only while it reads."""
    latest = STREAM.replace("TRIM_HORIZON", "LATEST").replace("batch_size = 10", "batch_size = 1000")
    folder = write_gated(tmp_path, latest, GATED)
    assert run("send", "stream:orders", "a", "--count", "2500", "--key", "k", cwd=folder).returncode == 0
    with running("replay", "stream:orders", "--from", "0", "--yes", cwd=folder, until="runs up to 2,500") as replay:
        wait_gated(folder)
        with running("run", cwd=folder) as engine:
            open_gate(folder)
            wait_gated(folder)
            engine.send_signal(signal.SIGTERM)
            assert engine.wait() == 0
        open_gate(folder)
        wait_gated(folder)
        assert run("status", cwd=folder).returncode == 0
        open_gate(folder)
        assert replay.wait() == 0
    assert replay.printed == ["ran 2,500 records in 3 invocations"]


@pytest.mark.parametrize("times", [1, 2])
def test_an_interrupted_one_goes_on_where_it_was(tmp_path: Path, times: int) -> None:
    """Once lets the batch end that runs; twice aborts it, so that it runs again."""
    folder = write_gated(tmp_path, ONE_BY_ONE, GATED)
    assert run("send", "stream:orders", "a", "b", "c", "--key", "k", cwd=folder).returncode == 0
    with running("replay", "stream:orders", "--from", "0", "--yes", cwd=folder, until="runs up to 3") as replay:
        wait_gated(folder)
        open_gate(folder)
        wait_gated(folder)
        for _ in range(times):
            replay.send_signal(signal.SIGINT)
            replay.wait_line("ending: running batches may finish")
        if times == 1:
            open_gate(folder)
        told = replay.wait_line("interrupted after")
        assert replay.wait() == 130
    ran = 2 if times == 1 else 1
    _, _, command = told.partition("to go on: eventcore ")
    plan = ask(*shlex.split(command), "--dry-run", cwd=folder)
    assert (plan["records"], plan["shards"][0]["position"]) == (3 - ran, ran)
    (folder / "handlers.py").write_text("def work(event, context): ...\n")
    assert ask(*shlex.split(command), "--yes", cwd=folder)["records"] == 3 - ran
    assert run(*shlex.split(command), cwd=folder).returncode == 1


def test_two_at_once_do_not_share_how_far_they_are(tmp_path: Path) -> None:
    """The first keeps it; the other one runs all the same, and says that it can't be gone on with."""
    folder = write_gated(tmp_path, ONE_BY_ONE, GATED)
    assert run("send", "stream:orders", "a", "b", "c", "--key", "k", cwd=folder).returncode == 0
    with running("replay", "stream:orders", "--from", "0", "--yes", cwd=folder, until="runs up to 3") as replay:
        wait_gated(folder)
        refused = run("replay", "stream:orders", "--resume", cwd=folder)
        assert (refused.returncode, "it goes on by itself" in refused.stderr) == (1, True)
        begin = ("replay", "stream:orders", "--from", "2", "--yes")
        with running(*begin, cwd=folder, until="can't go on with --resume") as second:
            wait_gated(folder)
            second.send_signal(signal.SIGINT)
            second.wait_line("ending: running batches may finish")
            second.send_signal(signal.SIGINT)
            second.wait_line("interrupted after 0 records")
            assert second.wait() == 130
        replay.send_signal(signal.SIGINT)
        replay.wait_line("ending: running batches may finish")
        replay.send_signal(signal.SIGINT)
        _, _, command = replay.wait_line("interrupted after").partition("to go on: eventcore ")
        assert replay.wait() == 130
    plan = ask(*shlex.split(command), "--dry-run", cwd=folder)
    assert (plan["records"], plan["shards"][0]["position"]) == (3, 0)

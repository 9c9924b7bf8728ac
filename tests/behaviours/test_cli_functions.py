"""`invoke` runs a function once; `failures` tells why something failed, and runs it again (design §1)."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import msgspec
import pytest

from tests.behaviours.commands import (
    GATED,
    POISONED,
    STREAM,
    ask,
    run,
    running,
    wait_gated,
    write_gated,
    write_pipeline,
)

pytestmark = pytest.mark.slow

INVOKED = """
def work(event, context):
    print("got", event)
    if event == {"fail": True}:
        raise RuntimeError("as asked")
    return {"records": len(event.get("Records", event.get("records", ())))}
"""

TYPED = """
import msgspec

class Order(msgspec.Struct):
    id: str

def work(order: Order) -> None:
    print("order", order.id)
"""

MENDED = POISONED.replace('record.value == b"poison"', 'record.value == b"worse poison"')


# -- invoke ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_engine", [False, True])
def test_the_response_is_data_and_the_logs_are_not(tmp_path: Path, has_engine: bool) -> None:
    folder = write_pipeline(tmp_path, INVOKED)
    if has_engine:
        with running("run", cwd=folder):
            done = run("invoke", "work", "-e", "-", cwd=folder, data='{"Records": [1, 2]}')
    else:
        done = run("invoke", "work", "-e", "-", cwd=folder, data='{"Records": [1, 2]}')
    assert (done.returncode, done.stdout) == (0, '{"records": 2}\n')
    assert "work | got {'Records': [1, 2]}" in done.stderr
    assert "REPORT RequestId:" in done.stderr
    assert "restart it" not in done.stderr


def test_an_event_waits_for_an_engine_and_is_visible_meanwhile(tmp_path: Path) -> None:
    """§2: accepted at once, durable before the answer; the queue is one like any other."""
    folder = write_pipeline(tmp_path, INVOKED)
    done = run("invoke", "work", '{"Records": [1]}', "--async", cwd=folder)
    request_id = done.stdout.strip()
    assert (done.returncode, len(request_id)) == (0, 36)
    assert "queue:events.work" in done.stderr
    (message,) = ask("queue", "peek", "events.work", cwd=folder)
    assert (message["id"], message["body"], message["state"]) == (request_id, '{"Records": [1]}', "visible")
    with running("dev", cwd=folder) as engine:
        engine.wait_line(f"event {request_id} delivered")
        second = ask("invoke", "work", '{"fail": true}', "--async", cwd=folder)
        assert second["is_served"]
        engine.wait_line(f"event {second['request_id']}", "RuntimeError: as asked", "attempt 1 failed; again in 1 min")
        (status,) = ask("status", cwd=folder)["functions"]
        assert (status["delivered"], status["retried"]) == (1, 1)
        (message,) = ask("queue", "peek", "events.work", cwd=folder)
        assert (message["id"], message["state"]) == (second["request_id"], "delayed")
        assert "DELIVERED" in run("status", cwd=folder).stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nobody", "{}"), "there is no function `nobody`"),
        (("work", "{"), "EVENT is not JSON"),
        (("work", "[" * 10_000 + "]" * 10_000), "EVENT is not JSON"),
    ],
)
def test_an_event_that_can_not_wait_is_refused_at_once(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    done = run("invoke", *arguments, "--async", cwd=write_pipeline(tmp_path, INVOKED))
    assert done.returncode
    assert said in done.stderr


def test_an_event_can_be_typed(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path, INVOKED)
    assert run("invoke", "work", '{"Records": [1]}', cwd=folder).stdout == '{"records": 1}\n'
    assert run("invoke", "work", "-", cwd=folder, data='{"Records": [1, 2]}').stdout == '{"records": 2}\n'


@pytest.mark.parametrize("has_engine", [False, True])
def test_a_function_that_fails_is_told_by_exit_code_and_payload(tmp_path: Path, has_engine: bool) -> None:
    """Lambda semantics §7.2: what Lambda's callers see."""
    folder = write_pipeline(tmp_path, INVOKED)
    (folder / "event.json").write_text('{"fail": true}')
    if has_engine:
        with running("run", cwd=folder):
            done = run("invoke", "work", "-e", "event.json", cwd=folder)
    else:
        done = run("invoke", "work", "-e", "event.json", cwd=folder)
    assert done.returncode == 1
    error = msgspec.json.decode(done.stdout)
    assert (error["errorType"], error["errorMessage"]) == ("RuntimeError", "as asked")
    assert "raise RuntimeError" in error["stackTrace"][-1]


@pytest.mark.parametrize(
    ("sample", "arn_or_source"), [("sqs", "aws:sqs"), ("kinesis", "aws:kinesis"), ("kafka", "SelfManagedKafka")]
)
def test_a_sample_is_an_event_of_its_source(tmp_path: Path, sample: str, arn_or_source: str) -> None:
    folder = write_pipeline(tmp_path, INVOKED)
    done = run("invoke", "work", "--sample", sample, cwd=folder)
    assert (done.returncode, done.stdout) == (0, '{"records": 1}\n')
    assert f"'eventSource': '{arn_or_source}'" in done.stderr


@pytest.mark.parametrize("has_engine", [False, True])
def test_a_sample_suits_handlers_of_records_too(tmp_path: Path, has_engine: bool) -> None:
    """A handler that takes a `Batch` or a struct is given the record, not the event around it."""
    folder = write_pipeline(tmp_path, TYPED)
    arguments = ["invoke", "work", "--sample", "kinesis", "--body", '{"id": "7"}']
    if has_engine:
        with running("run", cwd=folder):
            done = run(*arguments, cwd=folder)
    else:
        done = run(*arguments, cwd=folder)
    assert (done.returncode, done.stdout) == (0, "null\n")
    assert "work | order 7" in done.stderr


def test_an_invocation_is_interrupted_with_its_function(tmp_path: Path) -> None:
    """Ctrl-C: exit code 130, and nothing goes on behind the user's back."""
    handler = GATED.replace("import pathlib", "import os, pathlib").replace(
        "with (", "print('pid', os.getpid())\n    with ("
    )
    folder = write_gated(tmp_path, handler=handler)
    with running("invoke", "work", "{}", cwd=folder, until="pid ") as invoking:
        pid = int(invoking.lines[-1].rpartition(" ")[2])
        wait_gated(folder)
        invoking.send_signal(signal.SIGINT)
        assert invoking.wait() == 130
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_an_invocation_needs_no_state(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path, INVOKED)
    assert run("invoke", "work", "{}", cwd=folder).returncode == 0
    assert not (folder / ".eventcore").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nix", "{}"], 1, "known: work"),
        (["wrok", "{}"], 1, "did you mean `work`?"),
        (["work"], 2, "which event?"),
        (["work", "{"], 2, "EVENT is not JSON"),
        (["work", "handlers.py"], 2, "did you mean -e handlers.py?"),
        (["work", "{}", "-e", "-"], 2, "by one of them"),
        (["work", "-e", "nix.json"], 2, "nix.json can't be read"),
        (["work", "-e", "handlers.py"], 2, "is not JSON"),
        (["work", "-e", "-", "--sample", "sqs"], 2, "by --event or by --sample"),
        (["work", "--body", "x"], 2, "belongs to --sample"),
    ],
)
def test_what_cannot_be_invoked_says_why(tmp_path: Path, arguments: list[str], code: int, said: str) -> None:
    done = run("invoke", *arguments, cwd=write_pipeline(tmp_path, INVOKED))
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr


def test_what_an_inline_function_prints_is_no_data(tmp_path: Path) -> None:
    folder = write_pipeline(
        tmp_path,
        "async def work(event, context):\n    print('to whom it concerns')\n    return 1\n",
        STREAM.replace("timeout = 30", 'runtime = "inline"'),
    )
    done = run("invoke", "work", "{}", cwd=folder)
    assert (done.returncode, done.stdout) == (0, "1\n")
    assert "to whom it concerns" in done.stderr


# -- failures ----------------------------------------------------------------------------------------------------------


def fail_one(folder: Path) -> str:
    """Let a poison order be discarded, and return the failure's id."""
    with running("-v", "run", cwd=folder) as engine:
        assert run("send", "stream:orders", "a", cwd=folder).returncode == 0
        engine.wait_line("batch.settled")
        assert run("send", "stream:orders", "poison", "--key", "ada", cwd=folder).returncode == 0
        engine.wait_line("records.discarded")
    (failure,) = ask("failures", "ls", cwd=folder)
    return str(failure["id"])


def test_a_newcomer_reads_why_it_failed(tmp_path: Path) -> None:
    """Reason, error, traceback, file and line, tries, event, code, environment, and what to do next."""
    environment = 'timeout = 30\nenvironment = { DATABASE = "secret-address" }'
    folder = write_pipeline(tmp_path, POISONED, STREAM.replace("timeout = 30", environment))
    failure_id = fail_one(folder)
    shown = run("failures", "show", failure_id[:6], cwd=folder)
    assert shown.returncode == 0
    for part in (
        "ValueError: a poison order (handlers.py:8)",
        "RetryAttemptsExhausted: it failed as often as its mapping, or its error type, lets it",
        'raise ValueError("a poison order")',
        "tries        2",
        "[1] key ada: poison",
        '"eventSource": "aws:kinesis"',
        "hash of the function's Python files",
        "DATABASE",
        f"eventcore failures retry {failure_id[:12]}",
    ):
        assert part in shown.stdout, part
    assert "secret-address" not in shown.stdout
    assert run("failures", "show", cwd=folder).stdout == shown.stdout, "the newest one"
    listed = run("failures", "ls", cwd=folder)
    assert failure_id[:12] in listed.stdout
    assert "ValueError: a poison order (handlers.py:8)" in listed.stdout


@pytest.mark.parametrize("has_engine", [False, True])
def test_a_failure_is_forgotten_once_it_succeeds_and_never_before(tmp_path: Path, has_engine: bool) -> None:
    """It runs with the code that stands there now, also beside an engine that started with the old one."""
    folder = write_pipeline(tmp_path, POISONED)
    failure_id = fail_one(folder)

    def retry() -> None:
        again = run("failures", "retry", failure_id, cwd=folder)
        assert again.returncode == 1
        assert "failed again: ValueError: a poison order (handlers.py:8)" in again.stdout
        assert "work | order poison" in again.stderr
        assert len(ask("failures", "ls", cwd=folder)) == 1
        write_pipeline(folder, MENDED)
        done = run("failures", "retry", failure_id, cwd=folder)
        assert done.returncode == 0, done.stderr
        assert ("still runs the code it started with: restart it" in done.stderr) == has_engine
        assert "succeeded" in done.stdout
        assert "what queue:failed was told of it is left where it is" in done.stderr
        assert ask("failures", "ls", cwd=folder) == []
        assert len(ask("queue", "peek", "failed", cwd=folder)) == 1

    if has_engine:
        # Enabled: its environment has imported the old code.
        with running("run", cwd=folder, until="state=Enabled") as engine:
            retry()
            invoked = run("invoke", "work", "--sample", "kinesis", cwd=folder)
            assert "ran the code it started with: restart it" in invoked.stderr
            mended = run("send", "stream:orders", "poison", cwd=folder)
            assert mended.returncode == 0
            engine.wait_line("code of work has changed: restart to use it")
    else:
        retry()


QUEUE = """
[queues.orders]
visibility_timeout = 1
redrive_policy = { dead_letter_queue = "dead", max_receive_count = 1 }

[queues.dead]

[functions.work]
handler = "handlers.work"
timeout = 1

[mappings.orders]
source = "queue:orders"
function = "work"
"""


def fail_message(folder: Path, until: str) -> None:
    """Let a poison message fail, and end the engine at a line."""
    with running("-v", "run", cwd=folder) as engine:
        assert run("send", "queue:orders", "poison", cwd=folder).returncode == 0
        engine.wait_line(until)


def count_messages(folder: Path) -> dict[str, int]:
    return {
        depth["queue"]: depth["visible"] + depth["hidden"] + depth["delayed"]
        for depth in ask("queue", "ls", cwd=folder)
    }


@pytest.mark.parametrize(
    ("visibility_timeout", "until", "queue"),
    [(900, "batch.retried", "orders"), (1, "records.lost", "dead")],
)
def test_a_message_that_was_run_again_leaves_its_queue(
    tmp_path: Path, visibility_timeout: int, until: str, queue: str
) -> None:
    """Else it would be processed twice: it comes back by itself, or by a redrive."""
    pipeline = QUEUE.replace("visibility_timeout = 1", f"visibility_timeout = {visibility_timeout}")
    folder = write_pipeline(tmp_path, POISONED, pipeline)
    fail_message(folder, until)
    assert count_messages(folder)[queue] == 1
    shown = run("failures", "show", cwd=folder).stdout
    assert ("runs it now, and takes it out of its queue" in shown) == (queue == "orders")
    assert run("failures", "retry", cwd=folder).returncode == 1
    assert count_messages(folder)[queue] == 1
    write_pipeline(folder, MENDED, pipeline)
    done = run("failures", "retry", cwd=folder)
    assert done.returncode == 0
    assert f"deleted from queue:{queue}" in done.stderr
    assert sum(count_messages(folder).values()) == 0


def test_a_purged_message_is_not_said_to_come_back(tmp_path: Path) -> None:
    pipeline = QUEUE.replace("visibility_timeout = 1", "visibility_timeout = 900")
    folder = write_pipeline(tmp_path, POISONED, pipeline)
    fail_message(folder, "batch.retried")
    assert "comes back by itself" in run("failures", "show", cwd=folder).stdout
    assert run("queue", "purge", "orders", "--yes", cwd=folder).returncode == 0
    shown = run("failures", "show", cwd=folder).stdout
    assert "Purged: its queue was purged" in shown
    assert "by itself" not in shown


def test_hints_name_the_pipeline_that_was_named(tmp_path: Path) -> None:
    write_pipeline(tmp_path / "shop", POISONED)
    failure_id = fail_one(tmp_path / "shop")
    shown = run("-c", "shop", "failures", "show", cwd=tmp_path)
    assert f"eventcore -c shop failures retry {failure_id[:12]}" in shown.stdout
    assert "eventcore -c shop failures show ID" in run("-c", "shop", "failures", "ls", cwd=tmp_path).stderr
    assert "eventcore -c shop failures ls" in run("-c", "shop", "failures", "show", "ffffff", cwd=tmp_path).stderr


def test_failures_are_dropped_by_name_or_all_at_once(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path, POISONED)
    failure_id = fail_one(folder)
    assert run("failures", "drop", cwd=folder).returncode == 2
    assert run("failures", "drop", "ffffffffff", cwd=folder).returncode == 1
    refused = run("failures", "drop", "--all", cwd=folder, data="n\n")
    assert refused.returncode == 130
    unanswered = run("failures", "drop", "--all", cwd=folder, data="")
    assert unanswered.returncode == 2
    assert "--yes answers" in unanswered.stderr
    assert len(ask("failures", "ls", cwd=folder)) == 1
    assert ask("failures", "drop", failure_id, cwd=folder) == [failure_id]
    assert run("failures", "drop", "--all", "--yes", cwd=folder).stdout == "forgot 0 failures\n"
    assert run("failures", "show", cwd=folder).returncode == 1


def test_logs_are_there_with_and_without_an_engine(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path, POISONED)
    failure_id = fail_one(folder)
    request_id = ask("failures", "show", failure_id, cwd=folder)["request_id"]
    lines = ask("logs", "work", "--request-id", request_id, cwd=folder)
    assert {line["request_id"] for line in lines} == {request_id}
    assert "order poison" in [line["text"] for line in lines]
    assert [line["text"] for line in ask("logs", "-n", "1", cwd=folder)] == [lines[-1]["text"]]
    assert ask("logs", "--since", "1d", cwd=folder)
    assert "no line of request nix" in run("logs", "--request-id", "nix", cwd=folder).stderr
    missing = run("logs", "nix", cwd=folder)
    assert missing.returncode == 1
    assert "known: work" in missing.stderr


def test_logs_are_followed(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path, POISONED)
    with running("run", cwd=folder), running("logs", "-f", "-o", "ndjson", cwd=folder, until="") as following:
        assert run("send", "stream:orders", "first", cwd=folder).returncode == 0
        following.wait_printed("order first")
        assert run("send", "stream:orders", "second", cwd=folder).returncode == 0
        following.wait_printed("order second")
    texts = [msgspec.json.decode(line)["text"] for line in following.printed]
    assert [text for text in texts if text.startswith("order")] == ["order first", "order second"]

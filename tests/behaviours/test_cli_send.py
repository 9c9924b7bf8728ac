"""`eventcore send` puts records where they belong and prints where that is, with an engine and without."""

from __future__ import annotations

import base64
from pathlib import Path

import msgspec
import pytest

from tests.behaviours.commands import POISONED, STREAM, ask, run, running, write_pipeline

pytestmark = pytest.mark.slow

QUEUE = STREAM + "\n[queues.orders]\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_pipeline(tmp_path, POISONED, QUEUE)


def bodies(folder: Path) -> list[str]:
    return [message["body"] for message in ask("queue", "peek", "orders", "-n", "5000", cwd=folder)]


def test_records_of_a_stream_are_printed_with_shard_and_position(folder: Path) -> None:
    done = run("send", "stream:orders", "a", "b", "--key", "k", cwd=folder)
    assert done.stdout == "shardId-000000000000 0\nshardId-000000000000 1\n"
    assert done.stderr == "2 records sent to stream:orders\n"
    assert ask("send", "stream:orders", "c", cwd=folder) == [{"shard": "shardId-000000000000", "position": 2}]


@pytest.mark.parametrize("option", ["--key", "--group"])
def test_messages_are_printed_with_their_ids(folder: Path, option: str) -> None:
    """Group, headers and delay arrive with them."""
    done = run("send", "queue:orders", "a", option, "g", "--header", "color=red=ish", "--delay", "300", cwd=folder)
    (message,) = ask("queue", "peek", "orders", cwd=folder)
    assert done.stdout.split() == [message["id"]]
    assert (message["body"], message["group"], message["state"]) == ("a", "g", "delayed")
    assert message["headers"] == [{"name": "color", "value": "red=ish"}]


def test_messages_of_a_fifo_queue_have_a_group_and_a_deduplication_id(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path, POISONED, STREAM + "\n[queues.orders]\nfifo_queue = true\n")
    sending = ("send", "queue:orders", "a", "--deduplication-id", "d", "--group")
    (first,) = ask(*sending, "g", cwd=folder)
    assert ask(*sending, "h", cwd=folder) == [first]
    (message,) = ask("queue", "peek", "orders", cwd=folder)
    assert (message["group"], message["deduplication_id"]) == ("g", "d")
    refused = run("send", "queue:orders", "a", "--group", "g", cwd=folder)
    assert (refused.returncode, "MessageDeduplicationId provided explicitly" in refused.stderr) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("queue:orders", "a", "b", "--deduplication-id", "d"), "for one record"),
        (("queue:orders", "--file", "-", "--deduplication-id", "d"), "for one record"),
        (("queue:orders", "a", "--group", "g", "--key", "g"), "give one of them"),
        (("stream:orders", "a", "--group", "g"), "are for queues"),
        (("stream:orders", "a", "--deduplication-id", "d"), "are for queues"),
    ],
)
def test_options_of_fifo_queues_that_can_have_no_effect_are_refused(
    folder: Path, arguments: tuple[str, ...], why: str
) -> None:
    refused = run("send", *arguments, cwd=folder)
    assert refused.returncode == 2
    assert why in refused.stderr


def test_a_running_engine_is_given_the_records(folder: Path) -> None:
    with running("-v", "run", cwd=folder) as engine:
        assert ask("send", "stream:orders", "a", cwd=folder) == [{"shard": "shardId-000000000000", "position": 0}]
        engine.wait_line("records.sent", "source=stream:orders", "count=1")
        engine.wait_line("batch.settled")


@pytest.mark.parametrize("arguments", [["-"], ["--file", "-"]])
def test_standard_input_is_one_record_a_line(folder: Path, arguments: list[str]) -> None:
    """Line ends and empty lines are no part of records; the last line needs no end."""
    done = run("send", "queue:orders", *arguments, cwd=folder, data="one\r\n\ntwo\nthree")
    assert done.returncode == 0
    assert bodies(folder) == ["one", "two", "three"]


def test_a_file_is_sent_in_order_and_may_be_cut(folder: Path) -> None:
    (folder / "orders.txt").write_text("".join(f"{number}\n" for number in range(2500)))
    assert run("send", "queue:orders", "--file", "orders.txt", "--count", "2400", cwd=folder).returncode == 0
    assert bodies(folder) == [str(number) for number in range(2400)]


def test_a_body_is_repeated_and_counted(folder: Path) -> None:
    done = run("send", "queue:orders", '{"id": {n}}', "x", "--count", "3", "--rate", "1000", cwd=folder)
    assert done.returncode == 0
    assert bodies(folder) == ['{"id": 1}', "x", '{"id": 3}']


def test_bytes_that_are_no_text_arrive_and_are_shown_as_base64(folder: Path) -> None:
    (folder / "photo").write_bytes(b"\xff\xfe\x00")
    assert run("send", "queue:orders", "--file", "photo", cwd=folder).returncode == 0
    (message,) = ask("queue", "peek", "orders", cwd=folder)
    assert base64.b64decode(message["body"]["base64"]) == b"\xff\xfe\x00"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["queue:nix", "x"], 1, "there is no queue nix"),
        (["stream:nix", "x"], 1, "there is no stream nix"),
        (["kafka:nix/orders", "x"], 1, "there is no [kafka.nix]"),
        (["orders", "x"], 2, "write kind:name"),
        (["function:work", "x"], 2, "eventcore invoke work"),
        (["queue:orders"], 2, "give records as BODY"),
        (["queue:orders", "x", "--file", "y"], 2, "give records as BODY"),
        (["queue:orders", "-", "x"], 2, "stands alone"),
        (["stream:orders", "x", "--delay", "1"], 2, "for queues"),
        (["queue:orders", "x", "--delay", "901"], 2, "901"),
        (["queue:orders", "x", "--header", "color"], 2, "NAME=VALUE"),
        (["queue:orders", "--file", "nix"], 2, "nix can't be read"),
    ],
)
def test_what_cannot_be_sent_says_why(folder: Path, arguments: list[str], code: int, said: str) -> None:
    done = run("send", *arguments, cwd=folder)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_message_that_is_too_long_is_refused_whole(folder: Path) -> None:
    (folder / "long").write_text("x" * 1_048_577)
    done = run("send", "queue:orders", "--file", "long", cwd=folder)
    assert done.returncode == 1
    assert "1,048,576" in done.stderr or "1048576" in done.stderr
    assert bodies(folder) == []


def test_json_is_one_document_and_ndjson_one_line_each(folder: Path) -> None:
    lines = run("-o", "ndjson", "send", "stream:orders", "a", "b", cwd=folder).stdout.splitlines()
    assert [msgspec.json.decode(line)["position"] for line in lines] == [0, 1]
    assert [place["position"] for place in ask("send", "stream:orders", "c", "d", cwd=folder)] == [2, 3]


def test_a_body_that_names_a_file_is_sent_and_doubted(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path, POISONED)
    done = run("send", "stream:orders", "handlers.py", cwd=folder)
    assert done.returncode == 0
    assert "did you mean --file?" in done.stderr


@pytest.mark.parametrize(
    ("reference", "meant"), [("stream:ordres", "did you mean `orders`?"), ("queue:faild", "did you mean `failed`?")]
)
def test_a_name_that_is_not_there_is_told_with_the_known_ones(tmp_path: Path, reference: str, meant: str) -> None:
    done = run("send", reference, "a", cwd=write_pipeline(tmp_path, POISONED))
    assert done.returncode == 1
    assert "known: " in done.stderr
    assert meant in done.stderr

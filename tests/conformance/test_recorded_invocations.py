"""Invocation records and dead letters are those recorded on AWS, key by key.

Each line of `destination_records.jsonl` about an asynchronous invocation is played in virtual time. Source: Lambda
semantics §2.1, §2.2.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

import eventcore
from eventcore.embedded.shapes import SqsShape, queue_arn
from eventcore.model import Record
from eventcore.testing.harness import Harness
from tests.behaviours.orders import play

CONFORMANCE = Path(os.environ.get("EVENTCORE_CONFORMANCE", Path(__file__).parents[3] / "shared" / "conformance"))

if not CONFORMANCE.is_dir():
    pytest.skip(f"no recorded cases at {CONFORMANCE}: set EVENTCORE_CONFORMANCE", allow_module_level=True)

LINES = {
    line["name"]: line
    for text in (CONFORMANCE / "destination_records.jsonl").read_text().splitlines()
    if (line := json.loads(text))["name"].startswith(("async/", "dlq/"))
}
#: A topic comes with its connector.
AWAITING = {"dlq/sns_then_sqs"}


async def _echo(event: Any, context: Any) -> Any:
    return {"event": event, "context": {"aws_request_id": context.aws_request_id}}


def _raise(message: str) -> Any:
    async def work(event: Any, context: Any) -> None:
        raise Exception(message)

    return work


#: What each recording was made with: handler, settings, event.
_TEST = "Test exception (this is intentional)"
CASES: dict[str, tuple[Any, dict[str, Any], Any]] = {
    "async/success_sqs": (_echo, {"maximum_retry_attempts": 0}, {}),
    "async/failure_retries0_sqs": (_raise(_TEST), {"maximum_retry_attempts": 0}, {"raise_error": 1}),
    "async/failure_default_retries_sqs": (_raise(_TEST), {}, {"raise_error": 1}),
    "async/event_age_60_no_retry": (
        _raise("intentional failure"),
        {"maximum_event_age_in_seconds": 60},
        {"message": "<test-msg-id>"},
    ),
    "async/event_age_90_one_retry": (
        _raise("intentional failure"),
        {"maximum_event_age_in_seconds": 90},
        {"message": "<test-msg-id>"},
    ),
    "async/zero_reserved_concurrency": (
        _raise(_TEST),
        {"maximum_retry_attempts": 0, "reserved_concurrent_executions": 0},
        None,
    ),
    "dlq/sqs_retries0": (
        _raise(_TEST),
        {"maximum_retry_attempts": 0, "dead_letter_queue": "told"},
        {"raise_error": 1},
    ),
}


def _play(name: str) -> Record:
    """Play a case, and return what its destination holds."""
    handler, settings, event = CASES[name]
    held: list[Record] = []

    async def scenario(harness: Harness) -> None:
        await harness.invoke_async("work", event)
        await harness.run_until_idle()
        (message,) = await harness.messages("told")
        held.append(
            Record(position=1, body=message.body, id=message.id, receipt="r", headers=message.headers, attributes={})
        )

    app = eventcore.App()
    app.queue("told")
    if not name.startswith("dlq/"):
        settings = {**settings, "on_success": "queue:told", "on_failure": "queue:told"}
    app.function("work", runtime="inline", **settings)(handler)
    play(app, scenario)
    return held[0]


def _assert_like(ours: Any, recorded: Any, path: str = "") -> None:
    """Compare as recorded: a placeholder stands for any value of its kind, all else is equal, key by key."""
    if isinstance(recorded, dict):
        assert isinstance(ours, dict), path
        # Whose handler answers is the test's own business.
        expected = recorded.keys() & {"aws_request_id"} if path.endswith("/context") else recorded.keys()
        assert set(ours) == set(expected), path
        for key in expected:
            _assert_like(ours[key], recorded[key], f"{path}/{key}")
    elif path.endswith("/stackTrace"):
        assert ours, path
        assert all(re.match(r'  File "[^"]+", line \d+, in \w+\n    ', line) for line in ours), ours
    elif recorded == "date":
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", ours), path
    elif isinstance(recorded, str) and recorded.startswith("arn:"):
        pattern = re.sub(r"<[^>]+>", "[^:]+", recorded.replace("111111111111", r"\d{12}").replace("$", r"\$"))
        assert re.fullmatch(pattern, ours), (path, ours)
    elif isinstance(recorded, str) and re.fullmatch(r"<(uuid|request-id):\d+>", recorded):
        assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", ours), path
    else:
        assert ours == recorded, path


def test_every_recorded_case_is_played_or_awaits_its_connector() -> None:
    assert LINES.keys() == CASES.keys() | AWAITING


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("async/")])
def test_an_invocation_record_is_as_recorded(name: str) -> None:
    recorded = LINES[name]["record"]
    told = _play(name).body
    assert told is not None
    ours = json.loads(told)
    _assert_like(ours, recorded)
    ids = re.findall(r'"(?:requestId|aws_request_id)": ?"([^"]+)"', told.decode())
    assert len(set(ids)) == 1


def test_a_dead_letter_is_as_recorded() -> None:
    recorded = LINES["dlq/sqs_retries0"]["record"]
    held = _play("dlq/sqs_retries0")
    shape = SqsShape(queue_arn("told", region="eu-west-1", account_id="123456789012"))
    (message,) = shape.event([held], "")["Records"]
    assert json.loads(message["body"]) == recorded["Body"]
    attributes = {
        name: {"DataType": value["dataType"], "StringValue": value["stringValue"]}
        for name, value in message["messageAttributes"].items()
    }
    _assert_like(attributes, recorded["MessageAttributes"])

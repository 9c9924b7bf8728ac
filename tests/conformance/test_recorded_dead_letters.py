"""What dead-letter queues held on AWS is what they hold here: `destination` of `esm_sqs`, value for value.

Each recorded message is sent to a queue, fails as in its recording, and is read from the dead-letter queue.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

import eventcore
from eventcore.testing import Scripted, open_pipeline
from tests.conformance.scenarios.stage import REPORTS, redrive
from tests.conformance.scenarios.table import CONFORMANCE
from tests.conformance.test_recorded_destinations import disagreements

RECORDED = CONFORMANCE / "esm_sqs.jsonl"
RAISES: Any = Scripted(then=ValueError("always"))


def _report(event: Any) -> Any:
    return {"batchItemFailures": [{"itemIdentifier": record["messageId"]} for record in event["Records"]]}


#: What the function did in each recording; whether its source is a FIFO queue.
FUNCTIONS: dict[str, tuple[Any, bool]] = {
    "test_redrive_policy_with_failing_lambda": (RAISES, False),
    "test_report_batch_item_failures": (_report, True),
    "test_report_batch_item_failures_on_lambda_error": (RAISES, False),
    "test_report_batch_item_failures_invalid_result_json_batch_fails": (
        lambda event: {"batchItemFailures": [{"foo": "notvalid"}]},
        False,
    ),
}


def _recorded() -> dict[str, list[dict[str, Any]]]:
    """Return the messages of every recorded dead-letter queue, by the name of its test."""
    found = {}
    for line in map(json.loads, RECORDED.read_text().splitlines() if RECORDED.is_file() else ()):
        for step, told in line["destination"].items():
            messages = told if isinstance(told, list) else told.get("Messages", [])
            if messages:
                found[line["name"].rpartition("::")[2]] = messages
            else:
                # The setting of a function's dead-letter queue; what it then holds: `destination_records.jsonl`.
                assert (step, set(told)) == ("lambda-response-dlq-config", {"TargetArn"})
    return found


CASES = _recorded()


@pytest.mark.skipif(not CASES, reason=f"no recorded cases at {CONFORMANCE}: set EVENTCORE_CONFORMANCE")
def test_every_recorded_dead_letter_queue_is_played() -> None:
    assert CASES.keys() == FUNCTIONS.keys()


@pytest.mark.parametrize("name", CASES)
def test_a_recorded_dead_letter(name: str) -> None:
    work, is_fifo = FUNCTIONS[name]
    app = eventcore.App()
    app.queue("dead", fifo_queue=is_fifo)
    app.queue("orders", fifo_queue=is_fifo, visibility_timeout=5, redrive_policy=redrive(2))
    app.function("work", handler="nowhere.work")
    app.function("look", handler="nowhere.look")
    app.mapping("orders", source="queue:orders", function="work", function_response_types=REPORTS)
    app.mapping("dead", source="queue:dead", function="look")
    # The recorder shows bodies that are JSON parsed.
    texts = [body if isinstance(body := message["Body"], str) else json.dumps(body) for message in CASES[name]]
    with open_pipeline(app, functions={"work": work, "look": Scripted()}) as pipeline:
        sent = [
            pipeline.send("queue:orders", [text], key="g" if is_fifo else None, deduplication_id=f"{number}" * is_fifo)[
                0
            ]
            for number, text in enumerate(texts)
        ]
        pipeline.run_until_idle()
        tries = [call for call in pipeline.invocations if call.mapping == "orders"]
        assert {record["messageId"] for call in tries for record in call.event["Records"]} == set(sent)
        read = [record for call in pipeline.invocations if call.mapping == "dead" for record in call.event["Records"]]
    ours = sorted(read, key=lambda record: sent.index(record["messageId"]))
    told = [
        {
            "Body": _as_shown(record["body"]),
            "MessageId": record["messageId"],
            "MD5OfBody": record["md5OfBody"],
            "ReceiptHandle": record["receiptHandle"],
        }
        for record in ours
    ]
    assert list(disagreements(CASES[name], told, {})) == []


def _as_shown(body: str) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body

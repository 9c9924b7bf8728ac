"""What handlers were given on AWS is what they are given here: `delivered_batches` of `esm_sqs` and `esm_kinesis`.

Each recorded batch is sent again, record by record, and delivered by the engine; the event must be the recorded one,
value for value, placeholders apart. Source: Lambda semantics §3.1, §4 "Event shape".
"""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

import eventcore
from eventcore.testing import open_pipeline
from tests.conformance.scenarios.table import CONFORMANCE
from tests.conformance.test_recorded_destinations import disagreements


def _batches(source: str) -> list[Any]:
    """Return every recorded batch as a parameter, named by its test and step."""
    path = CONFORMANCE / f"esm_{source}.jsonl"
    if not path.is_file():
        return [pytest.param([], id="no-recorded-cases")]
    found = []
    for line in map(json.loads, path.read_text().splitlines()):
        for step in line["delivered_batches"]:
            for number, batch in enumerate(step["batches"]):
                records = batch if isinstance(batch, list) else batch.get("Records", [])
                name = line["name"].rpartition("::")[2]
                for record in records:
                    # The recorder shows bodies that are JSON parsed: a handler is given text.
                    if not isinstance(record.get("body", ""), str):
                        record["body"] = json.dumps(record["body"])
                if records:
                    found.append(pytest.param(records, id=f"{name}-{step['step']}-{number}"))
    return found


needs_cases = pytest.mark.skipif(not CONFORMANCE.is_dir(), reason=f"no recorded cases at {CONFORMANCE}")


@needs_cases
@pytest.mark.parametrize("records", _batches("kinesis"))
def test_a_recorded_batch_of_a_stream(records: list[dict[str, Any]]) -> None:
    """What one recording lists of several invocations is taken once."""
    records = list({record["kinesis"]["sequenceNumber"]: record for record in records}.values())
    app = eventcore.App()
    app.stream("orders", shards=1)
    app.function("work", handler="nowhere.work")
    app.mapping(
        "orders",
        source="stream:orders",
        function="work",
        starting_position="TRIM_HORIZON",
        batch_size=len(records),
        maximum_batching_window_in_seconds=int(len(records) > 1),
    )
    with open_pipeline(app, functions={"work": lambda event: None}) as pipeline:
        for record in records:
            body = base64.b64decode(record["kinesis"]["data"])
            pipeline.send("stream:orders", [body], key=record["kinesis"]["partitionKey"])
        pipeline.run_until_idle()
        (call,) = pipeline.invocations
    assert list(disagreements({"Records": records}, call.event, {})) == []


@needs_cases
@pytest.mark.parametrize("records", _batches("sqs"))
def test_a_recorded_batch_of_a_queue(records: list[dict[str, Any]]) -> None:
    """One that was received for the second time failed once."""
    is_fifo = "MessageGroupId" in records[0]["attributes"]
    receives = int(records[0]["attributes"]["ApproximateReceiveCount"])
    window = 0 if is_fifo or len(records) == 1 else 1

    def app(*, enabled: bool) -> eventcore.App:
        app = eventcore.App()
        app.queue("orders", fifo_queue=is_fifo)
        app.function("work", handler="nowhere.work")
        settings = {"batch_size": len(records), "maximum_batching_window_in_seconds": window}
        app.mapping("orders", source="queue:orders", function="work", enabled=enabled, **settings)  # type: ignore[arg-type]
        return app

    def work(event: Any) -> None:
        if event["Records"][0]["attributes"]["ApproximateReceiveCount"] != str(receives):
            raise ValueError("not yet")

    with open_pipeline(app(enabled=False), functions={"work": work}) as pipeline:
        for record in records:
            pipeline.send(
                "queue:orders",
                [record["body"]],
                key=record["attributes"].get("MessageGroupId"),
                headers=_headers(record["messageAttributes"]),
                deduplication_id=record["attributes"].get("MessageDeduplicationId", ""),
            )
        pipeline.restart(app(enabled=True), functions={"work": work})
        pipeline.run_until_idle()
        call = pipeline.invocations[-1]
    # Absent, or null in one recording: Lambda semantics §3.1.
    recorded = [{name: value for name, value in record.items() if value is not None} for record in records]
    ours = {record["messageId"]: record for record in call.event["Records"]}
    assert len(ours) == len(recorded)
    by_body = sorted(call.event["Records"], key=lambda record: str(record["body"]))
    wanted = sorted(recorded, key=lambda record: str(record["body"]))
    assert list(disagreements({"Records": wanted}, {"Records": by_body}, {})) == []


def _headers(attributes: dict[str, Any]) -> dict[str, str]:
    return {f"{name}:{value['dataType']}": value["stringValue"] for name, value in attributes.items()}

"""Buckets take records of failures: their names, their payload, and one object however often a row is handed over."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

import eventcore
from eventcore.errors import ConfigError, StoreUnavailable
from eventcore.ports.destinations import OBJECT_KEY
from eventcore.ports.sources import LostRange
from eventcore.ports.store import MarkSent, Operation, OutboxRow, PutOutbox, Store
from eventcore.testing import Faults, Scripted, open_pipeline
from eventcore.testing.faults import Fate
from eventcore.testing.harness import Harness, open_harness
from eventcore_connectors.bucket import connector as bucket_connector
from tests.behaviours.orders import stream_app
from tests.behaviours.scripted_source import ScriptedStream, play_scripted, record, scripted_app

SOURCES = {"stream": "stream:orders", "kafka": "kafka:local/orders"}
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


def _with_bucket(app: eventcore.App) -> eventcore.App:
    app.s3("minio", endpoint="http://127.0.0.1:9", access_key_id="a", secret_access_key="b")
    app.bucket("failures", connection="s3:minio", bucket="failed-orders")
    return app


def _app(kind: str = "stream", **mapping: Any) -> eventcore.App:
    app = eventcore.App()
    if kind == "kafka":
        app.kafka("local", bootstrap_servers="127.0.0.1:9092")
    else:
        app.stream("orders", shards=1)
    app.queue("parked-orders")
    app.function("work", handler="nowhere.work")
    settings = {"starting_position": "TRIM_HORIZON", "on_failure": "bucket:failures", "maximum_retry_attempts": 0}
    app.mapping("orders", source=SOURCES[kind], function="work", **{**settings, **mapping})
    return _with_bucket(app)


def _event_app(**function: Any) -> eventcore.App:
    app = eventcore.App()
    app.function("work", handler="nowhere.work", **{"on_failure": "bucket:failures", **function})
    return _with_bucket(app)


# -- names and payload -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "shard"), [("stream", "shardId-000000000000"), ("kafka", "orders-0")])
def test_a_mappings_record_is_named_by_mapping_shard_and_time_and_holds_the_event(kind: str, shard: str) -> None:
    with open_pipeline(_app(kind, batch_size=2), functions={"work": Scripted(then=ValueError("no"))}) as pipeline:
        pipeline.advance(86_400 + 3 * 3600 + 4 * 60 + 5)
        pipeline.send(SOURCES[kind], [1, 2], key="ada")
        pipeline.run_until_idle()
        (call,) = pipeline.invocations
        (told,) = pipeline.delivered_to("bucket:failures")
    # Virtual time begins on 2026-01-01; a Kafka batch waits for half a second.
    name = rf"aws/lambda/orders/{shard}/2026/01/02/2026-01-02T03\.04\.0[56]-{UUID}"
    assert re.fullmatch(name, told.headers[OBJECT_KEY])
    assert isinstance(told.json["payload"], str)
    event = json.loads(told.json["payload"])
    assert event == call.event
    assert told.json["requestContext"]["condition"] == "RetryAttemptsExhausted"
    assert told.headers["eventcore-lineage"] == "work=1"


def test_only_the_records_that_were_given_up_are_in_the_payload() -> None:
    """Of a batch that was halved each discard holds its own part."""
    poison = Scripted(then=lambda event, context: _raise_for(event, 3))
    with open_pipeline(_app(batch_size=4, bisect_batch_on_function_error=True), functions={"work": poison}) as pipeline:
        pipeline.send("stream:orders", [1, 2, 3, 4], key="ada")
        pipeline.run_until_idle()
        (told,) = pipeline.delivered_to("bucket:failures")
    assert _bodies(json.loads(told.json["payload"])) == [3]


def _bodies(event: Any) -> list[int]:
    return [int(base64.b64decode(entry["kinesis"]["data"])) for entry in event["Records"]]


def _raise_for(event: Any, poison: int) -> None:
    if poison in _bodies(event):
        raise ValueError("poison")


def test_what_the_source_dropped_has_no_payload() -> None:
    """There is no event that could be told: the record names the range."""
    rows: list[OutboxRow] = []
    stream = ScriptedStream({"orders-0": [LostRange(shard="orders-0", first=0, last=9), record(10)]})
    _play(_scripted(), stream, rows)
    lost, failed = [json.loads(row.payload) for row in rows]
    assert lost["lostRange"]["count"] == 10
    assert "payload" not in lost
    assert "payload" in failed


def test_a_functions_record_is_named_by_function_and_time_and_is_lambdas_own() -> None:
    with open_pipeline(
        _event_app(maximum_retry_attempts=0), functions={"work": Scripted(then=ValueError("no"))}
    ) as pipeline:
        pipeline.invoke_async("work", {"id": 7})
        pipeline.run_until_idle()
        (told,) = pipeline.delivered_to("bucket:failures")
    assert re.fullmatch(rf"aws/lambda/async/work/2026/01/01/2026-01-01T00\.00\.0\d-{UUID}", told.headers[OBJECT_KEY])
    keys = {"version", "timestamp", "requestContext", "requestPayload", "responseContext", "responsePayload"}
    assert set(told.json) == keys
    assert told.json["requestPayload"] == {"id": 7}


def test_two_records_of_one_second_have_two_names() -> None:
    with open_pipeline(_app(batch_size=1), functions={"work": Scripted(then=ValueError("no"))}) as pipeline:
        pipeline.send("stream:orders", [1, 2], key="ada")
        pipeline.run_until_idle()
        names = [told.headers[OBJECT_KEY] for told in pipeline.delivered_to("bucket:failures")]
    assert len(set(names)) == 2


# -- handed over again -------------------------------------------------------------------------------------------------


class _Destination:
    """The connector of kind `bucket` and its one destination: keeps every hand-over."""

    kind = "bucket"
    reference = "bucket:failures"

    def __init__(self, rows: list[OutboxRow]) -> None:
        self._rows = rows

    def open_destination(self, reference: Any, connection: Any, context: Any) -> _Destination:
        return self

    async def open(self) -> None:
        return None

    async def deliver(self, rows: Sequence[OutboxRow]) -> None:
        self._rows.extend(rows)

    async def aclose(self) -> None:
        return None


async def _fail(event: dict[str, Any], context: Any) -> None:
    raise ValueError("always")


def _scripted() -> eventcore.App:
    return _with_bucket(scripted_app(_fail, maximum_retry_attempts=0, batch_size=1, on_failure="bucket:failures"))


def _play(app: eventcore.App, stream: ScriptedStream, rows: list[OutboxRow], **more: Any) -> None:
    async def scenario(harness: Harness) -> None:
        await harness.advance(600)

    play_scripted(app, scenario, stream, _Destination(rows), **more)


def test_a_row_that_is_handed_over_again_minutes_later_is_the_same_object() -> None:
    """Its name is made when it is written down, and not when it is handed over."""
    refused: list[Operation] = []
    rows: list[OutboxRow] = []

    async def commit(store: Store, operations: Sequence[Operation]) -> list[Any]:
        if any(isinstance(each, MarkSent) for each in operations) and len(refused) < 8:
            refused.extend(operations)
            raise StoreUnavailable("away for minutes")
        return await store.commit(operations)

    _play(_scripted(), ScriptedStream({"orders-0": [record(0)]}), rows, commit=commit)
    assert len(rows) == 9
    assert len({(row.attributes[OBJECT_KEY], row.payload) for row in rows}) == 1


class _LostAnswers(Faults):
    """Discards are written, and said to have failed: their batches come again."""

    def __init__(self) -> None:
        self.lost = 0

    def fate_of_commit(self, operations: Sequence[Operation]) -> Fate:
        is_discard = any(isinstance(operation, PutOutbox) for operation in operations)
        self.lost += is_discard
        return Fate.LOST if is_discard else Fate.DONE


@pytest.mark.parametrize("kind", SOURCES)
def test_a_batch_that_is_given_up_again_is_one_object(kind: str) -> None:
    faults = _LostAnswers()
    with open_pipeline(_app(kind), functions={"work": Scripted(then=ValueError("no"))}, faults=faults) as pipeline:
        pipeline.send(SOURCES[kind], [1], key="ada")
        pipeline.advance(3600)
        assert len(pipeline.delivered_to("bucket:failures")) == 1
    assert faults.lost >= 1


def test_a_bucket_that_is_away_holds_up_nothing_and_gets_all_of_it() -> None:
    with open_pipeline(_app(batch_size=1), functions={"work": Scripted(then=ValueError("no"))}) as pipeline:
        pipeline.take_down("bucket:failures", seconds=3600)
        pipeline.send("stream:orders", [1, 2, 3], key="ada")
        pipeline.run_until_idle()
        told = pipeline.delivered_to("bucket:failures")
    assert [_bodies(json.loads(each.json["payload"])) for each in told] == [[1], [2], [3]]
    assert all("T00.00.0" in each.headers[OBJECT_KEY] for each in told)


# -- failures only -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("app", "said"),
    [
        (_event_app(on_success="bucket:failures"), "takes records of failures alone"),
        (_app("kafka", results="bucket:failures"), "results go to a topic"),
        (_app(lanes=2, parking="bucket:failures"), "what is parked is given back"),
        (_event_app(dead_letter_queue="bucket:failures"), "leads to nothing"),
        (_app("kafka", delivery="exactly_once"), "no topic of the connection"),
    ],
)
def test_nothing_else_goes_to_a_bucket(app: eventcore.App, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        app.loaded()


def test_nothing_is_read_from_a_bucket_and_a_queue_has_its_own_ways() -> None:
    app = _app()
    app.queue("jobs")
    app.mapping("uploads", source="bucket:failures", function="work")
    app.mapping("jobs", source="queue:jobs", function="work", on_failure="bucket:failures")
    with pytest.raises(ConfigError) as caught:
        app.loaded()
    said = {mistake.path: str(mistake) for mistake in caught.value.mistakes}
    assert "nothing tells yet what is put into a bucket" in said["mappings.uploads.source"]
    assert "EC104" in said["mappings.jobs.on_failure"]


# -- for real ----------------------------------------------------------------------------------------------------------


def test_a_folder_has_the_object_and_what_goes_with_it(tmp_path: Path) -> None:
    """Through the engine in real time: the file, and its lineage beside it."""
    app = stream_app(_fail, maximum_retry_attempts=0, on_failure="bucket:failures")
    app.bucket("failures", folder=str(tmp_path))

    async def run() -> None:
        async with open_harness(app, connectors={"bucket": bucket_connector}) as harness:
            await harness.send("stream:orders", [1], key="ada")
            with anyio.fail_after(30):
                await harness.run_until_idle()

    anyio.run(run)
    (file,) = [path for path in (tmp_path / "aws").rglob("*") if path.is_file()]
    assert file.relative_to(tmp_path).as_posix().startswith("aws/lambda/orders/shardId-000000000000/")
    assert json.loads(file.read_bytes())["requestContext"]["condition"] == "RetryAttemptsExhausted"
    about = tmp_path / ".eventcore" / "metadata" / f"{file.relative_to(tmp_path)}.json"
    assert json.loads(about.read_bytes())["attributes"]["eventcore-lineage"] == "work=1"

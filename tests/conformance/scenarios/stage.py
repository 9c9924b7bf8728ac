"""What scenarios play on: a queue, an embedded stream or a simulated topic, and one function."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import eventcore
from eventcore.testing import Invoked, VirtualPipeline, open_pipeline

Handler = Callable[..., Any]
REPORTS = ["ReportBatchItemFailures"]
BUCKET = "bucket:failed"


def declare_bucket(app: eventcore.App) -> None:
    """Make `BUCKET`, on an object store."""
    app.s3("store", endpoint="http://127.0.0.1:9", access_key_id="a", secret_access_key="b")
    app.bucket("failed", connection="s3:store", bucket="failed")


def queue_app(*, queue: dict[str, Any] | None = None, function: dict[str, Any] | None = None, **mapping: Any) -> Any:
    app = eventcore.App()
    app.queue("dead")
    app.queue("orders", **(queue or {}))
    app.function("work", handler="nowhere.work", **(function or {}))
    app.mapping("orders", source="queue:orders", function="work", **mapping)
    return app


@contextmanager
def queue_pipeline(work: Handler, **settings: Any) -> Iterator[VirtualPipeline]:
    """A mapping from the queue `orders`; `queue` and `function` are settings of those."""
    with open_pipeline(queue_app(**settings), functions={"work": work}) as pipeline:
        yield pipeline


def redrive(count: int) -> dict[str, Any]:
    return {"dead_letter_queue": "dead", "max_receive_count": count}


class Stage:
    """A stream with one shard, whose records are numbers; played on the embedded stream or on a simulated topic."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.source = {"stream": "stream:orders", "kafka": "kafka:local/orders"}[kind]
        #: What names the batch in a failure record.
        self.info = {"stream": "KinesisBatchInfo", "kafka": "KafkaBatchInfo"}[kind]
        #: What filters call a record's data.
        self.data = {"stream": "data", "kafka": "value"}[kind]

    def app(self, *, function: dict[str, Any] | None = None, **mapping: Any) -> eventcore.App:
        app = eventcore.App()
        if self.kind == "kafka":
            app.kafka("local", bootstrap_servers="127.0.0.1:9092")
        else:
            app.stream("orders", shards=1)
        app.queue("failed")
        declare_bucket(app)
        app.function("work", handler="nowhere.work", **(function or {}))
        settings = {
            "starting_position": "TRIM_HORIZON",
            "on_failure": "queue:failed",
            "maximum_batching_window_in_seconds": 0,
            **mapping,
        }
        app.mapping("orders", source=self.source, function="work", **settings)
        return app

    @contextmanager
    def open(self, work: Handler, **settings: Any) -> Iterator[VirtualPipeline]:
        with open_pipeline(self.app(**settings), functions={"work": work}) as pipeline:
            yield pipeline

    def send(self, pipeline: VirtualPipeline, count: int, *, first: int = 1) -> None:
        pipeline.send(self.source, list(range(first, first + count)), key="k")

    def play(self, work: Handler, count: int = 1, **settings: Any) -> VirtualPipeline:
        """Send so many records and let them be settled or given up; the pipeline is closed, what happened is there."""
        with self.open(work, **settings) as pipeline:
            self.send(pipeline, count)
            pipeline.run_until_idle()
            told = pipeline.delivered_to(settings.get("on_failure", "queue:failed"))
            self.failed = [message.json for message in told]
        return pipeline

    # -- events --------------------------------------------------------------------------------------------------------

    def records(self, event: Any) -> list[dict[str, Any]]:
        if self.kind == "kafka":
            ((_, records),) = event["records"].items()
            return list(records)
        return list(event["Records"])

    def numbers(self, event: Any) -> list[int]:
        return [
            int(base64.b64decode(record["value"] if self.kind == "kafka" else record["kinesis"]["data"]))
            for record in self.records(event)
        ]

    def identify(self, event: Any, number: int) -> Any:
        """The `itemIdentifier` of a record: a sequence number, or Kafka's object (§5.1)."""
        index = self.numbers(event).index(number)
        record = self.records(event)[index]
        if self.kind == "kafka":
            return {"partition": f"{record['topic']}-{record['partition']}", "offset": record["offset"]}
        return record["kinesis"]["sequenceNumber"]

    def report(self, *poison: int) -> Handler:
        """A function that reports these records failed wherever it meets them."""

        def work(event: Any, context: Any) -> Any:
            met = [number for number in self.numbers(event) if number in poison]
            return {"batchItemFailures": [{"itemIdentifier": self.identify(event, number)} for number in met]}

        return work

    def refuse(self, *poison: int) -> Handler:
        """A function that raises where it meets one of these records."""

        def work(event: Any, context: Any) -> None:
            if set(poison) & set(self.numbers(event)):
                raise ValueError("poison")

        return work

    def batch_size(self, failed: dict[str, Any]) -> int:
        return int(failed[self.info]["batchSize"])

    def span(self, failed: dict[str, Any]) -> tuple[int, int]:
        """Positions of the first and last record that a failure record names."""
        info = failed[self.info]
        if self.kind == "kafka":
            ((_, named),) = info["recordsInfo"].items()
            return int(named["firstRecordOffset"]), int(named["lastRecordOffset"])
        from eventcore.embedded.shapes import sequence_position

        return sequence_position(info["startSequenceNumber"]), sequence_position(info["endSequenceNumber"])


def batches(pipeline: VirtualPipeline) -> list[list[Any]]:
    return [call.bodies for call in pipeline.invocations]


def bodies(pipeline: VirtualPipeline) -> list[Any]:
    """What was delivered, one by one."""
    return [body for batch in batches(pipeline) for body in batch]


def receive_counts(call: Invoked) -> list[str]:
    return [record["attributes"]["ApproximateReceiveCount"] for record in call.event["Records"]]


def message_ids(call: Invoked) -> list[str]:
    return [record["messageId"] for record in call.event["Records"]]


def gaps(calls: Sequence[Invoked]) -> list[float]:
    return [later.at_s - earlier.at_s for earlier, later in itertools.pairwise(calls)]

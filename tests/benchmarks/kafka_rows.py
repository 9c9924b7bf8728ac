"""The rows of the table that need Kafka (issue 4, "Speed")."""

from __future__ import annotations

import os

from tests.benchmarks.comparison import Comparison, Row, Scale
from tests.benchmarks.measure import Contestant

#: Records a second in the rows of latency.
RATE = 1_000


def _engine(address: str, topic: str, count: int, handler: str, batch_size: int, runtime: str = "inline") -> Contestant:
    arguments = {
        "address": address,
        "topic": topic,
        "count": count,
        "handler": handler,
        "batch_size": batch_size,
        "runtime": runtime,
    }
    return Contestant("kafka:engine", arguments)


def kafka_rows(scale: Scale, address: str, topic: str) -> list[Comparison]:
    records, typed = scale.records, scale.typed_records
    loop = Contestant("kafka:loop", {"address": address, "topic": topic, "count": records})
    inline_100 = _engine(address, topic, typed, "native", 100)
    answering = {"address": address, "topic": topic, "count": scale.answered_records}
    at_rate = {"address": address, "topic": topic, "count": scale.rate_records, "per_s": RATE}
    return [
        Comparison(
            name="kafka-native",
            against="bare aiokafka loop",
            ours=_engine(address, topic, records, "native", 1000),
            peer=loop,
            rows=[Row(what="Kafka to inline, native batches of 1,000", figure="per_s", least=0.7, goal=0.9)],
            needs_kafka=True,
        ),
        Comparison(
            name="kafka-event",
            against="bare aiokafka loop",
            ours=_engine(address, topic, records, "shaped", 1000),
            peer=loop,
            rows=[Row(what="Kafka to inline, Lambda events of 1,000", figure="per_s", least=0.45, goal=0.6)],
            needs_kafka=True,
        ),
        Comparison(
            name="kafka-typed",
            against="bare aiokafka loop",
            ours=_engine(address, topic, records, "typed", 1000),
            peer=loop,
            rows=[Row(what="Kafka to inline, one typed record a call", figure="per_s", least=0.5)],
            needs_kafka=True,
        ),
        *_librdkafka(scale, address, topic, loop),
        Comparison(
            name="kafka-process-event",
            against="inline native at 100",
            ours=_engine(address, topic, typed, "shaped", 100, "process"),
            peer=inline_100,
            rows=[Row(what="Kafka to process, Lambda events of 100", figure="per_s", least=0.3)],
            needs_kafka=True,
        ),
        Comparison(
            name="kafka-process-native",
            against="inline native at 100",
            ours=_engine(address, topic, typed, "native", 100, "process"),
            peer=inline_100,
            rows=[Row(what="Kafka to process, native batches of 100", figure="per_s", least=0.45)],
            needs_kafka=True,
        ),
        Comparison(
            name="lanes",
            against="one at a time",
            ours=Contestant("kafka:laned_engine", {"address": address, "count": scale.laned_records, "lanes": 1000}),
            peer=Contestant("kafka:laned_engine", {"address": address, "count": scale.single_records, "lanes": 1}),
            rows=[
                Row(
                    what="10 ms for each record, 1 partition, 1,000 keys, 1,000 lanes, typed",
                    figure="per_s",
                    least=300.0,
                )
            ],
            needs_kafka=True,
        ),
        Comparison(
            name="exactly-once",
            against="at least once",
            ours=Contestant("kafka:answering_engine", {**answering, "delivery": "exactly_once"}),
            peer=Contestant("kafka:answering_engine", {**answering, "delivery": "at_least_once"}),
            rows=[Row(what="each record answered exactly once, batches of 1,000", figure="per_s", least=0.6)],
            needs_kafka=True,
        ),
        Comparison(
            name="kafka-latency",
            against="bare aiokafka loop",
            ours=Contestant("latency:both", at_rate),
            is_together=True,
            rows=[
                Row(what="produced to handler at 1,000/s, p50", figure="p50_ms", most=1.5),
                Row(what="produced to handler at 1,000/s, p99", figure="p99_ms", most=1.5),
            ],
            needs_kafka=True,
        ),
    ]


def _librdkafka(scale: Scale, address: str, topic: str, loop: Contestant) -> list[Comparison]:
    """Return the first rows once more, read by the other client."""
    found = []
    for name, what, handler, least, goal in (
        ("native", "native batches of 1,000", "native", 1.2, 1.6),
        ("event", "Lambda events of 1,000", "shaped", 0.65, 0.8),
    ):
        engine = _engine(address, topic, scale.records, handler, 1000)
        ours = Contestant(engine.function, {**engine.arguments, "client": "librdkafka"})
        row = Row(what=f"Kafka by librdkafka to inline, {what}", figure="per_s", least=least, goal=goal)
        found.append(
            Comparison(
                name=f"librdkafka-{name}",
                against="bare aiokafka loop",
                ours=ours,
                peer=loop,
                rows=[row],
                needs_kafka=True,
            )
        )
    return found


#: Five filters of five kinds, of which the last lets every record pass.
FILTERS = """
filter_criteria = { filters = [
  { pattern = { value = { currency = ["USD", "GBP"] } } },
  { pattern = { value = { amount = [{ numeric = [">", 1000000] }] } } },
  { pattern = { value = { customer = [{ prefix = "x-" }] } } },
  { pattern = { value = { id = [{ exists = false }] } } },
  { pattern = { value = { note = [{ anything-but = ["none"] }] } } },
] }
"""


def filter_rows(scale: Scale, address: str, topic: str) -> list[Comparison]:
    """Return the first rows with filters that look at every record, against the same without."""
    found = []
    for name, what, handler in (
        ("native", "native batches of 1,000", "native"),
        ("event", "Lambda events of 1,000", "shaped"),
        ("typed", "one typed record a call", "typed"),
    ):
        without = _engine(address, topic, scale.records, handler, 1000)
        found.append(
            Comparison(
                name=f"filters-{name}",
                against="the same without",
                ours=Contestant(without.function, {**without.arguments, "mapping": FILTERS}),
                peer=without,
                rows=[Row(what=f"Kafka to inline, {what}, with five filters", figure="per_s", least=0.9)],
                needs_kafka=True,
                rounds_factor=3,
            )
        )
    return found


def peer_rows(scale: Scale, address: str, topic: str) -> list[Comparison]:
    """Return the rows against other frameworks, where an environment has them (see `peers.py`)."""
    python = os.environ.get("EVENTCORE_PEERS", "")
    if not python:
        return []
    ours = _engine(address, topic, scale.records, "typed", 1000)
    found = []
    for name, what, count, least in (
        ("faststream_at_most_once", "FastStream, at most once: its fastest single messages", scale.peer_records, 10.0),
        ("faststream_at_least_once", "FastStream, at least once", scale.peer_records // 10, None),
        ("quix", "Quix Streams", scale.peer_records, None),
        ("faust", "Faust", scale.peer_records // 4, None),
    ):
        arguments = {"address": address, "topic": topic, "count": count}
        row = Row(what="Kafka to inline, one typed record a call", figure="per_s", least=least)
        found.append(
            Comparison(
                name=f"peers-{name}",
                against=what,
                ours=ours,
                peer=Contestant(f"peers:{name}", arguments, python),
                rows=[row],
                needs_kafka=True,
            )
        )
    return found


def span_rows(scale: Scale, address: str, topic: str) -> list[Comparison]:
    off = _engine(address, topic, scale.records, "native", 1000)
    found = []
    for percent, least, rounds_factor in ((1, 0.97, 5), (100, 0.8, 3)):
        on = Contestant("kafka:traced_engine", {**off.arguments, "ratio": percent / 100})
        row = Row(what=f"the first row with spans at {percent} %", figure="per_s", least=least)
        found.append(
            Comparison(
                name=f"spans-{percent}",
                against="spans off",
                ours=on,
                peer=off,
                rows=[row],
                needs_kafka=True,
                rounds_factor=rounds_factor,
            )
        )
    return found

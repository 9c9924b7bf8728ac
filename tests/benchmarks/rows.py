"""The rows of the table: what is compared with what, and how much is asked for (issue 4, "Speed")."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence

import msgspec

from tests.benchmarks.measure import Contestant, Figures, Series


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line: a figure of a comparison and its bound."""

    what: str
    figure: str  #: by its name in what contestants return
    least: float | None = None  #: the ratio is to be at least this
    most: float | None = None  #: the ratio, or ours where there is no peer, is to be at most this
    goal: float | None = None
    unit: str = ""  #: of the figure, where there is no peer

    def is_reached(self, value: float) -> bool:
        """Tell whether a median is within the bound."""
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two contestants, and the rows that come of them."""

    name: str
    against: str
    ours: Contestant
    peer: Contestant | None = None
    is_together: bool = False  #: `ours` returns the figures of both
    rows: Sequence[Row]
    needs_kafka: bool = False


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """How much is run: the figures of the table, or just enough to see that everything works."""

    records: int = 1_000_000
    typed_records: int = 400_000
    peer_records: int = 200_000
    answered_records: int = 200_000
    laned_records: int = 60_000
    single_records: int = 300
    rate_records: int = 20_000
    sends: int = 100_000
    raw_sends: int = 10_000
    messages: int = 50_000
    waiting: int = 1_000_000  #: messages behind those
    calls: int = 4_000
    many_calls: int = 20_000
    forks: int = 300
    starts: int = 10
    rounds: int = 5


#: For a look at whether all of it still works.
SMOKE = Scale(
    records=40_000,
    typed_records=40_000,
    peer_records=20_000,
    answered_records=5_000,
    laned_records=2_000,
    single_records=20,
    rate_records=1_000,
    sends=2_000,
    raw_sends=200,
    messages=1_000,
    waiting=2_000,
    calls=20,
    many_calls=400,
    forks=5,
    starts=1,
    rounds=1,
)
#: Records a second in the rows of latency.
RATE = 1_000
#: What the forking parent of the floor holds: a zygote's resident memory, MB.
PARENT_MB = 20


def comparisons(scale: Scale, address: str, topic: str) -> list[Comparison]:
    """Return every comparison, in the table's order."""
    return [
        *_kafka(scale, address, topic),
        *_peers(scale, address, topic),
        *_spans(scale, address, topic),
        *_durable(scale),
        *_processes(scale),
    ]


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


def _kafka(scale: Scale, address: str, topic: str) -> list[Comparison]:
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


def _peers(scale: Scale, address: str, topic: str) -> list[Comparison]:
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


def _spans(scale: Scale, address: str, topic: str) -> list[Comparison]:
    off = _engine(address, topic, scale.records, "native", 1000)
    found = []
    for percent, least in ((1, 0.97), (100, 0.8)):
        on = Contestant("kafka:traced_engine", {**off.arguments, "ratio": percent / 100})
        row = Row(what=f"the first row with spans at {percent} %", figure="per_s", least=least)
        found.append(
            Comparison(name=f"spans-{percent}", against="spans off", ours=on, peer=off, rows=[row], needs_kafka=True)
        )
    return found


def _durable(scale: Scale) -> list[Comparison]:
    raw = Contestant("durable:raw_send", {"count": scale.raw_sends})
    sends = [
        Comparison(
            name=f"send-{senders}",
            against="raw SQLite, one row a commit",
            ours=Contestant("durable:send", {"senders": senders, "count": scale.sends}),
            peer=raw,
            rows=[Row(what=f"durable send, {senders:,} senders", figure="per_s", least=least, goal=20.0)],
        )
        for senders, least in ((256, 12.0), (1024, 15.0))
    ]
    queue = Comparison(
        name="queue",
        against="raw SQLite receive and delete by 100",
        ours=Contestant("durable:queue_engine", {"count": scale.messages}),
        peer=Contestant("durable:raw_receive", {"count": scale.messages, "batch": 100}),
        rows=[Row(what="queue to inline to durable delete, batches of 10", figure="per_s", least=0.6)],
    )
    full = Comparison(
        name="full-queue",
        against="the row before, with none behind them",
        ours=Contestant("durable:queue_engine", {"count": scale.messages, "waiting": scale.waiting}),
        peer=Contestant("durable:queue_engine", {"count": scale.messages}),
        rows=[Row(what="the same with 1,000,000 more messages waiting", figure="per_s", least=0.8)],
    )
    untraced = Comparison(
        name="tracing-off",
        against="an engine with no tracing in its source",
        ours=Contestant("durable:queue_engine", {"count": scale.messages}),
        peer=Contestant("untraced:queue_engine", {"count": scale.messages}),
        rows=[
            # Processor time, as wall time is not steady to a fiftieth.
            Row(what="processor time a message of a queue, tracing off", figure="cpu_us", most=1.02)
        ],
    )
    return [*sends, queue, full, untraced]


def _processes(scale: Scale) -> list[Comparison]:
    return [
        Comparison(
            name="invoke-warm",
            against="JSON echo of a forked child",
            ours=Contestant("invoke:warm", {"count": scale.calls}),
            peer=Contestant("invoke:echo_warm", {"count": scale.calls}),
            rows=[Row(what="warm invoke in a process, p50", figure="p50_us", most=2.5)],
        ),
        Comparison(
            name="invoke-many",
            against="JSON echo of two forked children",
            ours=Contestant("invoke:many", {"count": scale.many_calls}),
            peer=Contestant("invoke:echo_many", {"count": scale.many_calls, "children": 2}),
            rows=[Row(what="invocations a second, 8 in flight", figure="per_s", least=0.3)],
        ),
        Comparison(
            name="invoke-cold",
            against="fork and echo of an equally large parent",
            ours=Contestant("invoke:cold", {"count": scale.forks}),
            peer=Contestant("invoke:echo_cold", {"count": scale.forks, "parent_mb": PARENT_MB}),
            rows=[Row(what="cold start, p99", figure="p99_us", most=3.0)],
        ),
        Comparison(
            name="dev",
            against="",
            ours=Contestant("footprint:ready"),
            rows=[Row(what="`eventcore dev` is ready", figure="ready_s", most=0.5, unit="s")],
        ),
        Comparison(
            name="idle",
            against="",
            ours=Contestant("footprint:idle"),
            rows=[
                Row(what="idle memory (PSS), engine", figure="engine_mb", most=45.0, unit="MB"),
                Row(what="idle memory (PSS), zygote", figure="zygote_mb", most=12.0, unit="MB"),
                Row(what="idle processor time", figure="idle_percent", most=0.5, unit="%"),
            ],
        ),
        Comparison(
            name="version",
            against="a bare Python start",
            ours=Contestant("footprint:version", {"count": scale.starts}),
            peer=Contestant("footprint:bare_python", {"count": scale.starts}),
            rows=[Row(what="`eventcore --version`", figure="start_ms", most=4.0)],
        ),
    ]


# -- the table ---------------------------------------------------------------------------------------------------------

HEADINGS = ("what", "against", "bound", "median", "spread", "ours", "peer", "CPU µs", "peer's", "")


def lines(comparison: Comparison, series: Series) -> list[tuple[str, ...]]:
    """Return a comparison's lines of the table."""
    return [_line(comparison, row, series) for row in comparison.rows]


def _line(comparison: Comparison, row: Row, series: Series) -> tuple[str, ...]:
    ratios = sorted(series.ratios(row.figure))
    middle = verdict_value(row, series)
    sign = "x" if series.peers else f" {row.unit}"
    bound = f"≥ {row.least:g}{sign}" if row.least is not None else f"≤ {row.most:g}{sign}" if row.most else ""
    return (
        row.what,
        comparison.against,
        f"{bound}, goal {row.goal:g}x" if row.goal else bound,
        f"{middle:.2f}{sign}",
        f"{ratios[0]:.2f}-{ratios[-1]:.2f}",
        _text(series.median(row.figure)),
        _text(series.median(row.figure, of_peer=True)),
        _text(series.median("cpu_us")),
        _text(series.median("cpu_us", of_peer=True)),
        "reached" if row.is_reached(middle) else "SHORT",
    )


def verdict_value(row: Row, series: Series) -> float:
    """Return the median of the ratios, or of ours without a peer."""
    return statistics.median(series.ratios(row.figure))


def _text(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def summary(comparison: Comparison, series: Series) -> list[dict[str, object]]:
    """Return a comparison's rows with every round, for JSON."""
    rounds: dict[str, Sequence[Figures]] = {"ours": series.ours, "peers": series.peers}
    return [
        {
            "name": comparison.name,
            "what": row.what,
            "against": comparison.against,
            "at_least": row.least,
            "at_most": row.most,
            "goal": row.goal,
            "median": verdict_value(row, series),
            "is_reached": row.is_reached(verdict_value(row, series)),
            **rounds,
        }
        for row in comparison.rows
    ]

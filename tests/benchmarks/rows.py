"""The rows of the table: what is compared with what, and how much is asked for (issue 4, "Speed")."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from tests.benchmarks.comparison import Comparison, Row, Scale
from tests.benchmarks.kafka_rows import filter_rows, kafka_rows, peer_rows, span_rows
from tests.benchmarks.measure import Contestant, Figures, Series
from tests.benchmarks.ruler import is_ruler_at_hand

#: What the forking parent of the floor holds: a zygote's resident memory, MB.
PARENT_MB = 20


def comparisons(scale: Scale, address: str, topic: str) -> list[Comparison]:
    """Return every comparison, in the table's order."""
    return [
        *kafka_rows(scale, address, topic),
        *filter_rows(scale, address, topic),
        *peer_rows(scale, address, topic),
        *span_rows(scale, address, topic),
        *_durable(scale),
        _timers(scale),
        *_patterns(scale),
        *_processes(scale),
    ]


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
        ours=Contestant("durable:queue_engine", {"count": scale.traced_messages}),
        peer=Contestant("untraced:queue_engine", {"count": scale.traced_messages}),
        rounds_factor=5,
        rows=[
            # Neither wall time nor the whole processor time is steady to a fiftieth.
            Row(what="processor time a message of a queue, tracing off", figure="cpu_us_slice", most=1.02)
        ],
    )
    return [*sends, queue, full, untraced]


def _timers(scale: Scale) -> Comparison:
    return Comparison(
        name="timers",
        against="an empty store",
        ours=Contestant("timers:against_empty", {"pending": scale.timers, "turns": scale.timer_turns}),
        is_together=True,
        rows=[
            Row(what="durable sends by 10, with 1,000,000 timers pending", figure="sent_per_s", least=0.8),
            Row(what="receives and deletes by 10, with 1,000,000 timers pending", figure="received_per_s", least=0.8),
            Row(what="a receive when 1,250 of 1,000,000 timers have become due", figure="due_ms", most=10.0, unit="ms"),
        ],
    )


def _patterns(scale: Scale) -> list[Comparison]:
    """Return the rows against event-ruler, where there is Java."""
    if not is_ruler_at_hand():
        return []
    each = [
        ("exact", 1, "one exact rule", 0.6, 1.0),
        ("exact", 1_000, "1,000 exact rules", 0.2, 0.5),
        ("two-fields", 1_000, "1,000 exact rules of two fields", 0.2, 0.5),
        ("prefix", 1, "one prefix rule", 0.6, 1.0),
        ("prefix", 1_000, "1,000 prefix rules", None, None),
        ("wildcard", 1_000, "1,000 wildcard rules", None, None),
        ("anything-but", 1_000, "1,000 rules of anything but, all of which match", None, None),
        ("numeric", 1_000, "1,000 numeric ranges", None, None),
    ]
    # An event that all of 1,000 rules match has the compiler see as much as many that one matches.
    warm_up = {"anything-but": scale.pattern_warm_up // 20}
    return [
        Comparison(
            name=f"patterns-{kind}-{count}",
            against="event-ruler",
            ours=Contestant(
                "patterns:against_ruler",
                {
                    "kind": kind,
                    "rules": count,
                    "turns": scale.pattern_turns,
                    "warm_up": warm_up.get(kind, scale.pattern_warm_up),
                },
            ),
            is_together=True,
            rows=[Row(what=f"events of 900 B, JSON decoded, {what}", figure="per_s", least=least, goal=goal)],
        )
        for kind, count, what, least, goal in each
    ]


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
    found = sorted(_held_against_bound(row, series))
    middle = verdict_value(row, series)
    sign = f" {row.unit}" if row.unit else "x"
    bound = f"≥ {row.least:g}{sign}" if row.least is not None else f"≤ {row.most:g}{sign}" if row.most else ""
    return (
        row.what,
        comparison.against,
        f"{bound}, goal {row.goal:g}x" if row.goal else bound,
        f"{middle:.2f}{sign}",
        f"{found[0]:.2f}-{found[-1]:.2f}",
        _text(series.median(row.figure)),
        _text(series.median(row.figure, of_peer=True)),
        _text(series.median("cpu_us")),
        _text(series.median("cpu_us", of_peer=True)),
        "reached" if row.is_reached(middle) else "SHORT",
    )


def verdict_value(row: Row, series: Series) -> float:
    """Return the median of the ratios, or of ours alone."""
    return statistics.median(_held_against_bound(row, series))


def _held_against_bound(row: Row, series: Series) -> list[float]:
    return [own[row.figure] for own in series.ours] if row.unit else series.ratios(row.figure)


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

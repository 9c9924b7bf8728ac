"""What a seed makes of a world: its source, its settings, its records, and what goes wrong when."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

#: How long records come, and things go wrong, seconds.
TROUBLE_S = 90.0
#: By then everything is settled or given up, seconds after the trouble: nothing here backs off for longer.
SETTLED_WITHIN_S = 6 * 3600.0
#: A queue's messages come back after so long, seconds.
VISIBILITY_S = 20
#: A person waits so long for a redrive, seconds.
REDRIVE_S = 30
#: How far redrives of what was parked are apart, seconds; retries end in that time.
REDRIVE_EVERY_S = 600
#: Every key that was parked is as any other after so many of them: one finds those of a split shard's children.
REDRIVES_MAX = 20
WINDOW_S = 10
RECEIVES_MAX = 6
#: Worlds by what brings the records: `parallel` is a stream whose shards are worked on by several batches at a time,
#: `event` has no mapping, and invokes its function asynchronously; `window` is a stream that is cut into windows;
#: `lanes` one whose keys are worked on side by side, and parked where too many fail.
SOURCES = {
    "stream": "stream:orders",
    "kafka": "kafka:local/orders",
    "queue": "queue:orders",
    "fifo": "queue:orders",
    "parallel": "stream:orders",
    "event": "",
    "window": "stream:orders",
    "lanes": "stream:orders",
}
QUEUES = ("queue", "fifo")
#: Those whose shards are split and merged.
STREAMS = ("stream", "parallel", "window", "lanes")
#: Of worlds with a circuit breaker: failed invocations in a row that open it, and its shortest pause, seconds.
BREAKER_FAILURES = 3
BREAKER_PAUSE_S = 5
#: A final call that fails so often fails always.
ALWAYS = 1_000
#: Where an engine may die, beside any instant.
CRASH_POINTS = (
    "dispatcher.before_invoke",
    "dispatcher.after_invoke",
    "settler.before_store",
    "settler.after_store",
    "settler.before_ack",
    "settler.after_ack",
    "outbox.before_send",
    "outbox.after_send",
    "outbox.after_mark",
)


#: Those of one settling step: where an engine that settles in the wrong order loses something.
SETTLING_POINTS = CRASH_POINTS[2:6]


class Plan(NamedTuple):
    """What a seed makes of the world."""

    kind: str  #: of the source
    shards: int
    batch_size: int
    retries: int
    bisects: bool
    reports: bool
    destination: str
    records: list[dict[str, Any]]
    sends: list[float]  #: when each record is sent
    troubles: list[tuple[float, str]]
    final_failures: int  #: how often the final call of a window fails
    breaks: bool  #: has a circuit breaker
    lanes: int  #: of worlds of that kind
    remembers: bool  #: has idempotency: some records are sent twice, with one key


def make_plan(seed: int, kind: str | None = None, *, is_simple: bool = False) -> Plan:
    """Draw a world.

    Args:
        seed: of everything.
        kind: of its source; None: by the seed.
        is_simple: batches of one record, so that attempts can be counted; much poison, and crashes alone.
    """
    dice = random.Random(seed)
    kind = kind or tuple(SOURCES)[seed % len(SOURCES)]
    count = dice.randint(8, 30)
    records = [
        {
            "n": number,
            "do": dice.choices(("ok", "poison", "flaky"), (4, 2, 1) if is_simple or kind == "lanes" else (8, 1, 1))[0],
            "times": dice.randint(1, 3),
            "s": dice.choices((0.0, 0.05, 1.4, 4.0), (60, 25, 12, 3))[0],
        }
        for number in range(count)
    ]
    choices = ["crash", "point"] if is_simple else ["crash", "point", "restart", "skew", "store", "outage"]
    if kind == "kafka" and not is_simple:
        choices += ["settle", "revoke", "lose", "take_over"] * 2
    if kind in STREAMS and not is_simple:
        choices += ["split", "split", "merge"]
    if kind == "lanes":
        choices += ["redrive"] * 3
    breaks = dice.random() < 0.25 and kind != "event" and not is_simple
    if breaks:
        choices += ["away"] * len(choices)
    troubles = sorted(
        (dice.uniform(0, TROUBLE_S), dice.choice(choices))
        for _ in range(dice.randint(4, 8) if is_simple else dice.randint(1, 6))
    )
    shards = dice.randint(1, 3)
    batch_size = 1 if is_simple or dice.random() < 0.4 else dice.randint(2, 5)
    return Plan(
        kind=kind,
        shards=shards,
        batch_size=batch_size,
        retries=dice.randint(2, 6) if kind != "event" else dice.randint(0, 2),
        bisects=dice.random() < 0.4 and batch_size > 1,
        reports=dice.random() < 0.4 and kind != "window",
        destination=dice.choice(("queue:failed", "http:sink")),
        records=records,
        sends=sorted(dice.uniform(0, TROUBLE_S * 0.8) for _ in records),
        troubles=troubles,
        final_failures=dice.choices((0, 1, 3, ALWAYS), (5, 2, 1, 2))[0],
        breaks=breaks,
        remembers=dice.random() < 0.25 and kind not in {"event", "window"} and not is_simple,
        lanes=dice.randint(2, 4),
    )

"""What a row of the table is made of, and how much is run for it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tests.benchmarks.measure import Contestant


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line: a figure of a comparison and its bound."""

    what: str
    figure: str  #: by its name in what contestants return
    least: float | None = None  #: the ratio is to be at least this
    most: float | None = None  #: the ratio, or ours where there is no peer, is to be at most this
    goal: float | None = None
    unit: str = ""  #: of the figure, where ours alone is looked at and no ratio

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
    #: So many times as many pairs: where a bound is nearer to 1 than two runs of one program are to each other.
    rounds_factor: int = 1


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
    traced_messages: int = 200_000  #: with tracing off, and taken out
    waiting: int = 1_000_000  #: messages behind those
    calls: int = 4_000
    many_calls: int = 20_000
    timers: int = 1_000_000
    timer_turns: int = 20  #: of each store
    pattern_turns: int = 15  #: of each contestant, a fifth of a second each
    pattern_warm_up: int = 400_000  #: events
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
    traced_messages=4_000,
    waiting=2_000,
    calls=20,
    many_calls=400,
    timers=9_000,
    timer_turns=2,
    pattern_turns=1,
    pattern_warm_up=2_000,
    forks=5,
    starts=1,
    rounds=1,
)

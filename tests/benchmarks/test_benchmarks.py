"""The benchmarks still run: tiny counts, and no broker. How fast anything is, is not asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks import __main__ as bench
from tests.benchmarks.comparison import SMOKE
from tests.benchmarks.ruler import is_ruler_at_hand


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["send-256", "queue", "full-queue", "tracing-off", "invoke-warm", "version", "timers", "patterns-numeric-1000"],
)
def test_a_comparison_runs_and_is_told(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if name.startswith("patterns") and not is_ruler_at_hand():
        pytest.skip("needs Java, and Maven to fetch event-ruler")
    report = tmp_path / "figures.json"
    bench.run(SMOKE, [name], None, report)
    table = capsys.readouterr().out
    rows = json.loads(report.read_text())
    assert {row["name"] for row in rows} == {name}
    for row in rows:
        assert row["median"] > 0
        assert len(row["ours"]) == len(row["peers"]) == SMOKE.rounds
        assert row["what"] in table

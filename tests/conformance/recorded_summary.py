"""The summary of the recorded cases that stands at the end of a run of the tests."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

#: A line's class, and a scenario that failed.
COLUMNS = ("passed", "passed in part", "refused", "awaiting", "not applicable", "failed")


def summarise(reports: Iterable[object]) -> list[str]:
    """Return the summary's lines, a row a family; none where no recorded case was run.

    Args:
        reports: of pytest, of which those that carry the property `conformance` count.
    """
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for report in reports:
        if getattr(report, "when", "") != "call":
            continue
        for name, value in getattr(report, "user_properties", ()):
            if name == "conformance":
                family, _, kind = str(value).partition("|")
                table[family]["failed" if getattr(report, "failed", False) else kind] += 1
    if not table:
        return []
    width = max(map(len, table))
    rows = [f"{'':{width}} {' '.join(f'{column:>14}' for column in COLUMNS)}"]
    total: Counter[str] = Counter()
    for family, counts in sorted(table.items()):
        total.update(counts)
        rows.append(_row(family, counts, width))
    return [*rows, _row("all", total, width)]


def _row(name: str, counts: Counter[str], width: int) -> str:
    cells = [str(counts[column] or "-") for column in COLUMNS]
    return f"{name:{width}} {' '.join(f'{cell:>14}' for cell in cells)}"

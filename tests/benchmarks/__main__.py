"""Runs the benchmarks and prints their table: `make bench`, or `python -m tests.benchmarks [NAME...]`."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
from pathlib import Path

import msgspec

from tests.benchmarks.comparison import SMOKE, Comparison, Scale
from tests.benchmarks.measure import Contestant, take_series, take_together
from tests.benchmarks.rows import HEADINGS, comparisons, lines, summary
from tests.servers.kafka_server import ServerUnavailable, running_kafka

TOPIC = "orders"

# aiokafka reports every try to reach a broker that is still starting.
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


def main() -> int:
    """Run what the arguments choose; 1 when a row falls short."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="comparisons to run, by the start of their name")
    parser.add_argument(
        "--rounds", type=int, help="pairs of each comparison (5; three or five times as many for bounds near 1)"
    )
    parser.add_argument("--smoke", action="store_true", help="tiny counts, one round: whether everything works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every round's figures")
    parser.add_argument("--address", help="a running broker's, instead of one of our own")
    parser.add_argument("--list", action="store_true", help="print the names and end")
    chosen = parser.parse_args()
    scale = SMOKE if chosen.smoke else Scale()
    if chosen.rounds:
        scale = msgspec.structs.replace(scale, rounds=chosen.rounds)
    wanted = [each for each in comparisons(scale, "", TOPIC) if is_wanted(each, chosen.names)]
    if chosen.list:
        print("\n".join(each.name for each in wanted))
        return 0
    return run(scale, chosen.names, chosen.address, chosen.json)


def is_wanted(comparison: Comparison, names: list[str]) -> bool:
    """Tell whether a comparison is one of those that were named; all are without a name."""
    return not names or any(comparison.name.startswith(name) for name in names)


def run(scale: Scale, names: list[str], address: str | None, report: Path | None) -> int:
    """Run comparisons one after another, and print each row when it is there."""
    needs_kafka = any(each.needs_kafka for each in comparisons(scale, "", TOPIC) if is_wanted(each, names))
    rows: list[tuple[str, ...]] = []
    found: list[dict[str, object]] = []
    with contextlib.ExitStack() as stack:
        if needs_kafka and address is None:
            try:
                address = stack.enter_context(running_kafka()).address
            except ServerUnavailable as error:
                print(f"without Kafka: {error}", file=sys.stderr)
        if needs_kafka and address:
            topic = f"{TOPIC}-{scale.records}"
            Contestant("kafka:produce", {"address": address, "topic": topic, "count": scale.records}).run()
        for comparison in comparisons(scale, address or "", f"{TOPIC}-{scale.records}"):
            if is_wanted(comparison, names) and (address or not comparison.needs_kafka):
                # One round is a look at whether it works.
                rounds = scale.rounds * comparison.rounds_factor if scale.rounds > 1 else 1
                series = (
                    take_together(comparison.ours, rounds)
                    if comparison.is_together
                    else take_series(comparison.ours, comparison.peer, rounds)
                )
                added = lines(comparison, series)
                rows += added
                found += summary(comparison, series)
                for line in added:
                    print(" | ".join(filter(None, line)), file=sys.stderr, flush=True)
    print_table(rows)
    if report is not None:
        report.write_text(json.dumps(found, indent=1) + "\n")
    return int(any(row[-1] == "SHORT" for row in rows))


def print_table(rows: list[tuple[str, ...]]) -> None:
    """Print rows as a Markdown table."""
    widths = [max(len(row[column]) for row in [HEADINGS, *rows]) for column in range(len(HEADINGS))]
    for number, row in enumerate([HEADINGS, *rows]):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
        if number == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")


if __name__ == "__main__":
    sys.exit(main())

"""Whether an engine's memory grows with what it works on: `python -m tests.benchmarks.memory [NAME...]`.

Each row is one run. Its figures are the engine process's peaks of resident memory from the first record until 200,000
and until 1,000,000 are settled; between the two there may be 10 MB. What environments hold is bounded by
`memory_size`, and is their handler's affair. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys

from tests.benchmarks.kafka import MEASURED
from tests.benchmarks.measure import MEMORY_MARKS, Contestant
from tests.servers.kafka_server import running_kafka

#: Between the two peaks, MB.
GROWTH_MB_MAX = 10.0
#: A run ends at `MEASURED` of its topic.
RECORDS = int(MEMORY_MARKS[-1] / MEASURED) + 1_000
TOPIC, NARROW_TOPIC = "orders", "orders-of-one-partition"
LANED = "lanes = 1000\nmaximum_batching_window_in_seconds = 0"

# aiokafka reports every try to reach a broker that is still starting.
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


def contestants(address: str) -> dict[str, Contestant]:
    """Return every row's contestant by its name."""

    def engine(handler: str, batch_size: int, function: str = "engine", **more: object) -> Contestant:
        found = {"address": address, "topic": TOPIC, "count": RECORDS, "handler": handler, "batch_size": batch_size}
        return Contestant(f"kafka:{function}", found | more)

    answering = {"address": address, "topic": TOPIC, "count": RECORDS}
    laned = {"topic": NARROW_TOPIC, "mapping": LANED, "concurrency": 1000}
    return {
        "native": engine("native", 1000),
        "event": engine("shaped", 1000),
        "typed": engine("typed", 1000),
        "librdkafka-native": engine("native", 1000, client="librdkafka"),
        "librdkafka-event": engine("shaped", 1000, client="librdkafka"),
        "process-event": engine("shaped", 100, runtime="process"),
        "process-native": engine("native", 100, runtime="process"),
        "spans-1": engine("native", 1000, "traced_engine", ratio=0.01),
        "spans-100": engine("native", 1000, "traced_engine", ratio=1.0),
        "lanes": engine("slow", 100, **laned),
        "at-least-once": Contestant("kafka:answering_engine", answering | {"delivery": "at_least_once"}),
        "exactly-once": Contestant("kafka:answering_engine", answering | {"delivery": "exactly_once"}),
        "queue": Contestant("durable:queue_engine", {"count": MEMORY_MARKS[-1]}),
        "invoke-many": Contestant("invoke:many", {"count": MEMORY_MARKS[-1]}),
    }


#: What needs no broker.
LOCAL = {"queue", "invoke-many"}


def main() -> int:
    """Run the rows that the arguments name; 1 when one grows."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.memory", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="rows to run; all without a name")
    parser.add_argument("--address", help="of a broker that runs; without it, one is started")
    chosen = parser.parse_args()
    wanted = chosen.names or list(contestants(""))
    if unknown := set(wanted) - set(contestants("")):
        parser.error(f"there is no row {', '.join(sorted(unknown))}")
    with contextlib.ExitStack() as stack:
        address = chosen.address or ""
        if set(wanted) - LOCAL:
            address = address or stack.enter_context(running_kafka()).address
            _produce(address, TOPIC, 4)
            if "lanes" in wanted:
                _produce(address, NARROW_TOPIC, 1)
        grown = [name for name in wanted if _show(name, contestants(address)[name])]
        return int(bool(grown))


def _produce(address: str, topic: str, partitions: int) -> None:
    arguments = {"address": address, "topic": topic, "count": RECORDS, "partitions": partitions}
    Contestant("kafka:produce", arguments).run()


def _show(name: str, contestant: Contestant) -> bool:
    """Run a row, print it, and tell whether it grows."""
    figures = contestant.run()
    first, last = (figures[f"peak_mb_{mark}"] for mark in MEMORY_MARKS)
    grows = last - first > GROWTH_MB_MAX
    word = "SHORT" if grows else "reached"
    print(f"| {name} | {first:.1f} MB | {last:.1f} MB | {last - first:+.1f} MB | {word} |", flush=True)
    return grows


if __name__ == "__main__":
    sys.exit(main())

"""How a figure is taken: each contestant in a fresh process, peer and ours in turns, the median of the rounds' ratios.

A contestant is a coroutine or plain function of this folder that returns a dictionary of figures. It runs in a process
of its own, so that neither the other's memory nor its garbage nor its imports are in the figure.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import msgspec

ROOT = Path(__file__).parents[2]
#: One contestant's run, seconds: far above what any takes.
RUN_TIMEOUT_S = 600
#: What a process prints before its figures: handlers may print too.
MARK = "FIGURES "

#: Records after which the peak of memory is noted: what grows with them shows between the two.
MEMORY_MARKS = (200_000, 1_000_000)

Figures = dict[str, float]


class Contestant(msgspec.Struct, frozen=True):
    """A function `module:name` of this folder, and its arguments."""

    function: str
    arguments: Mapping[str, Any] = {}
    python: str = ""  #: runs `peers.py` in an environment of its own; empty: ours

    def run(self) -> Any:
        """Run in a fresh process and return the figures, or those of both that run together."""
        command = [sys.executable, "-m", "tests.benchmarks.measure", self.function, json.dumps(dict(self.arguments))]
        if self.python:
            name = self.function.partition(":")[2]
            command = [self.python, str(Path(__file__).parent / "peers.py"), name, json.dumps(dict(self.arguments))]
        quiet = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=quiet,
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT_S,
            check=False,
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
        if done.returncode or not lines:
            raise RuntimeError(f"{self.function} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        return json.loads(lines[-1].removeprefix(MARK))


class Series(msgspec.Struct, frozen=True):
    """What the rounds gave."""

    ours: Sequence[Figures]
    peers: Sequence[Figures]

    def ratios(self, figure: str) -> list[float]:
        """Return ours by the peer's, round by round."""
        return [own[figure] / peer[figure] for own, peer in zip(self.ours, self.peers, strict=True)]

    def median(self, figure: str, *, of_peer: bool = False) -> float | None:
        """Return the median of a figure; None where it was not taken."""
        found = [each[figure] for each in (self.peers if of_peer else self.ours) if figure in each]
        return statistics.median(found) if found else None


def take_series(ours: Contestant, peer: Contestant | None, rounds: int) -> Series:
    """Run both in turns; who begins changes every round, so that a drift of the machine favours neither."""
    own: list[Figures] = []
    other: list[Figures] = []
    for number in range(rounds):
        pair = [(ours, own)] if peer is None else [(peer, other), (ours, own)]
        for contestant, figures in pair if number % 2 == 0 else reversed(pair):
            figures.append(contestant.run())
    return Series(own, other)


def take_together(both: Contestant, rounds: int) -> Series:
    """Run a contestant that returns the figures of both."""
    found = [both.run() for _ in range(rounds)]
    return Series([pair["ours"] for pair in found], [pair["peer"] for pair in found])


# -- in the contestant's process ---------------------------------------------------------------------------------------


def cpu_s() -> float:
    """Return the processor time of this process and of all its descendants so far, seconds."""
    import psutil

    gone = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = time.process_time() + gone.ru_utime + gone.ru_stime
    for child in psutil.Process().children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def peak_mb(*, is_begun_anew: bool = False) -> float:
    """Return this process's peak of resident memory; and let the next peak begin now, if told."""
    with Path("/proc/self/status").open() as status:
        (peak_kb,) = (int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
    if is_begun_anew:
        Path("/proc/self/clear_refs").write_text("5")
    return peak_kb / 1024


class Meter:
    """Wall and processor time from the first record on, and the peak of memory up to each of `MEMORY_MARKS`."""

    def __init__(self, slice_count: int = 0) -> None:
        """Measure nothing yet.

        Args:
            slice_count: take the processor's time of so many records at a time, too, and give the median of those: what
                disturbs the machine for a moment is then not in it. 0: don't.
        """
        self._slice_count = slice_count
        self._slices: list[float] = []  #: the processor's microseconds a record, of each
        self._sliced = 0, 0.0  #: records, and the processor's seconds, where the last ended
        self._count = 0
        self._wall_s = self._cpu_s = 0.0
        self._peaks: Figures = {}
        self._marks = list(MEMORY_MARKS)

    @property
    def count(self) -> int:
        """How many records there were."""
        return self._count

    @count.setter
    def count(self, count: int) -> None:
        self._count = count
        if self._slice_count and count >= self._sliced[0] + self._slice_count:
            before, self._sliced = self._sliced, (count, time.process_time())
            self._slices.append((self._sliced[1] - before[1]) / (count - before[0]) * 1e6)
        while self._marks and count >= self._marks[0]:
            self._peaks[f"peak_mb_{self._marks.pop(0)}"] = peak_mb()

    def begin(self) -> None:
        """Note the beginning, once."""
        if not self._wall_s:
            peak_mb(is_begun_anew=True)
            self._cpu_s, self._wall_s = cpu_s(), time.perf_counter()
            self._sliced = 0, time.process_time()

    def figures(self) -> Figures:
        """Return records a second, the processor's microseconds a record, and what memory peaked at."""
        wall_s, used_s = time.perf_counter() - self._wall_s, cpu_s() - self._cpu_s
        times = {"per_s": self.count / wall_s, "cpu_us": used_s / self.count * 1e6, "count": self.count}
        if self._slices:
            times["cpu_us_slice"] = statistics.median(self._slices)
        return times | self._peaks


def main() -> None:
    """Run the contestant that the arguments name, and print its figures."""
    module, _, name = sys.argv[1].partition(":")
    contestant = getattr(importlib.import_module(f"tests.benchmarks.{module}"), name)
    arguments = json.loads(sys.argv[2])
    if inspect.iscoroutinefunction(contestant):

        async def run() -> Figures:
            figures: Figures = await contestant(**arguments)
            return figures

        figures = anyio.run(run)
    else:
        figures = contestant(**arguments)
    print(MARK + json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()

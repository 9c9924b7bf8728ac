"""Through which functions an event has come: carried in one header on every hop that eventcore writes.

A function that is invoked a 17th time within one chain is in a loop, and its event is given up. Pure, and nothing is
read of a record without headers.

Source: Lambda semantics §2.3. Lambda counts in the X-Ray header, for SQS, SNS, S3 and functions; here every hop counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eventcore.model import Record

#: The header, or attribute, that holds it: `enrich=3,audit=2`.
LINEAGE = "eventcore-lineage"
#: Invocations of one function in one chain.
CHAIN_MAX = 16
#: Functions that a lineage names: beyond, those with the lowest count are left out, so that it stays a short header.
FUNCTIONS_MAX = 32
#: A count is not read further than this: a header from outside may say anything.
_COUNT_MAX = 1_000_000

#: How often each function was invoked in the chain that led here.
Lineage = Mapping[str, int]
EMPTY: Lineage = {}


def read_lineage(value: bytes | None) -> Lineage:
    """Return what a header says; entries that can't be read are passed over."""
    if not value:
        return EMPTY
    counts: dict[str, int] = {}
    for entry in value.decode(errors="replace").split(",")[:FUNCTIONS_MAX]:
        name, _, count = entry.partition("=")
        if name and count.isascii() and count.isdecimal():
            counts[name] = min(int(count[:8]), _COUNT_MAX)
    return counts


def lineage_of(records: Sequence[Record]) -> Lineage:
    """Return the lineage of several records together: of each function the highest count."""
    found = {value for record in records if record.headers and (value := record.header(LINEAGE)) is not None}
    if not found:
        return EMPTY
    merged: dict[str, int] = {}
    for value in found:
        for name, count in read_lineage(value).items():
            merged[name] = max(merged.get(name, 0), count)
    return merged


def is_recursive(lineage: Lineage, function: str) -> bool:
    """Tell whether one more invocation of a function would be one too many."""
    return lineage.get(function, 0) >= CHAIN_MAX


def find_recursive(records: Sequence[Record], function: str) -> Sequence[int]:
    """Return the indices of the records that came through a function too often, rising."""
    # Every batch passes here: without headers a comprehension is done in half of a loop's time.
    headers = [record.headers for record in records if record.headers]
    if not headers or LINEAGE not in {name for each in headers for name, _ in each}:
        return ()
    return [index for index, record in enumerate(records) if is_recursive(lineage_of((record,)), function)]


def hand_on_lineage(lineage: Lineage, function: str) -> str:
    """Return the header's value on what a function's invocation leads to."""
    counts = {**lineage, function: lineage.get(function, 0) + 1}
    kept = sorted(counts, key=lambda name: (name != function, -counts[name]))[:FUNCTIONS_MAX]
    return ",".join(f"{name}={min(counts[name], _COUNT_MAX)}" for name in counts if name in set(kept))

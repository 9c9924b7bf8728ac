"""Ranges of keys: what happened to many messages alike stands in one row. Pure.

A range is its first key and the key behind its last. Ranges of one list are in order and do not overlap.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

KeyRange = tuple[int, int]


def gather(keys: Iterable[int]) -> list[KeyRange]:
    """Return the ranges that hold the given keys, which rise."""
    ranges: list[KeyRange] = []
    first = end = -1
    for key in keys:
        if key == end:
            end += 1
            continue
        if end >= 0:
            ranges.append((first, end))
        first, end = key, key + 1
    if end >= 0:
        ranges.append((first, end))
    return ranges


def cut(row: KeyRange, wanted: Sequence[KeyRange]) -> tuple[list[KeyRange], list[KeyRange]]:
    """Return the parts of a range that are wanted, and those that are not."""
    first, end = row
    taken: list[KeyRange] = []
    left: list[KeyRange] = []
    # The last one that begins at or before this range may reach into it.
    index = max(0, bisect_right(wanted, (first, first)) - 1)
    for low, high in wanted[index:]:
        if low >= end:
            break
        if high <= first:
            continue
        if first < low:
            left.append((first, low))
        first = max(first, low)
        taken.append((first, min(high, end)))
        first = min(high, end)
    if first < end:
        left.append((first, end))
    return taken, left

"""Splitting a failing run of records in two. Source: Lambda semantics §4 and §12 (recorded order)."""

from __future__ import annotations


def split_point(count: int) -> int:
    """Return how many records the left half takes: the smaller half comes first, so a run of three gives 1 and 2.

    Args:
        count: at least 2.
    """
    if count < 2:
        raise ValueError("a run of fewer than two records can't be split")
    return count // 2

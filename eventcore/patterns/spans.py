"""Spans of values: what lets many rules be looked up instead of tried one by one. Pure.

Texts that begin alike stand side by side when they are sorted, and so do texts that end alike when they are turned
round: such a rule, and a range of numbers, allows a *span* from one value up to another. Where the spans of many rules
begin and end, it changes which of them hold a value; between two such places it does not, so that one search tells.
"""

from __future__ import annotations

import ipaddress
import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from math import inf, nextafter
from typing import Any

import msgspec


class Span(msgspec.Struct, frozen=True):
    """Values from one up to, and without, another; by what is taken of a value."""

    taken: str  #: one of `TAKERS`
    low: Any
    high: Any  #: None: all from `low` on


def _address(text: str) -> tuple[int, int] | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return address.version, int(address)


def _folded(text: str) -> bytes:
    # Letters of other scripts stay as they are: a letter's other case may be two.
    return text.encode("utf-8", "surrogatepass").lower()


#: What of a text, or a number, is sorted; None of what has no place in that order.
TAKERS: Mapping[str, Callable[[Any], Any]] = {
    "text": lambda text: text,
    "text from its end": lambda text: text[::-1],
    "folded": _folded,
    "folded from its end": lambda text: _folded(text)[::-1],
    "address": _address,
    "number": lambda number: number,
}
#: All others are of texts.
OF_NUMBERS = "number"


def beginning_with(prefix: str, taken: str = "text") -> Span:
    """Return the span of what begins so, after it was taken."""
    return Span(taken, prefix, _following(prefix))


def folded_beginning_with(prefix: str, taken: str = "folded") -> Span:
    """Return the span of what begins so in lower case; the text is ASCII."""
    first = _folded(prefix)
    # Of ASCII alone: there is always a greater byte.
    return Span(taken, first, first[:-1] + bytes([first[-1] + 1]) if first else None)


def _following(prefix: str) -> str | None:
    """Return the first text after all that begin so; None where there is none."""
    known = prefix.rstrip(chr(sys.maxunicode))
    return known[:-1] + chr(ord(known[-1]) + 1) if known else None


def exact_text(text: str) -> Span:
    """Return the span of this text alone."""
    return Span("text", text, text + "\0")


def exact_folded(text: str) -> Span:
    """Return the span of this ASCII text alone, in any case."""
    return Span("folded", _folded(text), _folded(text) + b"\0")


def number_range(low: float | None, high: float | None, *, with_low: bool, with_high: bool) -> Span:
    """Return the span of numbers between bounds, which are exact as floating-point numbers; None for no bound."""
    first = -inf if low is None else low if with_low else nextafter(low, inf)
    last = inf if high is None else nextafter(high, inf) if with_high else high
    return Span(OF_NUMBERS, first, last)


#: Returns the bits of what holds a value.
Holding = Callable[[Any], int]


def index_spans(taken: str, spans: Iterable[tuple[Span, int]]) -> Holding:
    """Return what tells which of many spans of one kind hold a value, in one search."""
    starts, bits = _sweep(spans)
    take = TAKERS[taken]
    if taken in {"text", OF_NUMBERS}:
        return lambda value: bits[bisect_right(starts, value)]

    def holding(value: Any) -> int:
        key = take(value)
        return 0 if key is None else bits[bisect_right(starts, key)]

    return holding


def _sweep(spans: Iterable[tuple[Span, int]]) -> tuple[list[Any], list[int]]:
    """Return where it changes which spans hold a value, and the bits of those that do before and after each place."""
    edges: dict[Any, list[tuple[int, int]]] = {}
    for span, bit in spans:
        if span.high is None or span.low < span.high:
            edges.setdefault(span.low, []).append((bit, 1))
            if span.high is not None:
                edges.setdefault(span.high, []).append((bit, -1))
    starts = sorted(edges)
    #: One conjunction may have several spans that hold a value.
    open_spans: Counter[int] = Counter()
    bits = [0]
    for start in starts:
        holding = bits[-1]
        for bit, step in edges[start]:
            open_spans[bit] += step
            holding = holding | bit if open_spans[bit] > 0 else holding & ~bit
        bits.append(holding)
    return starts, bits

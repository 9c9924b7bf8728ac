"""Event patterns: compiled once, held against any number of events. Source: Lambda semantics §6.3."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import msgspec

from eventcore.errors import PatternError
from eventcore.patterns.compile import Node, compile_pattern
from eventcore.patterns.glance import HasBody
from eventcore.patterns.index import Index
from eventcore.patterns.lookups import numbers_of
from eventcore.patterns.match import Names, has_dotted_names, matches, spread_dotted_names
from eventcore.patterns.text import read_event, read_pattern

#: Conjunctions of one set, of all its patterns together: each value that is looked up has a bit for each of them.
SET_CONJUNCTIONS_MAX = 10_000


class Pattern:
    """An event pattern, as rules of a bus, pipes and event source mappings have them.

    Args:
        pattern: an object, or its JSON text.

    Raises:
        PatternError: it is no pattern; the message is the service's.
    """

    def __init__(self, pattern: Mapping[str, Any] | str | bytes) -> None:
        self._matcher = Matcher(_compile(pattern))

    def matches(self, event: Mapping[str, Any] | str | bytes) -> bool:
        """Tell whether an event, an object or its JSON text, matches. A text is several times as fast.

        Raises:
            PatternError: it is no object.
        """
        if isinstance(event, bytes | str):
            return self._matcher.matches_text(event)
        return self._matcher.matches(event)


class PatternSet:
    """Many patterns with names, held against an event at once: a thousand cost little more than one.

    Args:
        patterns: by name, each an object or its JSON text.

    Raises:
        PatternError: one is no pattern; the message is the service's, and a note names the pattern.
        ValueError: they have more than `SET_CONJUNCTIONS_MAX` combinations of `$or` in all.
    """

    def __init__(self, patterns: Mapping[str, Mapping[str, Any] | str | bytes]) -> None:
        conjunctions: list[Node] = []
        self._names: list[str] = []  #: of each conjunction's pattern
        for name, pattern in patterns.items():
            try:
                compiled = _compile(pattern)
            except PatternError as error:
                error.add_note(f"in the pattern {name!r}")
                raise
            conjunctions += compiled
            self._names += [name] * len(compiled)
        if len(conjunctions) > SET_CONJUNCTIONS_MAX:
            raise ValueError(
                f"at most {SET_CONJUNCTIONS_MAX} combinations in a set of patterns, not {len(conjunctions)}"
            )
        self._are_single = len(conjunctions) == len(patterns)
        self._matcher = Matcher(conjunctions)

    def matching(self, event: Mapping[str, Any] | str | bytes) -> list[str]:
        """Return the names of the patterns that an event, an object or its JSON text, matches, in their order.

        Raises:
            PatternError: it is no object.
        """
        text = event if isinstance(event, bytes | str) else msgspec.json.encode(event)
        names = self._names
        found = [names[number] for number in self._matcher.find(text)]
        # A pattern with `$or` may match in several ways.
        return found if len(found) < 2 or self._are_single else list(dict.fromkeys(found))


class Matcher:
    """Holds events against trees of paths, each with a number."""

    def __init__(self, conjunctions: Sequence[Node]) -> None:
        self._conjunctions = conjunctions
        self._index = Index(conjunctions)

    def matches(self, event: Mapping[str, Any]) -> bool:
        """Tell whether an event matches any tree.

        Raises:
            PatternError: it is nested too deeply to be looked at.
        """
        return any(self._each_match(self._conjunctions, event))

    def matches_text(self, text: str | bytes) -> bool:
        """Tell whether an event's text matches any tree.

        Raises:
            PatternError: it is no object.
        """
        matching, undecided = self._index.passing(text)
        return matching > 0 or (undecided > 0 and any(self._decide(text, undecided)))

    def passing_texts(self, texts: Sequence[str | bytes]) -> list[int] | None:
        """Return the bits of the trees that each of many texts matches; None where one has to be looked at alone."""
        return self._index.passing_each(texts)

    def all_surely_match(self, records: Sequence[HasBody]) -> bool:
        """Tell whether each of many records surely matches; False where that takes a closer look at each."""
        return self._index.all_surely_match(records)

    def find(self, text: str | bytes) -> Sequence[int]:
        """Return the numbers of the trees that an event's text matches, in order.

        Raises:
            PatternError: it is no object.
        """
        matching, undecided = self._index.passing(text)
        if undecided:
            for number, is_match in zip(numbers_of(undecided), self._decide(text, undecided), strict=True):
                matching |= is_match << number
        return numbers_of(matching) if matching else ()

    def _decide(self, text: str | bytes, undecided: int) -> Iterator[bool]:
        """Tell of each of these trees whether an event matches, by the whole of it."""
        return self._each_match([self._conjunctions[number] for number in numbers_of(undecided)], read_event(text))

    @cached_property
    def _known(self) -> Names:
        """The names that the trees ask for."""
        names = Names()
        for conjunction in self._conjunctions:
            names.add(conjunction)
        return names

    def _each_match(self, conjunctions: Sequence[Node], event: Mapping[str, Any]) -> Iterator[bool]:
        known: Any = event
        try:
            if has_dotted_names(known):
                known = spread_dotted_names(known, self._known)
            for conjunction in conjunctions:
                yield matches(conjunction, known)
        except RecursionError as error:
            raise PatternError("Parameter Event is not valid.") from error


def _compile(pattern: Mapping[str, Any] | str | bytes) -> list[Node]:
    return compile_pattern(read_pattern(pattern) if isinstance(pattern, str | bytes) else pattern)

"""Event patterns: compiled once, held against any number of events. Source: Lambda semantics §6.3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from eventcore.errors import PatternError
from eventcore.patterns.compile import Node, compile_pattern
from eventcore.patterns.match import has_dotted_names, matches, spread_dotted_names
from eventcore.patterns.narrow import NarrowMatcher
from eventcore.patterns.text import read_event, read_pattern


class Pattern:
    """An event pattern, as rules of a bus, pipes and event source mappings have them.

    Args:
        pattern: an object, or its JSON text.

    Raises:
        PatternError: it is no pattern; the message is the service's.
    """

    def __init__(self, pattern: Mapping[str, Any] | str | bytes) -> None:
        known = read_pattern(pattern) if isinstance(pattern, str | bytes) else pattern
        self._matcher = Matcher(compile_pattern(known))

    def matches(self, event: Mapping[str, Any] | str | bytes) -> bool:
        """Tell whether an event, an object or its JSON text, matches. A text is several times as fast.

        Raises:
            PatternError: it is no object.
        """
        if isinstance(event, bytes | str):
            return self._matcher.matches_text(event)
        return self._matcher.matches(event)


class Matcher:
    """Holds events against trees of paths: any of them is enough."""

    def __init__(self, conjunctions: Sequence[Node]) -> None:
        self._conjunctions = conjunctions
        self._find = NarrowMatcher(conjunctions).find

    def matches(self, event: Mapping[str, Any]) -> bool:
        """Tell whether an event matches.

        Raises:
            PatternError: it is nested too deeply to be looked at.
        """
        known: Any = event
        try:
            if has_dotted_names(known):
                known = spread_dotted_names(known)
            return any(matches(conjunction, known) for conjunction in self._conjunctions)
        except RecursionError as error:
            raise PatternError("Parameter Event is not valid.") from error

    def matches_text(self, text: str | bytes) -> bool:
        """Tell whether an event's text matches.

        Raises:
            PatternError: it is no object.
        """
        try:
            found = self._find(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            found = None
        return self.matches(read_event(text)) if found is None else found

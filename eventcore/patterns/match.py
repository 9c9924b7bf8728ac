"""Whether an event matches a tree of paths. Pure, linear in the event. Source: Lambda semantics §6.3.

Paths through an array must agree: what is asked of several fields of an object is asked of one element.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eventcore.patterns.compile import Node

_MISSING = object()


class _Search:
    """One event held against one tree."""

    def __init__(self) -> None:
        #: What is known of absence, by scope and path: an array asks for each of its elements.
        self._present: dict[tuple[int, tuple[str, ...]], bool] = {}

    def match(self, node: Node, value: Any, scope: _Scope) -> bool | None:
        """Return None for no match, and else whether a value has matched, and not the absence of one."""
        leaf, has_value = node.leaf, False
        if leaf is not None:
            has_value = value is not _MISSING and leaf.allows(value)
            if not has_value and not (leaf.allows_absence and not self._is_present(scope, node.path)):
                return None
        if not node.children:
            return has_value
        below = self.match_below(node, value, scope)
        return None if below is None else below or has_value

    def match_below(self, node: Node, value: Any, scope: _Scope) -> bool | None:
        """Hold a value against what stands below a node."""
        if type(value) is list:
            objects = [each for each in value if type(each) is dict or type(each) is list]
            if objects:
                return self._match_any(node, objects, scope)
        known = value if type(value) is dict else {}
        has_value = False
        for name, child in node.children.items():
            matched = self.match(child, known.get(name, _MISSING), scope)
            if matched is None:
                return None
            if matched and not has_value:
                # From here on it is this element: what stands in others counts as absent.
                has_value, scope = True, (known, len(node.path))
        return has_value

    def _match_any(self, node: Node, objects: Sequence[Any], scope: _Scope) -> bool | None:
        found: bool | None = None
        for each in objects:
            matched = self.match_below(node, each, scope)
            if matched:
                return True
            if matched is not None:
                found = False
        return found

    def _is_present(self, scope: _Scope, path: tuple[str, ...]) -> bool:
        value, levels = scope
        key = id(value), path
        if key not in self._present:
            self._present[key] = is_present(value, path[levels:])
        return self._present[key]


#: Where a path must lead nowhere to count as absent: a value, and how many names of the path led to it.
_Scope = tuple[Any, int]


def matches(root: Node, event: Mapping[str, Any]) -> bool:
    """Tell whether an event matches."""
    return _Search().match_below(root, event, (event, 0)) is not None


def is_present(value: Any, path: Sequence[str]) -> bool:
    """Tell whether a path leads to a value anywhere: not to an object, nor to an empty array."""
    if type(value) is list:
        return any(is_present(each, path) for each in value)
    if not path:
        return type(value) is not dict
    return type(value) is dict and path[0] in value and is_present(value[path[0]], path[1:])


def has_dotted_names(value: Any) -> bool:
    """Tell whether any name of an event has a dot: it stands for a path, too."""
    if type(value) is dict:
        return any("." in name or has_dotted_names(each) for name, each in value.items())
    return type(value) is list and any(has_dotted_names(each) for each in value)


class Names(dict[str, "Names"]):
    """The names that trees have at one place, and those below each."""

    def add(self, node: Node) -> None:
        """Add what stands below a node."""
        for name, child in node.children.items():
            self.setdefault(name, Names()).add(child)

    def below(self, steps: Sequence[str]) -> Names | None:
        """Return what stands below a path; None where no tree has it."""
        names: Names | None = self
        for step in steps:
            names = names.get(step) if names is not None else None
        return names


def spread_dotted_names(value: Any, names: Names) -> Any:
    """Return an event in which names with dots are paths; those that no tree asks for are left out.

    For a path is merged with each element of an array that stands there: any number of both would multiply.
    """
    if type(value) is list:
        return [spread_dotted_names(each, names) for each in value]
    if type(value) is not dict:
        return value
    spread: dict[str, Any] = {}
    for name, each in value.items():
        first, *rest = name.split(".")
        below = names.below((first, *rest))
        if below is None:
            if not rest:
                spread[name] = each
            continue
        inner = spread_dotted_names(each, below)
        for step in reversed(rest):
            inner = {step: inner}
        spread[first] = _merge(spread[first], inner) if first in spread else inner
    return spread


def _merge(one: Any, other: Any) -> Any:
    """Return what has the paths of both."""
    if type(one) is dict and type(other) is dict:
        both = dict(one)
        for name, value in other.items():
            both[name] = _merge(both[name], value) if name in both else value
        return both
    if type(one) is list and type(other) is dict:
        if not any(type(each) is dict for each in one):
            return [*one, other]
        return [_merge(each, other) if type(each) is dict else each for each in one]
    if type(one) is dict and type(other) is list:
        return _merge(other, one)
    return [*_as_list(one), *_as_list(other)]


def _as_list(value: Any) -> list[Any]:
    return value if type(value) is list else [value]

"""From an event pattern to trees of paths. Pure. Source: Lambda semantics §6.3.

An `$or` makes several *conjunctions* of a pattern, each a path's rules by path; the event matches if it matches one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from eventcore.patterns.rules import RULE_NAMES, read_leaf, refuse
from eventcore.patterns.values import Leaf

#: Conjunctions of one pattern (Lambda semantics §6.3).
CONJUNCTIONS_MAX = 1_000
#: Levels of a pattern, of objects or of names with dots: far above what fits into 4,096 characters and is meant.
DEPTH_MAX = 200
_OR = "$or"

Conjunction = dict[str, Leaf]


class Node(msgspec.Struct):
    """A place in an event: what its value must be, and what stands below it."""

    path: tuple[str, ...]
    leaf: Leaf | None = None
    children: dict[str, Node] = {}

    @property
    def levels(self) -> int:
        """How many stand below each other."""
        return 1 + max([child.levels for child in self.children.values()], default=0)


def compile_pattern(pattern: Any) -> list[Node]:
    """Return a tree for each conjunction of a pattern.

    Raises:
        PatternError: it is none; in the service's words.
    """
    if not isinstance(pattern, Mapping):
        raise refuse("Filter is not an object")
    conjunctions: list[Conjunction] = [{}]
    _read_object(conjunctions, (), pattern)
    return [_grow(conjunction) for conjunction in conjunctions]


def _read_object(conjunctions: list[Conjunction], path: tuple[str, ...], pattern: Mapping[str, Any]) -> None:
    if not pattern:
        raise refuse("Empty objects are not allowed")
    _check_depth(len(path))
    for name, value in pattern.items():
        if name == _OR and _is_alternatives(value):
            _read_alternatives(conjunctions, path, value)
        elif isinstance(value, Mapping):
            _read_object(conjunctions, (*path, name), value)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            leaf, key = read_leaf(value), ".".join((*path, name))
            _check_depth(key.count("."))
            for conjunction in conjunctions:
                # What is said later about a path replaces what was said before.
                conjunction[key] = leaf
        else:
            raise refuse(f'"{name}" must be an object or an array')


def _check_depth(levels: int) -> None:
    if levels > DEPTH_MAX:
        raise refuse(f"Event pattern is nested more than {DEPTH_MAX} levels deep")


def _is_alternatives(value: Any) -> bool:
    """Tell whether the value of `$or` are alternatives; otherwise it is a name like any other."""
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and len(value) > 1
        and all(isinstance(each, Mapping) and not RULE_NAMES.intersection(each) for each in value)
    )


def _read_alternatives(
    conjunctions: list[Conjunction], path: tuple[str, ...], alternatives: Sequence[Mapping[str, Any]]
) -> None:
    before, conjunctions[:] = conjunctions[:], []
    for alternative in alternatives:
        added = [dict(conjunction) for conjunction in before]
        _read_object(added, path, alternative)
        conjunctions += added
        if len(conjunctions) > CONJUNCTIONS_MAX:
            raise refuse(f"Event pattern has more than {CONJUNCTIONS_MAX} combinations of $or")


def _grow(conjunction: Conjunction) -> Node:
    root = Node(())
    # In the order of their paths: which element of an array is meant is settled by the first that finds a value.
    for key, leaf in sorted(conjunction.items()):
        node = root
        for name in key.split("."):
            if name not in node.children:
                node.children[name] = Node((*node.path, name), children={})
            node = node.children[name]
        node.leaf = leaf
    return root

"""Decoding only what patterns name out of a JSON text: several times as fast as decoding all of it. Pure.

From the paths of a pattern a type is made that has their names alone; what else the text holds is skipped. Where a
path leads through an array, or a name of the text has dots, the whole text is decoded: that is for `match` to judge.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Union

import msgspec
from msgspec import UNSET, UnsetType

from eventcore.patterns.compile import Node
from eventcore.patterns.values import Leaf

#: Levels of a tree that is decoded so: a path of them has half their square of parts, each of which may be one name.
NARROW_LEVELS_MAX = 16
#: No value is one: its numbers are above 1 and below 0.
_Nothing = Annotated[int, msgspec.Meta(gt=1, lt=0)]


#: A field of a type can't be called so in a text.
_NO_NAME = re.compile(r'["\\\x00-\x1f]')


def is_narrow(node: Node) -> bool:
    """Tell whether what a tree names can be decoded alone; else the whole event tells."""
    return node.levels <= NARROW_LEVELS_MAX and _has_names(node)


def _has_names(node: Node) -> bool:
    return all(_NO_NAME.search(name) is None and _has_names(child) for name, child in node.children.items())


class NarrowType:
    """The type that has the names of several trees at one place, and those below."""

    def __init__(self, nodes: Sequence[Node], name: str = "Event") -> None:
        below: dict[str, list[Node]] = {}
        for node in nodes:
            for key, child in node.children.items():
                below.setdefault(key, []).append(child)
        self._attributes = {key: f"name_{number}" for number, key in enumerate(below)}
        self._below = {
            key: NarrowType(children, f"{name}_{self._attributes[key]}")
            for key, children in below.items()
            if any(child.children for child in children)
        }
        fields: list[tuple[str, Any, Any]] = [
            (attribute, self._type_of(key), UNSET) for key, attribute in self._attributes.items()
        ]
        names = {attribute: key for key, attribute in self._attributes.items()}
        # A name with dots stands for a path: a text that has it can't be decoded to this type.
        for number, path in enumerate(sorted({path for node in nodes for path in _dotted_paths(node)})):
            fields.append((f"dotted_{number}", _Nothing | UnsetType, UNSET))
            names[f"dotted_{number}"] = path
        self.type: type[msgspec.Struct] = msgspec.defstruct(name, fields, rename=names, gc=False)

    def _type_of(self, key: str) -> Any:
        shape = self._below.get(key)
        if shape is None:
            return Any
        return Union[shape.type, list[Any], str, int, float, bool, None, UnsetType]  # noqa: UP007 - made at run time

    def leaves(self, node: Node) -> Iterator[tuple[str, Leaf]]:
        """Return the leaves of a tree, with the path of attributes to each."""
        for key, child in node.children.items():
            attribute = self._attributes[key]
            if child.leaf is not None:
                yield attribute, child.leaf
            if child.children:
                for path, leaf in self._below[key].leaves(child):
                    yield f"{attribute}.{path}", leaf

    def names_of(self, path: str) -> list[str]:
        """Return what the texts call a path of attributes."""
        attribute, _, rest = path.partition(".")
        (name,) = [name for name, own in self._attributes.items() if own == attribute]
        return [name, *self._below[name].names_of(rest)] if rest else [name]


def _dotted_paths(node: Node) -> set[str]:
    """Return the paths below a place that could stand in one name."""
    found: set[str] = set()
    for name, child in node.children.items():
        found |= {f"{name}.{rest}" for rest in (*child.children, *_dotted_paths(child))}
    return found

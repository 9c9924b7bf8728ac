"""Matching JSON texts by decoding only what a pattern names: several times as fast as decoding all of it. Pure.

From the paths of a pattern a type is made that has their names alone; what else the text holds is skipped. Where a
path leads through an array, or a name of the text has dots, the whole text is decoded: that is for `match` to judge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import Annotated, Any, Union

import msgspec
from msgspec import UNSET, UnsetType

from eventcore.patterns.compile import Node
from eventcore.patterns.match import is_present
from eventcore.patterns.values import Leaf

#: Tells whether decoded names fit; None when the whole text must be looked at.
_Check = Callable[[Any], bool | None]


#: No value is one: its numbers are above 1 and below 0.
_Nothing = Annotated[int, msgspec.Meta(gt=1, lt=0)]


class NarrowMatcher:
    """Holds JSON texts against conjunctions."""

    def __init__(self, conjunctions: Sequence[Node]) -> None:
        shape = _Shape(conjunctions, "Event")
        self._decode = msgspec.json.Decoder(shape.type).decode
        self._checks = [shape.check_all(each) for each in conjunctions]

    def find(self, text: str | bytes) -> bool | None:
        """Tell whether a text matches; None when it must be decoded as a whole to know, or is no object.

        Raises:
            msgspec.DecodeError, UnicodeDecodeError, RecursionError: it is no JSON.
        """
        try:
            found = self._decode(text)
        except msgspec.ValidationError:
            return None
        fits: bool | None = False
        for check in self._checks:
            one = check(found)
            if one:
                return True
            if one is None:
                fits = None
        return fits


class _Shape:
    """The type that has the names of several trees at one place, and those below."""

    def __init__(self, nodes: Sequence[Node], name: str) -> None:
        below: dict[str, list[Node]] = {}
        for node in nodes:
            for key, child in node.children.items():
                below.setdefault(key, []).append(child)
        self._attributes = {key: f"name_{number}" for number, key in enumerate(below)}
        self._shapes = {
            key: _Shape(children, f"{name}_{self._attributes[key]}")
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
        shape = self._shapes.get(key)
        if shape is None:
            return Any
        return Union[shape.type, list[Any], str, int, float, bool, None, UnsetType]  # noqa: UP007 - made at run time

    def check_all(self, root: Node) -> _Check:
        """Return what tells whether values of `type` fit a whole tree: leaf by leaf, as nearly every text has them."""
        whole = self.check(root)
        leaves = [_quick_check(attrgetter(path), leaf, whole) for path, leaf in self.leaves(root)]
        if len(leaves) == 1:
            return leaves[0]

        def fits(found: Any) -> bool | None:
            for check in leaves:
                fits = check(found)
                if not fits:
                    return fits
            return True

        return fits

    def leaves(self, node: Node) -> Iterator[tuple[str, Leaf]]:
        """Return the leaves of a tree, with the path of attributes to each."""
        for key, child in node.children.items():
            attribute = self._attributes[key]
            if child.leaf is not None:
                yield attribute, child.leaf
            if child.children:
                for path, leaf in self._shapes[key].leaves(child):
                    yield f"{attribute}.{path}", leaf

    def check(self, node: Node) -> _Check:
        """Return what tells whether values of `type` fit a tree."""
        checks = [self._check_of(self._attributes[key], key, child) for key, child in node.children.items()]

        def fits(found: Any) -> bool | None:
            for check in checks:
                fits = check(found)
                if not fits:
                    return fits
            return True

        return fits

    def _check_of(self, attribute: str, key: str, child: Node) -> _Check:
        shape = self._shapes.get(key)
        if shape is None:
            assert child.leaf is not None
            return _leaf_check(attribute, child.leaf)
        kind = shape.type
        below = shape.check(child) if child.children else None
        # Where there is no object, nothing below is there.
        without = all(_allows_absence(each) for each in child.children.values())
        own = _leaf_check(attribute, child.leaf) if child.leaf is not None else None

        def fits(found: Any) -> bool | None:
            value = getattr(found, attribute)
            if type(value) is list:
                return None
            if own is not None and not (_absent(child.leaf) if type(value) is kind else own(found)):
                return False
            if below is None:
                return True
            return below(value) if type(value) is kind else without

        return fits


def _quick_check(find: Callable[[Any], Any], leaf: Leaf, whole: _Check) -> _Check:
    """Return what looks at one leaf; ``whole`` is asked where the path to it is not there, or of arrays."""
    allows, allows_absence = leaf.allows, leaf.allows_absence
    has_values = bool(leaf.texts or leaf.numbers or leaf.literals)
    # Of one kind of rule alone, as most leaves are: without a detour.
    texts = leaf.texts if not leaf.allows_any and not leaf.tests else None
    test = leaf.tests[0] if len(leaf.tests) == 1 and not leaf.allows_any and not has_values else None

    def fits(found: Any) -> bool | None:
        try:
            value = find(found)
        except AttributeError:
            return whole(found)
        kind = type(value)
        if kind is str or kind is int or kind is float:
            if test is not None:
                return test(value)
            if texts is not None and kind is str:
                return value in texts
        if value is UNSET:
            return allows_absence
        return allows(value) or (allows_absence and _is_nothing(value))

    return fits


def _is_nothing(value: Any) -> bool:
    """Tell whether what stands at the end of a path is no value: an object, or an array of nothing else."""
    return isinstance(value, msgspec.Struct) or not is_present(value, ())


def _leaf_check(attribute: str, leaf: Leaf) -> _Check:
    allows, allows_absence = leaf.allows, leaf.allows_absence

    def fits(found: Any) -> bool:
        value = getattr(found, attribute)
        if value is UNSET:
            return allows_absence
        return allows(value) or (allows_absence and _is_nothing(value))

    return fits


def _absent(leaf: Leaf | None) -> bool:
    return leaf is not None and leaf.allows_absence


def _allows_absence(node: Node) -> bool:
    return (node.leaf is None or node.leaf.allows_absence) and all(map(_allows_absence, node.children.values()))


def _dotted_paths(node: Node) -> set[str]:
    """Return the paths below a place that could stand in one name."""
    found: set[str] = set()
    for name, child in node.children.items():
        found |= {f"{name}.{rest}" for rest in (*child.children, *_dotted_paths(child))}
    return found

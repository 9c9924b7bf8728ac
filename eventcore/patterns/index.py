"""Many conjunctions held against a JSON text at once, path by path. Pure. Source: Lambda semantics §6.3.

Each conjunction is a bit of a number. Of each path it is known which conjunctions a value lets pass: values are looked
up, so that a thousand rules cost little more than one (`lookups.py`). Those that every path lets
pass are the ones that match.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cached_property, reduce
from itertools import repeat
from operator import and_, attrgetter, or_
from typing import Any

import msgspec
from msgspec import UNSET

from eventcore.model import UNREADABLE_JSON
from eventcore.patterns.compile import Node
from eventcore.patterns.glance import Glance, HasBody, make_glance
from eventcore.patterns.lookups import RuleIndex
from eventcore.patterns.match import is_present
from eventcore.patterns.narrow import NarrowType, is_narrow
from eventcore.patterns.values import Leaf, Rule

_Look = Callable[[Any], int | None]


class Index:
    """Conjunctions, by what they ask of each path."""

    def __init__(self, conjunctions: Sequence[Node]) -> None:
        self._everything = (1 << len(conjunctions)) - 1
        shallow = [(1 << number, each) for number, each in enumerate(conjunctions) if is_narrow(each)]
        #: Of these only the whole event tells.
        self._deep = self._everything & ~reduce(or_, [bit for bit, _ in shallow], 0)
        shape = NarrowType([conjunction for _, conjunction in shallow])
        self._decode: Callable[[str | bytes], Any] = msgspec.json.Decoder(shape.type).decode
        by_path: dict[str, list[tuple[int, Leaf]]] = {}
        for bit, conjunction in shallow:
            for path, leaf in shape.leaves(conjunction):
                by_path.setdefault(path, []).append((bit, leaf))
        places = [_Place(path, leaves, self._everything) for path, leaves in by_path.items()]
        # First what most conjunctions ask: it is the likeliest to leave none.
        self._places = sorted(places, key=lambda place: -place.asking.bit_count())
        self._looks = [(place.look, place.asking) for place in self._places]
        self._shape, self._paths = shape, tuple(by_path)

    def passing(self, text: str | bytes) -> tuple[int, int]:
        """Return the bits of the conjunctions that match a text, and of those of which only the whole event tells.

        These are all where names of the text have dots, or it is no object, and else those of which a path leads
        through an array, and those with very long paths.
        """
        try:
            found = self._decode(text)
        except UNREADABLE_JSON:
            return 0, self._everything
        left, undecided = self._everything, self._deep
        for look, asking in self._looks:
            passing = look(found)
            if passing is None:
                undecided |= asking
            else:
                left &= passing
                if not left:
                    return 0, 0
        return left & ~undecided, left & undecided

    def passing_each(self, texts: Sequence[str | bytes]) -> list[int] | None:
        """Return which conjunctions each of many texts matches; None where one of them is not decided that way.

        Path by path for all texts, at half of what `passing` costs for each.
        """
        if self._deep:
            return None
        try:
            rows = list(map(self._decode, texts))
        except (*UNREADABLE_JSON, TypeError):
            return None
        left: list[int] = []
        for number, place in enumerate(self._places):
            column = place.column(rows)
            if column is None:
                return None
            left = list(map(and_, left, column)) if number else column
        return left

    def all_surely_match(self, records: Sequence[HasBody]) -> bool:
        """Tell whether each of many records surely matches; False where that takes a closer look at each."""
        return self._glance is not None and self._glance(records)

    @cached_property
    def _glance(self) -> Glance | None:
        """Made where it is asked for: few patterns are held against many records."""
        if len(self._places) != 1 or self._deep or self._places[0].refused is None:
            return None
        (path,) = self._paths
        return make_glance(path, self._places[0].refused, self._shape.names_of(path), self._decode)


class _Place:
    """What conjunctions ask of one path, and which of them a value lets pass: with those that ask nothing of it."""

    def __init__(self, path: str, leaves: Sequence[tuple[int, Leaf]], everything: int) -> None:
        """Index what is asked of a path.

        Args:
            path: names of attributes, with dots between.
            leaves: each with the bit of its conjunction.
            everything: the bits of all conjunctions.
        """
        self._names = path.split(".")
        self._find: Callable[[Any], Any] = attrgetter(path)
        self.asking = reduce(or_, [bit for bit, _ in leaves])
        self._others = everything & ~self.asking
        self._absent = self._others | sum([bit for bit, leaf in leaves if leaf.allows_absence])
        #: Whatever the value is.
        self._any = self._others | sum([bit for bit, leaf in leaves if leaf.allows_any])
        self._texts = self._by_value((bit, text) for bit, leaf in leaves for text in leaf.texts)
        self._numbers = self._by_value((bit, number) for bit, leaf in leaves for number in leaf.numbers)
        self._literals = self._by_value((bit, literal) for bit, leaf in leaves for literal in leaf.literals)
        rules = [(bit, rule) for bit, leaf in leaves for rule in leaf.rules]
        self._rules = RuleIndex(rules) if rules else None
        has_literals = bool(self._numbers or self._literals)
        #: Of a value that is not in the table.
        self._default = self._any | reduce(or_, [bit for bit, _ in rules], 0)
        #: Where texts alone are asked for, or excluded, one look tells: a number is none of them, nor is true.
        self._table = None if has_literals else self._make_table(rules)
        #: The values that let no conjunction pass, where all others do; None where not all others do, or more is asked.
        self.refused: frozenset[Any] | None = None
        if self._table is not None and self._default:
            self.refused = frozenset(value for value, bits in self._table.items() if not bits)
        self._single = rules[0] if len(rules) == 1 and not has_literals and not self._texts else None
        #: Tells which conjunctions an event lets pass; None where the path leads through an array.
        self.look = self._make_look()

    def _by_value(self, bits: Iterable[tuple[int, Any]]) -> dict[Any, int]:
        passing: dict[Any, int] = {}
        for bit, value in bits:
            passing[value] = passing.get(value, self._any) | bit
        return passing

    def _make_table(self, rules: Sequence[tuple[int, Rule]]) -> dict[Any, int] | None:
        """Return which conjunctions each text lets pass that one of them names; None where a rule is about more."""
        excluded: dict[int, frozenset[str]] = {}  #: by bit: what none of its rules allows
        for bit, rule in rules:
            if rule.excluded_texts is None:
                return None
            excluded[bit] = excluded.get(bit, rule.excluded_texts) & rule.excluded_texts
        unless: dict[str, int] = {}
        for bit, texts in excluded.items():
            for text in texts:
                unless[text] = unless.get(text, 0) | bit
        allowed = {text: self._default & ~bits | self._any for text, bits in unless.items()}
        named = {text: self._default & ~unless.get(text, 0) | bits for text, bits in self._texts.items()}
        return {**allowed, **named, UNSET: self._absent}

    def _make_look(self) -> _Look:
        """Return what tells which conjunctions an event lets pass: with one kind of rule alone, without a detour."""
        find, without, of = self._find, self._without, self._of
        table = self._table
        if table is not None:
            default = self._default

            def look(found: Any) -> int | None:
                try:
                    return table.get(find(found), default)
                except AttributeError:
                    return without(found)
                except TypeError:  # an array, or an object
                    return of(find(found))

            return look
        if self._single is not None:
            bit, test = self._single[0], self._single[1].allows
            others, passing = self._any, self._any | bit

            def look_once(found: Any) -> int | None:
                try:
                    value = find(found)
                except AttributeError:
                    return without(found)
                kind = type(value)
                if kind is str or kind is int or kind is float:
                    return passing if test(value) else others
                return of(value)

            return look_once

        def look_closely(found: Any) -> int | None:
            try:
                return of(find(found))
            except AttributeError:
                return without(found)

        return look_closely

    def column(self, rows: Sequence[Any]) -> list[int] | None:
        """Return what each of many events lets pass; None where the path leads through an array in one of them."""
        try:
            if self._table is not None:
                with suppress(TypeError):  # an array, or an object
                    return list(map(self._table.get, map(self._find, rows), repeat(self._default)))
            values = list(map(self._find, rows))
        except AttributeError:
            column = [passing for found in rows if (passing := self.look(found)) is not None]
            return column if len(column) == len(rows) else None
        if self._single is not None and {str, int, float}.issuperset(map(type, values)):
            bit, test = self._single[0], self._single[1].allows
            without, with_bit = self._any, self._any | bit
            return [with_bit if test(value) else without for value in values]
        return list(map(self._of, values))

    def _without(self, value: Any) -> int | None:
        """Return what an event lets pass in which the path ends early; None where that is at an array."""
        for name in self._names:
            if type(value) is list:
                return None
            if not isinstance(value, msgspec.Struct):
                break
            value = getattr(value, name)
        return self._absent

    def _of(self, value: Any) -> int:
        if value is UNSET:
            return self._absent
        passing = self._of_value(value)
        # An object is no value, nor is an array of nothing else.
        is_nothing = isinstance(value, msgspec.Struct) or not is_present(value, ())
        return passing | self._absent if is_nothing else passing

    def _of_value(self, value: Any) -> int:
        kind = type(value)
        if kind is str:
            passing = self._texts.get(value, self._any)
        elif kind is int or kind is float:
            passing = self._numbers.get(value, self._any)
        elif kind is bool or value is None:
            passing = self._literals.get(value, self._any)
        elif kind is list:
            return reduce(or_, map(self._of_value, value), self._others)
        else:
            return self._others
        return passing if self._rules is None else self._rules.add_passing(value, passing)

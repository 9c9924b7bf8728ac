r"""Expressions that topics' names match, as `^orders-.*`.

The dialect is what regular expressions of Python, Java and RE2 have in common and a topic's name has a use for: a `^`
at the beginning; letters, digits, `_` and `-`; `\.` for the dot, `.` for any character; classes (`[a-z0-9_]`, `[^0-9]`,
`\d`, `\w`); groups with `|` between their choices; `*`, `+`, `?`, `{2}`, `{2,}`, `{2,5}`; a `$` at the end, without
which any name matches that begins so. There are no look-arounds and no references back, so that matching takes time in
proportion to the name, whatever the expression: all states are followed side by side (Thompson's construction), where
Python's `re` can try for minutes.
"""

from __future__ import annotations

import re
from collections.abc import Callable

#: What begins an expression, where a name may stand too.
SIGN = "^"
#: As long as Kafka lets a topic's name be.
NAME_CHARACTERS_MAX = 249
#: Twice that, for what is written around the names.
EXPRESSION_CHARACTERS_MAX = 500
#: Each repetition is written out; nested ones multiply. A name is matched in so many steps a character at most.
STATES_MAX = 2_000

_WORD = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"
#: What topics' names are made of. Source: Apache Kafka, `org.apache.kafka.common.internals.Topic`.
_ALPHABET = frozenset(_WORD + ".-")
_NAME = re.compile(rf"[A-Za-z0-9._-]{{1,{NAME_CHARACTERS_MAX}}}")
_ESCAPES = {"d": frozenset("0123456789"), "w": frozenset(_WORD), ".": frozenset("."), "-": frozenset("-")}
_COUNTS = re.compile(r"\{(\d{1,3})(,)?(\d{1,3})?\}")
_ACCEPTED = 0


class BadExpression(ValueError):
    """A text is no expression for topics."""

    def __init__(self, reason: str, hint: str) -> None:
        self.reason = reason  #: what is wrong, to follow the text
        self.hint = hint  #: what to write
        super().__init__(f"{reason}: {hint}")


def is_topic_name(text: str) -> bool:
    """Tell whether Kafka allows a topic of that name."""
    return _NAME.fullmatch(text) is not None and text not in {".", ".."}


class TopicPattern:
    """An expression, compiled."""

    def __init__(self, text: str) -> None:
        """Compile an expression.

        Raises:
            BadExpression: it is not one of the dialect, too long, or its repetitions are too many.
        """
        self.text = text
        self._moves: list[frozenset[str]] = [frozenset()]  #: by state: what is read to leave it
        self._ways: list[tuple[int, ...]] = [()]  #: by state: where to
        body = _body(text)
        self._is_whole = body.endswith("$") and not body.endswith("\\$")
        first = _Parser(body.removesuffix("$") if self._is_whole else body).parse()(self, _ACCEPTED)
        self._first = self._reach([first])

    def match(self, name: str) -> bool:
        """Tell whether a topic's name matches."""
        current = self._first
        for character in name:
            if _ACCEPTED in current and not self._is_whole:
                return True
            moved = [self._ways[state][0] for state in current if character in self._moves[state]]
            current = self._reach(moved)
        return _ACCEPTED in current

    def _reach(self, states: list[int]) -> frozenset[int]:
        """Return the states, and those that are reached from them without reading."""
        found: set[int] = set()
        while states:
            state = states.pop()
            if state not in found:
                found.add(state)
                if not self._moves[state]:
                    states.extend(self._ways[state])
        return frozenset(found)

    # -- building ------------------------------------------------------------------------------------------------------

    def add(self, characters: frozenset[str], *ways: int) -> int:
        """Add a state that one of the characters leads on from; without any, nothing needs to be read."""
        if len(self._ways) >= STATES_MAX:
            raise BadExpression("repeats too much", "write fewer repetitions in each other")
        self._moves.append(characters)
        self._ways.append(ways)
        return len(self._ways) - 1

    def point(self, state: int, *ways: int) -> None:
        """Let a state lead elsewhere."""
        self._ways[state] = ways


#: Adds a part of an expression before a state; returns where it begins.
_Part = Callable[[TopicPattern, int], int]
_NOTHING: frozenset[str] = frozenset()


def _body(text: str) -> str:
    if not text.startswith(SIGN):
        raise BadExpression("is no expression", f"begin it with {SIGN}")
    if len(text) > EXPRESSION_CHARACTERS_MAX:
        message = f"has {len(text)} characters, more than {EXPRESSION_CHARACTERS_MAX}"
        raise BadExpression(message, "write a shorter expression")
    return text.removeprefix(SIGN)


class _Parser:
    """Reads one expression, without its anchors."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def parse(self) -> _Part:
        """Return the whole."""
        part = self._sequence()
        match self._next():
            case "":
                return part
            case "|":
                raise BadExpression("leaves it open what `|` chooses between", "write ^(one|other)")
        raise BadExpression("closes a group that is not open", r"write ( before it")

    def _next(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self) -> str:
        character = self._next()
        if not character:
            raise BadExpression("ends too early", "close what is open")
        self._at += 1
        return character

    def _sequence(self) -> _Part:
        parts: list[_Part] = []
        while self._next() not in {"", "|", ")"}:
            parts.append(self._repeated(self._one()))
        return lambda pattern, after: _chain(pattern, parts, after)

    def _one(self) -> _Part:
        match self._take():
            case "(":
                return self._group()
            case "[":
                return _character(self._set())
            case ".":
                return _character(_ALPHABET)
            case "\\":
                return _character(self._escape())
            case "*" | "+" | "?" | "{":
                raise BadExpression("repeats nothing, or a repetition", "write what is to be repeated before it")
            case other:
                return _character(_literal(other))

    def _group(self) -> _Part:
        if self._text.startswith("?", self._at):
            if not self._text.startswith("?:", self._at):
                raise BadExpression("has a group that begins with `(?`", "look-arounds, flags and names are not taken")
            self._at += 2
        choices = [self._sequence()]
        while self._take() == "|":
            choices.append(self._sequence())
        return lambda pattern, after: pattern.add(_NOTHING, *[choice(pattern, after) for choice in choices])

    def _escape(self) -> frozenset[str]:
        character = self._take()
        if character not in _ESCAPES:
            raise BadExpression(f"has `\\{character}`", r"\. \- \d \w are taken")
        return _ESCAPES[character]

    def _set(self) -> frozenset[str]:
        is_negated = self._next() == SIGN
        if is_negated:
            self._at += 1
        found: set[str] = set()
        while (character := self._take()) != "]":
            first = self._escape() if character == "\\" else _literal(character, "[]^")
            if self._next() == "-" and not self._text.startswith("-]", self._at) and len(first) == 1:
                self._at += 1
                first = _span(character, self._take())
            found |= first
        if not found:
            raise BadExpression("has a class of no characters", "write some between [ and ]")
        return _ALPHABET - found if is_negated else frozenset(found)

    def _repeated(self, part: _Part) -> _Part:
        match self._next():
            case "*":
                low, high = 0, None
            case "+":
                low, high = 1, None
            case "?":
                low, high = 0, 1
            case "{":
                return self._counted(part)
            case _:
                return part
        self._at += 1
        return _repeat(part, low, high)

    def _counted(self, part: _Part) -> _Part:
        counts = _COUNTS.match(self._text, self._at)
        if counts is None:
            raise BadExpression("has a `{` without counts", "write {2}, {2,} or {2,5}")
        self._at = counts.end()
        low = int(counts[1])
        high = (int(counts[3]) if counts[3] else None) if counts[2] else low
        if high is not None and high < low:
            raise BadExpression(f"repeats {low} to {high} times", "write the smaller count first")
        return _repeat(part, low, high)


def _literal(character: str, besides: str = "") -> frozenset[str]:
    if character == "$":
        raise BadExpression("has a `$` before its end", "write it at the end alone")
    if character not in _ALPHABET or character in besides:
        raise BadExpression(f"has `{character}`", "topics' names have letters, digits, '.', '_' and '-' alone")
    return frozenset(character)


def _span(first: str, last: str) -> frozenset[str]:
    if first not in _ALPHABET or last not in _ALPHABET or first > last:
        raise BadExpression(f"has the range `{first}-{last}`", "write the smaller character first, as in [a-z]")
    return frozenset(chr(code) for code in range(ord(first), ord(last) + 1)) & _ALPHABET


def _character(characters: frozenset[str]) -> _Part:
    # What matches no name at all leads nowhere; it must read something all the same.
    return lambda pattern, after: pattern.add(characters or frozenset(" "), after)


def _chain(pattern: TopicPattern, parts: list[_Part], after: int) -> int:
    for part in reversed(parts):
        after = part(pattern, after)
    return after


def _repeat(part: _Part, low: int, high: int | None) -> _Part:
    def build(pattern: TopicPattern, after: int) -> int:
        if high is None:
            again = pattern.add(_NOTHING, after)
            pattern.point(again, part(pattern, again), after)
            after = again
        else:
            end = after
            for _ in range(high - low):
                after = pattern.add(_NOTHING, part(pattern, after), end)
        return _chain(pattern, [part] * low, after)

    return build

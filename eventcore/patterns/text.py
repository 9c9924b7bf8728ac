"""JSON texts of patterns and events, and what is wrong with them in the service's words."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from eventcore.errors import PatternError
from eventcore.model import UNREADABLE_JSON
from eventcore.patterns.rules import refuse

_decode = msgspec.json.Decoder().decode


def read_pattern(text: str | bytes) -> Any:
    """Return what the text of a pattern says.

    Raises:
        PatternError: it is no JSON; the message is the service's.
    """
    try:
        return _decode(text)
    except UNREADABLE_JSON as error:
        raise refuse(_explain(text)) from error


def read_event(text: str | bytes) -> dict[str, Any]:
    """Return the object that the text of an event is.

    Raises:
        PatternError: it is none.
    """
    try:
        event = _decode(text)
    except UNREADABLE_JSON:
        event = None
    if not isinstance(event, dict):
        raise PatternError("Parameter Event is not valid.")
    return event


_SPACE = re.compile(r"[ \t\r\n]*")
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')
_WORD = re.compile(r"[^\s,:\[\]{}\"']+")
_LITERAL = re.compile(r"(?:true|false|null|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)$")
_EXPECTED = "was expecting (JSON String, Number, Array, Object or token 'null', 'true' or 'false')"


def _explain(text: str | bytes) -> str:
    """Return what the service's own parser says of the first thing that is wrong."""
    known = text if isinstance(text, str) else text.decode(errors="replace")
    expects_name: list[bool] = []  #: of each object (True) or array (False) that is open
    is_name = False
    at = 0
    while (at := _SPACE.match(known, at).end()) < len(known):  # type: ignore[union-attr]
        character = known[at]
        if is_name and character not in '"}':
            return (
                f"Unexpected character ('{character}' (code {ord(character)})):"
                " was expecting double-quote to start field name"
            )
        if character == '"':
            found = _STRING.match(known, at)
            if found is None:
                return "Unexpected end-of-input in VALUE_STRING"
            at, is_name = found.end(), False
        elif character in "{[":
            is_name = character == "{"
            expects_name.append(is_name)
            at += 1
        elif character in "}]":
            if not expects_name or expects_name.pop() is not (character == "}"):
                return f"Unexpected close marker '{character}'"
            is_name = False
            at += 1
        elif character in ",:":
            is_name = character == "," and bool(expects_name) and expects_name[-1]
            at += 1
        else:
            word = _WORD.match(known, at)
            if word is None:
                return f"Unexpected character ('{character}' (code {ord(character)})): expected a valid value"
            if not _LITERAL.match(word[0]):
                return f"Unrecognized token '{word[0]}': {_EXPECTED}"
            at = word.end()
    return "Unexpected end-of-input: the text is no JSON"

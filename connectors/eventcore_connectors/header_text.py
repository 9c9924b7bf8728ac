"""Text as HTTP headers can carry it: names of token characters, values of visible ASCII."""

from __future__ import annotations

from urllib.parse import quote

#: Characters of a header's value that are sent as they are: visible ASCII, but the escape itself.
_VISIBLE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "%")
#: Characters of a header's name (RFC 9110, "Tokens").
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")


def header_value(value: str, *, keeps_spaces: bool) -> str:
    """Return a value with all that is not visible ASCII, and the percent sign, percent-encoded as UTF-8."""
    return quote(value, safe=_VISIBLE + " " * keeps_spaces)


def header_name(name: str) -> str:
    """Return a name with `-` for each character that a header's name can't have."""
    return "".join([letter if letter in _TOKEN else "-" for letter in name])

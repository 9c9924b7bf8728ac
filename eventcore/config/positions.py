"""On which line each key of a TOML document stands.

``tomllib`` gives values without lines, so the text is read a second time, for its keys only. The scanner runs on text
that ``tomllib`` has accepted and checks nothing again: it knows just enough of TOML to tell keys from values.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right

from eventcore.config.provenance import KeyPath

#: White space, line ends and comments: what may stand between any two tokens of an array.
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
#: Longest opening first. A multi-line string may end in up to five quotes, the last three of which close it.
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?!")|'
    r"'''.*?'''(?!')|"
    r'"(?:[^"\\\n]|\\.)*"|'
    r"'[^'\n]*'",
    re.DOTALL,
)
#: Numbers, booleans, dates: all up to what may follow a value.
_SCALAR = re.compile(r"[^,\]}\n#]*")


def find_lines(text: str) -> dict[KeyPath, int]:
    """Return the 1-based line of every key, table and list entry of a valid TOML document."""
    return _Scanner(text).scan()


class _Scanner:
    """Reads the text once, from its beginning to its end."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line_starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self._lines: dict[KeyPath, int] = {}
        #: How many tables each array of tables has so far: later headers below it mean the last one.
        self._table_counts: dict[KeyPath, int] = {}

    def scan(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        self._skip(_BLANK)
        while self._at < len(self._text):
            if self._text[self._at] == "[":
                table = self._read_header()
            else:
                self._read_pair(table)
            self._skip(_BLANK)
        return self._lines

    def _read_header(self) -> KeyPath:
        is_array = self._text.startswith("[[", self._at)
        line = self._line()
        self._at += 2 if is_array else 1
        *outer, last = self._read_key()
        self._at += 2 if is_array else 1
        path: KeyPath = ()
        for key in outer:
            path = self._enter((*path, key))
            self._lines.setdefault(path, line)
        path = (*path, last)
        if is_array:
            self._table_counts[path] = self._table_counts.get(path, 0) + 1
            self._lines.setdefault(path, line)
            path = self._enter(path)
        # The header of a table that was implied before is where a reader looks for it.
        self._lines[path] = line
        return path

    def _enter(self, path: KeyPath) -> KeyPath:
        count = self._table_counts.get(path)
        return path if count is None else (*path, count - 1)

    def _read_pair(self, table: KeyPath) -> None:
        line = self._line()
        path = table
        for key in self._read_key():
            path = (*path, key)
            self._lines.setdefault(path, line)
        self._at += 1  # the equals sign
        self._skip(_SPACE)
        self._read_value(path)

    def _read_key(self) -> list[str]:
        """Read a dotted key; stop behind it and the space that follows."""
        keys = []
        while True:
            self._skip(_SPACE)
            if self._text[self._at] in "\"'":
                keys.append(_unquote(self._skip(_STRING)))
            else:
                keys.append(self._skip(_BARE_KEY))
            self._skip(_SPACE)
            if self._text[self._at] != ".":
                return keys
            self._at += 1

    def _read_value(self, path: KeyPath) -> None:
        opening = self._text[self._at]
        if opening in "\"'":
            self._skip(_STRING)
        elif opening == "[":
            self._read_array(path)
        elif opening == "{":
            self._read_inline_table(path)
        else:
            self._skip(_SCALAR)

    def _read_array(self, path: KeyPath) -> None:
        self._at += 1
        self._skip(_BLANK)
        index = 0
        while self._text[self._at] != "]":
            self._lines[*path, index] = self._line()
            self._read_value((*path, index))
            self._skip_separator()
            index += 1
        self._at += 1

    def _read_inline_table(self, path: KeyPath) -> None:
        self._at += 1
        self._skip(_BLANK)
        while self._text[self._at] != "}":
            self._read_pair(path)
            self._skip_separator()
        self._at += 1

    def _skip_separator(self) -> None:
        self._skip(_BLANK)
        if self._text[self._at] == ",":
            self._at += 1
            self._skip(_BLANK)

    def _skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        assert match is not None, "the text was accepted by tomllib"
        self._at = match.end()
        return match.group()

    def _line(self) -> int:
        return bisect_right(self._line_starts, self._at)


def _unquote(key: str) -> str:
    return str(tomllib.loads(f"key = {key}")["key"])

"""Where a setting was written: the file and line, or the environment variable its value came from."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

#: A place in the document: table, name, setting, and on into nested tables and lists.
KeyPath = tuple[str | int, ...]

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def dotted(path: KeyPath) -> str:
    """Return a path as people read it: `mappings.orders.batch_size`, `functions.f.preload[0]`."""
    text = ""
    for key in path:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            written = key if _BARE_KEY.fullmatch(key) else f'"{key}"'
            text += f".{written}" if text else written
    return text


class Place(msgspec.Struct, frozen=True):
    """A file, and a line of it where that is known."""

    file: str
    line: int | None = None  #: from 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """Where each setting of a pipeline was written."""

    file: str  #: the pipeline file, or the Python module that declares the pipeline
    places: Mapping[KeyPath, Place] = {}
    #: The environment variables that a value was made of.
    variables: Mapping[KeyPath, tuple[str, ...]] = {}
    #: What is shown instead of a value that was made of environment variables.
    masked: Mapping[KeyPath, str] = {}

    def is_written(self, path: KeyPath) -> bool:
        """Tell whether the setting stands in the pipeline, so that its value is no default."""
        return path in self.places

    def find(self, path: KeyPath) -> Place:
        """Return where a setting was written, or the nearest table around it."""
        while path:
            if path in self.places:
                return self.places[path]
            path = path[:-1]
        return Place(self.file)

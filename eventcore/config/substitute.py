"""`${env:NAME}` in the pipeline's texts.

What comes from the environment may be a secret: beside each value stands the text that is shown in its place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from eventcore.config.provenance import KeyPath

MASK = "***"

_VARIABLE = re.compile(r"\$\{env:([^}]*)\}?")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Substituted(msgspec.Struct, frozen=True):
    """A document with its variables replaced."""

    document: Any
    variables: Mapping[KeyPath, tuple[str, ...]]  #: names, by the path of the text they stood in
    masked: Mapping[KeyPath, str]  #: what to show instead of each such text


#: Told of each mistake: path, message, hint.
Complain = Callable[[KeyPath, str, str], None]


def substitute(document: Any, environ: Mapping[str, str], complain: Complain) -> Substituted:
    """Replace `${env:NAME}` in every text of the document; keys stay as they are.

    A text with a mistake is left out of the result's masks and keeps its variables unreplaced.
    """
    variables: dict[KeyPath, tuple[str, ...]] = {}
    masked: dict[KeyPath, str] = {}

    def replace(text: str, path: KeyPath) -> str:
        names = [match.group(1) for match in _VARIABLE.finditer(text)]
        if not names or not _are_known(text, names, path, environ, complain):
            return text
        variables[path] = tuple(names)
        masked[path] = _VARIABLE.sub(MASK, text)
        return _VARIABLE.sub(lambda match: environ[match.group(1)], text)

    def walk(value: Any, path: KeyPath) -> Any:
        if isinstance(value, str):
            return replace(value, path)
        if isinstance(value, Mapping):
            return {key: walk(inner, (*path, key)) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [walk(inner, (*path, index)) for index, inner in enumerate(value)]
        return value

    return Substituted(walk(document, ()), variables, masked)


def _are_known(text: str, names: list[str], path: KeyPath, environ: Mapping[str, str], complain: Complain) -> bool:
    """Complain of every variable that is misspelt or not set; tell whether there was none."""
    is_fine = True
    if text.count("${env:") != len(re.findall(r"\$\{env:[^}]*\}", text)):
        complain(path, "a `${env:` is not closed", "write ${env:NAME}")
        is_fine = False
    for name in names:
        if not _NAME.fullmatch(name):
            complain(path, f"`${{env:{name}}}` names no environment variable", "write ${env:NAME}")
            is_fine = False
        elif name not in environ:
            complain(path, f"the environment variable {name} is not set", f"export {name}=... before the start")
            is_fine = False
    return is_fine

"""Where in a Python program something stands: the line of a call, and the name under which a process can import it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import msgspec

from eventcore.config.provenance import Place

#: Frames of these packages are ours: a mistake belongs to the line that called us.
_OURS = ("eventcore.config", "eventcore.app")


class Importable(msgspec.Struct, frozen=True, kw_only=True):
    """How another process finds a callable."""

    handler: str  #: `module.attribute`
    root: Path | None  #: the folder in which the module's name begins; None where it has no file
    problem: str = ""  #: why no other process can import it; empty when one can


def find_caller() -> FrameType:
    """Return the nearest frame outside of eventcore's own declaring code."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - the only way to a caller's line without a traceback
    while frame is not None and str(frame.f_globals.get("__name__", "")).startswith(_OURS):
        frame = frame.f_back
    assert frame is not None, "something outside of eventcore has called it"
    return frame


def place_of(frame: FrameType) -> Place:
    """Return a frame's file, relative to the working directory where it lies below it, and its line."""
    return Place(_shorten(frame.f_code.co_filename), frame.f_lineno)


def root_of(frame: FrameType) -> Path:
    """Return the folder in which the name of a frame's module begins; the working directory where it has no file."""
    module = sys.modules.get(str(frame.f_globals.get("__name__", "")))
    root = None if module is None else _root(module, _name(module))
    if root is not None:
        return root
    file = Path(frame.f_code.co_filename)
    return file.absolute().parent if file.is_file() else Path.cwd()


def find_importable(handler: Callable[..., Any], fallback_name: str) -> Importable:
    """Return the name under which another process can import a callable.

    Args:
        handler: any callable.
        fallback_name: what to call it where it has no name of its own.
    """
    attribute = getattr(handler, "__qualname__", "")
    module = sys.modules.get(getattr(handler, "__module__", None) or "")
    name = "" if module is None else _name(module)
    root = None if module is None else _root(module, name)
    label = attribute.rpartition(".")[2] if attribute.rpartition(".")[2].isidentifier() else fallback_name
    problem = ""
    if not attribute:
        problem = "it is no function: it has no name that a process could import"
    elif root is None:
        problem = "its module has no file that a process could import"
    elif "." in attribute:
        outer = attribute.removesuffix(f".{label}").removesuffix(".<locals>")
        problem = f"it is defined inside `{outer}`, where no process can import it"
    elif attribute == "<lambda>":
        problem = "a lambda has no name that a process could import"
    return Importable(handler=f"{name or 'module'}.{label}", root=root, problem=problem)


def _name(module: ModuleType) -> str:
    """Return a module's name for another process, where it is not the one that was started."""
    if module.__name__ != "__main__":
        return module.__name__
    if module.__spec__ is not None:
        return module.__spec__.name
    return Path(module.__file__).stem if module.__file__ else ""


def _root(module: ModuleType, name: str) -> Path | None:
    """Return the folder that has to be on the module search path."""
    if not module.__file__ or not name:
        return None
    file = Path(module.__file__).absolute()
    levels = name.count(".") + (1 if file.stem == "__init__" else 0)
    return file.parents[levels]


def _shorten(file: str) -> str:
    shorter = os.path.relpath(file)
    return file if shorter.startswith(os.pardir) else shorter

"""Whether the code that an engine runs is still the code that stands in its folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import anyio.to_thread

from eventcore.archive.failures import code_hash


class StartedCode:
    """What the functions' code folders held when the engine started: its environments run that."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        """Read the folders, as `code_hash` bounds it.

        Args:
            folders: of each function's code, by its name.
        """
        self._folders = folders
        hashes = {folder: _read(folder) for folder in set(folders.values())}
        self._started = {name: hashes[folder] for name, folder in folders.items()}

    def has_changed(self, function: str) -> bool:
        """Tell whether a function's folder holds other code now; reads it, so call it off the loop."""
        return function in self._folders and _read(self._folders[function]) != self._started[function]

    async def find_stale(self, function: str) -> int:
        """Return the id of this process where its environments run other code than stands in the folder; else 0."""
        return os.getpid() if await anyio.to_thread.run_sync(self.has_changed, function) else 0


def _read(folder: Path) -> str:
    return code_hash(folder) if folder.is_dir() else ""

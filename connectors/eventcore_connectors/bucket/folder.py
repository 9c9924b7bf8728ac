"""A folder as a bucket: each record is a file under its object's name, whole or not there at all.

What goes with a record (its attributes: failure id, lineage, trace) is a file of the same name below
`.eventcore/metadata`, which is there before the record is. Files are begun in `.eventcore/writing`: whoever lists the
rest of the folder sees objects and nothing else.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import anyio.to_thread
import msgspec

from eventcore.config.reference import Reference
from eventcore.errors import DestinationError, DestinationRefused, DestinationUnavailable
from eventcore.ports.destinations import OBJECT_KEY
from eventcore.ports.store import OutboxRow

#: What is ours in the folder.
OWN = ".eventcore"
METADATA = f"{OWN}/metadata"
_WRITING = f"{OWN}/writing"
#: The attribute that holds a row's idempotency key.
IDEMPOTENCY_KEY = "eventcore-idempotency-key"

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
#: The name itself can't be a file's there.
_NO_NAME = frozenset({errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTEMPTY, errno.ELOOP})


class FolderDestination:
    """A folder. Open → closed. A record that is handed over again is the same file with the same content."""

    def __init__(self, reference: Reference, folder: Path) -> None:
        self.reference = str(reference)
        self._folder = folder

    async def open(self) -> None:
        """See whether the folder is there: none is made, so that a disk that is not mounted is told.

        Raises:
            DestinationUnavailable: it is not.
        """
        await anyio.to_thread.run_sync(self._check)

    async def deliver(self, rows: Sequence[OutboxRow]) -> None:
        """Write each row's file, in order; when it returns, all are on the disk.

        Raises:
            DestinationUnavailable: the folder is not there, the disk is full or broken.
            DestinationRefused: its rights do not allow it, or something else stands where the file belongs.
        """
        for index, row in enumerate(rows):
            try:
                await anyio.to_thread.run_sync(self._write_row, row)
            except OSError as error:
                raise self._explain(error, index) from error
            except DestinationError as error:
                error.taken_count = index
                raise

    async def aclose(self) -> None:
        """Do nothing: no file stays open."""

    # -- in a thread ---------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if not self._folder.is_dir():
            message = f"there is no folder {self._folder}: make it, or mount its disk"
            raise DestinationUnavailable(message, destination=self.reference)

    def _write_row(self, row: OutboxRow) -> None:
        self._check()
        name = self._name_of(row)
        about = {**{key: value for key, value in row.attributes.items() if key != OBJECT_KEY}, IDEMPOTENCY_KEY: row.key}
        self._write(f"{METADATA}/{name}.json", msgspec.json.encode({"attributes": about}))
        self._write(name, row.payload)

    def _name_of(self, row: OutboxRow) -> str:
        """Return the object's name, which never leads out of the folder, nor to what is ours in it."""
        name = row.attributes.get(OBJECT_KEY, "")
        parts = name.split("/")
        if not all(parts) or {".", ".."} & set(parts) or parts[0] == OWN or "\0" in name:
            raise DestinationRefused(f"`{name}` is no name of an object in a folder", destination=self.reference)
        return name

    def _write(self, name: str, content: bytes) -> None:
        target = self._folder / PurePosixPath(name)
        # One name for one object: what a crash left half written is written over, never left behind.
        begun = self._folder / _WRITING / hashlib.sha256(name.encode()).hexdigest()
        self._make_folders(begun.parent)
        self._make_folders(target.parent)
        with begun.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        begun.replace(target)
        _sync(target.parent)

    def _make_folders(self, wanted: Path) -> None:
        """Make the folders down to one, each known to the disk before anything is in it."""
        missing = []
        while not wanted.is_dir():
            missing.append(wanted)
            wanted = wanted.parent
        for each in reversed(missing):
            each.mkdir(exist_ok=True)
            _sync(each.parent)

    def _explain(self, error: OSError, taken_count: int) -> DestinationError:
        said = error.strerror or type(error).__name__
        if error.errno in _FULL:
            message = f"the disk of {self._folder} is full ({said}): make room on it"
        elif error.errno in _DENIED:
            message = f"{error.filename or self._folder} can't be written ({said}): give the engine's user the right to"
        elif error.errno in _NO_NAME:
            message = f"{error.filename2 or error.filename} can't be a file ({said}): move away what stands there"
        else:
            message = f"{self._folder} can't be written: {said}"
        is_refused = error.errno in _DENIED | _NO_NAME
        kind = DestinationRefused if is_refused else DestinationUnavailable
        return kind(message, destination=self.reference, taken_count=taken_count)


def _sync(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

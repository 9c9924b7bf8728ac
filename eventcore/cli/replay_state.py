"""How far a replay is, kept in the state folder, so that an interrupted one can go on."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import anyio
import msgspec

from eventcore.errors import CommandError

#: It is written so often, seconds: what a killed replay runs again.
WRITE_EVERY_S = 1.0


class Position(msgspec.Struct, frozen=True):
    """How far one shard is."""

    shard: str
    position: int
    end: int


class ReplayState:
    """The file of one replay: of a source, through a function."""

    def __init__(self, state: Path, reference: str, function: str) -> None:
        digest = hashlib.sha256(f"{reference}\0{function}".encode()).hexdigest()[:16]
        self._path = state / "replays" / f"{digest}.json"
        self._reference = reference
        self._function = function
        self._written_s = 0.0
        #: Whether what is written is this replay's: another one may run, of another range or from another terminal.
        self.is_mine = False

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Make the file this replay's while the block lasts, unless another process has it: `is_mine` tells.

        Raises:
            CommandError: the state folder can't be written.
        """
        path = self._path.with_suffix(".lock")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.is_mine = True
            yield
        finally:
            self.is_mine = False
            os.close(descriptor)

    def read(self) -> Sequence[Position]:
        """Return how far the last replay was.

        Raises:
            CommandError: none was interrupted, it still runs, or its file can't be read.
        """
        if not self.is_mine:
            raise CommandError(
                f"a replay of {self._reference} through {self._function} runs: it goes on by itself",
                hint="run another range beside it: --from",
            )
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=tuple[Position, ...])
        except FileNotFoundError:
            raise CommandError(
                f"no replay of {self._reference} through {self._function} was interrupted",
                hint="say where to begin: --from",
            ) from None
        except (OSError, msgspec.DecodeError) as error:
            raise CommandError(f"{self._path} can't be read: {error}", hint="say where to begin: --from") from error

    def write(self, positions: Sequence[Position], *, is_urgent: bool = False) -> None:
        """Keep how far it is, if the file is this replay's; unless it is urgent, at most each `WRITE_EVERY_S`.

        Raises:
            CommandError: the state folder can't be written.
        """
        now_s = anyio.current_time()
        if not self.is_mine or (not is_urgent and now_s < self._written_s + WRITE_EVERY_S):
            return
        self._written_s = now_s
        beside = self._path.with_suffix(".new")
        try:
            beside.write_bytes(msgspec.json.encode(positions))
            beside.replace(self._path)
        except OSError as error:
            raise self._unwritable(error) from error

    def clear(self) -> None:
        """Forget it, if the file is this replay's: it is through."""
        if self.is_mine:
            self._path.unlink(missing_ok=True)

    def _unwritable(self, error: OSError) -> CommandError:
        return CommandError(f"{self._path} can't be written: {error}")

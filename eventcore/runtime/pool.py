"""The environments of one function version: the idle ones, most recently used first, and what lost ones left."""

from __future__ import annotations

from pathlib import Path

from eventcore.ports.runtime import FunctionSpec
from eventcore.runtime.launcher import Launcher
from eventcore.runtime.remote import EndReason, RemoteEnvironment


class Pool:
    """Environments that are alike. A function whose settings change gets a new one."""

    def __init__(self, function: FunctionSpec) -> None:
        self.function = function
        self.launcher: Launcher | None = None  #: its own zygote, when it has `preload`
        self.environments: set[RemoteEnvironment] = set()  #: all that are not gone
        self.is_retired = False
        self._idle: list[RemoteEnvironment] = []
        #: Folders of environments that timed out or crashed: they outlive a reset (Lambda semantics §10, extra (a)).
        self._left_folders: list[Path] = []
        self._spent_folders: list[Path] = []

    def take(self) -> RemoteEnvironment | None:
        """Return the most recently used idle environment: its memory is the warmest, and the others may go."""
        while self._idle:
            environment = self._idle.pop()
            if environment.is_alive:
                environment.thaw()
                return environment
        return None

    def give_back(self, environment: RemoteEnvironment, now: float) -> None:
        """Take an environment that has served."""
        environment.request_id = None
        environment.idle_since = now
        if self.is_retired:
            environment.kill(EndReason.UNUSED)
        elif environment.is_alive:
            self._idle.append(environment)

    def leave_folder(self, folder: Path) -> None:
        """Keep a folder for the next environment that starts."""
        self._left_folders.append(folder)

    def take_folder(self) -> Path | None:
        """Return the folder of a lost environment for the one that replaces it."""
        return self._left_folders.pop() if self._left_folders else None

    def forget(self, environment: RemoteEnvironment) -> None:
        """Take note that an environment's process is gone."""
        self.environments.discard(environment)
        if environment in self._idle:
            self._idle.remove(environment)
        is_spent = environment.ended_by is EndReason.UNUSED
        (self._spent_folders if is_spent else self._left_folders).append(environment.temporary)

    def take_folders(self) -> list[Path]:
        """Return the folders that nobody needs any more."""
        folders, self._spent_folders = self._spent_folders, []
        if self.is_retired:
            folders += self._left_folders
            self._left_folders = []
        return folders

    def retire(self) -> None:
        """End the idle environments now, and the others when they have served."""
        self.is_retired = True
        while self._idle:
            self._idle.pop().kill(EndReason.UNUSED)

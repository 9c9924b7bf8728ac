"""What `eventcore up` needs: a connector that can start a server of its system on this machine, for people to try with.

Such a server lives as long as the command that started it, listens on loopback alone, and keeps its data in one folder
or volume. A connector offers it by having `prepare_server`; most have none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import msgspec

#: What a server can run in.
Way = Literal["docker", "java"]


class ServerRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Which server is wanted."""

    port: int  #: on loopback, where clients come
    folder: Path  #: for its log, and its data unless they live in a container's volume; nobody else uses it
    way: Way | None = None  #: what it runs in; None for the first that is there
    is_fresh: bool = False  #: whether data of earlier runs are deleted first
    topics: Mapping[str, int] = msgspec.field(default_factory=dict)  #: partitions of the topics to make, by name


class Progress(Protocol):
    """Hears what takes long, before it begins."""

    def say(self, text: str) -> None:
        """Take a line for people."""
        ...

    def show(self, total: int, label: str) -> AbstractContextManager[Callable[[int], None]]:
        """Return a context that shows a bar, and gives what to call with each number that was done."""
        ...


class RunningServer(Protocol):
    """A server that answers."""

    address: str  #: host and port
    version: str
    way: Way
    data: str  #: the folder, or the volume, that outlives it
    topics: Mapping[str, int]  #: partitions of the topics that are there, by name

    async def wait(self) -> str:
        """Return when the server has ended by itself, with why, as far as it told."""
        ...


class PreparedServer(Protocol):
    """A server that can be started: all it needs is on this machine."""

    def open(self) -> AbstractAsyncContextManager[RunningServer]:
        """Start the server, wait until it answers, stop it when the context is left.

        Raises:
            CommandError: it does not start; the message has its last words.
        """
        ...


@runtime_checkable
class ServerConnector(Protocol):
    """A connector that can start a server."""

    def prepare_server(self, request: ServerRequest, progress: Progress) -> PreparedServer:
        """Choose what the server runs in, and download what is missing, after saying so.

        Raises:
            ConnectorUnavailable: there is nothing to run it in; the message says what to install.
            CommandError: the download failed.
        """
        ...

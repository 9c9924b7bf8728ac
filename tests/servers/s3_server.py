"""A real object store for the tests: versitygw on loopback, its objects in a temporary folder.

It is built by `make test-s3` (Go, two minutes), and by no test: without it they are skipped. Nothing is left behind:
the process is stopped by its id.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import anyio
import httpx

from tests.servers.kafka_server import ServerUnavailable
from tests.servers.ports import free_ports

ACCESS_KEY, SECRET_KEY = "tester", "geheim-geheim"
REGION = "eu-central-1"
#: Ready in a tenth of a second alone; other work may run.
READY_TIMEOUT_S = 30


def find_gateway() -> Path:
    """Return the program.

    Raises:
        ServerUnavailable: it was not built.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    program = cache / "eventcore" / "versitygw" / "versitygw"
    if not program.is_file():
        raise ServerUnavailable(f"there is no {program}: `make test-s3` builds it, with Go")
    return program


class S3Server:
    """An object store that is started and stopped; its objects stay."""

    def __init__(self, program: Path, folder: Path) -> None:
        self._program = program
        self._folder = folder
        (self.port,) = free_ports(1)
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.root = folder / "objects"  #: a folder in it is a bucket
        self.root.mkdir()
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        options = ["--port", f"127.0.0.1:{self.port}", "--region", REGION, "--health", "/health"]
        environment = {**os.environ, "ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY}
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
                [self._program, *options, "posix", "--sidecar", self._sidecar(), self.root],
                env=environment,
                stdout=log,
                stderr=log,
            )
        async with httpx.AsyncClient() as client:
            with anyio.fail_after(READY_TIMEOUT_S):
                while not await self._is_ready(client):  # noqa: ASYNC110 - another process says nothing
                    await anyio.sleep(0.05)

    def _sidecar(self) -> Path:
        """Where attributes stand, on file systems without extended ones."""
        folder = self._folder / "attributes"
        folder.mkdir(exist_ok=True)
        return folder

    async def _is_ready(self, client: httpx.AsyncClient) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise ServerUnavailable(f"it ended at once: {(self._folder / 'log').read_text()[-500:]}")
        try:
            return (await client.get(f"{self.endpoint}/health")).is_success
        except httpx.HTTPError:
            return False

    def stop(self) -> None:
        """Stop it, if it runs."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

"""Kafka's jars: pinned by version and checksum, fetched once into the user's cache folder.

Maven fetches them, which knows the user's repositories and proxies; without it, or with `REPOSITORY_VARIABLE`, they
are fetched one by one from the repository that the variable names. No address of one stands in eventcore.

What is not in `jars-VERSION.txt` is never run, and a folder of jars appears only when it is whole.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from eventcore.errors import CommandError
from eventcore.ports.servers import Progress
from eventcore_connectors.kafka.local.programs import run_program
from eventcore_connectors.kafka.local.settings import KAFKA_VERSION

if TYPE_CHECKING:
    import httpx

#: Holds the address of a Maven repository that is to be asked instead of Maven.
REPOSITORY_VARIABLE = "EVENTCORE_MAVEN_REPOSITORY"
#: What Kafka needs to run, with all that these need; its logging goes to standard error through the simple binding.
ARTIFACTS = (
    ("org.apache.kafka", "kafka_2.13", KAFKA_VERSION),
    ("org.apache.kafka", "kafka-tools", KAFKA_VERSION),
    ("org.slf4j", "slf4j-simple", "1.7.36"),
)
#: Maven takes 14 s on a fast line; this is for slow ones.
MAVEN_TIMEOUT_S = 300.0
#: Without a byte from the repository, seconds.
ANSWER_TIMEOUT_S = 30.0
#: Of Maven's last words.
MAVEN_TEXT_MAX = 500


class Jar(msgspec.Struct, frozen=True):
    """One file of Kafka's."""

    sha256: str
    size_bytes: int
    path: str  #: in a Maven repository

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.path.rpartition("/")[2]


def read_jars() -> list[Jar]:
    """Return the jars of `KAFKA_VERSION`."""
    text = (files(__package__) / f"jars-{KAFKA_VERSION}.txt").read_text()
    rows = (line.split() for line in text.splitlines())
    return [Jar(sha256, int(size), path) for sha256, size, path in rows]


def cache_folder() -> Path:
    """Return the folder of this version, which may not be there yet."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "eventcore" / f"kafka-{KAFKA_VERSION}"


def find_jars(progress: Progress) -> Path:
    """Return the folder of Kafka's jars, downloading them first if need be.

    Raises:
        CommandError: there is neither Maven nor a repository's address, the download failed, or what came is not what
            was published.
    """
    libs = cache_folder() / "libs"
    if libs.is_dir():
        return libs
    jars = read_jars()
    repository = os.environ.get(REPOSITORY_VARIABLE, "")
    if not repository and shutil.which("mvn") is None:
        raise CommandError(
            "Kafka's jars are not there, and neither is Maven to download them",
            hint=f"install Docker, or Maven; or let {REPOSITORY_VARIABLE} name a Maven repository's address",
        )
    size_mb = sum(jar.size_bytes for jar in jars) / 1e6
    progress.say(
        f"downloading Apache Kafka {KAFKA_VERSION} {f'from {repository}' if repository else 'with Maven'}, once: "
        f"{len(jars)} files, {size_mb:.0f} MB, into {libs}"
    )
    try:
        libs.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=libs.parent, prefix="download-") as folder:
            fetched = Path(folder) / "libs"
            if repository:
                _fetch(repository, jars, fetched, progress)
            else:
                _fetch_by_maven(fetched)
            _verify(jars, fetched)
            _keep(fetched, libs)
    except OSError as error:
        raise CommandError(f"Kafka's jars can't be kept: {error}") from error
    return libs


def _keep(fetched: Path, libs: Path) -> None:
    """Put the jars to where they are looked for; if another process was faster, its jars stay: they are the same."""
    try:
        fetched.rename(libs)
    except OSError:
        if not libs.is_dir():
            raise


def _fetch_by_maven(libs: Path) -> None:
    """Have Maven fetch the jars: it knows the user's mirrors and proxies."""
    dependencies = "".join(
        f"<dependency><groupId>{group}</groupId><artifactId>{name}</artifactId><version>{version}</version></dependency>"
        for group, name, version in ARTIFACTS
    )
    (libs.parent / "pom.xml").write_text(
        "<project><modelVersion>4.0.0</modelVersion>"
        "<groupId>local</groupId><artifactId>kafka</artifactId><version>1</version>"
        f"<dependencies>{dependencies}</dependencies></project>"
    )
    command = ["mvn", "-q", "-B", "-ntp", "dependency:copy-dependencies", f"-DoutputDirectory={libs.name}"]
    try:
        done = run_program([*command, "-DincludeScope=runtime"], cwd=libs.parent, timeout_s=MAVEN_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"downloading Kafka took Maven longer than {MAVEN_TIMEOUT_S:g} s") from error
    if done.returncode:
        raise CommandError(
            f"Maven could not download Kafka: {(done.stdout + done.stderr).strip()[-MAVEN_TEXT_MAX:]}",
            hint=f"without Maven: {REPOSITORY_VARIABLE} names a Maven repository's address",
        )


def _fetch(repository: str, jars: list[Jar], libs: Path, progress: Progress) -> None:
    import httpx

    libs.mkdir()
    total = sum(jar.size_bytes for jar in jars)
    try:
        with (
            httpx.Client(timeout=ANSWER_TIMEOUT_S, follow_redirects=True) as client,
            progress.show(total, "downloading Kafka") as advance,
        ):
            for jar in jars:
                _fetch_one(client, f"{repository.rstrip('/')}/{jar.path}", libs / jar.name, jar.size_bytes, advance)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise CommandError(
            f"Kafka can't be downloaded from {repository}: {error or type(error).__name__}",
            hint=f"{REPOSITORY_VARIABLE} names another Maven repository, HTTPS_PROXY a proxy",
        ) from error


def _fetch_one(client: httpx.Client, url: str, file: Path, size_bytes: int, advance: Callable[[int], None]) -> None:
    with client.stream("GET", url) as answer, file.open("wb") as written:
        answer.raise_for_status()
        for part in answer.iter_bytes():
            # A server that never stops sending fills no disk: what is too long is found out by its checksum.
            if written.tell() > size_bytes:
                break
            written.write(part)
            advance(len(part))


def _verify(jars: list[Jar], libs: Path) -> None:
    """Compare what was fetched with what was published.

    Raises:
        CommandError: a file is missing, another one, or one too many; nothing of it is kept.
    """
    expected = {jar.name: jar.sha256 for jar in jars}
    found = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in libs.iterdir()}
    if wrong := sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)):
        raise CommandError(
            f"what was downloaded is not Apache Kafka {KAFKA_VERSION} as published, and was thrown away: "
            f"{', '.join(wrong[:3])}{f' and {len(wrong) - 3} more' if len(wrong) > 3 else ''}",
            hint="a mirror or proxy may have changed it",
        )

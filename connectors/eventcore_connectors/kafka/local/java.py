"""Runs Kafka in a Java of this machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from eventcore.errors import CommandError
from eventcore_connectors.kafka.local.programs import run_program

#: Kafka 4 needs at least this one.
JAVA_VERSION_MIN = 17
#: `java -version` takes a tenth of a second; the stub that macOS has for a missing Java asks a server, seconds.
VERSION_TIMEOUT_S = 10.0
#: Preparing the data folder takes 1.4 s alone on two cores; other work may run.
FORMAT_TIMEOUT_S = 60.0
#: Any 16 bytes in base64.
CLUSTER_ID = "MkU3OEVBNTcwNTJENDM2Qg"
#: The JVM starts twice as fast so, and 256 MB are enough for a broker that people and tests try with.
JVM_FLAGS = (
    "-Xmx256m",
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
)
#: Stands in a data folder that is prepared.
_PREPARED = "meta.properties"


def find_java() -> str | None:
    """Return the program: `JAVA_HOME`'s, else the one on the path."""
    home = os.environ.get("JAVA_HOME")
    return shutil.which("java", path=f"{home}/bin") if home else shutil.which("java")


def miss_java() -> str:
    """Return why Kafka can't run in Java here; empty where it can."""
    java = find_java()
    if java is None:
        return "there is no Java (`java` on the path, or JAVA_HOME)"
    try:
        done = run_program([java, "-version"], timeout_s=VERSION_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return f"{java} does not run"
    # `1.8.0_392` is Java 8; since then the first number is the version.
    found = re.search(r'version "(?:1\.)?(\d+)', done.stderr + done.stdout)
    if done.returncode or found is None:
        return f"{java} does not run"
    return "" if int(found[1]) >= JAVA_VERSION_MIN else f"{java} is Java {found[1]}, older than {JAVA_VERSION_MIN}"


def write_settings(file: Path, settings: Mapping[str, str]) -> None:
    """Write what Kafka reads."""
    file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))


def java_command(jars: Path, *arguments: str) -> list[str]:
    """Return what runs a class of Kafka's with its arguments."""
    return [find_java() or "java", *JVM_FLAGS, "-cp", f"{jars}/*", *arguments]


def broker_command(jars: Path, settings: Path) -> list[str]:
    """Return what runs a broker."""
    return java_command(jars, "kafka.Kafka", str(settings))


def prepare_data(jars: Path, settings: Path, data: Path, arguments: Sequence[str] = ()) -> None:
    """Make the data folder what the broker wants it to be; one that is prepared stays as it is.

    Args:
        jars: Kafka's.
        settings: the broker's, in a file.
        data: the folder that they name.
        arguments: more, for `kafka-storage format`.

    Raises:
        CommandError: Kafka refuses; the message has its words.
    """
    if (data / _PREPARED).exists():
        return
    command = java_command(jars, "kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(settings), *arguments)
    try:
        done = run_program(command, timeout_s=FORMAT_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"Kafka took longer than {FORMAT_TIMEOUT_S:g} s to prepare {data}") from error
    if done.returncode:
        raise CommandError(f"Kafka can't prepare {data}: {(done.stderr or done.stdout).strip()}")


def delete_data(data: Path) -> None:
    """Delete a data folder of Kafka's; a folder of anything else is left alone.

    Raises:
        CommandError: it is something else, or can't be deleted.
    """
    if not data.exists():
        return
    if not (data / _PREPARED).exists():
        raise CommandError(f"{data} is not deleted: it is no data folder of Kafka's")
    try:
        shutil.rmtree(data)
    except OSError as error:
        raise CommandError(f"{data} can't be deleted: {error.strerror}") from error

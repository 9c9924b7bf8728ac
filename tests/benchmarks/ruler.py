"""event-ruler in Java, run from `Ruler.java` beside this file: the peer of `patterns.py`. Maven fetches it once."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

#: Group, name and version.
RULER = ("software.amazon.event.ruler", "event-ruler", "2.1.0")
SOURCE = Path(__file__).parent / "Ruler.java"
#: Maven takes 5 s on a fast line.
MAVEN_TIMEOUT_S = 300


class Turn(msgspec.Struct, frozen=True):
    """What one contestant did in one turn."""

    events: int
    wall_s: float
    cpu_s: float
    matches: int  #: of one pass over all events


#: Holds all events against the rules again and again for so many seconds.
TakesTurn = Callable[[float], Turn]


@contextlib.contextmanager
def running_ruler(patterns: Sequence[Mapping[str, Any]], events: Sequence[str]) -> Iterator[TakesTurn]:
    """Run event-ruler, and return what has it take a turn."""
    with tempfile.TemporaryDirectory(prefix="eventcore-bench-") as name:
        folder = Path(name)
        (folder / "rules").write_text("\n".join(map(json.dumps, patterns)))
        (folder / "events").write_text("\n".join(events))
        command = ["java", "-XX:+UseSerialGC", "-Xmx512m", "-cp", f"{find_jars()}/*", str(SOURCE)]
        process = subprocess.Popen(
            [*command, str(folder / "rules"), str(folder / "events")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        asked, answers = process.stdin, process.stdout

        def theirs(seconds: float) -> Turn:
            print(seconds, file=asked, flush=True)
            count, wall_s, cpu_s, matches = answers.readline().split()
            return Turn(int(count), float(wall_s), float(cpu_s), int(matches))

        with process:
            yield theirs
            asked.close()


def is_ruler_at_hand() -> bool:
    """Tell whether event-ruler can be run here."""
    return shutil.which("java") is not None and (_jars_folder().is_dir() or shutil.which("mvn") is not None)


def _jars_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "eventcore" / f"{RULER[1]}-{RULER[2]}"


def find_jars() -> Path:
    """Return the folder of event-ruler's jars; Maven fetches them the first time."""
    jars = _jars_folder()
    if not jars.is_dir():
        jars.parent.mkdir(parents=True, exist_ok=True)
        group, name, version = RULER
        with tempfile.TemporaryDirectory(dir=jars.parent, prefix="download-") as folder:
            (Path(folder) / "pom.xml").write_text(
                "<project><modelVersion>4.0.0</modelVersion>"
                "<groupId>local</groupId><artifactId>peer</artifactId><version>1</version><dependencies><dependency>"
                f"<groupId>{group}</groupId><artifactId>{name}</artifactId><version>{version}</version>"
                "</dependency></dependencies></project>"
            )
            command = ["mvn", "-q", "-B", "-ntp", "dependency:copy-dependencies", "-DoutputDirectory=jars"]
            # What Maven says, and be it a change of colour, must not stand before the figures on standard output.
            command += ["-DincludeScope=runtime"]
            subprocess.run(command, cwd=folder, timeout=MAVEN_TIMEOUT_S, check=True, stdout=sys.stderr)
            (Path(folder) / "jars").rename(jars)
    return jars

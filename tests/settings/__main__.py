"""Runs each setting's test with and without the setting, and writes the table of what they gave.

`python -m tests.settings` runs those that need no server, `--servers` the others; `--write` writes
`eventcore/config/SETTINGS.md` and `runs.json`, and how each test failed is printed.
It ends with 1 where a test does not pass with its setting, or passes without it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.settings.forced import REGISTRY
from tests.settings.table import settings_table

ROOT = Path(__file__).parents[2]
RUNS = Path(__file__).parent / "runs.json"
TABLE = ROOT / "eventcore" / "config" / "SETTINGS.md"
#: One test without its setting, seconds: it may wait for what does not come.
TEST_TIMEOUT_S = {False: 30, True: 90}


def is_of_servers(test: str) -> bool:
    """Tell whether a test needs a real server."""
    return test.startswith("tests/servers/")


def run(tests: list[str], timeout_s: int) -> dict[str, Any]:
    """Return what the tests gave, by setting."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "runs.json"
        options = ["-q", "-p", "tests.settings.plugin", "--settings-run", str(file), f"--timeout={timeout_s}"]
        command = [sys.executable, "-m", "pytest", *options, *sorted({test.partition("::")[0] for test in tests})]
        subprocess.run([*command, "--no-header", "-r", "fEs"], cwd=ROOT, check=False)
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def has_effect(found: dict[str, Any]) -> bool:
    """Tell whether a test passes with its setting, all its parameters, and one of them fails without it."""
    return {*found["as_it_is"]} == {"passed"} and "failed" in found["without"]


def main() -> int:
    """Run, print and write; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.settings", description=__doc__)
    parser.add_argument("--servers", action="store_true", help="the tests that need a real server")
    parser.add_argument("--write", action="store_true", help="write the table")
    parser.add_argument("names", nargs="*", default=[""], help="settings, by the start of their name; all without")
    arguments = parser.parse_args()
    asked = {
        name: test
        for name, test in REGISTRY["shown"].items()
        if is_of_servers(test) == arguments.servers and name.startswith(tuple(arguments.names))
    }
    found = run(list(asked.values()), TEST_TIMEOUT_S[arguments.servers])
    without_effect = [name for name in asked if name not in found or not has_effect(found[name])]
    for name, each in sorted(found.items()):
        print(f"{name}: {'fails without' if has_effect(each) else 'HAS NO EFFECT'}: {each['why'] or each}")
    for name in without_effect:
        print(f"NOT SHOWN: {name}")
    if arguments.write:
        before = json.loads(RUNS.read_text(encoding="utf-8")) if RUNS.exists() else {}
        shown = {name: found[name]["test"] for name in asked if name not in without_effect}
        kept = {name: each for name, each in before.items() if name not in asked and name in REGISTRY["shown"]}
        runs = dict(sorted({**kept, **shown}.items()))
        RUNS.write_text(json.dumps(runs, indent=2) + "\n", encoding="utf-8")
        TABLE.write_text(settings_table(runs), encoding="utf-8")
    return int(bool(without_effect))


if __name__ == "__main__":
    sys.exit(main())

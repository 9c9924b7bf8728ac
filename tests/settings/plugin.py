"""Runs each setting's test twice: as it is, and with the setting at its default, where it must fail.

Its tests are those that `tests/tidy/settings.toml` names; all others are left out. `python -m tests.settings` runs it.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.settings.forced import REGISTRY, forced, forced_value

ROOT = Path(__file__).parents[2]
#: What a test is run with as it is.
AS_IT_IS = "as it is"
#: Of a failure, letters that are kept.
WHY_LETTERS_MAX = 160


def test_id(function: Any) -> str:
    """Return where a test is written: a kit's is run by classes of other files."""
    file = Path(inspect.getsourcefile(function) or "").relative_to(ROOT)
    return f"{file.as_posix()}::{function.__qualname__.replace('.', '::')}"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--settings-run", metavar="FILE", help="where to write, as JSON, what each setting's runs gave")


@dataclass
class Found:
    """What a setting's two runs gave; a test with parameters has several of each."""

    test: str
    as_it_is: list[str] = field(default_factory=list)
    without: list[str] = field(default_factory=list)
    why: str = ""


#: Tests whose runs are chosen: those of one class are enough.
BEGUN = pytest.StashKey[set[str]]()
FOUND: dict[str, Found] = {}


def pytest_configure(config: pytest.Config) -> None:
    config.stash[BEGUN] = set()


def settings_shown_by(test: str) -> list[str]:
    """Return the settings whose effect a test shows."""
    return [setting for setting, shown_by in REGISTRY["shown"].items() if shown_by == test]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    test = test_id(metafunc.function)
    begun = metafunc.config.stash[BEGUN]
    settings = settings_shown_by(test)
    if not settings or test in begun:
        return
    begun.add(test)
    # Here and not in the fixture: what has no value to be held at is no failure of a test.
    for setting in settings:
        forced_value(setting)
    must_fail = pytest.mark.xfail(strict=False, reason="without the setting it must fail")
    metafunc.parametrize(
        "setting_run", [AS_IT_IS, *[pytest.param(setting, marks=must_fail) for setting in settings]], indirect=True
    )


# Before other fixtures of the same test: they may load a pipeline.
@pytest.fixture(autouse=True)
def setting_run(request: pytest.FixtureRequest) -> Iterator[None]:
    run = getattr(request, "param", AS_IT_IS)
    request.node.user_properties += [("setting_run", run), ("setting_test", test_id(request.function))]
    if run == AS_IT_IS:
        yield
        return
    with forced(run):
        yield


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    chosen = [each for each in items if "setting_run" in getattr(getattr(each, "callspec", None), "params", {})]
    config.hook.pytest_deselected(items=[each for each in items if each not in chosen])
    items[:] = chosen


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    told = dict(report.user_properties)
    if "setting_run" not in told or (report.when != "call" and report.outcome == "passed"):
        return
    found, run, test = FOUND, str(told["setting_run"]), str(told["setting_test"])
    if run == AS_IT_IS:
        for setting in settings_shown_by(test):
            found.setdefault(setting, Found(test)).as_it_is.append(report.outcome)
        return
    has_failed = report.outcome == "skipped" and hasattr(report, "wasxfail")
    found.setdefault(run, Found(test)).without.append("failed" if has_failed else report.outcome)
    crash = getattr(report.longrepr, "reprcrash", None)
    if has_failed and crash is not None:
        found[run].why = str(crash.message).partition("\n")[0][:WHY_LETTERS_MAX]


def pytest_sessionfinish(session: pytest.Session) -> None:
    where = session.config.getoption("--settings-run")
    if where:
        found = {setting: asdict(each) for setting, each in FOUND.items()}
        Path(where).write_text(json.dumps(found), encoding="utf-8")

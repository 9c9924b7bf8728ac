"""No setting is accepted and ignored: each names the test that shows its effect, and that test is there.

What shows it stands in `settings.toml` beside this file.
"""

import ast
import json
import tomllib
from pathlib import Path

from tests.settings.table import every_setting, settings_table

ROOT = Path(__file__).parents[2]
REGISTRY = tomllib.loads((Path(__file__).parent / "settings.toml").read_text(encoding="utf-8"))


def has_test(test_id):
    """Tell whether a test stands where its id says, without importing it."""
    path, *names = test_id.split("::")
    if not (ROOT / path).is_file():
        return False
    scope = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
    for name in names:
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        found = next((node for node in scope if isinstance(node, kinds) and node.name == name), None)
        if found is None:
            return False
        scope = found.body
    return names[-1].startswith("test_")


def test_every_setting_is_registered_once():
    shown, awaiting = REGISTRY["shown"].keys(), REGISTRY["awaiting"].keys()
    assert shown | awaiting == {name for name, _ in every_setting()}
    assert not shown & awaiting


def test_every_test_that_shows_a_setting_is_there():
    assert [test_id for test_id in REGISTRY["shown"].values() if not has_test(test_id)] == []


def test_no_setting_awaits_a_test_that_is_there():
    """A test that has been written moves its setting to `shown`."""
    assert [setting for setting, test_id in REGISTRY["awaiting"].items() if has_test(test_id)] == []


def test_a_test_is_recognised_by_its_whole_id():
    here = "tests/tidy/test_settings.py"
    assert has_test(f"{here}::test_every_setting_is_registered_once")
    assert not has_test(f"{here}::test_something_else")
    assert not has_test(f"{here}::every_setting")
    assert not has_test("tests/tidy/test_nothing.py::test_every_setting_is_registered_once")


def test_no_setting_was_seen_to_act_by_another_test_than_its_own():
    """`make settings` runs each with and without its effect: a test that takes another's place has to be run, too."""
    runs = json.loads((ROOT / "tests/settings/runs.json").read_text(encoding="utf-8"))
    assert [name for name, test in runs.items() if REGISTRY["shown"].get(name) != test] == []


def test_every_setting_was_seen_to_act():
    """Those of servers by `make settings SERVERS=1`: the table has no row without a test that fails without it."""
    runs = json.loads((ROOT / "tests/settings/runs.json").read_text(encoding="utf-8"))
    assert [name for name, _ in every_setting() if name not in runs] == []


def test_the_table_of_settings_has_what_the_runs_gave():
    runs = json.loads((ROOT / "tests/settings/runs.json").read_text(encoding="utf-8"))
    assert (ROOT / "eventcore/config/SETTINGS.md").read_text(encoding="utf-8") == settings_table(runs)

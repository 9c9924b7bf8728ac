"""Every ready-made function is complete: its table loads, its handler is there, and the catalogue names it."""

import importlib
import json
from pathlib import Path

import pytest

import eventcore_functions
from eventcore.config.load import load_config
from eventcore.runtime.form import find_form

PACKAGE = Path(eventcore_functions.__file__).parent
FOLDERS = sorted(path.parent for path in PACKAGE.glob("*/function.toml"))


def test_the_catalogue_lists_every_folder():
    text = (PACKAGE.parent / "README.md").read_text()
    named = {folder.name for folder in PACKAGE.iterdir() if (folder / "handler.py").exists()}
    assert {folder.name for folder in FOLDERS} == named
    assert all(f"](eventcore_functions/{name}/README.md)" in text for name in named)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_folder_is_a_whole_function(folder):
    loaded = load_config(folder / "function.toml", environ={"HTTP_POST_URL": "http://endpoint"})
    [(name, function)] = loaded.config.functions.items()
    assert name == folder.name.replace("_", "-")
    module, _, attribute = function.handler.rpartition(".")
    assert find_form(getattr(importlib.import_module(module), attribute))
    assert (folder / "function.toml").read_text().strip() in (folder / "README.md").read_text()
    events = list((folder / "events").glob("*.json"))
    assert events
    assert all(json.loads(event.read_text()) for event in events)

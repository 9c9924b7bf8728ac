"""The names that users import: all of them there, and none of them paid for before it is used."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest

import eventcore


@pytest.mark.parametrize("name", eventcore.__all__)
def test_every_public_name_is_there(name: str) -> None:
    value = getattr(eventcore, name)
    assert getattr(value, "__name__", name) == name
    assert value is getattr(eventcore, name)


def test_the_names_are_listed() -> None:
    assert dir(eventcore) == sorted(eventcore.__all__)


def test_any_other_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'eventcore' has no attribute 'Apps'"):
        eventcore.Apps  # noqa: B018


def test_the_version_is_the_distributions() -> None:
    assert importlib.metadata.version("eventcore-engine") == eventcore.__version__


def test_importing_the_package_imports_nothing_else_of_it() -> None:
    """A function's environment and `--version` must not pay for the engine."""
    code = "import sys, eventcore; print([name for name in sys.modules if name.startswith(('eventcore.', 'anyio'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["Batch", "Record", "ConfigError"])
def test_a_handlers_names_do_not_import_an_event_loop(name: str) -> None:
    code = f"import sys; from eventcore import {name}; assert 'asyncio' not in sys.modules, 'asyncio'"
    subprocess.run([sys.executable, "-c", code], check=True)

"""The house is kept: what a person would have to look for at every review is looked for here (design §2, §4, §11)."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("eventcore", "connectors/eventcore_connectors", "functions/eventcore_functions")

#: Design §2: the top level is fixed; dot-files beside it.
TOP_LEVEL = {
    "CHANGELOG.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "compose",
    "connectors",
    "eventcore",
    "functions",
    "pyproject.toml",
    "tests",
}
#: Design §4: words that mean too much, or nothing.
BANNED_WORDS = {
    "base",
    "binding",
    "chunk",
    "common",
    "consumer",
    "fetcher",
    "helper",
    "helpers",
    "item",
    "job",
    "manager",
    "trigger",
    "util",
    "utils",
}
#: Names of other APIs, which keep theirs; and where they may stand: Lambda's and Kafka's anywhere, OpenTelemetry's,
#: aiokafka's, librdkafka's and pytest's at their own border.
OTHERS_NAMES = {
    "consumer_group_id": ("",),
    "consumer_group_metadata": ("tests/unit/connectors/",),
    "faas_trigger": ("eventcore/telemetry/",),
    "fetcher": ("connectors/eventcore_connectors/kafka/",),
    "item": ("conftest.py", "eventcore/testing/pytest_plugin.py"),
}
#: `eventcore.errors` names them; nobody else catches everything.
BROAD_CATCHES = {"eventcore/runtime/fault.py", "eventcore/engine/supervision.py", "eventcore/cli/main.py"}


@cache
def _tracked() -> tuple[Path, ...]:
    """Return every file that git keeps."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True)
    return tuple(ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file())


@cache
def _texts() -> dict[str, str]:
    """Return every text that git keeps, by its path."""
    texts = {}
    for path in _tracked():
        try:
            texts[path.relative_to(ROOT).as_posix()] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
    return texts


def _sources(*folders: str) -> Iterator[tuple[str, ast.Module]]:
    for name, text in _texts().items():
        if name.endswith(".py") and name.startswith(tuple(f"{folder}/" for folder in folders)):
            yield name, ast.parse(text, name)


def assert_none(found: Iterable[str]) -> None:
    """Fail with everything that was found, a line each."""
    lines = sorted(set(found))
    assert not lines, "\n".join(["", *lines])


def _words(name: str) -> list[str]:
    return [word.lower() for word in re.findall(r"[A-Z0-9]+(?![a-z])|[A-Z]?[a-z0-9]+", name)]


def _own_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the names that a module gives: to classes, functions, arguments, variables and attributes."""
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node.lineno, node.name
            case ast.arg():
                yield node.lineno, node.arg
            case ast.Name(ctx=ast.Store()):
                yield node.lineno, node.id
            case ast.Attribute(ctx=ast.Store()):
                yield node.lineno, node.attr


def test_the_top_level_is_as_it_was_drawn() -> None:
    names = {path.relative_to(ROOT).parts[0] for path in _tracked()}
    assert {name for name in names if not name.startswith(".")} <= TOP_LEVEL


def test_no_module_is_named_for_nothing() -> None:
    """Design §4: utils, common, helpers, manager, base say nothing about what is in them."""
    named = {name for name in _texts() if name.endswith(".py") and BANNED_WORDS & set(_words(Path(name).stem))}
    assert_none(named)


def test_our_own_names_use_our_own_words() -> None:
    """Design §4; other APIs' identifiers keep theirs."""
    assert_none(
        f"{name}:{line}: {own}"
        for name, tree in _sources(*PACKAGES, "tests")
        for line, own in _own_names(tree)
        if BANNED_WORDS & set(_words(own)) and not any(place in name for place in OTHERS_NAMES.get(own.lower(), ()))
    )


def test_the_check_of_names_finds_what_it_looks_for() -> None:
    tree = ast.parse(
        "class JobQueue:\n  def f(self, chunk): self.item = 1\n  def consumer_group_id(self): base64 = BASE64 = 0"
    )
    found = {own for _, own in _own_names(tree) if BANNED_WORDS & set(_words(own))}
    assert found == {"JobQueue", "chunk", "item", "consumer_group_id"}


def test_nobody_is_told_to_install_another_project() -> None:
    """Design §2: the bare name on the package index is not ours."""
    command = re.compile(r"pip3? install [^\n`'\"]*\beventcore\b(?!-engine)".replace(" install ", r"\s+install\s+"))
    found = [name for name, text in _texts().items() if command.search(text) and not name.startswith("tests/tidy/")]
    assert_none(found)
    assert command.search("pip install eventcore")
    assert command.search('pip install -U "eventcore'.replace('"', ""))
    assert not command.search('pip install "eventcore-engine[otlp]"')


def test_no_text_names_a_place_on_somebodys_machine() -> None:
    place = re.compile(r"(?<![\w.$}>-])/(?:work|root|home/\w+|Users/\w+|tmp/[\w.-]+/)/?\w")
    found = [
        f"{name}:{number}: {line.strip()}"
        for name, text in _texts().items()
        if not name.startswith("tests/tidy/")
        for number, line in enumerate(text.splitlines(), 1)
        if place.search(line)
    ]
    assert_none(found)
    assert place.search('open("/home/ada/x")')


def test_nothing_is_left_for_later() -> None:
    """No TODO, no FIXME: what is not there yet stands in an issue."""
    mark = re.compile(r"\b(?:TODO|FIXME|XXX|HACK)\b")
    found = [name for name, text in _texts().items() if mark.search(text) and not name.startswith("tests/tidy/")]
    assert_none(found)


def _public(node: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_"):
            yield prefix + child.name, child
            if isinstance(child, ast.ClassDef):
                yield from _public(child, f"{prefix}{child.name}.")


def test_everything_public_says_what_it_does() -> None:
    """Design §11: module, class, function, method."""
    found = []
    for name, tree in _sources(*PACKAGES):
        if not ast.get_docstring(tree):
            found.append(name)
        for own, node in _public(tree):
            is_overload = any("overload" in ast.unparse(each) for each in getattr(node, "decorator_list", ()))
            if not is_overload and not ast.get_docstring(node):  # type: ignore[arg-type]
                found.append(f"{name}: {own}")
    assert_none(found)


def test_the_first_line_says_the_effect() -> None:
    """Design §11: one line that ends with a full stop, and no more than the line length."""
    found = []
    for name, tree in _sources(*PACKAGES):
        for own, node in _public(tree):
            first = (ast.get_docstring(node) or "x.").splitlines()[0]  # type: ignore[arg-type]
            if not first.endswith((".", ":", "?")):
                found.append(f"{name}: {own}: {first}")
    assert_none(found)


def _catches_everything(node: ast.AST) -> bool:
    broad = {"Exception", "BaseException"}
    match node:
        case ast.ExceptHandler(type=None):
            return True
        case ast.ExceptHandler(type=kind):
            return bool(broad & {each.id for each in ast.walk(kind) if isinstance(each, ast.Name)})
        case ast.Call(func=ast.Name(id="suppress") | ast.Attribute(attr="suppress"), args=args):
            return bool(broad & {each.id for each in args if isinstance(each, ast.Name)})
    return False


def test_only_three_places_catch_everything() -> None:
    """Design §9; `eventcore/errors.py` names them."""
    found = {
        name
        for name, tree in _sources(*PACKAGES)
        for node in ast.walk(tree)
        if _catches_everything(node) and not (isinstance(node, ast.ExceptHandler) and _raises_on(node))
    }
    assert found <= BROAD_CATCHES
    named = re.findall(r"`(eventcore/\w+/\w+\.py)`", (ROOT / "eventcore/errors.py").read_text())
    assert set(named) == BROAD_CATCHES


def _raises_on(handler: ast.ExceptHandler) -> bool:
    """Whether the handler only cleans up, and lets the exception go on."""
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def test_nothing_waits_without_a_bound() -> None:
    """Style §9.7: streams have a finite buffer; a shield is bounded; no clean-up is left to the collector."""
    found = []
    for name, tree in _sources(*PACKAGES):
        if name.startswith("eventcore/testing/"):
            continue  # kits ask sources how they bear it
        lines = _texts()[name].splitlines()
        for node in ast.walk(tree):
            match node:
                case ast.FunctionDef(name="__del__"):
                    found.append(f"{name}:{node.lineno}: __del__")
                case ast.Call(func=ast.Attribute(attr="create_memory_object_stream"), args=args):
                    if any("inf" in ast.unparse(each) for each in args):
                        found.append(f"{name}:{node.lineno}: an unbounded stream")
                case ast.Call(func=ast.Attribute(attr="CancelScope"), keywords=keywords):
                    given = {keyword.arg for keyword in keywords}
                    # What it shields may have a bound of its own: then the line says which.
                    is_bounded = "deadline" in given or "bounded by" in lines[node.lineno - 1]
                    if "shield" in given and not is_bounded:
                        found.append(f"{name}:{node.lineno}: an unbounded shield")
    assert_none(found)


def test_the_layers_hold() -> None:
    """Design §2, "who may import whom"."""
    program = Path(sys.executable).with_name("lint-imports")
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([".", "connectors", "functions"])}
    done = subprocess.run(
        [program, "--no-cache"], cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=50
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["eventcore", "connectors", "functions", "compose"])
def test_every_folder_of_the_top_level_explains_itself(name: str) -> None:
    """Design §2: each folder in its own README.md."""
    assert (ROOT / name / "README.md").read_text(encoding="utf-8").startswith("# ")

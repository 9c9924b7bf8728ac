"""Whether the functions' handlers and key functions are there, told without running a line of the user's code.

Not among the checks of `lint`: a function that does not import must not keep the others from running. `validate` asks,
with `load_config(..., also=lint_handlers)`.
"""

from __future__ import annotations

import ast
import difflib
import os
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

import msgspec

from eventcore.config.findings import Findings
from eventcore.config.provenance import KeyPath
from eventcore.config.structs import PipelineConfig

#: A module of this size is no source that people wrote, bytes.
SOURCE_BYTES_MAX = 4 * 1024 * 1024


class _Names(msgspec.Struct):
    """What a module's top level defines, as far as its text tells."""

    known: set[str] = msgspec.field(default_factory=set)
    is_open: bool = False  #: more may be there: a star import, `__getattr__`, names that are made at run time


def lint_handlers(config: PipelineConfig, findings: Findings, folder: Path) -> None:
    """Add what is wrong with the handlers and key functions of a pipeline, and what can't be told about them.

    What is badly written has been told before, and so has a folder that is not there.
    """
    for name, function in config.functions.items():
        code = folder / function.code
        if findings.has_mistake(("functions", name, "handler")) or not code.is_dir():
            continue
        _check(findings, ("functions", name, "handler"), function.handler, code)
    for name, mapping in config.mappings.items():
        path = ("mappings", name, "idempotency", "key_function")
        key_function = mapping.idempotency.key_function if mapping.idempotency else None
        function_of = config.functions.get(mapping.function)
        if key_function is None or function_of is None or findings.has_mistake(path):
            continue
        if (code := folder / function_of.code).is_dir():
            _check(findings, path, key_function, code)


def _check(findings: Findings, path: KeyPath, handler: str, code: Path) -> None:
    module, _, attribute = handler.replace("/", ".").rpartition(".")
    source, is_found = _find(module, code)
    if not is_found:
        others = sorted(file.stem for file in code.glob("*.py"))
        close = difflib.get_close_matches(module, others, n=1)
        hint = f"did you mean `{close[0]}.{attribute}`?" if close else "write module.attribute, of a file below `code`"
        message = f"there is no module `{module}` in {os.path.relpath(code)}, and none is installed"
        findings.add("EC125", path, message, hint)
        return
    if source is None:
        return  # a compiled module, or a package without source: it is there, and that is all that can be told
    try:
        tree = ast.parse(source.read_bytes()[:SOURCE_BYTES_MAX], filename=str(source))
    except OSError as error:
        findings.warn("EC162", path, f"{source.name} can't be read: {error.strerror}", "make it readable")
        return
    except (SyntaxError, ValueError) as error:
        line = f":{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        findings.add("EC125", path, f"{os.path.relpath(source)}{line} is not Python: {reason}", "mend the file")
        return
    names = _Names()
    for statement in tree.body:
        _note(statement, names)
    if attribute in names.known:
        return
    shown = os.path.relpath(source)
    if names.is_open:
        message = f"`{attribute}` is not written in {shown}; it may come from what is imported there"
        findings.warn("EC162", path, message, "run it once: eventcore invoke says whether it is there")
        return
    close = difflib.get_close_matches(attribute, sorted(names.known), n=1)
    hint = f"did you mean `{module}.{close[0]}`?" if close else f"define `{attribute}` at the top level of {shown}"
    findings.add("EC125", path, f"there is no `{attribute}` in {shown}", hint)


def _find(module: str, code: Path) -> tuple[Path | None, bool]:
    """Return a module's source, where it has one, and whether the module is there at all.

    Packages are searched by their folders: `find_spec` of a dotted name would run their `__init__`.
    """
    paths: list[str] | None = None
    *packages, last = module.split(".")
    for part in packages:
        spec = _find_part(part, code, paths)
        if spec is None or spec.submodule_search_locations is None:
            return None, False
        paths = list(spec.submodule_search_locations)
    spec = _find_part(last, code, paths)
    if spec is None:
        return None, False
    is_source = spec.has_location and spec.origin is not None and spec.origin.endswith(".py")
    return (Path(str(spec.origin)) if is_source else None), True


def _find_part(part: str, code: Path, paths: list[str] | None) -> ModuleSpec | None:
    if paths is not None:
        return PathFinder.find_spec(part, paths)
    return PathFinder.find_spec(part, [str(code)]) or PathFinder.find_spec(part)


def _note(statement: ast.stmt, names: _Names) -> None:
    """Add what a statement of the top level defines."""
    match statement:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            names.known.add(name)
            names.is_open |= name == "__getattr__"
        case ast.ImportFrom(names=imported) | ast.Import(names=imported):
            names.is_open |= any(alias.name == "*" for alias in imported)
            names.known.update(alias.asname or alias.name.partition(".")[0] for alias in imported)
        case ast.Expr():
            # `globals()["x"] = ...`, `setattr(...)`, `exec(...)`: whatever is called may define a name here.
            names.is_open |= _calls(statement, {"exec", "setattr", "globals"})
        case _:
            names.is_open |= _calls(statement, {"globals"})
            names.known.update(node.id for node in _targets(statement))
            for inner in _bodies(statement):
                _note(inner, names)


def _targets(statement: ast.stmt) -> Iterator[ast.Name]:
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node


def _bodies(statement: ast.stmt) -> Iterator[ast.stmt]:
    """Give the statements within one that is no definition: of `if`, `try`, `with`, `for`, `match`."""
    for child in ast.iter_child_nodes(statement):
        if isinstance(child, ast.stmt):
            yield child
        elif isinstance(child, ast.ExceptHandler | ast.match_case):
            yield from child.body


def _calls(statement: ast.stmt, functions: set[str]) -> bool:
    return any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in functions
        for node in ast.walk(statement)
    )

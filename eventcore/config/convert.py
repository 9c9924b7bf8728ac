"""From a document (nested dicts) to structs, setting by setting, so that every mistake is found and not only the first.

msgspec judges each value; this module walks to it, and `config.describe` puts what msgspec refuses into words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, get_args, get_origin

import msgspec

from eventcore.config.describe import describe, explain_wrong, without_null, write_example
from eventcore.config.findings import Findings
from eventcore.config.provenance import KeyPath
from eventcore.config.structs import TABLES, Name, PipelineConfig, Section, Settings
from eventcore.config.unknown import explain_unknown, find_meant

_SETTINGS = "settings"


class Draft(msgspec.Struct, frozen=True):
    """As much of a pipeline as could be read."""

    config: PipelineConfig  #: sections that lack a required setting are left out
    #: Every name that each table declares, also those of sections that could not be read.
    names: Mapping[str, frozenset[str]]


def convert_pipeline(document: Mapping[str, Any], findings: Findings) -> Draft:
    """Read a document, and add what is wrong with it to the findings."""
    readable: dict[str, Any] = {}
    names: dict[str, frozenset[str]] = dict.fromkeys(TABLES, frozenset())
    for key, value in document.items():
        if key == _SETTINGS:
            readable[key] = _convert_section(Settings, value, (key,), findings) or Settings()
        elif key not in TABLES:
            findings.add_unreadable((key,), *explain_unknown(PipelineConfig, key))
        elif not isinstance(value, Mapping):
            findings.add_unreadable((key,), "is not a table", f"write [{key}.NAME]")
        else:
            names[key] = frozenset(value)
            readable[key] = _convert_table(key, value, findings)
    return Draft(msgspec.convert(readable, PipelineConfig), names)


def _convert_table(table: str, sections: Mapping[str, Any], findings: Findings) -> dict[str, Section]:
    readable: dict[str, Section] = {}
    for name, value in sections.items():
        if not _is_name(name):
            reason = "is not a name: names have 1 to 80 letters, digits, `-` and `_`"
            findings.add_unreadable((table, name), reason, "write it without other signs")
            continue
        section = _convert_section(TABLES[table], value, (table, name), findings)
        if section is not None:
            readable[name] = section
    return readable


def _is_name(name: str) -> bool:
    try:
        msgspec.convert(name, Name)
    except msgspec.ValidationError:
        return False
    return True


def _convert_section(kind: type[Section], value: Any, path: KeyPath, findings: Findings) -> Section | None:
    """Return the section with every setting that could be read; None when a required one is missing or wrong."""
    if not isinstance(value, Mapping):
        table = f"[{path[0]}.NAME]" if len(path) > 1 else f"[{path[0]}]"
        findings.add_unreadable(path, "is not a table", f"settings belong into a table: {table}")
        return None
    fields = _fields_of(kind)
    readable: dict[str, Any] = {}
    for key, given in value.items():
        if key not in fields:
            findings.add_unreadable((*path, key), *explain_unknown(kind, key))
            if (meant := find_meant(kind, key)) is not None:
                findings.skip((*path, meant))
        elif _is_readable(fields[key].type, given, (*path, key), findings):
            readable[key] = given
    required = [field for field in fields.values() if field.required]
    for field in required:
        if field.name not in readable and not findings.is_unreadable((*path, field.name)):
            said = describe(field.type)
            message = f"is missing: {said.description}"
            findings.add_unreadable((*path, field.name), message, write_example(f"{field.name} = ", said))
    if any(field.name not in readable for field in required):
        return None
    return msgspec.convert(readable, kind)


@cache
def _fields_of(kind: type[Section]) -> Mapping[str, msgspec.structs.FieldInfo]:
    """Return a section's fields by name; evaluating their annotations takes a millisecond."""
    return {field.name: field for field in msgspec.structs.fields(kind)}


def _is_readable(annotation: Any, value: Any, path: KeyPath, findings: Findings) -> bool:
    """Tell whether a value, and all that is in it, is what its setting takes; complain of what is not."""
    if findings.is_unreadable(path):
        return False
    bare = without_null(annotation)
    if isinstance(value, Mapping) and isinstance(bare, type) and issubclass(bare, Section):
        mistakes_before = len(findings.mistakes)
        _convert_section(bare, value, path, findings)
        return len(findings.mistakes) == mistakes_before
    if isinstance(value, Mapping) and get_origin(bare) is dict:
        return _are_names(value, path, findings) and _are_readable(get_args(bare)[1], value.items(), path, findings)
    if isinstance(value, list | tuple) and get_origin(bare) is tuple:
        return _are_readable(get_args(bare)[0], enumerate(value), path, findings)
    if not _is_taken(annotation, bare, value):
        masked = findings.provenance.masked.get(path)
        begin = "" if isinstance(path[-1], int) else f"{path[-1]} = "
        findings.add_unreadable(path, *explain_wrong(describe(annotation), value, begin, masked=masked))
        return False
    return True


def _is_taken(annotation: Any, bare: Any, value: Any) -> bool:
    # msgspec makes a list of a set, whose order would be another each time.
    if get_origin(bare) is tuple:
        return False
    try:
        msgspec.convert(value, annotation)
    except msgspec.ValidationError:
        return False
    return True


def _are_readable(annotation: Any, entries: Iterable[tuple[str | int, Any]], path: KeyPath, findings: Findings) -> bool:
    """Look at every entry, also behind a wrong one."""
    readable = [_is_readable(annotation, entry, (*path, key), findings) for key, entry in entries]
    return all(readable)


def _are_names(value: Mapping[Any, Any], path: KeyPath, findings: Findings) -> bool:
    """Tell whether a table's keys are text, as they always are in a file."""
    wrong = [key for key in value if not isinstance(key, str)]
    if wrong:
        findings.add_unreadable(path, f"{wrong[0]!r} is not a name", "write names as text")
    return not wrong

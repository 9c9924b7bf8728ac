"""References and names: whether they can be read, and whether they lead to something."""

from __future__ import annotations

import difflib

from eventcore.config.convert import Draft
from eventcore.config.findings import Findings
from eventcore.config.provenance import KeyPath
from eventcore.config.reference import NO_PLACE, TABLE_OF_KIND, BadReference, Reference, parse_reference
from eventcore.config.structs import BUILT_IN_QUEUES, Section


def read_reference(
    draft: Draft, findings: Findings, section: Section, path: KeyPath, kinds: tuple[str, ...]
) -> Reference | None:
    """Return the reference that a setting holds, or None when it can't be used; what is wrong is added.

    Args:
        draft: what there is to refer to.
        findings: takes what is found.
        section: the table that holds the setting.
        path: of the setting.
        kinds: what may stand there.
    """
    setting = str(path[-1])
    text, shown = getattr(section, setting), section.shown(setting)
    try:
        reference = parse_reference(text)
    except BadReference as error:
        is_masked = text != shown
        reason, hint = ("is not a reference", "write kind:name") if is_masked else (error.reason, error.hint)
        findings.add("EC101", path, f"`{shown}` {reason}", _suggest(draft, text, kinds) or hint)
        return None
    if reference.is_pattern and setting != "source":
        message = f"`{shown}` can't be a {setting}: an expression stands for several topics, and it takes one"
        findings.add("EC101", path, message, "write kafka:CONNECTION/TOPIC")
        return None
    if reference.kind not in kinds:
        allowed = ", ".join(f"{kind}:" for kind in kinds)
        default = (f"a {reference.kind} is not one", f"one of {allowed}")
        reason, hint = NO_PLACE.get((reference.kind, setting), default)
        findings.add("EC101", path, f"`{shown}` can't be a {setting}: {reason}", hint)
        return None
    table = TABLE_OF_KIND.get(reference.kind)
    if table is None or is_declared(draft, table, reference.name):
        return reference
    hint = _suggest(draft, reference.name, kinds) or f"add [{table}.{reference.name}]"
    if text != shown:
        hint = f"add the [{table}.NAME] that it means"
    findings.add("EC102", path, f"`{shown}` leads to nothing: no such name in [{table}]", hint)
    return None


def used_by(*texts: str | None) -> set[tuple[str, str]]:
    """Return what references use: table and name. Those that can't be read, and settings left out, use nothing."""
    used: set[tuple[str, str]] = set()
    for text in texts:
        try:
            reference = parse_reference(text) if text is not None else None
        except BadReference:
            continue
        if reference is not None and reference.kind in TABLE_OF_KIND:
            used.add((TABLE_OF_KIND[reference.kind], reference.name))
    return used


def check_name(draft: Draft, findings: Findings, section: Section, path: KeyPath, table: str) -> str | None:
    """Return the name that a setting holds if its table declares it; else None, and the mistake is added."""
    setting = str(path[-1])
    name, shown = getattr(section, setting), section.shown(setting)
    if is_declared(draft, table, name):
        return str(name)
    close = difflib.get_close_matches(name, sorted(draft.names[table]), n=1)
    hint = f"did you mean `{close[0]}`?" if close else f"add [{table}.{shown}]"
    findings.add("EC102", path, f"`{shown}` leads to nothing: no such name in [{table}]", hint)
    return None


def is_declared(draft: Draft, table: str, name: str) -> bool:
    """Tell whether a table has the name; `discards` and `parked` are queues that always are there."""
    return name in draft.names[table] or (table == "queues" and name in BUILT_IN_QUEUES)


def _suggest(draft: Draft, name: str, kinds: tuple[str, ...]) -> str:
    """Return a hint where the name is known under another kind, or a like name under one of these."""
    bare = name.rpartition(":")[2]
    tables = [(kind, TABLE_OF_KIND[kind]) for kind in kinds if kind in TABLE_OF_KIND]
    for kind, table in tables:
        if bare in draft.names[table]:
            return f"did you mean `{kind}:{bare}{_part(kind)}`?"
    for kind, table in tables:
        close = difflib.get_close_matches(bare, sorted(draft.names[table]), n=1)
        if close:
            return f"did you mean `{kind}:{close[0]}{_part(kind)}`?"
    return ""


def _part(kind: str) -> str:
    return "/TOPIC" if kind == "kafka" else ""

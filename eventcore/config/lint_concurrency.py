"""Checks of what a mapping runs at the same time against what its function may."""

from __future__ import annotations

from collections.abc import Mapping

from eventcore.config.findings import Findings
from eventcore.config.lint_subject import Subject

#: By a source's kind, its settings of how many batches run at a time: what each counts, and what to write instead.
_AT_A_TIME: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "queue": {"maximum_concurrency": ("{count} batches at a time", "take it out")},
    "kafka": {"lanes": ("{count} lanes", "fewer lanes")},
    "stream": {
        "lanes": ("{count} lanes", "fewer lanes"),
        "parallelization_factor": ("{count} batches of a shard at a time", "a lower factor"),
    },
}


def lint_concurrency(subject: Subject, findings: Findings) -> None:
    """Add that more batches are wanted at a time than the function may have invocations.

    A function that may have none at all is switched off, and its mappings read nothing: what they say holds when it
    is switched on.
    """
    if subject.function is None or not subject.function.invocations_max:
        return
    limit, name = subject.function.invocations_max, subject.mapping.shown("function")
    limit_path = ("functions", subject.mapping.function, subject.function.limit_setting)
    for setting, (wanted, instead) in _AT_A_TIME[subject.source.kind].items():
        count = getattr(subject.mapping, setting)
        if count is None or count <= limit:
            continue
        message = (
            f"{wanted.format(count=count)}, and {name} may have {limit} invocations at the same time: the others would "
            "only wait"
        )
        hint = f"write [functions.{name}] {subject.function.limit_setting} = {count}, or {instead}"
        findings.add("EC128", subject.path(setting), message, hint, depends_on=(limit_path,))

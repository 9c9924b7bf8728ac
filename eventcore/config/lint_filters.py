"""Checks of a mapping's filter criteria."""

from __future__ import annotations

from eventcore.config.defaults import FILTER_SOURCES
from eventcore.config.findings import Findings
from eventcore.config.lint_subject import Subject
from eventcore.errors import PatternError
from eventcore.patterns import FilterCriteria
from eventcore.patterns.criteria import DATA_KEYS, FILTERS_MAX, METADATA_KEYS

CODE = "EC130"
_SOURCES = {"queue": "queue", "stream": "stream", "kafka": "Kafka topic"}


def lint_filters(subject: Subject, findings: Findings) -> None:
    """Add what is wrong with the filters of a mapping, in the service's words where it has any."""
    criteria = subject.mapping.filter_criteria
    if criteria is None:
        return
    path, source = subject.path("filter_criteria"), FILTER_SOURCES[subject.source.kind]
    if not criteria.filters:
        findings.add(CODE, path, "there is no filter in it: every record would reach the function", "take it out")
    if len(criteria.filters) > FILTERS_MAX:
        message = f"{len(criteria.filters)} filters are too many: {FILTERS_MAX} at most"
        findings.add(CODE, path, message, "let one pattern name several values, or use $or in it")
    for place, each in enumerate(criteria.filters):
        (key, *_) = reversed(DATA_KEYS[source])
        hint = f"""write it as pattern = '{{"{key}": {{"status": ["paid"]}}}}'"""
        pattern_path, depends_on = (*path, "filters", place, "pattern"), (subject.path("source"),)
        try:
            names = FilterCriteria([each.pattern], source=source).metadata_names
        except PatternError as error:
            why = " ".join(error.__notes__)
            findings.add(CODE, pattern_path, f"{error.message} {why}", hint, depends_on=depends_on)
            continue
        for name in sorted(names - METADATA_KEYS[source]):
            shown = "a name in it" if each.shown("pattern") != each.pattern else f"`{name}`"
            message = f"no record of a {_SOURCES[subject.source.kind]} has {shown}: what one holds is under `{key}`"
            findings.warn("EC163", pattern_path, message, hint, depends_on=depends_on)

"""Checks of a mapping's filter criteria."""

from __future__ import annotations

from eventcore.config.defaults import FILTER_SOURCES
from eventcore.config.findings import Findings
from eventcore.config.lint_subject import Subject
from eventcore.errors import PatternError
from eventcore.patterns import FilterCriteria
from eventcore.patterns.criteria import DATA_KEYS, FILTERS_MAX

CODE = "EC130"


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
        try:
            FilterCriteria([each.pattern], source=source)
        except PatternError as error:
            why = " ".join(error.__notes__)
            (key, *_) = reversed(DATA_KEYS[source])
            hint = f"""write it as pattern = '{{"{key}": {{"status": ["paid"]}}}}'"""
            depends_on = (subject.path("source"),)
            findings.add(
                CODE, (*path, "filters", place, "pattern"), f"{error.message} {why}", hint, depends_on=depends_on
            )

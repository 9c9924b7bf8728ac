"""Event patterns and filter criteria: pure, compiled once.

A pattern says what an event must be; `Pattern` holds one against events, `PatternSet` many at once, `FilterCriteria`
several against the records of a source. Source: Lambda semantics §3.1, §6.3, §6.4.
"""

from eventcore.errors import PatternError
from eventcore.patterns.criteria import FilterCriteria
from eventcore.patterns.pattern import Pattern, PatternSet

__all__ = ["FilterCriteria", "Pattern", "PatternError", "PatternSet"]

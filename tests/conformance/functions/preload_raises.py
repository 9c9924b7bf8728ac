"""Raises."""

raise LookupError("no table")

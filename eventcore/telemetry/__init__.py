"""Traces, metrics and logs; attribute names in one place."""

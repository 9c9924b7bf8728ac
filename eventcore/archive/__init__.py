"""Failures kept for looking at and running again."""

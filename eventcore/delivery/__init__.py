"""Delivery policy: pure decisions, no await, no I/O, no clock."""

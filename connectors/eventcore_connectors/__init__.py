"""Connectors: the outside world, one module or folder a system."""

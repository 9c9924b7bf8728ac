"""The built-in queue and stream, on the store."""

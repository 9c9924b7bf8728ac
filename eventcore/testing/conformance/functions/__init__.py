"""Functions that the runtimes' kit runs; loaded by path, as a user's are."""

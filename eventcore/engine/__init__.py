"""The long-lived tasks that move batches, files named in hop order."""

"""Ready-made functions, deployable as folders."""

"""How a handler runs: in the engine's loop, or isolated in a process."""

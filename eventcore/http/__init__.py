"""The control socket: what commands may ask of an engine, who answers, and how it travels."""

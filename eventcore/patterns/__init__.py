"""Event patterns and filter criteria: pure, compiled once."""

"""The state: memory and SQLite behind one port."""

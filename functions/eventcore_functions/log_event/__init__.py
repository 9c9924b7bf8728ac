"""Write each event to the log."""

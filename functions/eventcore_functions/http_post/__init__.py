"""Post each record to an HTTP endpoint."""

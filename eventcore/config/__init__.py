"""The pipeline file: structs, references, loading, checking."""

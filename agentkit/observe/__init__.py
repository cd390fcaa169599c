"""Read-only views of a journal."""

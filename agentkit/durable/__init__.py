"""Nothing is paid for twice: one append-only record on disk."""

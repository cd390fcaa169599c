"""Nothing is paid for twice: one append-only record on disk, and the one door to it."""

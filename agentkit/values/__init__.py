"""Values as they are written down: as JSON, as typed JSON, as bytes to hash."""

"""Which model answers, at what price, over which connection, and what stands in for it."""

"""The way of a request to a model server: connections, retries, turns, health, and answers kept as they arrive."""

"""Modules of the standard library for programs in Monty, written in what Monty runs: exact, or an error."""

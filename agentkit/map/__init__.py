"""One agent over the rows of a table."""

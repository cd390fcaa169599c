"""One agent over a table: which rows are left, how many at once, how far it is."""

"""What waits for a person: which calls, what is asked, what was decided, and what happens to a failed run."""

"""What every step stands in: the session, the run, the guards that it passes, the threads that it works in."""

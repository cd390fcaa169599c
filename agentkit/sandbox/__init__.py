"""Code that an agent wrote: run where it can do only what was given to it."""

"""The second tier: real Python in a process of its own, cut off by the system."""

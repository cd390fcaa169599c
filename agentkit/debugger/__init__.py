"""One run, step by step: pause, go back, edit, fork; nothing is paid for twice."""

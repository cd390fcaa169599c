"""The command line, and what it starts: notebooks without a person, the demo, JupyterLab."""

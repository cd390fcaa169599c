"""How what is written in cells is read, for who reads a notebook from its file; no shell is needed."""

from __future__ import annotations

from agentkit.notebook import line, prompt
from agentkit.pipeline.cells import Language

LANGUAGE = Language(line=line.parse, holes=prompt.holes)

"""One thing that a program may not say: where it stands, and what to write instead."""

from __future__ import annotations

import ast
from dataclasses import dataclass

from agentkit.errors import SandboxError


@dataclass(frozen=True, kw_only=True, order=True)
class Problem:
    """`line` and `column` count from 1; `substitute` is what to write instead."""

    line: int
    column: int
    width: int
    message: str
    substitute: str = ""

    def error(self, source: str) -> SandboxError:
        """As the error that is shown, with the line of `source` it is about."""
        lines = source.splitlines()
        text = lines[self.line - 1] if 0 < self.line <= len(lines) else ""
        width = max(1, min(self.width, len(text) - self.column + 1))
        return SandboxError(
            "dialect", self.message, line=self.line, column=self.column, width=width, source=text,
            hint=f"instead: {self.substitute}" if self.substitute else "",
        )  # fmt: skip


def problem(node: ast.AST, message: str, substitute: str = "") -> Problem:
    """A problem of the whole of `node`; its column is counted in bytes until `locate` counts it in characters."""
    line, column = getattr(node, "lineno", 1), getattr(node, "col_offset", 0)
    end = getattr(node, "end_col_offset", column + 1) if getattr(node, "end_lineno", line) == line else 10_000
    return Problem(line=line, column=column + 1, width=end - column, message=message, substitute=substitute)


def locate(found: Problem, lines: list[str]) -> Problem:
    """`found` with its place in characters, as a caret under the line needs it."""
    if not 0 < found.line <= len(lines) or lines[found.line - 1].isascii():
        return found
    text = lines[found.line - 1].encode()
    before = len(text[: found.column - 1].decode(errors="replace"))
    inside = len(text[found.column - 1 : found.column - 1 + found.width].decode(errors="replace"))
    return Problem(line=found.line, column=before + 1, width=inside, message=found.message, substitute=found.substitute)

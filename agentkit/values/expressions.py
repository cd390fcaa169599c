"""`{{ expression }}` in a text: where each begins and ends, and how much of a value's text is put in its place."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from agentkit.errors import SpecError

CHARACTERS = 20_000
"""The most characters of one value that are sent."""


@dataclass(frozen=True, slots=True)
class Hole:
    """An expression as it is written, and the line that it begins in."""

    source: str
    line: int


def split(template: str, first_line: int = 1) -> Iterator[str | Hole]:
    """Yield the text and the expressions of `template` in order; `{{{{` is the text `{{`.

    Raise SpecError, which names expression and line, where one is no Python expression or is never closed.
    """
    position = 0
    while (start := template.find("{{", position)) >= 0:
        yield template[position:start]
        if template.startswith("{{{{", start):
            yield "{{"
            position = start + 4
            continue
        line = first_line + template.count("\n", 0, start)
        source, position = _expression(template, start, line)
        yield Hole(source, line)
    yield template[position:]


def _expression(template: str, start: int, line: int) -> tuple[str, int]:
    """The shortest text up to a `}}` that is a Python expression (it may hold braces of its own)."""
    end, problem = template.find("}}", start + 2), "is empty"
    first = template[start + 2 : end].strip()
    if end < 0:
        shown = template[start : start + 30].split("\n")[0]
        raise SpecError(f"line {line}: {shown} is never closed with }}}} (two literal braces are written {{{{{{{{)")
    while end >= 0:
        source = template[start + 2 : end].strip()
        try:
            if source:
                ast.parse(source, mode="eval")
                return source, end + 2
        except (SyntaxError, ValueError) as error:
            problem = f"is not a Python expression ({getattr(error, 'msg', error)})"
        end = template.find("}}", end + 1)
    raise SpecError(f"line {line}: {{{{ {first[:60]} }}}} {problem}; two literal braces are written {{{{{{{{")


def shorten(text: str) -> str:
    """Return `text` with what is too long cut; the digest makes it another text where the part cut off differs."""
    if len(text) <= CHARACTERS:
        return text
    kept = f"[the first {CHARACTERS:,} of {len(text):,} characters; digest {digest(text.encode())}]"
    return f"{text[:CHARACTERS]}\n{kept}"


def digest(content: bytes) -> str:
    """Return what tells one content from another in a text that a model reads."""
    return hashlib.sha256(content).hexdigest()[:12]

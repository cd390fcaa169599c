"""A model's answer as Markdown that cannot act: no raw HTML, no script links, no pictures fetched from elsewhere.

JupyterLab trusts the outputs of a cell that was just run and executes HTML in them. What a model writes can come from
a page or a row it has read, so it is shown, never run. Code keeps its angle brackets where it is certain to be code for
every Markdown parser; where that is in doubt everything counts as text, which costs looks and nothing else.
"""

from __future__ import annotations

import re

_FENCE = re.compile(r"(`{3,})[^`]*$|(~{3,}).*$")
_LATER_FENCE = re.compile(r".+?(?<![`~])(?:`{3,}|~{3,})")
_CODE = re.compile(r"(?<![`\\])(`+)(?!`)(.+?)(?<!`)\1(?!`)")
_SAFE_LINK = re.compile(r"\s*<?(?:https?://|mailto:)|[\w./#-]+\)", re.IGNORECASE)
_REFERENCE = re.compile(r"^([\s>*+\d.)-]*)\[([^\]]*)\]:(\s*)(\S*)")


def harmless(text: str) -> str:
    """The same Markdown with everything that could act made visible as text."""
    lines = text.split("\n")
    shown = _with_code(lines)
    return "\n".join(map(_text, lines) if shown is None else shown)


def _with_code(lines: list[str]) -> list[str] | None:
    """The lines with code left as it is, or None when it is not certain what is code."""
    shown, fence = [], ""
    for line in lines:
        if fence:
            closing = line.strip()
            if closing.startswith(fence) and (set(line.rstrip()) != {fence[0]}):
                return None
            fence = "" if closing.startswith(fence) else fence
            shown.append(line)
            continue
        if (opening := _FENCE.match(line)) is not None:
            fence = opening[1] or opening[2]
            shown.append(_text(line))
            continue
        if _LATER_FENCE.match(line) or "`" in _CODE.sub("", line):
            return None
        shown.append(_line(line))
    return shown


def _line(line: str) -> str:
    if "|" in line:
        # In a table a bar ends a cell even inside backticks.
        return _text(line)
    shown, position = "", 0
    for code in _CODE.finditer(line):
        shown += _text(line[position : code.start()]) + code[0]
        position = code.end()
    return shown + _text(line[position:])


def _text(text: str) -> str:
    shown = text.replace("<", "&lt;").replace("![", "[")
    shown = _REFERENCE.sub(_reference, shown)
    pieces = shown.split("](")
    return pieces[0] + "".join(("](" if _SAFE_LINK.match(piece) else "]\\(") + piece for piece in pieces[1:])


def _reference(match: re.Match[str]) -> str:
    return match[0] if _SAFE_LINK.match(match[4]) else f"{match[1]}\\[{match[2]}]:{match[3]}{match[4]}"

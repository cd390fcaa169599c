"""Checkups of models as a frame and as a table a person reads."""

from __future__ import annotations

import html as markup
from collections.abc import Sequence
from dataclasses import asdict

import pandas as pd

from agentkit.agent.doctor import CheckAnswer, Checkup
from agentkit.trace import format
from agentkit.trace.render_html import GREEN, GREY, RED

_HEADS = {
    "key": "key",
    "reachable": "reachable",
    "tools": "tools",
    "streaming": "streaming",
    "structured_output": "structured",
    "price": "price known",
}
_NAME = 120
_PROBLEM = 300
_SIGNS: dict[CheckAnswer, tuple[str, str]] = {
    "yes": ("✓", GREEN),
    "no": ("✕", RED),
    "unknown": ("?", GREY),
    "not needed": ("–", GREY),
}


def frame(found: Sequence[Checkup]) -> pd.DataFrame:
    """One row for each model."""
    return pd.DataFrame([asdict(one) for one in found])


def html(found: Sequence[Checkup]) -> str:
    heads = ("model", "used by", *_HEADS.values(), "window")
    cell = "text-align:left;padding:1px 12px 1px 0"
    head = "".join(f'<th style="{cell}">{name}</th>' for name in heads)
    rows = "".join(_row(one, cell, len(heads)) for one in found)
    return (
        '<div class="tex2jax_ignore mathjax_ignore" style="border:1px solid #7f7f7f38;border-radius:6px;'
        f'padding:6px 12px;margin:2px 0"><table style="font-size:12px;border:none"><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _row(one: Checkup, cell: str, columns: int) -> str:
    signs = "".join(
        f'<td style="{cell};color:{colour}" title="{getattr(one, name)}">{sign}</td>'
        for name in _HEADS
        for sign, colour in [_SIGNS[getattr(one, name)]]
    )
    window = f"{one.window:,}" if one.window else ""
    texts = [f"<b>{_clean(one.model)}</b>", _clean(one.used_by)]
    shown = "".join(f'<td style="{cell}">{text}</td>' for text in texts) + signs + f'<td style="{cell}">{window}</td>'
    problem = (
        f'<tr><td colspan="{columns}" style="text-align:left;color:{RED};padding:0 0 3px 14px">'
        f"{_clean(one.problem)}</td></tr>"
        if one.problem
        else ""
    )
    return f"<tr>{shown}</tr>{problem}"


def _clean(text: str) -> str:
    return markup.escape(format.clean(text, _PROBLEM), quote=False)


def text(found: Sequence[Checkup]) -> str:
    names = [format.clean(one.model, _NAME) for one in found]
    width = max(map(len, names), default=5)
    lines = [f"{'model':{width}}  {'  '.join(_HEADS.values())}"]
    for name, one in zip(names, found, strict=True):
        signs = "  ".join(f"{_SIGNS[getattr(one, column)][0]:{len(head)}}" for column, head in _HEADS.items())
        lines.append(f"{name:{width}}  {signs}".rstrip())
        lines += [f"  {format.clean(one.problem, _PROBLEM)}"] if one.problem else []
    return "\n".join(lines)

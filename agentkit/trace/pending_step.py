"""The step a run is paused before, in full: what would be sent or called, what it would cost, what can be done."""

from __future__ import annotations

import html as markup
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from agentkit.trace import format
from agentkit.trace.render_html import AMBER, BLUE, GREEN, METADATA_KEY
from agentkit.trace.trace import StepNode, Trace

_TEXT = 6_000
_LINES = 120
_OLDER = 3
"""Messages before the last few are folded away."""
_ROWS = 40
_BOX = "border:1px solid #7f7f7f38;border-radius:6px;padding:5px 10px;margin:2px 0;font-size:12px;line-height:1.5"
_PRE = "font-size:11px;white-space:pre-wrap;word-break:break-word;margin:1px 0 4px 14px"
_MUTED = "opacity:0.75"
AGAIN = 'reopened, restarted, or "model not found" below? run the cells again: they come back to this pause'
"""The words in quotes are JupyterLab's, where the buttons were and their kernel is gone."""
# Front ends typeset what stands between two dollar signs as a formula; prices do.
_NO_MATH = "tex2jax_ignore mathjax_ignore"


@dataclass(frozen=True, kw_only=True)
class Block:
    """One part of what is shown: who says it, or what it is called, and its text."""

    title: str
    text: str


@dataclass(frozen=True, kw_only=True)
class PendingView:
    """A paused run as a person sees it; `beside` are all calls of the turn, `now` the place of this one among them."""

    agent: str
    run: str
    at: str
    kind: str
    name: str
    free: str = ""
    price: str = ""
    cause: str = ""
    note: str = ""
    blocks: tuple[Block, ...] = ()
    beside: tuple[str, ...] = ()
    now: int = 0
    moves: tuple[str, ...] = ()
    done: Trace = field(default_factory=Trace)


def bundle(view: PendingView) -> dict[str, str]:
    return {"text/html": html(view), "text/plain": text(view)}


def metadata(view: PendingView) -> dict[str, Any]:
    """What is pending, for machines."""
    return {
        METADATA_KEY: {
            "version": 1,
            "pending": {
                "run": view.run, "agent": view.agent, "step": view.at, "kind": view.kind, "name": view.name,
                "free": bool(view.free), "cause": format.clean(view.cause, 200), "note": format.clean(view.note, 400),
            },
        }
    }  # fmt: skip


# -- HTML


def html(view: PendingView) -> str:
    """Inline styles only, so that it survives saving, reopening and untrusted notebooks."""
    return (
        f'<div class="{_NO_MATH}" style="{_BOX}">{_headline(view)}{_remarks(view)}{_format_done(view)}'
        f"{_format_request(view)}"
        f"{_moves(view)}</div>"
    )


def _moves(view: PendingView) -> str:
    if not view.moves:
        return ""
    hidden = markup.escape(format.without_buttons("run", view.run))
    verbs = " · ".join(f"<code>{_escape(move)}</code>" for move in view.moves)
    return f'<div style="{_MUTED}">{verbs}</div><div class="{hidden}" style="{_MUTED}">{AGAIN}</div>'


def _headline(view: PendingView) -> str:
    cost = f'<b style="color:{GREEN}">{_escape(view.free)}</b>' if view.free else _escape(view.price or "would be live")
    return (
        f"<div><b>{_escape(format.clean(view.agent, 60))}</b> · "
        f'<b style="color:{AMBER}">{format.GLYPHS["waiting"]} paused before step {_escape(view.at)}</b> · '
        f"{_escape(view.kind)} <b>{_escape(format.clean(view.name, 80))}</b> · {cost}"
        f' · <span style="{_MUTED}">run {_escape(view.run)}</span></div>'
    )


def _remarks(view: PendingView) -> str:
    told = [remark for remark in (view.cause, view.note) if remark]
    return "".join(f'<div style="color:{AMBER}">{_escape(format.clean(remark, 400))}</div>' for remark in told)


def _format_done(view: PendingView) -> str:
    rows = [_row_html(number, node) for number, node in _number_steps(view.done)]
    left = max(0, len(rows) - _ROWS)
    folded = f'<div style="{_MUTED}">… {left} earlier steps</div>' if left else ""
    return folded + "".join(rows[left:])


def _row_html(number: str, node: StepNode) -> str:
    state = "live" if not node.step.replayed else "replayed"
    colour = GREEN if node.step.replayed else BLUE
    return (
        f'<div style="border-top:1px solid #7f7f7f38;white-space:nowrap;overflow:hidden;text-overflow:ellipsis">'
        f'<span style="{_MUTED}">{_escape(number)}</span> <span style="color:{colour}">{state}</span> '
        f"{_escape(_row(node))}</div>"
    )


def _row(node: StepNode) -> str:
    step = node.step
    name = format.clean(format.short_name(step), 60)
    head = name if step.kind == "tool" else f"{step.kind} {name} "
    return f"{head}{format.clean(format.format_briefly(step), 160)}"


def _number_steps(trace: Trace) -> Iterable[tuple[str, StepNode]]:
    """The steps that a person takes, numbered as `goto` and `fork` take them; edits stand before theirs."""
    number = 0
    for root in trace.roots:
        for node in root.steps:
            if node.step.numbered:
                number += 1
                # The calls of a program are numbered within its statements, which are no steps of the record.
                yield "·" if root.run.agent == "sandbox" and not root.run.model else str(number), node
            elif node.step.kind in ("question", "approval"):
                yield "·", node


def _format_request(view: PendingView) -> str:
    older, last = view.blocks[:-_OLDER], view.blocks[-_OLDER:]
    folded = (
        f'<details><summary style="{_MUTED}">{len(older)} earlier messages</summary>'
        f"{''.join(map(_block, older))}</details>"
        if older
        else ""
    )
    calls = "".join(
        f'<div style="{"" if place == view.now else _MUTED}">{"▶" if place == view.now else "·"} '
        f"{_escape(format.clean(call, 200))}</div>"
        for place, call in enumerate(view.beside)
    )
    turn = f'<div style="{_MUTED}">calls of this turn</div>{calls}' if len(view.beside) > 1 else ""
    return f'<div style="border-top:1px solid #7f7f7f38">{turn}{folded}{"".join(map(_block, last))}</div>'


def _block(block: Block) -> str:
    return (
        f'<div><span style="{_MUTED}">{_escape(block.title)}</span>'
        f'<pre style="{_PRE}">{_escape(format.clean_block(block.text, _TEXT, lines=_LINES))}</pre></div>'
    )


def _escape(words: str) -> str:
    escaped = markup.escape(words, quote=False)
    return escaped if words.isascii() else f"<bdi>{escaped}</bdi>"


# -- text


def text(view: PendingView) -> str:
    cost = view.free or view.price or "would be live"
    head = f"{view.agent} · paused before step {view.at} · {view.kind} {view.name} · {cost} · run {view.run}"
    rows = [
        f"  {number} {'replayed' if node.step.replayed else 'live'} {_row(node)}"
        for number, node in _number_steps(view.done)
    ]
    calls = [f"  {'▶' if place == view.now else '·'} {call}" for place, call in enumerate(view.beside)]
    shown = [
        f"  {block.title}: {format.clean_block(block.text, _TEXT, lines=_LINES)}" for block in view.blocks[-_OLDER:]
    ]
    remarks = [f"  {format.clean(remark, 400)}" for remark in (view.cause, view.note) if remark]
    return "\n".join([format.clean(head, 300), *remarks, *rows[-_ROWS:], *(calls if len(calls) > 1 else []), *shown])

"""A question and its decision as they are shown: cards for the widget, and what stays when it is gone."""

from __future__ import annotations

import html as markup
import json
import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from agentkit.approval.decisions import QuestionRecord
from agentkit.approval.policy import TYPED, Decision, Question
from agentkit.journal.provenance import origin
from agentkit.text import reveal
from agentkit.trace import format
from agentkit.trace.render_html import AMBER, GREEN, RED

EDITABLE = 20_000
"""Characters of arguments up to which they can be changed in the widget; longer ones are shown cut."""

_LINES = 400
_WIDE = 90
_LISTED = 10
_TEXT = 4_000
_ONE_LINE = 160
_CHOICE = 1_000
_NEGATIVE = frozenset({"deny", "stop"})


def title(question: Question) -> str:
    """What is asked, in one line."""
    agent = format.clean(reveal(question.agent), 60) or "the agent"
    tool = format.clean(reveal(question.tool), 80)
    match question.kind:
        case "approve":
            return f"{agent} wants to call {tool}"
        case "ask":
            return f"{agent} asks"
        case "doubt":
            return f"{tool} may have taken effect already"
        case "bailout":
            return f"{agent} does not get any further"
        case "budget":
            return f"{agent} has reached a budget"
        case "circuit":
            return f"{agent}: the circuit breaker asks"


def json_text(value: Any) -> str:
    """JSON as a person reads and changes it: what cannot be seen is written as an escape."""
    text = json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict) and value:
        text = "{\n" + ",\n".join(f"  {_pair(name, item)}" for name, item in value.items()) + "\n}"
    return reveal(text)


def _pair(name: object, value: Any) -> str:
    short = json.dumps(value, ensure_ascii=False)
    if len(short) > _WIDE:
        short = json.dumps(value, ensure_ascii=False, indent=2).replace("\n", "\n  ")
    return f"{json.dumps(str(name), ensure_ascii=False)}: {short}"


def card(question: Question) -> dict[str, Any]:
    """What the widget shows of a question."""
    text = json_text(question.arguments)
    editable = question.kind == "approve" and len(text) <= EDITABLE
    return {
        "id": question.id,
        "kind": question.kind,
        "title": title(question),
        "text": format.clean_block(reveal(question.text), _TEXT, lines=_LINES),
        "arguments": text if editable else format.clean_block(text, _TEXT, lines=_LINES),
        "editable": editable,
        "reason": format.clean_block(reveal(question.reason), _TEXT, lines=_LINES),
        "before": "\n".join(format.clean(line, 2 * _ONE_LINE) for line in question.before),
        "form": question.form,
        "choices": _choices(question.choices),
        "lasting": question.lasting,
        "raisable": bool(question.default),
        "default": format.clean(str(question.default), _ONE_LINE) if question.kind == "budget" else "",
    }


def _choices(choices: Sequence[str]) -> list[str]:
    """The choices as they are shown, in order: a click says the number of one."""
    shown = [format.clean(reveal(choice), _CHOICE) for choice in choices]
    if all(shown) and len(set(shown)) == len(shown):
        return shown
    return [f"{number}. {one}" for number, one in enumerate(shown, 1)]


def cards(questions: Sequence[Question]) -> list[dict[str, Any]]:
    """The cards of one turn: what they have in common is said on the first."""
    made = [card(question) for question in questions]
    for later in made[1:]:
        later.update({name: "" for name in ("reason", "before") if later[name] == made[0][name]})
    return made


# ---- without the widget


def open_bundle(questions: Sequence[Question]) -> dict[str, str]:
    """The questions where the widget cannot be shown: what is asked, and how to answer by typing."""
    rows = [
        _row(title(question), _format_question(question), AMBER, _format_command(question)) for question in questions
    ]
    plain = [
        f"◇ {title(question)}: {format.clean(_format_question(question), _TEXT)}\n  {_format_command(question)}"
        for question in questions
    ]
    return {"text/html": "".join(rows), "text/plain": "\n".join(plain)}


def decision_bundle(pairs: Iterable[tuple[Question, Decision]], *, after: str = "") -> dict[str, str]:
    """What stays in the notebook: who decided what, when."""
    rows, plain = [], []
    for question, decision in pairs:
        colour = RED if decision.verdict in _NEGATIVE else GREEN
        glyph = "✕" if decision.verdict in _NEGATIVE else "✓"
        said = format_decision(decision)
        rows.append(_row(f"{glyph} {title(question)}", _format_question(question), colour, said))
        plain.append(f"{glyph} {title(question)}: {format.clean(_format_question(question), _ONE_LINE)} · {said}")
    if after:
        rows.append(f'<div style="font-size:12px;opacity:0.75;padding:2px 10px">{markup.escape(after)}</div>')
        plain.append(after)
    return {"text/html": "".join(rows), "text/plain": "\n".join(plain)}


def format_decision(decision: Decision) -> str:
    """Who decided what, when."""
    return f"{format.clean(decision.description, _TEXT)}, {format_time(decision.at)}"


def format_time(at: float) -> str:
    moment = datetime.fromtimestamp(at)
    today = moment.date() == datetime.fromtimestamp(time.time()).date()
    return moment.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M")


def line(one: QuestionRecord) -> str:
    """One question of a list."""
    state = "waiting"
    if one.source:
        state = f"decided {format.clean(origin(one.source), _ONE_LINE)}: asks again"
        if one.decision is None:
            state = f"asked {format.clean(origin(one.source), _ONE_LINE)}: run it again to be asked here"
    elif one.decision is not None:
        state = f"{format.clean(one.decision.description, _ONE_LINE)}, {format_time(one.decision.at)}"
    return f"{one.id}  {title(one.question)}: {format.clean(_format_question(one.question), _ONE_LINE)} · {state}"


def format_list(questions: Sequence[QuestionRecord]) -> str:
    """What waits, what Always holds, and what was decided lately."""
    here = [one for one in questions if not one.source]
    waiting = [one for one in here if one.decision is None]
    standing = [one for one in here if one.decision is not None and one.decision.always]
    rest = [one for one in here if one.decision is not None and not one.decision.always]
    others = [one for one in questions if one.source]
    parts = {
        "waiting for a decision": waiting,
        "standing (Always)": standing,
        f"decided{_last(rest)}": rest[:_LISTED],
        f"not decided by you here{_last(others)}": others[:_LISTED],
    }
    told = ["\n".join([f"{name}:", *(f"  {line(one)}" for one in some)]) for name, some in parts.items() if some]
    return "\n".join(told) or "nobody has been asked anything yet"


def _last(questions: Sequence[QuestionRecord]) -> str:
    return f", the last {_LISTED} of {len(questions)}" if len(questions) > _LISTED else ""


def _format_question(question: Question) -> str:
    if question.kind == "approve":
        return reveal(json.dumps(question.arguments, ensure_ascii=False))
    return reveal(question.text)


def _format_command(question: Question) -> str:
    return f"%agent approve {question.id} {TYPED[question.kind]}"


def _row(head: str, body: str, colour: str, foot: str) -> str:
    shown = markup.escape(format.clean_block(body, _TEXT, lines=40), quote=False)
    return (
        f'<div class="tex2jax_ignore mathjax_ignore" style="border-left:4px solid {colour};padding:2px 10px;'
        f'margin:3px 0;font-size:12px;line-height:1.5"><b><bdi>{markup.escape(head, quote=False)}</bdi></b>'
        f'<pre style="font-size:11px;white-space:pre-wrap;margin:0"><bdi>{shown}</bdi></pre>'
        f'<span style="opacity:0.75"><bdi>{markup.escape(foot, quote=False)}</bdi></span></div>'
    )

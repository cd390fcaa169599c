"""Questions on a cluster: each is a condition of the platform, answered in its console or on its command line."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Any

from agentkit.approval.policy import Decision, Question
from agentkit.runtime.session import Asker

_BY = "a person, by a condition of the platform"


def conditions(flyte: Any) -> Asker:
    """Asks each question by `flyte.new_condition`; its name is the same on every attempt, so nobody is asked twice."""

    async def ask(questions: tuple[Question, ...]) -> tuple[Decision, ...] | None:
        if flyte.ctx() is None:
            return None
        return tuple(await asyncio.gather(*(_decide(flyte, question) for question in questions)))

    return ask


async def _decide(flyte: Any, question: Question) -> Decision:
    data = _data(question)
    condition = await flyte.new_condition.aio(
        _name(question), prompt=_prompt(question), prompt_type="markdown", data_type=data
    )
    answer = await condition.wait.aio()
    match question.kind:
        case "approve":
            return Decision(verdict="approve" if answer else "deny", by=_BY)
        case "ask":
            return Decision(verdict="answer", answer=answer, by=_BY)
        case "doubt":
            return Decision(verdict="redo" if answer else "stop", by=_BY)
        case "budget":
            return Decision(verdict="raise" if answer else "stop", by=_BY)
        case "circuit":
            return Decision(verdict="once" if answer else "stop", by=_BY)
        case "bailout":
            return Decision(verdict="hint", reason=str(answer), answer=answer, by=_BY)


def _data(question: Question) -> type:
    if question.kind in ("approve", "doubt", "budget", "circuit") or question.form == "yes_no":
        return bool
    return float if question.form == "number" else str


def _name(question: Question) -> str:
    kept = json.dumps([question.kind, question.tool, question.arguments, question.text, question.before], default=str)
    return f"{question.kind}-{question.tool or question.agent}-{hashlib.sha256(kept.encode()).hexdigest()[:8]}"


def _prompt(question: Question) -> str:
    arguments = json.dumps(question.arguments, ensure_ascii=False, indent=2, default=str)
    lines = {
        "approve": f"**{question.agent}** wants to call **{question.tool}**. Yes?\n```json\n{arguments}\n```",
        "ask": f"**{question.agent}** asks: {question.text}",
        "doubt": f"{question.text} Perform it again? (no: stop)\n```json\n{arguments}\n```",
        "budget": f"**{question.agent}** has reached a limit: {question.text} Raise it? (no: stop)",
        "circuit": f"**{question.agent}** was stopped: {question.text} Go on once? (no: stop)",
        "bailout": f"**{question.agent}** does not get any further: {question.text} A hint?",
    }
    why = f"\n\n{question.reason}" if question.reason else ""
    choices = f"\n\nOne of: {', '.join(question.choices)}" if question.choices else ""
    return lines[question.kind] + why + choices

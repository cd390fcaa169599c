"""The verbs of approvals: deciding by typing, the list of what waits and what holds, and the policy."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from agentkit.defend.approval import Decision, Question, Verdict, parse_headless, parse_patterns
from agentkit.engine import decided
from agentkit.engine.session import Session
from agentkit.errors import UserError
from agentkit.notebook import grammar
from agentkit.notebook.line import Line
from agentkit.observe import asked

_LISTED = 10
_HEADLESS = {"suspend": "stays open and ends the run", "deny": "is denied", "allow": "is allowed"}


def approve(session: Session, line: Line) -> str:
    """`%agent approve ID …`: decide, whoever asked and wherever they wait."""
    told = []
    for id_ in line.words:
        one = decided.find(session.store, id_)
        if one.decision is not None:
            raise UserError(f"question {id_} is decided already: {asked.decided_text(one.decision)}")
        decision = session.decide(one.question, _decision(one.question, line))
        told.append(f"{asked.title(one.question)} ({id_}): {asked.decided_text(decision)}")
    return "\n".join(told)


def _decision(question: Question, line: Line) -> Decision:
    given = [name for name in ("edit", "deny", "answer", "redo", "stop", "hint") if line.has(name)]
    if len(given) > 1:
        raise UserError(f"--{' and --'.join(given)}: one of them; {grammar.usage('approve')}")
    always = line.has("always")
    match given:
        case []:
            return Decision(verdict="approve", always=always)
        case ["edit"]:
            return Decision(verdict="edit", arguments=parsed(line.options["edit"], option="--edit"), always=always)
        case ["deny"]:
            return Decision(verdict="deny", reason=line.options["deny"], always=always)
        case ["answer"]:
            return answer(question, line.options["answer"])
        case ["hint"]:
            return Decision(verdict="hint", reason=line.options["hint"])
        case _:
            verdict: Verdict = "redo" if given == ["redo"] else "stop"
            return Decision(verdict=verdict)


def answer(question: Question, text: str) -> Decision:
    """A typed answer: text as it is where text is asked for, JSON where a result is."""
    match question.kind:
        case "doubt":
            return Decision(verdict="result", answer=parsed(text, option="--answer"))
        case "bailout" if question.form != "text":
            return Decision(verdict="answer", answer=parsed(text, option="--answer"))
        case _:
            return Decision(verdict="answer", answer=text)


def parsed(text: str, *, option: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f'{option} {text}: not JSON ({error}); text needs quotes: "like this"') from error


def approvals(session: Session, line: Line) -> str:
    """`%agent approvals [withdraw ID]`: what waits, what holds, and what was decided lately."""
    match line.words:
        case ():
            return listed(decided.everything(session.store))
        case ("withdraw", id_) if id_.isdecimal():
            session.store.withdraw(int(id_)).result()
            return f"question {id_}: Always is withdrawn, the next equal call asks again"
        case _:
            raise UserError(f"what is {line.rest!r}? {grammar.usage('approvals')}")


def listed(questions: list[decided.Asked]) -> str:
    """The list, as verb and command line show it."""
    waiting = [one for one in questions if one.decision is None]
    standing = [one for one in questions if one.decision is not None and one.decision.always]
    rest = [one for one in questions if one.decision is not None and not one.decision.always]
    parts = {
        "waiting for a decision": waiting,
        "standing (Always)": standing,
        f"decided{f', the last {_LISTED} of {len(rest)}' if len(rest) > _LISTED else ''}": rest[:_LISTED],
    }
    told = ["\n".join([f"{name}:", *(f"  {asked.line(one)}" for one in some)]) for name, some in parts.items() if some]
    return "\n".join(told) or "nobody has been asked anything yet"


def policy(session: Session, line: Line) -> str:
    """`%agent policy`: show or set what needs a person in this session."""
    if line.has("approve"):
        given = line.options["approve"]
        patterns = () if given == "off" else parse_patterns(given)
        session.policy = replace(session.policy, patterns=patterns)
    if line.has("headless"):
        session.policy = replace(session.policy, headless=parse_headless(line.options["headless"]))
    named = ", ".join(session.policy.patterns) or "only what its tools and agents say"
    alone = session.headless
    return f"needs a person: {named}\nwhere there is nobody, such a call {_HEADLESS[alone]} ({alone})"

"""The verbs of approvals: deciding by typing, the list of what waits and what holds, and the policy."""

from __future__ import annotations

from dataclasses import replace

from agentkit.approval import decisions
from agentkit.approval.policy import parse_headless, parse_patterns
from agentkit.errors import UserError
from agentkit.notebook import grammar
from agentkit.notebook.parser import Line
from agentkit.runtime.session import Session
from agentkit.trace import approval_cards

_HEADLESS = {"suspend": "stays open and ends the run", "deny": "is denied", "allow": "is allowed"}


def approve(session: Session, line: Line) -> str:
    """`%agent approve ID …`: decide, whoever asked and wherever they wait."""
    told = []
    for id_ in line.words:
        one = decisions.find_open(session.store, id_)
        if one.decision is not None:
            raise UserError(f"question {id_} is decided already: {approval_cards.format_decision(one.decision)}")
        wanted = decisions.parse_decision(one.question, line.options, usage=grammar.usage("approve"))
        decision = session.decide(one.question, wanted)
        told.append(f"{approval_cards.title(one.question)} ({id_}): {approval_cards.format_decision(decision)}")
    return "\n".join(told)


def approvals(session: Session, line: Line) -> str:
    """`%agent approvals [withdraw ID]`: what waits, what holds, and what was decided lately."""
    match line.words:
        case ():
            return approval_cards.format_list(decisions.everything(session.store))
        case ("withdraw", id_) if id_.isdecimal():
            session.store.withdraw(int(id_)).result()
            return f"question {id_}: Always is withdrawn, the next equal call asks again"
        case _:
            raise UserError(f"what is {line.rest!r}? {grammar.usage('approvals')}")


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

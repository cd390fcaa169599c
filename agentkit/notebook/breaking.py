"""`%agent breaker`: the thresholds of the circuit breaker in this session, shown or set."""

from __future__ import annotations

from agentkit.defend.breaker import OFF, parse_thresholds
from agentkit.engine.session import Session
from agentkit.notebook.line import Line


def breaker(session: Session, line: Line) -> str:
    if line.rest:
        session.breaker = parse_thresholds(line.rest, base=session.breaker, option="%agent breaker")
    return "breaker off" if session.breaker is OFF else f"breaker {session.breaker}"

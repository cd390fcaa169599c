"""`%agent throttle`: the limits of model servers, shown or set."""

from __future__ import annotations

from agentkit.defend.throttle import Lane, parse_limits
from agentkit.engine import throttling
from agentkit.errors import UserError
from agentkit.notebook.line import Line


def throttle(line: Line) -> str:
    """`%agent throttle [MODEL LIMITS | MODEL off]`"""
    here = throttling.turnstile()
    model, _, text = line.rest.partition(" ")
    if model:
        if not text.strip():
            raise UserError(f"%agent throttle {model}: which limits? For instance 60k tpm, 500 rpm")
        name = model.rpartition("#")[2].rpartition(":")[2]
        here.throttle.give(name, None if text.strip() == "off" else parse_limits(text, option="%agent throttle"))
        return f"{name}: {text.strip()}"
    rows = [f"{name}: {_said(lane)}" for name, lane in here.throttle.lanes().items()]
    failing = [f"{name}: {state}, {circuit.why}" for name, (state, circuit) in here.health.states().items()]
    return "\n".join([*rows, *failing]) or "no model server was asked in this kernel yet, and none is known to fail"


def _said(lane: Lane) -> str:
    source = "given" if lane.limits.given else "as the server says"
    known = f"{lane.limits} ({source})" if lane.limits.tokens or lane.limits.requests else str(lane.limits)
    return f"{known}, {len(lane.in_flight)} under way, {len(lane.queue)} waiting"

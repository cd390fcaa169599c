"""The verbs of budgets: the tree with its bars, setting limits, and what a run is going to cost."""

from __future__ import annotations

from collections.abc import Sequence

from agentkit.budget import admin
from agentkit.budget import estimate as estimating
from agentkit.budget.budget import BudgetScope
from agentkit.budget.ledger import Standing
from agentkit.budget.reservation import budgets_of
from agentkit.errors import UserError, nearest
from agentkit.guards.loop_detector import OFF, parse_thresholds
from agentkit.models.transport.throttle import Lane, parse_limits
from agentkit.notebook import grammar, namespace
from agentkit.notebook import template as prompt
from agentkit.notebook.context import BODY_LINE, Reply, VerbContext
from agentkit.notebook.output import say, show
from agentkit.notebook.parser import Line
from agentkit.runtime import server_limits
from agentkit.runtime.session import Session
from agentkit.trace import budget_bars as drawn

_NONE = "nothing is limited yet: %agent budget notebook 5usd/day, or %%agent build NAME --budget 0.50usd"
_SCOPES = ("user", "project", "notebook", "eval")


def budget(context: VerbContext, line: Line) -> Reply:
    """`%agent budget [SCOPE] [LIMITS|off]`."""
    scope, limits = _split(line.rest)
    if limits or line.has("at-limit"):
        named = scope or "notebook"
        option = f"%agent budget {named}"
        told = admin.change(_node(context, named), limits, option=option, at_limit=line.options.get("at-limit"))
        return Reply(show=lambda: say(told))
    if scope is None:
        return _draw(admin.standings(below=budgets_of(context.session).node()))
    return _draw(admin.standings(_node(context, scope)))


def _split(rest: str) -> tuple[str | None, str]:
    """The scope, if one is named, and the limits as typed. What begins like a number is a limit."""
    first, _, others = rest.partition(" ")
    if not first:
        return None, ""
    if first == "off" or first[0].isdigit() or first[0] in "$.-+":
        return None, rest
    return first, others.strip()


def _node(context: VerbContext, scope: str) -> BudgetScope:
    guard = budgets_of(context.session)
    if scope == "notebook":
        return guard.node()
    if scope in _SCOPES:
        return admin.node(scope, project=guard.project)
    names = scope.split("/")
    known = [*namespace.agents(context.names), *admin.agents()]
    if names[0] not in known:
        near = nearest(names[0], [*_SCOPES, *known])
        raise UserError(f"%agent budget: no scope or agent {names[0]}{near}; {grammar.usage('budget')}")
    return guard.node(*names)


def _draw(standings: Sequence[Standing]) -> Reply:
    if not standings:
        return Reply(show=lambda: say(_NONE))
    lines = drawn.tree(standings)
    bundle = {"text/html": drawn.html(lines), "text/plain": drawn.plain(lines)}
    return Reply(show=lambda: show(bundle, raw=True))


def estimate(context: VerbContext, line: Line, body: str | None) -> Reply:
    """`%agent estimate NAME`, or with the prompt as body."""
    name, _, text = line.rest.partition(" ")
    agent = namespace.agent(name, context.names)
    template, first = (text, 1) if body is None else (body, BODY_LINE)
    given = prompt.render(template, context.names, first_line=first).text.strip() if template.strip() else ""
    found = estimating.estimate(context.session, agent, given or None)
    return Reply(value=found, show=lambda: say(found.description))


def breaker(session: Session, line: Line) -> str:
    if line.rest:
        session.breaker = parse_thresholds(line.rest, base=session.breaker, option="%agent breaker")
    return "breaker off" if session.breaker is OFF else f"breaker {session.breaker}"


def throttle(line: Line) -> str:
    """`%agent throttle [MODEL LIMITS | MODEL off]`"""
    here = server_limits.turnstile()
    model, _, text = line.rest.partition(" ")
    if model:
        if not text.strip():
            raise UserError(f"%agent throttle {model}: which limits? For instance 60k tpm, 500 rpm")
        name = model.rpartition("#")[2].rpartition(":")[2]
        here.throttle.give(name, None if text.strip() == "off" else parse_limits(text, option="%agent throttle"))
        return f"{name}: {text.strip()}"
    rows = [f"{name}: {_describe_lane(lane)}" for name, lane in here.throttle.lanes().items()]
    failing = [f"{name}: {state}, {circuit.why}" for name, (state, circuit) in here.health.states().items()]
    return "\n".join([*rows, *failing]) or "no model server was asked in this kernel yet, and none is known to fail"


def _describe_lane(lane: Lane) -> str:
    source = "given" if lane.limits.given else "as the server says"
    known = f"{lane.limits} ({source})" if lane.limits.tokens or lane.limits.requests else str(lane.limits)
    if lane.found is not None and not lane.limits.given:
        known += f", {lane.found.requests:,} requests in {lane.found.period:.0f} s (found by its refusals)"
    return f"{known}, {len(lane.in_flight)} under way, {len(lane.queue)} waiting"

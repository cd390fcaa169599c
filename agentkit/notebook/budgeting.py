"""The verbs of budgets: the tree with its bars, setting limits, and what a run is going to cost."""

from __future__ import annotations

from collections.abc import Sequence

from agentkit.defend.budget import Node
from agentkit.defend.ledger import Standing
from agentkit.engine import estimating, limiting
from agentkit.engine.budgeting import budgets_of
from agentkit.errors import UserError, nearest
from agentkit.notebook import grammar, look, prompt
from agentkit.notebook.desk import BODY_LINE, Desk, Reply
from agentkit.notebook.display import say, show
from agentkit.notebook.line import Line
from agentkit.observe import budgets as drawn

_NONE = "nothing is limited yet: %agent budget notebook 5usd/day, or %%agent build NAME --budget 0.50usd"
_SCOPES = ("user", "project", "notebook", "eval")


def budget(desk: Desk, line: Line) -> Reply:
    """`%agent budget [SCOPE] [LIMITS|off]`."""
    scope, limits = _split(line.rest)
    if limits or line.has("at-limit"):
        named = scope or "notebook"
        option = f"%agent budget {named}"
        told = limiting.change(_node(desk, named), limits, option=option, at_limit=line.options.get("at-limit"))
        return Reply(show=lambda: say(told))
    if scope is None:
        return _drawn(limiting.standings(below=budgets_of(desk.session).node()))
    return _drawn(limiting.standings(_node(desk, scope)))


def _split(rest: str) -> tuple[str | None, str]:
    """The scope, if one is named, and the limits as typed. What begins like a number is a limit."""
    first, _, others = rest.partition(" ")
    if not first:
        return None, ""
    if first == "off" or first[0].isdigit() or first[0] in "$.-+":
        return None, rest
    return first, others.strip()


def _node(desk: Desk, scope: str) -> Node:
    guard = budgets_of(desk.session)
    if scope == "notebook":
        return guard.node()
    if scope in _SCOPES:
        return limiting.node(scope, project=guard.project)
    names = scope.split("/")
    known = [*look.agents(desk.names), *limiting.agents()]
    if names[0] not in known:
        near = nearest(names[0], [*_SCOPES, *known])
        raise UserError(f"%agent budget: no scope or agent {names[0]}{near}; {grammar.usage('budget')}")
    return guard.node(*names)


def _drawn(standings: Sequence[Standing]) -> Reply:
    if not standings:
        return Reply(show=lambda: say(_NONE))
    lines = drawn.tree(standings)
    bundle = {"text/html": drawn.html(lines), "text/plain": drawn.plain(lines)}
    return Reply(show=lambda: show(bundle, raw=True))


def estimate(desk: Desk, line: Line, body: str | None) -> Reply:
    """`%agent estimate NAME`, or with the prompt as body."""
    name, _, text = line.rest.partition(" ")
    agent = look.agent(name, desk.names)
    template, first = (text, 1) if body is None else (body, BODY_LINE)
    given = prompt.render(template, desk.names, first_line=first).text.strip() if template.strip() else ""
    found = estimating.estimate(desk.session, agent, given or None)
    return Reply(value=found, show=lambda: say(found.said))

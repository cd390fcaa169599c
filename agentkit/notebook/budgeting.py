"""The verbs of budgets: the tree with its bars, setting limits, and what a run is going to cost."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from agentkit.defend.budget import (
    USER,
    Budget,
    Level,
    Limit,
    Node,
    merged,
    parse,
    parse_at_limit,
)
from agentkit.defend.ledger import Ledger, Standing
from agentkit.engine import estimating
from agentkit.engine.budgeting import budgets_of
from agentkit.engine.session import Session
from agentkit.errors import UserError, nearest
from agentkit.notebook import grammar, look, prompt
from agentkit.notebook.desk import BODY_LINE, Desk, Reply
from agentkit.notebook.display import say, show
from agentkit.notebook.line import Line
from agentkit.observe import budgets as drawn

SCOPES: tuple[Level, ...] = ("user", "project", "notebook", "eval")


def budget(desk: Desk, line: Line) -> Reply:
    """`%agent budget [SCOPE] [LIMITS|off]`."""
    scope, limits = _split(line.rest)
    if scope is None and not limits and not line.has("at-limit"):
        return _drawn(desk.session, _shown(desk.session))
    node = _node(desk, scope or "notebook")
    if not limits and not line.has("at-limit"):
        return _drawn(desk.session, [node])
    told = _set(desk.session, node, scope or "notebook", limits, line.options.get("at-limit"))
    return Reply(show=lambda: say(told))


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
    notebook = guard.node()
    project = next(node for node in notebook.lineage() if node.level == "project")
    match scope:
        case "user":
            return USER
        case "project":
            return project
        case "notebook":
            return notebook
        case "eval":
            return project.child("eval", "")
    names = scope.split("/")
    known = _agents(desk)
    if names[0] not in known:
        choice = [*SCOPES, *known]
        raise UserError(f"%agent budget: no scope or agent {names[0]}{nearest(names[0], choice)}; {_usage()}")
    return guard.node(*names)


def _agents(desk: Desk) -> list[str]:
    book = budgets_of(desk.session).ledger
    listed = [] if book is None else book.later(book.budgets).result()
    kept = [node.name for node, _ in listed if node.level == "agent"]
    return list(dict.fromkeys([*look.agents(desk.names), *kept]))


def _usage() -> str:
    return grammar.usage("budget")


def _set(session: Session, node: Node, scope: str, text: str, at_limit: str | None) -> str:
    guard = budgets_of(session)
    book = guard.ledger
    old = Budget() if book is None else book.later(partial(book.budget, node)).result()
    option = f"%agent budget {scope}"
    if text == "off":
        guard.set(node, (), at_limit=None)
        return f"{node.said}: no limit" + (f" (was {_said(old.limits)})" if old.limits else "")
    limits = old.limits
    if text:
        limits = merged(limits, parse(text, option=option, window="run" if node.level == "agent" else "total"))
        # Together they may contradict each other.
        limits = parse(Budget(limits=limits).text, option=option)
    if not limits:
        raise UserError(f"--at-limit {at_limit} says what happens at a limit, but {node.said} has none: {_usage()}")
    how = old.at_limit if at_limit is None else parse_at_limit(at_limit)
    guard.set(node, limits, at_limit=how)
    was = f" (was {_said(old.limits)})" if old.limits and old.limits != limits else ""
    return f"{node.said}: {_said(limits)}{was}" + (f"; at the limit: {how}" if how else "")


def _said(limits: Sequence[Limit]) -> str:
    return ", ".join(limit.said for limit in limits)


def _shown(session: Session) -> list[Node]:
    """The user, and everything known in this project."""
    guard = budgets_of(session)
    notebook, book = guard.node(), guard.ledger
    project = next(node for node in notebook.lineage() if node.level == "project")
    known = [] if book is None else [node for node, _ in book.later(book.budgets).result()]
    below = {node for node in known if project in node.lineage()}
    return sorted({*notebook.lineage(), *below})


def _drawn(session: Session, nodes: Sequence[Node]) -> Reply:
    book = budgets_of(session).ledger
    if book is None:
        told = "nothing is limited yet: %agent budget notebook 5usd/day, or %%agent build NAME --budget 0.50usd"
        return Reply(show=lambda: say(told))
    lines = drawn.tree(_standings(book, nodes))
    bundle = {"text/html": drawn.html(lines), "text/plain": drawn.plain(lines)}
    return Reply(show=lambda: show(bundle, raw=True))


def _standings(book: Ledger, nodes: Sequence[Node]) -> list[Standing]:
    return book.later(partial(book.standings, nodes)).result()


def estimate(desk: Desk, line: Line, body: str | None) -> Reply:
    """`%agent estimate NAME`, or with the prompt as body."""
    name, _, text = line.rest.partition(" ")
    agent = look.agent(name, desk.names)
    template, first = (text, 1) if body is None else (body, BODY_LINE)
    given = prompt.render(template, desk.names, first_line=first).text.strip() if template.strip() else ""
    found = estimating.estimate(desk.session, agent, given or None)
    return Reply(value=found, show=lambda: say(found.said))

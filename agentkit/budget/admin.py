"""Setting and reading the limits of a scope by typing, in a notebook or in a shell."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from agentkit.budget.budget import USER, Budget, BudgetScope, Limit, merge, parse, parse_at_limit, place
from agentkit.budget.ledger import Ledger, Standing, default_path, ledger
from agentkit.errors import UserError


def book() -> Ledger | None:
    """The user's ledger, once anything was limited."""
    path = default_path()
    return ledger(path) if path.exists() else None


def node(scope: str, *, project: str) -> BudgetScope:
    """The user, a project or its evals."""
    evals = place(project=project, label="eval")
    chosen = {"user": USER, "eval": evals, "project": list(evals.lineage())[1]}
    return chosen[scope]


def change(scope: BudgetScope, text: str, *, option: str, at_limit: str | None) -> str:
    """Put the limits that `text` says in the place of those of its kind (`off`: none at all), and say what holds."""
    kept = book()
    old = Budget() if kept is None else kept.later(partial(kept.budget, scope)).result()
    if text == "off":
        _set(scope, Budget())
        return f"{scope.label}: no limit" + (f" (was {_format_limits(old.limits)})" if old.limits else "")
    limits = old.limits
    if text:
        limits = merge(limits, parse(text, option=option, window="run" if scope.level == "agent" else "total"))
        # Together they may contradict each other.
        limits = parse(Budget(limits=limits).text, option=option)
    if not limits:
        raise UserError(f"{at_limit!r} says what happens at a limit, but {scope.label} has none: give one too")
    how = old.at_limit if at_limit is None else parse_at_limit(at_limit)
    _set(scope, Budget(limits=limits, at_limit=how))
    was = f" (was {_format_limits(old.limits)})" if old.limits and old.limits != limits else ""
    return f"{scope.label}: {_format_limits(limits)}{was}" + (f"; at the limit: {how}" if how else "")


def _set(scope: BudgetScope, budget: Budget) -> None:
    kept = ledger(default_path())
    kept.later(partial(kept.set, scope, budget.limits, at_limit=budget.at_limit)).result()


def _format_limits(limits: Sequence[Limit]) -> str:
    return ", ".join(limit.label for limit in limits)


def standings(scope: BudgetScope | None = None, *, below: BudgetScope | None = None) -> list[Standing]:
    """How the limits of a scope stand; without one, those of all scopes there are, or of all on the way to `below`
    and in its project."""
    kept = book()
    if kept is None:
        return []
    nodes = [scope] if scope is not None else _list_scopes(kept, below)
    return kept.later(partial(kept.standings, nodes)).result()


def _list_scopes(kept: Ledger, below: BudgetScope | None) -> list[BudgetScope]:
    known = [one for one, _ in kept.later(kept.budgets).result()]
    if below is None:
        return known
    way = list(below.lineage())
    return sorted({*way, *(one for one in known if way[1] in one.lineage())})


def agents() -> list[str]:
    """The names of all agents that have a place in the tree."""
    kept = book()
    known = [] if kept is None else kept.later(kept.budgets).result()
    return list(dict.fromkeys(one.name for one, _ in known if one.level == "agent"))

"""Budgets as they are shown: a tree of scopes with bars, and the bars of the limits that a run is held to."""

from __future__ import annotations

import html as markup
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agentkit.budget.budget import NANO, BudgetScope, Limit, format_amount
from agentkit.budget.ledger import Standing
from agentkit.events import Gauge
from agentkit.journal.totals import Totals
from agentkit.trace import format
from agentkit.trace.trace import Trace

BLUE, AMBER, RED = "#347acf", "#b06805", "#d4484f"
_TIGHT, _FULL = 0.8, 0.999
_CELLS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class BarLine:
    """One limit: whose it is, what of it is used, and how it is said."""

    scope: str
    said: str
    share: float
    depth: int = 0
    at_limit: str = ""


def tree(standings: Iterable[Standing]) -> list[BarLine]:
    """The lines of `%agent budget`: each scope under the one it spends from."""
    return [_line(standing) for standing in standings]


def _line(standing: Standing) -> BarLine:
    limit, node = standing.limit, standing.node
    if limit is None:
        return BarLine(scope=_name(node), said="no limit", share=-1.0, depth=node.depth)
    used = f"{format_amount(limit.measure, standing.used)} of " if limit.measure != "seconds" else ""
    held = f" ({format_amount(limit.measure, standing.held)} set aside)" if standing.held else ""
    newest = f", paid in the newest {limit.window}" if limit.window in ("run", "cell") and standing.used else ""
    return BarLine(
        scope=_name(node),
        said=f"{used}{limit.label}{held}{newest}",
        share=-1.0 if limit.measure == "seconds" else (standing.used + standing.held) / limit.amount,
        depth=node.depth,
        at_limit=standing.at_limit or "",
    )


def _name(node: BudgetScope) -> str:
    if node.level == "project":
        parts = node.name.rstrip("/").split("/")
        return f"project {parts[-2] if parts[-1] == '.agentkit' and len(parts) > 1 else parts[-1]}"
    return f"{node.level} {node.name}".strip()


def html(lines: Sequence[BarLine]) -> str:
    rows = "".join(_row(line) for line in lines)
    return (
        '<div class="tex2jax_ignore mathjax_ignore" style="border:1px solid #7f7f7f38;border-radius:6px;'
        f'padding:5px 10px;margin:2px 0;font-size:12px;line-height:1.6">{rows}</div>'
    )


def _row(line: BarLine) -> str:
    name = markup.escape(format.clean(line.scope, 60), quote=False)
    said = markup.escape(line.said + (f" · at the limit: {line.at_limit}" if line.at_limit else ""), quote=False)
    return (
        f'<div style="display:flex;gap:8px;align-items:center"><span style="box-sizing:border-box;width:18em;'
        f'padding-left:{14 * min(line.depth, 8)}px"><b>{name}</b></span> '
        f"{bar_html(line.share)} <span>{said}</span></div>"
    )


def bar_html(share: float, *, width: str = "9em") -> str:
    """A bar as full as what is limited is used up; empty space where there is nothing to measure."""
    if share < 0:
        return f'<span style="display:inline-block;width:{width}"></span>'
    return (
        f'<span style="display:inline-block;width:{width};height:8px;border-radius:3px;background:#7f7f7f38;'
        f'overflow:hidden"><span style="display:block;height:8px;width:{min(share, 1.0) * 100:.3g}%;'
        f'background:{_colour(share)}"></span></span>'
    )


def _colour(share: float) -> str:
    return RED if share >= _FULL else AMBER if share >= _TIGHT else BLUE


def plain(lines: Sequence[BarLine]) -> str:
    width = max((2 * line.depth + len(line.scope) for line in lines), default=0)
    rows = []
    for line in lines:
        name = f"{'  ' * line.depth}{line.scope}"
        at_limit = f" · at the limit: {line.at_limit}" if line.at_limit else ""
        rows.append(f"{name:{width}}  {bar_text(line.share)}  {line.said}{at_limit}")
    return "\n".join(rows)


def bar_text(share: float) -> str:
    if share < 0:
        return " " * _CELLS
    full = min(_CELLS, round(share * _CELLS))
    return "▰" * full + "▱" * (_CELLS - full)


# ---- in the panel


def of_trace(trace: Trace) -> list[BarLine]:
    """How the limits of what is traced stand now: what was used before it began, and what its steps took since.

    Several runs have only those limits in common that hold beyond one run.
    """
    first = trace.roots[0].run if trace.roots else None
    gauges = () if first is None else first.gauges
    alone = len(trace.roots) == 1
    return [
        _gauge_line(gauge, trace.totals)
        for gauge in gauges
        if gauge.measure != "seconds" and (alone or gauge.window != "run") and gauge.window != "minute"
    ]


def _gauge_line(gauge: Gauge, totals: Totals) -> BarLine:
    used = gauge.used + _amount_of(gauge, totals)
    limit = Limit(
        measure=gauge.measure,  # type: ignore[arg-type]
        window=gauge.window,  # type: ignore[arg-type]
        amount=_whole(gauge, gauge.limit),
    )
    said = f"{_amount(gauge, used)} of {limit.label}"
    if gauge.before is not None:
        said += f", raised from {_amount(gauge, gauge.before)}"
    return BarLine(scope=gauge.scope, said=said, share=used / gauge.limit if gauge.limit else 0.0)


def _amount(gauge: Gauge, amount: float) -> str:
    """An amount beside its limit, which says what is counted."""
    if gauge.measure == "requests":
        return f"{_whole(gauge, amount):,}"
    return format_amount(gauge.measure, _whole(gauge, amount))  # type: ignore[arg-type]


def _whole(gauge: Gauge, amount: float) -> int:
    return round(amount * NANO) if gauge.measure == "usd" else round(amount)


def _amount_of(gauge: Gauge, totals: Totals) -> float:
    again = gauge.window in ("run", "cell")
    match gauge.measure:
        case "usd":
            return totals.spent + (totals.saved if again else 0.0)
        case "tokens":
            return float(totals.tokens + (totals.saved_tokens if again else 0))
        case _:
            return float(totals.requests)

"""The panel as plain text for terminals and for notebooks shown without HTML: no escape codes, bounded lines."""

from __future__ import annotations

from typing import assert_never

from agentkit.trace import budget_bars, format
from agentkit.trace.layout import Bar, FoldedLine, GroupLine, Line, RunLine, StepLine, fit_lines, lines
from agentkit.trace.trace import RunNode, StepNode, Trace, shows_error_below

_BAR_CELLS = 12
_HEIGHTS = " ▁▂▃▄▅▆▇█"
_BYTES = 5_000
_NOTES = 8
_SHOWN_LINES = 3
_LEFT = 44
"""Cells taken by the columns that stand before the name."""


def text(trace: Trace, *, now: float, width: int = 100) -> str:
    """The headline, then one line for each step."""
    flags = [words for _, words in format.flags(trace)]
    head = " · ".join([format.title(trace), format.format_states(trace), *format.headline(trace, now), *flags])
    foot = _run_remarks(trace.roots[0], 0, width) if len(trace.roots) == 1 else []
    bars = [
        f"budget of {bar.scope} {budget_bars.bar_text(bar.share)} {bar.said}" for bar in budget_bars.of_trace(trace)
    ]

    def draw(most: int) -> str:
        rows = (row for line in lines(trace, now=now, most=most) for row in _rows(line, width))
        return "\n".join([head, *rows, *bars, *foot])

    return fit_lines(draw, _BYTES)


def _rows(line: Line, width: int) -> list[str]:
    match line:
        case RunLine(node=node, depth=depth):
            facts = (
                _agent(node.run.agent, line.model),
                format.format_shares(node.totals),
                format.clean(node.run.prompt, 120),
            )
            name = f"{line.remark}: {facts[-1]}" if line.remark else " · ".join(fact for fact in facts if fact)
            row = _row(line, node.state, format.format_money(node.totals), name, width)
            return [row] if line.remark else [row, *_run_remarks(node, depth, width)]
        case StepLine(node=node, depth=depth):
            shown = [_below("┊", text, depth, width) for text in node.step.shown.splitlines()[:_SHOWN_LINES]]
            row = _row(line, node.state, _money(node), _name(node), width)
            return [row, *_step_remarks(node, depth, width), *shown]
        case GroupLine(errors=errors, others=others, depth=depth):
            more = (
                [_below("·", f"{format.format_count(others, 'run')} with other errors", depth, width)] if others else []
            )
            failed = [_below(f"✕ {count:,} ×", error, depth, width) for error, count in errors]
            return [_group_row(line, width), *failed, *more]
        case FoldedLine(steps=steps, runs=runs, depth=depth):
            return [" " * (_LEFT + 2 * depth) + format.format_folded(steps, runs)]
        case _:
            assert_never(line)


def _agent(name: str, model: str) -> str:
    return format.clean(name, 40) + (f" on {format.clean(model, 40)}" if model else "")


def _group_row(line: GroupLine, width: int) -> str:
    many = Trace(roots=line.nodes)
    highest = max(line.histogram)
    bars = "".join(_HEIGHTS[min(8, -(-8 * count // highest))] for count in line.histogram)
    said = f"{format.format_states(many)} · {format.format_times(line)}"
    name = f"{_agent(line.nodes[0].run.agent, line.model)} × {len(line.nodes):,} {bars} {said}"
    state, money = format.state_of(many), format.format_money(line.totals)
    columns = f"{format.GLYPHS[state]} {state:<9} {format.duration(line.seconds):>8} {money:>10} {_bar(line.bar)} "
    return format.cut(f"{columns}{'  ' * min(line.depth, 8)}{name}", max(width, 160)).rstrip()


def _row(line: RunLine | StepLine, state: str, money: str, name: str, width: int) -> str:
    took = "" if state == "in doubt" else format.duration(line.seconds)
    if isinstance(line, StepLine):
        took = format.format_duration(line.node, line.seconds)
    columns = f"{format.GLYPHS[state]} {state:<9} {took:>8} {money:>10} {_bar(line.bar)} "
    return format.cut(f"{columns}{'  ' * min(line.depth, 8)}{name}", width).rstrip()


def _bar(bar: Bar) -> str:
    start = min(_BAR_CELLS - 1, int(bar.offset * _BAR_CELLS))
    cells = max(1, min(_BAR_CELLS - start, round(bar.width * _BAR_CELLS)))
    return " " * start + "▬" * cells + " " * (_BAR_CELLS - start - cells)


def _name(node: StepNode) -> str:
    step, short = node.step, format.clean(format.format_briefly(node.step), 160)
    name = format.clean(format.short_name(step), 60)
    marks = "".join(f" · {remark}" for remark in format.remarks(node))
    if step.kind == "tool":
        return f"{name}{marks}{' ' if marks else ''}{short}"
    return f"{step.kind} {name}{marks} {short}"


def _money(node: StepNode) -> str:
    price = format.price_of(node)
    return f"({price})" if price and node.step.replayed else price


def _step_remarks(node: StepNode, depth: int, width: int) -> list[str]:
    doubt = [_below("?", format.format_doubt(node), depth, width)] if node.state == "in doubt" else []
    if node.state == "waiting" and node.step.status == "started":
        doubt = [_below(format.GLYPHS["waiting"], format.format_question_hint(node), depth, width)]
    if unchecked := format.format_unchecked(node.step):
        doubt.append(_below("·", unchecked, depth, width))
    return doubt + ([_below("✕", node.step.error, depth, width)] if node.step.error else [])


def _run_remarks(node: RunNode, depth: int, width: int) -> list[str]:
    error = node.run.error if not shows_error_below(node) else None
    notes = [_below("·", note, depth, width) for note in node.run.notes[:_NOTES]]
    return ([_below("✕", error, depth, width)] if error else []) + notes


def _below(glyph: str, words: str, depth: int, width: int) -> str:
    """A remark under a row; given more room than a row, because it says what to do."""
    return format.cut(f"{' ' * (4 + 2 * depth)}{glyph} {format.clean(words, 240)}", max(width, 160))

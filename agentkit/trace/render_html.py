"""The panel under a cell: a trace as HTML that needs no script and no style sheet, with its metadata."""

from __future__ import annotations

import html as markup
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, TypeAlias, assert_never

from agentkit.events import Event, Run, Step
from agentkit.trace import budget_bars, format
from agentkit.trace.layout import Bar, FoldedLine, GroupLine, Line, RunLine, StepLine, fit_lines, lines
from agentkit.trace.render_text import text
from agentkit.trace.trace import UNFINISHED, StepNode, Trace, shows_error_below

__all__ = ["bundle", "html", "metadata", "text"]

# Each is readable on white and on Jupyter's dark #111: a contrast of 4.3 on both.
BLUE, GREEN, RED, AMBER = "#347acf", "#188b52", "#d4484f", "#b06805"
GREY = "#7f7f7f"
COLOURS = {
    "live": BLUE,
    "replayed": GREEN,
    "running": BLUE,
    "waiting": AMBER,
    "done": GREEN,
    "failed": RED,
    "cancelled": GREY,
    "stopped": AMBER,
    "truncated": AMBER,
    "filtered": AMBER,
    "stale": AMBER,
    "in doubt": AMBER,
}
_PALE = {GREEN: "#188b5299", GREY: "#7f7f7f66"}
_RULE = "1px solid #7f7f7f38"
# Front ends typeset what stands between two dollar signs as a formula; prices do.
_NO_MATH = "tex2jax_ignore mathjax_ignore"
_MUTED = "opacity:0.75"
_MUTED_STYLE = f'style="{_MUTED}"'
_OPENED = "font-size:11px;white-space:pre-wrap;word-break:normal;margin:0 14px 4px"
_MARKER = "13px"
"""Room on the left for the triangle of a row that opens."""
# Some front ends (nbclassic) make it a block, which has no triangle.
_OPENS = "display:list-item"

_TITLE_TEXT = 80
_SHORT_ENOUGH = 42
_DETAIL_TEXT = 400
_ERROR_TEXT = 300
_DETAIL_LINES = 12
_SHOWN_LINES = 6
_SHOWN_TEXT = 400
_SHOWN_MOST = 1_200
_NOTES = 8
_METADATA_TEXT = 80
_HTML_BYTES = 23_000
_METADATA_BYTES = 8_000
"""With the plain text, what a cell keeps of a panel stays under 40 KB, whatever ran."""
METADATA_KEY = "agentkit"

_Remark: TypeAlias = tuple[str, str, str]
"""Colour (or none), glyph, words."""


def bundle(trace: Trace, *, now: float, open: bool = True) -> dict[str, str]:
    """What a display handle takes: HTML for notebooks, plain text for terminals."""
    return {"text/html": html(trace, now=now, open=open), "text/plain": text(trace, now=now)}


# -- HTML


def html(trace: Trace, *, now: float, open: bool = True) -> str:
    """The panel as one `<details>` with inline styles only: it survives saving, reopening and untrusted notebooks."""
    return fit_lines(lambda most: _page(trace, now, open, most), _HTML_BYTES)


def _page(trace: Trace, now: float, open: bool, most: int) -> str:
    rows = "".join(_row(line) for line in lines(trace, now=now, most=most))
    return (
        f'<details{" open" if open else ""} class="{_NO_MATH}" style="border:{_RULE};border-radius:6px;'
        f'padding:5px 10px;margin:2px 0;font-size:12px;line-height:1.5;white-space:nowrap">'
        f"{_summary(trace, now)}{_head(trace, now) if rows else ''}{rows}{_budgets(trace)}{_footer(trace)}</details>"
    )


def _summary(trace: Trace, now: float) -> str:
    state = format.state_of(trace)
    facts = [_isolate(fact) for fact in format.headline(trace, now)]
    if saved := format.format_savings(trace.totals):
        facts[-1] = f'<b title="{format.explain_savings(trace.totals)}" style="color:{GREEN}">{saved}</b>'
    flags = "".join(f' · <b style="color:{COLOURS[kind]}">{words}</b>' for kind, words in format.flags(trace))
    return (
        f'<summary style="{_OPENS};white-space:normal"><b>{_isolate(format.title(trace))}</b> · '
        f'<b style="color:{COLOURS[state]}">{format.GLYPHS[state]} {format.format_states(trace)}</b> · '
        f"{' · '.join(facts)}{flags}</summary>"
    )


def _head(trace: Trace, now: float) -> str:
    words = ("step", "", f"time, {format.duration(trace.seconds(now))}", "took")
    columns = "".join(_column(place, word) for place, word in enumerate(words))
    columns += _figure(4, "tokens") + _figure(5, "price")
    return f'<div style="opacity:0.65;padding-left:{_MARKER}">{_line_of(columns)}</div>'


# The same in every row, whatever is in it, so that columns stand under each other. Where room is scarce the bars give
# way first, then the price, then the tokens, each whole: a figure that is cut would be read as another one. The name
# stays, and what it took.
_WHOLE = "overflow:hidden;white-space:normal;height:1.5em"
_COLUMNS = (
    "flex:1 0 10em;overflow:hidden;text-overflow:ellipsis",
    f"flex:0 1 6.2em;{_WHOLE}",
    "flex:0 99999 18%;overflow:hidden",
    "flex:0 0 4em;text-align:right",
    f"flex:0 9 8em;{_WHOLE};text-align:right",
    f"flex:0 999 5.4em;{_WHOLE};text-align:right",
)
# Nothing, and then a place to break: what does not fit goes to a second line, which is not seen. Figures are as wide as
# their column, so that a narrow one is not left standing where the others are gone.
_GIVES_WAY = "\u200b"
_AS_WIDE_AS = {4: 11, 5: 7}
_FILLER, _NO_BREAK = "\u2007", "\u00a0"


def _column(place: int, inner: str, style: str = "") -> str:
    """One cell of a row; a space follows, so that without styles a row still reads as a sentence."""
    return f'<span style="{_COLUMNS[place]}{style}">{inner}</span> '


def _figure(place: int, words: str, *, saved: bool = False) -> str:
    """A cell of the last two columns."""
    if not words:
        return _column(place, "")
    whole = words.replace(" ", _NO_BREAK).rjust(_AS_WIDE_AS[place], _FILLER)
    return _column(
        place, _GIVES_WAY + (f'<span title="saved" style="color:{GREEN}">{whole}</span>' if saved else whole)
    )


def _line_of(columns: str) -> str:
    return f'<span style="display:inline-flex;gap:6px;width:100%">{columns}</span>'


def _row(line: Line) -> str:
    match line:
        case RunLine(node=node, depth=depth):
            # Beside many others, how it went wrong is counted above.
            error = [] if line.remark or shows_error_below(node) else _error(node.run.error)
            return _run_row(line) + _below([*error, *_notes(node.run)], depth)
        case StepLine(node=node, depth=depth):
            told = _below([*_actions(node), *_error(node.step.error)], depth)
            return _step_row(line) + _asked(node, depth) + told + _output_html(node.step, depth)
        case GroupLine(errors=errors, others=others, depth=depth):
            failed: list[_Remark] = [(RED, f"✕ {count:,} ×", error) for error, count in errors]
            more = [("", "·", f"{format.format_count(others, 'run')} with other errors")] if others else []
            return _group_row(line) + _below([("", "·", format.format_times(line)), *failed, *more], depth)
        case FoldedLine():
            return _fold_row(line)
        case _:
            assert_never(line)


def _cells(
    line: Line,
    name: str,
    state: str,
    bar: str,
    *,
    took: str,
    tokens: str,
    price: str,
    saved: bool = False,
    opened: str = "",
) -> str:
    # Inside the column: what is added to its width would move the columns after it. A share, so that the name stays.
    indent = f'<span style="padding-left:{4 * min(line.depth, 10)}%"></span>' if line.depth else ""
    columns = (
        _column(0, indent + name)
        + _column(1, f"{format.GLYPHS[state]} {state}" if state else "", f";color:{COLOURS[state]}" if state else "")
        + _column(2, bar)
        + _column(3, took)
        + _figure(4, tokens)
        + _figure(5, price, saved=saved)
    )
    if not opened:
        return f'<div style="border-top:{_RULE};padding-left:{_MARKER}">{_line_of(columns)}</div>'
    summary = f'<summary style="{_OPENS};list-style-position:outside;margin-left:{_MARKER}">'
    return f'<details style="border-top:{_RULE}">{summary}{_line_of(columns)}</summary>{opened}</details>'


def _run_row(line: RunLine) -> str:
    node = line.node
    facts = " · ".join(_isolate(fact) for fact in (format.format_shares(node.totals), _prompt(node.run)) if fact)
    name = f"{_agent(node.run.agent, line.model)} {_mute(facts)}"
    return _cells(
        line,
        f"{line.remark}: {_mute(_isolate(_prompt(node.run)))}" if line.remark else name,
        node.state,
        _bar(line.bar, GREY),
        took=format.duration(line.seconds),
        tokens=format.amount(node.totals.tokens) if node.totals.tokens else "",
        price=format.format_money(node.totals),
        saved=not node.totals.spent,
    )


def _group_row(line: GroupLine) -> str:
    sums, many = line.totals, Trace(roots=line.nodes)
    name = f"{_agent(line.nodes[0].run.agent, line.model)} × {len(line.nodes):,}"
    return _cells(
        line,
        f"{name} {_mute(f'{format.format_states(many)} · {format.format_shares(sums)}')}",
        format.state_of(many),
        _histogram(line),
        took=format.duration(line.seconds),
        tokens=format.amount(sums.tokens) if sums.tokens else "",
        price=format.format_money(sums),
        saved=not sums.spent,
    )


def _agent(name: str, model: str) -> str:
    on = f" on <b>{_isolate(format.clean(model, 60))}</b>" if model else ""
    return f"<b>{_isolate(format.clean(name, 60))}</b>{on}"


def _histogram(line: GroupLine) -> str:
    """How many runs took how long, the shortest on the left."""
    highest = max(line.histogram)
    bars = "".join(
        f'<span style="flex:1;height:{max(1, round(14 * count / highest))}px;'
        f'background:{GREY if count else "#7f7f7f38"}"></span>'
        for count in line.histogram
    )
    style = "display:flex;align-items:flex-end;gap:1px;height:16px"
    return f'<span title="{format.format_times(line)}" style="{style}">{bars}</span>'


def _prompt(run: Run) -> str:
    return format.clean(run.prompt, _TITLE_TEXT)


def _step_row(line: StepLine) -> str:
    node = line.node
    price = format.price_of(node)
    return _cells(
        line,
        _name(node),
        node.state,
        _bar(line.bar, COLOURS[node.state], fading=node.state in UNFINISHED),
        took=format.format_duration(node, line.seconds),
        tokens=format.tokens_of(node),
        price=f"({price})" if price and node.step.replayed else price,
        saved=node.step.replayed,
        opened=_details_html(node.step),
    )


def _fold_row(line: FoldedLine) -> str:
    return _cells(
        line,
        _mute(f"<i>{format.format_folded(line.steps, line.runs)}</i>"),
        "",
        _bar(line.bar, GREY),
        took="",
        tokens=format.amount(line.steps.tokens) if line.steps.tokens else "",
        price=format.format_money(line.steps),
    )


def _name(node: StepNode) -> str:
    step = node.step
    name = _isolate(format.clean(format.short_name(step), 60))
    head = f"<b>{name}</b>" if step.kind == "tool" else f"{_mute(step.kind)} {name}"
    marks = "".join(f' · <b style="color:{AMBER}">{remark}</b>' for remark in format.remarks(node))
    return f"{head}{marks} {_mute(_isolate(format.clean(format.format_briefly(step), _TITLE_TEXT)))}"


def _output_html(step: Step, depth: int) -> str:
    """What a tool printed and displayed, under its row: the first lines, and all that is kept in short on a click."""
    if not step.shown:
        return ""
    style = f"{_OPENED.partition('margin')[0]}margin:0 14px 4px {14 + 18 * min(depth, 8)}px;{_MUTED}"
    head = format.clean_block(step.shown, _SHOWN_TEXT, lines=_SHOWN_LINES)
    if head == step.shown:
        return f'<pre style="{style}">{_isolate(head)}</pre>'
    first, _, rest = format.clean_block(step.shown, _SHOWN_MOST, lines=_SHOWN_MOST).partition("\n")
    summary = f'<summary style="{_OPENS}">{_isolate(format.clean(first, _SHOWN_TEXT))}</summary>'
    return f'<details style="{style}">{summary}{_isolate(rest)}</details>'


def _details_html(step: Step) -> str:
    """What a click opens: what was asked and what came back. Empty where the row already holds both."""
    short = format.format_briefly(step)
    if len(step.name) + len(short) <= _SHORT_ENOUGH and "\n" not in short:
        return ""
    asked, answered = (
        format.clean_block(part, _DETAIL_TEXT, lines=_DETAIL_LINES) for part in (step.request, step.result)
    )
    full = format.clean(step.name, _ERROR_TEXT) if step.name != format.short_name(step) else ""
    body = "\n".join(part for part in (full, asked, _after_arrow(answered)) if part)
    return f'<pre style="{_OPENED}">{_isolate(body)}</pre>'


def _after_arrow(answered: str) -> str:
    """A reply that calls tools brings its own arrows."""
    return f"→ {answered}" if answered and not answered.startswith("→") else answered


def _below(remarks: Sequence[_Remark], depth: int) -> str:
    """Errors, doubts and notes of a row, over the whole width."""
    if not remarks:
        return ""
    return f'<div style="padding-left:{14 + 18 * min(depth, 8)}px">{_remarks(remarks)}</div>'


def _remarks(remarks: Sequence[_Remark]) -> str:
    return "".join(
        f'<div style="white-space:normal;{f"color:{colour}" if colour else _MUTED}">'
        f"{glyph} {_isolate(format.clean(words, _ERROR_TEXT))}</div>"
        for colour, glyph, words in remarks
    )


def _actions(node: StepNode) -> list[tuple[str, str, str]]:
    """What a person can do about a step."""
    if node.state == "in doubt":
        return [(AMBER, "?", format.format_doubt(node))]
    unchecked = format.format_unchecked(node.step)
    return [(AMBER, "·", unchecked)] if unchecked else []


def _asked(node: StepNode, depth: int) -> str:
    """How to decide without buttons; not seen while the widget with the buttons is."""
    if node.state != "waiting" or node.step.status != "started":
        return ""
    told = _below([(AMBER, format.GLYPHS["waiting"], format.format_question_hint(node))], depth)
    return f'<div class="{format.without_buttons("step", node.step.id)}">{told}</div>'


def _error(error: str | None) -> list[_Remark]:
    return [(RED, "✕", error)] if error else []


def _notes(run: Run) -> list[_Remark]:
    left = len(run.notes) - _NOTES
    return [("", "·", note) for note in run.notes[:_NOTES]] + ([("", "·", f"{left} more notes")] if left > 0 else [])


def _budgets(trace: Trace) -> str:
    rows = (
        f'<div style="display:flex;gap:8px;align-items:center;white-space:normal"><span {_MUTED_STYLE}>budget of '
        f"{_isolate(format.clean(line.scope, 60))}</span> {budget_bars.bar_html(line.share)} "
        f"<span>{_isolate(line.said)}</span></div>"
        for line in budget_bars.of_trace(trace)
    )
    inner = "".join(rows)
    return f'<div style="border-top:{_RULE};padding:3px 0 1px {_MARKER}">{inner}</div>' if inner else ""


def _footer(trace: Trace) -> str:
    """What the only run has to say beyond its steps; several runs say it under their own rows."""
    if len(trace.roots) != 1:
        return ""
    root = trace.roots[0]
    return _remarks([*([] if shows_error_below(root) else _error(root.run.error)), *_notes(root.run)])


def _bar(bar: Bar, colour: str, *, fading: bool = False) -> str:
    paint = f"linear-gradient(to right, {colour}, #7f7f7f26)" if fading else _PALE.get(colour, colour)
    return (
        f'<div style="margin:5px 0 0 {min(bar.offset * 100, 98):.3g}%;width:{bar.width * 100:.3g}%;min-width:3px;'
        f'height:7px;border-radius:2px;background:{paint}"></div>'
    )


def _mute(markup: str) -> str:
    return f'<span style="{_MUTED}">{markup}</span>'


def _isolate(words: str) -> str:
    """Foreign text: escaped, and kept from turning the direction of what stands beside it."""
    escaped = markup.escape(words, quote=False)
    return escaped if words.isascii() else f"<bdi>{escaped}</bdi>"


# -- metadata


def metadata(trace: Trace) -> dict[str, Any]:
    """The trace for machines, to be kept in the metadata of the output: totals, runs and steps, bounded."""
    events = trace.events()
    runs = [event for event in events if isinstance(event, Run)]
    steps = [event for event in events if isinstance(event, Step)]
    kept_runs = _within(runs, _METADATA_BYTES // 2)
    kept_steps = _within(steps, _METADATA_BYTES - len(json.dumps(kept_runs)))
    return {
        METADATA_KEY: {
            "version": 1,
            "totals": asdict(trace.totals),
            "runs": kept_runs,
            "steps": kept_steps,
            "omitted_runs": len(runs) - len(kept_runs),
            "omitted_steps": len(steps) - len(kept_steps),
        }
    }


def _within(events: Sequence[Event], bytes: int) -> list[dict[str, Any]]:
    """As many of them as fit, the first ones."""
    kept: list[dict[str, Any]] = []
    for event in events:
        plain = _plain(event)
        bytes -= len(json.dumps(plain))
        if bytes < 0:
            break
        kept.append(plain)
    return kept


def _plain(event: Event) -> dict[str, Any]:
    """The event's fields that say something, texts bounded."""
    fields = {name: value for name, value in asdict(event).items() if value not in (None, "", (), False)}
    return {
        name: format.clean(value, _METADATA_TEXT) if isinstance(value, str) else _finite(value)
        for name, value in fields.items()
    }


def _finite(value: Any) -> Any:
    """JSON has no NaN or infinity."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, tuple | list):
        return [format.clean(item, _METADATA_TEXT) if isinstance(item, str) else item for item in value[:20]]
    return None if isinstance(value, float) and not math.isfinite(value) else value

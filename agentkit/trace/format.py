"""How counts, times, money and text from outside are written, so that the panel and its plain twin say the same."""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Mapping
from typing import Literal

from agentkit.events import Step
from agentkit.journal.provenance import origin
from agentkit.journal.records import ASKED, Row
from agentkit.journal.totals import Totals
from agentkit.text import visible as visible
from agentkit.text import visible_line
from agentkit.trace.layout import GroupLine
from agentkit.trace.trace import RunState, StepNode, Trace, price, waits_for_nobody

GLYPHS = {
    "live": "●",
    "replayed": "○",
    "running": "◐",
    "waiting": "◇",
    "done": "✓",
    "truncated": "◔",
    "filtered": "⊘",
    "failed": "✕",
    "cancelled": "–",
    "stopped": "■",
    "stale": "◌",
    "in doubt": "?",
}
SAYS = {"running": "running…", "waiting": "waiting for you"}
"""In the headline; a row has room for the state's own name only."""


_SOURCE = 80


def format_state(state: str) -> str:
    return SAYS.get(state, state)


def clean(text: str, limit: int) -> str:
    """`text` on one line without control characters, cut to `limit` characters with an ellipsis."""
    head = text[: limit * 4 + 64]
    line = " ".join(visible_line(head.replace("\n", " ").replace("\t", " ")).split())
    if len(line) <= limit and len(head) == len(text):
        return line
    return line[: max(0, limit - 1)].rstrip() + "…"


def clean_block(text: str, limit: int, *, lines: int) -> str:
    """The first `lines` lines of `text` without control characters, cut to `limit`; says how much was left out."""
    kept = "\n".join(text[:limit].split("\n")[:lines])
    left = len(text) - len(kept)
    shown = "\n".join(visible_line(line.replace("\t", "    ")) for line in kept.split("\n"))
    return f"{shown}… ({left:,} more characters)" if left else shown


def width_of(text: str) -> int:
    """Terminal cells that `text` takes."""
    return len(text) if text.isascii() else sum(map(_cells_of, text))


def _cells_of(char: str) -> int:
    return 0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1


def cut(text: str, width: int) -> str:
    """`text` in at most `width` terminal cells."""
    if width_of(text) <= width:
        return text
    left = width - 1
    for place, char in enumerate(text):
        left -= _cells_of(char)
        if left < 0:
            return text[:place] + "…"
    return text


def money(dollars: float) -> str:
    if dollars == 0:
        return "$0"
    if dollars < 0.00005:
        return "<$0.0001"
    if dollars < 0.1:
        return f"${dollars:.4f}"
    return f"${dollars:.3f}" if dollars < 1 else f"${dollars:,.2f}"


def duration(seconds: float) -> str:
    seconds = max(0.0, seconds)
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def amount(number: int) -> str:
    """A count that fits a narrow column."""
    if number < 1_000_000:
        return f"{number:,}"
    return f"{number / 1e6:,.1f} M" if number < 1e9 else f"{number / 1e9:,.0f} G"


def format_count(number: int, noun: str, nouns: str = "") -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {nouns or noun + 's'}"


def format_steps(totals: Totals) -> str:
    """`5 steps: 2 live, 3 replayed`"""
    return f"{format_count(totals.steps, 'step')}: {totals.live:,} live, {totals.replayed:,} replayed"


def format_shares(totals: Totals) -> str:
    """`3 live`, `3 replayed` or `2 live, 1 replayed`; empty before the first step."""
    shares = ((totals.live, "live"), (totals.replayed, "replayed"))
    return ", ".join(f"{count:,} {word}" for count, word in shares if count)


def short_name(step: Step) -> str:
    """A model without its provider and address; anything else as it is called."""
    return step.name.split(" @ ")[0].split(":", 1)[-1] if step.kind == "model" else step.name


def format_spending(totals: Totals) -> str:
    """What live steps cost; a price that is not known is never written as 0."""
    unpriced = f"{totals.unpriced:,} unpriced"
    if totals.unpriced:
        return f"spent {money(totals.spent)} + {unpriced}" if totals.spent else f"spent: {unpriced}"
    if totals.spent == 0 and totals.requests and totals.offline == totals.requests:
        return "$0 (offline)"
    return f"spent {money(totals.spent)}"


def format_savings(totals: Totals) -> str:
    """What replay avoided paying; tokens where there is no price. Empty when nothing was saved."""
    unpriced = f"{totals.saved_unpriced:,} unpriced"
    if totals.saved:
        return f"saved {money(totals.saved)}" + (f" + {unpriced}" if totals.saved_unpriced else "")
    if totals.saved_tokens:
        return f"saved {format_count(totals.saved_tokens, 'token')}" + (" (unpriced)" if totals.saved_unpriced else "")
    return f"saved {unpriced}" if totals.saved_unpriced else ""


def explain_savings(totals: Totals) -> str:
    took = duration(totals.saved_seconds)
    return f"when they were live, the replayed steps took {took} and {format_count(totals.saved_tokens, 'token')}"


def title(trace: Trace) -> str:
    """Whose trace this is: the agent, or how many runs of which agents."""
    if len(trace.roots) == 1:
        return clean(trace.roots[0].run.agent, 60)
    names = list(dict.fromkeys(clean(root.run.agent, 40) for root in trace.roots))
    listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"{len(trace.roots):,} runs of {listed}" if names else "nothing has run"


_BY_WEIGHT: tuple[RunState, ...] = (
    "waiting", "running", "in doubt", "failed", "stopped", "filtered", "truncated", "done",
)  # fmt: skip


def state_of(trace: Trace) -> RunState:
    """The state that a person must know first."""
    states = {root.state for root in trace.roots}
    return next((state for state in _BY_WEIGHT if state in states), "done")


def format_states(trace: Trace) -> str:
    """`done`, or for several runs how many are in which state."""
    counts = {state: sum(root.state == state for root in trace.roots) for state in _BY_WEIGHT}
    present = {state: count for state, count in counts.items() if count}
    words = {
        state: "waiting" if state == "waiting" and waits_for_nobody(trace) else format_state(state) for state in present
    }
    if len(present) <= 1:
        return next(iter(words.values()), "done")
    return ", ".join(f"{count} {words[state]}" for state, count in present.items())


def headline(trace: Trace, now: float) -> list[str]:
    """The facts of a trace in reading order, without the title and state."""
    steps, *others = sums(trace.totals)
    return [steps, duration(trace.seconds(now)), *others]


def sums(totals: Totals) -> list[str]:
    """What steps add up to: their number, tokens, price and what replay saved."""
    tokens = format_count(totals.tokens, "token") + (", estimated" if totals.estimated else "")
    facts = [format_steps(totals), tokens, format_spending(totals), format_savings(totals)]
    return [fact for fact in facts if fact]


def flags(trace: Trace) -> list[tuple[str, str]]:
    """What the state alone does not say: the state whose colour it has, and the words."""
    states, totals = {root.state for root in trace.roots}, trace.totals
    all_flags = (
        ("failed", totals.failed, f"{format_count(totals.failed, 'step')} failed", "failed" not in states),
        ("in doubt", totals.in_doubt, f"{format_count(totals.in_doubt, 'step')} in doubt", "in doubt" not in states),
        ("stale", _stale(trace), f"{format_count(_stale(trace), 'cached reply', 'cached replies')}", True),
        ("in doubt", totals.paid_twice, f"{totals.paid_twice:,} possibly paid twice", True),
    )
    return [(state, words) for state, count, words, new in all_flags if count and new]


def _stale(trace: Trace) -> int:
    return sum(node.state == "stale" for root in trace.roots for node in root.every_step())


def tokens_of(node: StepNode) -> str:
    usage = node.step.usage
    if usage is None:
        return ""
    return ("≈ " if usage.estimated else "") + f"{amount(usage.input_tokens)} → {amount(usage.output_tokens)}"


def price_of(node: StepNode) -> str:
    """What a step cost, or would have cost; empty for what has no price of its own."""
    known = price(node.step)
    if known is not None:
        return ("list " if node.step.usage is not None and node.step.usage.list_price else "") + money(known)
    return "unpriced" if node.step.status == "done" and node.step.kind == "model" else ""


def remarks(node: StepNode) -> list[str]:
    """What a person should know about a step beyond its state."""
    step = node.step
    said_of = {
        f"attempt {step.attempt}": step.attempt > 1,
        "shared": step.shared,
        "possibly paid twice": node.paid_twice,
        clean(origin(step.source), _SOURCE): bool(step.source),
        "at list price, its tier's is not known": step.usage is not None and step.usage.list_price,
        "tokens estimated, its server reports none": step.usage is not None and step.usage.estimated,
    }
    return [remark for remark, holds in said_of.items() if holds]


def format_unchecked(step: Step) -> str:
    """What a step that was answered from the record reads in ways that nobody could see; empty where there is none."""
    return f"not checked: {'; '.join(step.unchecked)}" if step.replayed and step.unchecked else ""


def origins(sources: Mapping[str, tuple[int, int]], held: str) -> list[str]:
    """What a journal holds that this user did not record here, one line for each source."""
    told = []
    for source, (steps, decisions) in sorted(sources.items()):
        more = f", {format_count(decisions, 'decision')} among them that will be asked again" if decisions else ""
        told.append(f"{format_count(steps, 'step')} {clean(origin(source), _SOURCE)}{more}")
    if held:
        where = clean(origin(held), _SOURCE)
        told.append(f"sessions here replay and perform nothing (records {where}): `agentkit journal leave` ends that")
    return told


def needs_a_person(step: Step | Row) -> bool:
    """Whether a step without a recorded end must be decided about before it can be gone on with."""
    return step.kind != "model" and step.effects in ("once", "undeclared")


def format_doubt(node: StepNode) -> str:
    """What a step without a recorded end means for the next run."""
    if node.step.kind == "model":
        return "started, no recorded end: the next run takes its answer where it came, or asks again"
    if not needs_a_person(node.step):
        return "started, no recorded end: the next run performs it again"
    return f"started, no recorded end: %agent settle {node.step.id} --redo | --result JSON | --stop, then run again"


def format_question_hint(node: StepNode) -> str:
    """What can be done about a question that somebody waits at."""
    return f"no buttons? run the cell again, or decide with %agent approve {node.step.id}"


def without_buttons(kind: Literal["step", "run"], id_: object) -> str:
    """The class of a remark for those who have no buttons: a widget that shows them hides it (ask.js, step.js)."""
    return f"agentkit-without-buttons-{kind}-{id_}"


def format_duration(node: StepNode, seconds: float) -> str:
    """How long a step has taken; of one that waits for its turn, how long that is still going to be."""
    step = node.step
    if node.state == "waiting" and step.waiting and step.until is not None:
        return f"{max(0.0, step.until - time.time()):.0f} s left"
    return "" if node.state == "in doubt" else duration(seconds)


def format_briefly(step: Step) -> str:
    """A step's question and answer on one line: a tool's arguments, a model's reply."""
    if step.waiting:
        left = "" if step.until is None else f", {duration(step.until - time.time())}"
        return f"{step.waiting}{left}"
    if step.source and step.kind in ASKED:
        # Its own words say who decided, and anybody can have written them.
        return f"decided {clean(origin(step.source), _SOURCE)}"
    if step.kind == "model":
        return step.result or step.request
    return (f"({step.request})" if step.request or step.kind == "tool" else "") + (
        f" → {step.result}" if step.result else ""
    )


def format_money(totals: Totals) -> str:
    """One cell's worth of money: what was spent, else in brackets what was saved."""
    if totals.spent:
        return money(totals.spent)
    return f"({money(totals.saved)})" if totals.saved else ""


def format_times(line: GroupLine) -> str:
    """How long many runs took."""
    return f"took {duration(line.shortest)} to {duration(line.longest)}, half of them under {duration(line.median)}"


def format_folded(steps: Totals, runs: int) -> str:
    more = f" and {format_count(runs, 'run')}" if runs else ""
    return f"… {format_steps(steps)}{more}, folded"

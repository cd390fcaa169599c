"""Two branches of a run side by side: the steps they share, those that changed and what, those that only one has."""

from __future__ import annotations

import html as markup
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Literal, TypeAlias

from agentkit.events import Event, Run, Step
from agentkit.journal.totals import Totals
from agentkit.trace import format
from agentkit.trace.render_html import AMBER, BLUE, GREEN
from agentkit.trace.trace import Trace

if TYPE_CHECKING:
    import pandas as pd

Verdict: TypeAlias = Literal["same", "changed", "only left", "only right"]
_COLOURS: dict[Verdict, str] = {"same": GREEN, "changed": AMBER, "only left": BLUE, "only right": BLUE}
_CELL = "padding:2px 8px;text-align:left;vertical-align:top;border-top:1px solid #7f7f7f38"
_TEXT = 300


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One line: the step of either side, and what differs between them."""

    verdict: Verdict
    left: Step | None = None
    right: Step | None = None
    changed: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Diff:
    """Two runs lined up, with what each cost when its steps were performed."""

    left: Run
    right: Run
    pairs: tuple[Pair, ...]
    totals: tuple[Totals, Totals]

    @classmethod
    def of(cls, left: Iterable[Event], right: Iterable[Event]) -> Diff:
        """Line up two traces; each begins with its run."""
        sides = [list(left), list(right)]
        runs = [next(event for event in side if isinstance(event, Run)) for side in sides]
        steps = [_own(side, run) for side, run in zip(sides, runs, strict=True)]
        traces = [Trace.of(side) for side in sides]
        return cls(
            left=runs[0],
            right=runs[1],
            pairs=tuple(_align(*steps)),
            totals=(traces[0].totals, traces[1].totals),
        )

    def rows(self) -> list[dict[str, object]]:
        """One plain record for each line."""
        return [
            {
                "step": number,
                "verdict": pair.verdict,
                "changed": ", ".join(pair.changed),
                "name": _name(pair.left or pair.right),
                self.left.id: _format_step(pair.left),
                self.right.id: _format_step(pair.right),
            }
            for number, pair in enumerate(self.pairs, start=1)
        ]

    def frame(self) -> pd.DataFrame:
        # pandas takes a moment to import, and text and HTML do without it.
        import pandas as pd

        return pd.DataFrame(self.rows(), columns=["step", "verdict", "changed", "name", self.left.id, self.right.id])

    def bundle(self) -> dict[str, str]:
        return {"text/html": self.html(), "text/plain": self.text()}

    def headline(self) -> str:
        counts = {verdict: sum(pair.verdict == verdict for pair in self.pairs) for verdict in _COLOURS}
        told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count) or "no steps"
        return f"{self.left.id} and {self.right.id} · {told}"

    def text(self) -> str:
        lines = [self.headline()]
        for row in self.rows():
            what = f" ({row['changed']})" if row["changed"] else ""
            lines.append(f"  {row['step']} {row['verdict']}{what} · {row['name']}")
            if row["verdict"] != "same":
                lines += [f"      {run.id}: {row[run.id]}" for run in (self.left, self.right) if row[run.id]]
        return "\n".join([*lines, *(f"  {side}" for side in self._sides())])

    def html(self) -> str:
        rows = "".join(_row(row, self.left.id, self.right.id) for row in self.rows())
        heads = "".join(
            f'<th style="{_CELL}">{_escape(head)}</th>' for head in ("", "", "step", self.left.id, self.right.id)
        )
        sides = "".join(f'<div style="opacity:0.75">{_escape(side)}</div>' for side in self._sides())
        return (
            '<div class="tex2jax_ignore mathjax_ignore" style="border:1px solid #7f7f7f38;border-radius:6px;'
            f'padding:5px 10px;font-size:12px"><b>{_escape(self.headline())}</b>'
            f'<table style="width:100%;font-size:12px"><tr>{heads}</tr>{rows}</table>{sides}</div>'
        )

    def _sides(self) -> list[str]:
        return [
            f"{run.id}: {run.status}, {_cost(totals)}, {format.duration((run.ended or run.started) - run.started)}"
            for run, totals in zip((self.left, self.right), self.totals, strict=True)
        ]


def _own(side: Sequence[Event], run: Run) -> list[Step]:
    return [event for event in side if isinstance(event, Step) and event.run == run.id and event.numbered]


def _align(left: Sequence[Step], right: Sequence[Step]) -> Iterable[Pair]:
    matcher = SequenceMatcher(None, [_line(step) for step in left], [_line(step) for step in right], autojunk=False)
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        if tag == "equal":
            yield from (_pair(one, other) for one, other in zip(left[i1:i2], right[j1:j2], strict=True))
            continue
        # Within what was replaced, the steps are held against each other in order; what is left over stands alone.
        both = min(i2 - i1, j2 - j1)
        for one, other in zip(left[i1 : i1 + both], right[j1 : j1 + both], strict=True):
            yield _pair(one, other)
        yield from (Pair(verdict="only left", left=one) for one in left[i1 + both : i2])
        yield from (Pair(verdict="only right", right=other) for other in right[j1 + both : j2])


def _line(step: Step) -> tuple[str, str, str, str]:
    return (step.kind, step.name, step.request, step.result)


def _pair(one: Step, other: Step) -> Pair:
    if one.id == other.id:
        return Pair(verdict="same", left=one, right=other)
    if "question" in (one.kind, other.kind):
        given = next(step.name.removeprefix("edit ") for step in (other, one) if step.kind == "question")
        return Pair(verdict="changed", left=one, right=other, changed=(f"{given}, by a person",))
    facts = {
        "kind": one.kind != other.kind,
        "model" if one.kind == "model" else "tool": one.name != other.name,
        "asked" if one.kind == "model" else "arguments": one.request != other.request,
        "reply" if one.kind == "model" else "result": one.result != other.result,
        "error": one.error != other.error,
    }
    changed = tuple(what for what, differs in facts.items() if differs)
    return Pair(verdict="changed" if changed else "same", left=one, right=other, changed=changed)


def _name(step: Step | None) -> str:
    return "" if step is None else f"{step.kind} {format.clean(format.short_name(step), 60)}"


def _format_step(step: Step | None) -> str:
    if step is None:
        return ""
    return format.clean(step.error or format.format_briefly(step), _TEXT)


def _cost(totals: Totals) -> str:
    """What its steps cost whenever they were live: a branch that shares steps did not pay for them again."""
    saved = format.format_savings(totals)
    return format.format_spending(totals) + (f", {saved}" if saved else "")


def _row(row: dict[str, object], left: str, right: str) -> str:
    verdict = row["verdict"]
    colour = _COLOURS[verdict]  # type: ignore[index]
    what = f" ({row['changed']})" if row["changed"] else ""
    said = f'<b style="color:{colour}">{_escape(f"{verdict}{what}")}</b>'
    sides = (_escape(str(row[left])), "the same" if verdict == "same" else _escape(str(row[right])))
    cells = (str(row["step"]), said, _escape(str(row["name"])), *sides)
    return "<tr>" + "".join(f'<td style="{_CELL}">{cell}</td>' for cell in cells) + "</tr>"


def _escape(words: str) -> str:
    escaped = markup.escape(words, quote=False)
    return escaped if words.isascii() else f"<bdi>{escaped}</bdi>"

"""A comparison of models as frames, and as a picture of cost, latency and agreement without script or images."""

from __future__ import annotations

import html as markup
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import pandas as pd

from agentkit.agent.compare import WORDS, Comparison, Sample
from agentkit.runtime import describe
from agentkit.trace import format as wording
from agentkit.trace.render_html import AMBER, BLUE, GREEN, GREY, RED

_HEIGHT = 190
_CELL = "text-align:left;padding:1px 9px 1px 0"
_ANSWER = "text-align:left;vertical-align:top;padding:2px 12px 2px 0;white-space:pre-wrap;min-width:10em"
_PROMPTS, _REPEATS = 6, 3
"""Of so many prompts, so many answers of each model stand beside each other; the frame has all."""
_CHARACTERS, _FEWEST = 12_000, 80
"""Of all these answers together, so that a saved cell stays small; and of each at least."""
_COLUMNS = ("p50", "p95", "p99")


def samples_frame(comparison: Comparison) -> pd.DataFrame:
    """One row for each answer."""
    frame = pd.DataFrame([asdict(sample) for sample in comparison.samples])
    frame.insert(2, "asked", frame["prompt"].map(lambda number: comparison.prompts[number]))
    return frame


def models_frame(comparison: Comparison) -> pd.DataFrame:
    """One row for each model: agreement, score, latency at three percentiles, cost; `pareto` marks what none beats."""
    names = list(dict.fromkeys(sample.model for sample in comparison.samples))
    rows = [_row(name, [one for one in comparison.samples if one.model == name]) for name in names]
    frame = pd.DataFrame(rows)
    frame["pareto"] = [_is_best(row, rows) for row in rows]
    return frame


def _row(model: str, samples: Sequence[Sample]) -> dict[str, object]:
    done = [sample for sample in samples if not sample.error]
    seconds = sorted(sample.seconds for sample in done if sample.seconds is not None)
    costs = [sample.cost for sample in done]
    return {
        "model": model,
        "runs": len(samples),
        "failed": len(samples) - len(done),
        "replayed": sum(sample.replayed for sample in done),
        "agreement": _mean([sample.agreement for sample in done]),
        "score": _mean([sample.score for sample in done]),
        **{name: percentile(seconds, float(name[1:])) for name in _COLUMNS},
        "tokens": _mean([sample.input_tokens + sample.output_tokens for sample in done]),
        "cost": None if None in costs else _mean(costs),
    }


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """The nearest value that so many per cent do not exceed."""
    if not ordered:
        return None
    return ordered[max(0, math.ceil(share / 100 * len(ordered)) - 1)]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _is_best(row: dict[str, object], rows: Sequence[dict[str, object]]) -> bool:
    """Whether no other model is at least as cheap, fast and good, and better in one of these."""
    mine = _rank(row)
    if mine is None:
        return False
    return not any(
        theirs is not None and theirs != mine and all(a <= b for a, b in zip(theirs, mine, strict=True))
        for theirs in map(_rank, rows)
    )


def _rank(row: dict[str, object]) -> tuple[float, ...] | None:
    """Cost, latency and the lack of quality: the less the better. A price that is not known beats nobody."""
    quality = row["score"] if row["score"] is not None else row["agreement"]
    cost, latency = row["cost"], row["p50"]
    if not isinstance(latency, float) or row["runs"] == row["failed"]:
        return None
    return (
        cost if isinstance(cost, int | float) else math.inf,
        latency,
        -quality if isinstance(quality, float) else 0.0,
    )


# ---- as it is shown


def html(comparison: Comparison) -> str:
    rows = models_frame(comparison).to_dict("records")
    graded = any(_is_known(row["score"]) for row in rows)
    heads = ["", "model", "runs", "agreement", *(["score"] if graded else []), *_COLUMNS, "tokens", "cost of one"]
    lines = "".join(_table_row(row, graded=graded) for row in rows)
    cells = "".join(f'<th style="{_CELL}">{head}</th>' for head in heads)
    notes = "".join(f'<div style="color:{AMBER}">· {markup.escape(note)}</div>' for note in comparison.notes)
    asked = wording.format_count(len(comparison.prompts), "prompt")
    plot, filled = _plot(rows), "score" if graded else "agreement"
    legend = f"Dot: median latency and cost; line: up to p95; filled by {filled}." if plot else ""
    return (
        '<div class="tex2jax_ignore mathjax_ignore" style="border:1px solid #7f7f7f38;border-radius:6px;'
        'padding:6px 12px;margin:2px 0;font-size:12px;line-height:1.5">'
        f"<b>{markup.escape(wording.clean(comparison.agent, 60))}</b> on {wording.format_count(len(rows), 'model')}, "
        f'{asked}<table style="font-size:12px;margin:4px 0;border:none"><thead><tr>{cells}</tr></thead>'
        f"<tbody>{lines}</tbody></table>{plot}"
        f'<div style="opacity:0.75">◆ no other model is cheaper, faster and better at once. {_agreement(comparison)} '
        f"{legend}</div>{notes}{_answers(comparison)}</div>"
    )


def text(comparison: Comparison) -> str:
    frame = models_frame(comparison)
    return "\n".join(
        [frame.to_string(index=False), _agreement(comparison), *comparison.notes, *_answer_lines(comparison)]
    )


def _agreement(comparison: Comparison) -> str:
    several = len({sample.model for sample in comparison.samples}) > 1
    others = "what the other models answered to the same prompt" if several else "the model's other answers to it"
    how = f"by their first {WORDS:,} words in common order; 100% is word for word"
    return f"Agreement: how much an answer has of {others}, {how}."


def _side_by_side(comparison: Comparison) -> Iterator[tuple[str, list[list[Sample]]]]:
    """What was asked, and the rows of answers to it: one from each model, in the order of the table above."""
    names = list(dict.fromkeys(sample.model for sample in comparison.samples))
    for number, prompt in enumerate(comparison.prompts[:_PROMPTS]):
        asked = [sample for sample in comparison.samples if sample.prompt == number]
        lanes = [[sample for sample in asked if sample.model == name][:_REPEATS] for name in names]
        yield prompt, [list(row) for row in zip(*lanes, strict=True)]


def _answer(sample: Sample, characters: int) -> str:
    return wording.clean_block(sample.error or describe.output(sample.output), characters, lines=24)


def _room(comparison: Comparison) -> int:
    """How many characters of each answer are shown."""
    shown = min(len(comparison.samples), sum(len(row) for _, rows in _side_by_side(comparison) for row in rows))
    return max(_FEWEST, _CHARACTERS // max(1, shown))


def _left_out(comparison: Comparison) -> str:
    shown = sum(len(row) for _, rows in _side_by_side(comparison) for row in rows)
    left = len(comparison.samples) - shown
    return f"{wording.format_count(left, 'more answer')}: the cell's value is a frame of all" if left else ""


def _answers(comparison: Comparison) -> str:
    names = list(dict.fromkeys(sample.model for sample in comparison.samples))
    heads = "".join(f'<th style="{_CELL}">{_escaped(wording.clean(name, 60))}</th>' for name in names)
    parts = []
    for prompt, rows in _side_by_side(comparison):
        cells = "".join(f"<tr>{''.join(_answer_cell(one, _room(comparison)) for one in row)}</tr>" for row in rows)
        parts.append(
            f'<div style="opacity:0.75;margin-top:4px">{_escaped(wording.clean(prompt, 200))}</div>'
            f'<table style="font-size:12px;border:none"><thead><tr>{heads}</tr></thead><tbody>{cells}</tbody></table>'
        )
    more = f'<div style="opacity:0.75">… {left}</div>' if (left := _left_out(comparison)) else ""
    return (
        '<details open style="overflow-x:auto"><summary style="cursor:pointer">answers side by side</summary>'
        f"{''.join(parts)}{more}</details>"
    )


def _answer_cell(sample: Sample, characters: int) -> str:
    colour = f";color:{RED}" if sample.error else ""
    return f'<td style="{_ANSWER}{colour}">{_escaped(_answer(sample, characters))}</td>'


def _answer_lines(comparison: Comparison) -> Iterator[str]:
    for prompt, rows in _side_by_side(comparison):
        yield wording.clean(prompt, 100)
        yield from (f"  {one.model}: {wording.clean(_answer(one, 200), 200)}" for row in rows for one in row)
    if left := _left_out(comparison):
        yield f"… {left}"


def _escaped(words: str) -> str:
    """Foreign text, which may not turn the direction of what stands beside it."""
    escaped = markup.escape(words, quote=False)
    return escaped if words.isascii() else f"<bdi>{escaped}</bdi>"


def _is_known(value: object) -> bool:
    return isinstance(value, int | float) and not math.isnan(value)


def _number(value: object, pattern: str) -> str:
    return format(value, pattern) if _is_known(value) else "–"


def _table_row(row: dict[object, object], *, graded: bool) -> str:
    every = row["failed"] == row["runs"]
    words = "all failed" if every else f"{row['failed']} failed"
    failed = f', <b style="color:{RED}">{words}</b>' if row["failed"] else ""
    name = markup.escape(wording.clean(str(row["model"]), 60), quote=False)
    cells = [
        f'<b style="color:{GREEN}">◆</b>' if row["pareto"] else "",
        f"<b>{name}</b>",
        f"{row['runs']}{failed}",
        _number(row["agreement"], ".0%"),
        *([_number(row["score"], ".2f")] if graded else []),
        *(wording.duration(float(str(row[name]))) if _is_known(row[name]) else "–" for name in _COLUMNS),
        _number(row["tokens"], ",.0f"),
        wording.money(float(str(row["cost"]))) if _is_known(row["cost"]) else "–" if every else "unpriced",
    ]
    shown = "".join(f'<td style="{_CELL}">{cell}</td>' for cell in cells)
    return f"<tr>{shown}</tr>"


def _plot(rows: Sequence[dict[object, object]]) -> str:
    """Dots on a plane: to the right is slower, up is dearer. Nothing where nothing is known to cost anything."""
    shown = [row for row in rows if _is_known(row["p50"])]
    if not any(row["cost"] for row in shown if _is_known(row["cost"])):
        return ""
    slowest = max(float(str(row["p95"])) for row in shown) * 1.15 or 1.0
    dearest = max(float(str(row["cost"])) for row in shown if _is_known(row["cost"])) * 1.25
    dots = "".join(_dot(row, slowest, dearest) for row in shown)
    return (
        f'<div style="position:relative;height:{_HEIGHT}px;margin:6px 4px 20px 4px;border-left:1px solid {GREY};'
        f'border-bottom:1px solid {GREY};max-width:640px">'
        f'<span style="position:absolute;left:4px;top:-2px;opacity:0.7">↑ {wording.money(dearest)}</span>'
        f'<span style="position:absolute;right:0;bottom:-20px;opacity:0.7">{wording.duration(slowest)} →</span>'
        f"{dots}</div>"
    )


def _dot(row: dict[object, object], slowest: float, dearest: float) -> str:
    p50, p95 = float(str(row["p50"])), float(str(row["p95"]))
    left, wide = 100 * p50 / slowest, 100 * (p95 - p50) / slowest
    cost = float(str(row["cost"])) if _is_known(row["cost"]) else 0.0
    bottom = 100 * cost / dearest
    quality = row["score"] if _is_known(row["score"]) else row["agreement"]
    share = float(str(quality)) if _is_known(quality) else 0.0
    colour = GREEN if row["pareto"] else BLUE
    name = markup.escape(wording.clean(str(row["model"]).rpartition("#")[2], 40), quote=False)
    # Beyond the middle the name stands to the left of its dot.
    side = "right:14px" if left > 60 else "left:14px"
    return (
        f'<div style="position:absolute;left:{left:.1f}%;bottom:calc({bottom:.1f}% + 6px);width:{wide:.1f}%;height:2px;'
        f'background:{colour};opacity:0.5"></div>'
        f'<div style="position:absolute;left:calc({left:.1f}% - 6px);bottom:{bottom:.1f}%;width:12px;height:12px;'
        f"border-radius:6px;border:2px solid {colour};box-sizing:border-box;"
        f'background:linear-gradient(to top, {colour} {share:.0%}, transparent {share:.0%})">'
        f'<span style="position:absolute;{side};top:-5px;white-space:nowrap">{name}{" ◆" if row["pareto"] else ""}'
        "</span></div>"
    )

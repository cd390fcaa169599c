"""One panel for a whole map, however long its table: as HTML, as plain text, and as one line of a terminal."""

from __future__ import annotations

import html as markup
import time
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

from agentkit.map.progress import BIN_EDGES, BatchStanding, Snapshot
from agentkit.trace import budget_bars, format
from agentkit.trace.budget_bars import BarLine
from agentkit.trace.render_html import AMBER, BLUE, GREEN, GREY, RED

MapState: TypeAlias = Literal["empty", "running", "waiting", "done", "failed", "stopped"]

_SHOWN_KINDS = 8
_SHOWN_SLOW = 10
_SHOWN_BATCHES = 3
_BATCH_WORD = 40
_LABEL = 60
_TITLE = 60
_REASON = 300
_LEAST_SHARE = 0.4
"""Per cent of the bar. A part of which there is one row is seen, too."""

_COLOURS: dict[MapState, str] = {
    "empty": GREY, "running": BLUE, "waiting": AMBER, "done": GREEN, "failed": RED, "stopped": AMBER,
}  # fmt: skip
_GLYPHS: dict[MapState, str] = {
    "empty": "–", "running": "◐", "waiting": "◇", "done": "✓", "failed": "✕", "stopped": "■",
}  # fmt: skip
_RULE = "1px solid #7f7f7f38"
_MUTED = "opacity:0.75"
_TRACK = "#7f7f7f38"
_REPLAYED = "#188b5280"
_HEIGHTS = " ▁▂▃▄▅▆▇█"
_EIGHTHS = " ▏▎▍▌▋▊▉█"


class _Part(NamedTuple):
    """Rows of one kind: how many, how they are painted and called."""

    rows: int
    colour: str
    glyph: str
    word: str


def _parts(snapshot: Snapshot) -> list[_Part]:
    parts = (
        _Part(snapshot.replayed, _REPLAYED, format.GLYPHS["replayed"], "replayed"),
        _Part(snapshot.live, GREEN, format.GLYPHS["live"], "live"),
        _Part(snapshot.failed, RED, format.GLYPHS["failed"], "failed"),
        _Part(snapshot.waiting, AMBER, format.GLYPHS["waiting"], "waiting for you"),
        _Part(snapshot.in_flight, f"{BLUE}80", format.GLYPHS["running"], "under way"),
    )
    return [part for part in parts if part.rows]


def state_of(snapshot: Snapshot) -> MapState:
    """The state that a person must know first."""
    if snapshot.total == 0:
        return "empty"
    if not snapshot.finished:
        return "waiting" if snapshot.waiting and not snapshot.in_flight and not snapshot.left else "running"
    if snapshot.reason or snapshot.left:
        return "stopped"
    return "waiting" if snapshot.waiting else "failed" if snapshot.failed else "done"


def _describe_state(snapshot: Snapshot) -> str:
    match state_of(snapshot):
        case "empty":
            return "no rows"
        case "running" if not snapshot.ended and not snapshot.in_flight:
            return "begins…"
        case "running":
            return "running…"
        case "waiting":
            return "waiting for you"
        case "done":
            return "done"
        case "failed":
            return f"done, {format.format_count(snapshot.failed, 'row')} failed"
        case "stopped":
            return "stopped"


def _describe_rows(snapshot: Snapshot) -> str:
    """`12,340 of 250,000 rows`: those with an answer."""
    if snapshot.total is None:
        return format.format_count(snapshot.done, "row")
    return f"{snapshot.done:,} of {format.format_count(snapshot.total, 'row')}"


def _share(snapshot: Snapshot) -> float | None:
    """What of the map has ended, from 0 to 1."""
    return snapshot.ended / snapshot.total if snapshot.total else None


def _percent(share: float) -> str:
    """Never 100 % before the end, nor 0 % after the begin."""
    percent = 100 * share
    if 0 < percent < 1:
        return "<1 %"
    return f"{int(percent)} %"


def _rate(rate: float) -> str:
    """In the unit that has digits before the point."""
    if rate >= 100:
        return f"{rate:,.0f} rows/s"
    if rate >= 1:
        return f"{rate:.1f} rows/s"
    return f"{60 * rate:.1f} rows/min" if rate * 60 >= 1 else f"{3600 * rate:.1f} rows/h"


def _time_left(seconds: float) -> str:
    """As exact as an extrapolation is."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 600:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{round(minutes / 60)} h" if minutes < 48 * 60 else f"{round(minutes / 60 / 24)} days"


def _spent(snapshot: Snapshot) -> str:
    if snapshot.unpriced and not snapshot.spent:
        return "unpriced" if snapshot.live or snapshot.failed else format.money(0)
    return format.money(snapshot.spent) + (" + unpriced" if snapshot.unpriced else "")


class _Figure(NamedTuple):
    """A number that a person plans by, its name, and a remark below it."""

    name: str
    value: str
    remark: str = ""


def _figures(snapshot: Snapshot) -> list[_Figure]:
    running = not snapshot.finished
    expected = "" if snapshot.expected is None else f"≈ {format.money(snapshot.expected)} expected"
    saved = f"{format.money(snapshot.saved)} saved" if snapshot.saved else ""
    took = format.duration(snapshot.seconds)
    left = "not known yet" if snapshot.eta is None else _time_left(snapshot.eta)
    figures = [
        _Figure("rate", _rate(snapshot.rate) if snapshot.rate else "–", "the last minute" if running else "on average"),
        _Figure("time left", left, f"{took} so far") if running and snapshot.left != 0 else _Figure("took", took),
        _Figure("spent", _spent(snapshot), " · ".join(filter(None, (expected, saved)))),
        _Figure("tokens", format.amount(snapshot.tokens), "estimated" if snapshot.estimated else ""),
    ]
    if running:
        figures.append(_Figure("workers", f"{snapshot.in_flight:,} of {snapshot.workers:,}", "rows under way"))
    if snapshot.server_wait >= 1:
        figures.append(_Figure("held by the server", format.duration(snapshot.server_wait), "its limit, all requests"))
    return figures


def _describe_batch(batch: BatchStanding) -> str:
    """What a provider says of a batch."""
    counts = format.format_count(batch.rows, "row")
    if batch.answered is not None:
        failed = f" ({batch.failed:,} with an error)" if batch.failed else ""
        counts = f"{batch.answered:,} of {counts} answered{failed}"
    since = time.strftime("%d %b %H:%M", time.localtime(batch.created))
    state = format.clean(batch.status.replace("_", " "), _BATCH_WORD)
    name, provider = format.clean(batch.id, _BATCH_WORD), format.clean(batch.provider, _BATCH_WORD)
    return f"batch {name} at {provider}: {counts}, {state} since {since}"


def _next_steps(snapshot: Snapshot) -> list[tuple[str, str, str]]:
    """What a person can do: colour, glyph, words."""
    steps = [(BLUE, "◐", _describe_batch(batch)) for batch in snapshot.batches[:_SHOWN_BATCHES]]
    if len(snapshot.batches) > _SHOWN_BATCHES:
        steps.append((BLUE, "◐", f"and {len(snapshot.batches) - _SHOWN_BATCHES} more batches"))
    if snapshot.batches:
        steps.append(("", "·", "Stop does not stop a batch at its provider: run it again and it is collected"))
    if snapshot.reason:
        steps.append((AMBER, "■", format.clean(snapshot.reason, _REASON)))
    if snapshot.finished and snapshot.left:
        steps.append(("", "·", f"{snapshot.left:,} rows were not asked: run it again and it goes on with them"))
    if snapshot.finished and snapshot.failed:
        steps.append(("", "·", "failed rows keep their place, with `status` and `error`; run it again to ask them"))
    if snapshot.waiting:
        asked = f"decide about {'it' if snapshot.waiting == 1 else 'them'}"
        more = "; the other rows go on meanwhile" if snapshot.in_flight or snapshot.left else ""
        waiting = f"{format.format_count(snapshot.waiting, 'row')} waiting for you: {asked}{more}"
        steps.append((AMBER, format.GLYPHS["waiting"], waiting))
    return steps


# -- HTML


def render_html(snapshot: Snapshot, *, title: str, budget: BarLine | None = None) -> str:
    """The panel with inline styles only: it survives saving, reopening and untrusted notebooks."""
    body = "" if snapshot.total == 0 else _body(snapshot, budget)
    return (
        f'<div class="tex2jax_ignore mathjax_ignore" style="border:{_RULE};border-radius:6px;padding:8px 12px 9px;'
        f'margin:2px 0;font-size:12px;line-height:1.5">{_head(snapshot, title)}{body}</div>'
    )


def _head(snapshot: Snapshot, title: str) -> str:
    state, share = state_of(snapshot), _share(snapshot)
    facts = [_describe_rows(snapshot)] if snapshot.total != 0 else ["the table is empty"]
    if share is not None and not snapshot.finished:
        facts.append(_percent(share))
    if snapshot.eta is not None:
        facts.append(f"about {_time_left(snapshot.eta)} left")
    words = " · ".join(facts)
    return (
        f'<div><b>{_foreign(title, _TITLE)}</b> · <b style="color:{_COLOURS[state]}">{_GLYPHS[state]} '
        f"{_describe_state(snapshot)}</b> · {words}</div> "
    )


def _body(snapshot: Snapshot, budget: BarLine | None) -> str:
    above = _bar(snapshot) + _legend(snapshot) + _tiles(snapshot) + _budget(budget)
    return above + _columns(_times(snapshot) + _failures(snapshot), _slowest(snapshot)) + _remarks(snapshot)


def _columns(*columns: str) -> str:
    """Beside each other where there is room, else below."""
    filled = "".join(f'<div style="flex:1 1 20em;min-width:0">{column}</div>' for column in columns if column)
    return f'<div style="display:flex;flex-wrap:wrap;gap:0 32px">{filled}</div>' if filled else ""


def _bar(snapshot: Snapshot) -> str:
    total = snapshot.total or max(1, snapshot.ended + snapshot.waiting + snapshot.in_flight)
    pieces = "".join(
        f'<span style="flex:0 1 {max(_LEAST_SHARE, 100 * part.rows / total):.3g}%;background:{part.colour}"></span>'
        for part in _parts(snapshot)
    )
    said = f"{_describe_state(snapshot)}: {_describe_rows(snapshot)}"
    return (
        f'<div role="progressbar" aria-valuemin="0" aria-valuemax="{total}" aria-valuenow="{snapshot.ended}" '
        f'aria-valuetext="{said}" style="display:flex;height:12px;border-radius:6px;overflow:hidden;'
        f'background:{_TRACK};margin:6px 0 4px">{pieces}</div>'
    )


def _legend(snapshot: Snapshot) -> str:
    parts = "".join(
        f'<span style="white-space:nowrap"><span style="display:inline-block;width:8px;height:8px;border-radius:2px;'
        f'background:{part.colour}"></span> {part.rows:,} {part.word}</span> '
        for part in _parts(snapshot)
    )
    if not snapshot.finished and snapshot.left is not None and snapshot.left > snapshot.in_flight:
        left = snapshot.left - snapshot.in_flight
        parts += (
            f'<span style="white-space:nowrap;{_MUTED}"><span style="display:inline-block;width:8px;height:8px;'
            f'border-radius:2px;background:{_TRACK}"></span> {left:,} to come</span>'
        )
    return f'<div style="display:flex;flex-wrap:wrap;gap:0 16px">{parts}</div>'


def _tiles(snapshot: Snapshot) -> str:
    tiles = "".join(
        f'<div style="min-width:6.5em"><div style="font-size:11px;{_MUTED}">{figure.name}</div> '
        f'<div style="font-size:16px;line-height:1.3;white-space:nowrap">{markup.escape(figure.value)}</div> '
        f'<div style="font-size:11px;{_MUTED}">{markup.escape(figure.remark)}</div></div> '
        for figure in _figures(snapshot)
    )
    style = f"display:flex;flex-wrap:wrap;gap:6px 24px;border-top:{_RULE};margin-top:8px;padding-top:6px"
    return f'<div style="{style}">{tiles}</div>'


def _budget(budget: BarLine | None) -> str:
    if budget is None:
        return ""
    name, said = _foreign(budget.scope, _TITLE), _foreign(budget.said, _TITLE)
    return (
        f'<div style="display:flex;gap:8px;align-items:center;margin-top:7px"><span style="{_MUTED}">budget of {name}'
        f"</span> {budget_bars.bar_html(budget.share)} <span>{said}</span></div>"
    )


def _section(name: str, inner: str) -> str:
    return f'<div style="font-size:11px;{_MUTED};margin:8px 0 2px">{name}</div>{inner}'


def _bins(snapshot: Snapshot) -> tuple[int, int]:
    """The bins that are drawn: from the first to the last that holds a row, and at least five."""
    held = [place for place, count in enumerate(snapshot.histogram) if count]
    if not held:
        return 0, 0
    first, last = held[0], held[-1] + 1
    while last - first < 5:
        first, last = max(0, first - 1), min(len(snapshot.histogram), last + 1)
    return first, last


def _bin_name(place: int) -> str:
    if place == 0:
        return f"<{_seconds(BIN_EDGES[0])}"
    if place == len(BIN_EDGES):
        return f"≥{_seconds(BIN_EDGES[-1])}"
    return _seconds(BIN_EDGES[place - 1])


def _seconds(seconds: float) -> str:
    return f"{seconds:g} s"


def _times(snapshot: Snapshot) -> str:
    first, last = _bins(snapshot)
    if first == last:
        return ""
    highest = max(snapshot.histogram)
    bars = "".join(
        f'<div title="{format.format_count(count, "row")}" style="flex:1;text-align:center;min-width:0">'
        f'<div style="display:flex;align-items:flex-end;height:44px"><span style="flex:1;border-radius:2px 2px 0 0;'
        f'height:{max(1, round(44 * count / highest))}px;background:{BLUE if count else _TRACK}"></span></div>'
        f'<div style="font-size:10px;{_MUTED};white-space:nowrap">{markup.escape(_bin_name(first + place))}</div></div>'
        for place, count in enumerate(snapshot.histogram[first:last])
    )
    said = ", ".join(
        f"{markup.escape(_bin_name(first + place))}: {count:,}"
        for place, count in enumerate(snapshot.histogram[first:last])
    )
    drawn = f'<div role="img" aria-label="{said}" style="display:flex;gap:2px;max-width:34em">{bars}</div>'
    return _section("seconds a live row took, from", drawn)


def _slowest(snapshot: Snapshot) -> str:
    slowest = snapshot.slowest[:_SHOWN_SLOW]
    if not slowest:
        return ""
    rows = "".join(
        f'<div style="display:flex;gap:8px;align-items:center">'
        f'<span style="flex:0 0 4.5em;text-align:right;white-space:nowrap">{format.duration(row.seconds)}</span> '
        f'<span style="flex:0 0 6.5em;text-align:right;white-space:nowrap;{_MUTED}">row {row.ordinal:,}</span> '
        f'<span style="flex:1;min-width:0;overflow:hidden;text-overflow:ellipsis;white-space:nowrap">'
        f"{_foreign(row.label, _LABEL)}</span></div> "
        for row in slowest
    )
    return _section("slowest rows", rows)


def _failures(snapshot: Snapshot) -> str:
    shown, others = _kinds(snapshot)
    if not shown:
        return ""
    most = shown[0][1]
    rows = "".join(
        f'<div style="display:flex;gap:8px;align-items:center">'
        f'<span style="flex:0 0 3.5em;text-align:right;color:{RED}">{count:,}</span> '
        f'<span style="flex:0 0 5em"><span style="display:block;height:7px;border-radius:2px;min-width:2px;'
        f'width:{100 * count / most:.3g}%;background:{RED}"></span></span> '
        f'<span style="flex:1;min-width:0;overflow:hidden;text-overflow:ellipsis;white-space:nowrap">'
        f"{_foreign(kind, _LABEL)}</span></div> "
        for kind, count in shown
    )
    if others:
        rows += f'<div style="{_MUTED}">{format.format_count(others, "row")} failed in other ways</div>'
    return _section("failed, by kind", rows)


def _kinds(snapshot: Snapshot) -> tuple[Sequence[tuple[str, int]], int]:
    """The most frequent kinds of failures, and how many rows failed in other ways."""
    shown = snapshot.failures[:_SHOWN_KINDS]
    return shown, snapshot.failed - sum(count for _, count in shown)


def _remarks(snapshot: Snapshot) -> str:
    remarks = "".join(
        f'<div style="{f"color:{colour}" if colour else _MUTED}">{glyph} {_foreign(words, _REASON)}</div> '
        for colour, glyph, words in _next_steps(snapshot)
    )
    return f'<div style="margin-top:7px">{remarks}</div>' if remarks else ""


def _foreign(words: str, limit: int) -> str:
    """Text from outside: bounded, escaped, and kept from turning the direction of what stands beside it."""
    cleaned = format.clean(words, limit)
    escaped = markup.escape(cleaned)
    return escaped if cleaned.isascii() else f"<bdi>{escaped}</bdi>"


# -- plain text


def render_text(snapshot: Snapshot, *, title: str = "map", budget: BarLine | None = None, width: int = 100) -> str:
    """The panel for terminals and for notebooks shown without HTML."""
    state = state_of(snapshot)
    head = f"{format.clean(title, _TITLE)} · {_GLYPHS[state]} {_describe_state(snapshot)} · {_describe_rows(snapshot)}"
    if snapshot.total == 0:
        return format.cut(head, width)
    share, (first, last), (kinds, others) = _share(snapshot), _bins(snapshot), _kinds(snapshot)
    counts = " · ".join(f"{part.glyph} {part.rows:,} {part.word}" for part in _parts(snapshot))
    lines = [head, f"{_text_bar(share, 40)} {_percent(share)}" if share is not None else "", counts]
    lines += [f"{figure.name + ':':<20}{_with_remark(figure)}" for figure in _figures(snapshot)]
    if budget is not None:
        lines.append(
            f"budget of {format.clean(budget.scope, _TITLE)} {budget_bars.bar_text(budget.share)} {budget.said}"
        )
    if first != last:
        highest, drawn = max(snapshot.histogram), snapshot.histogram[first:last]
        bars = "".join(_HEIGHTS[min(8, -(-8 * count // highest))] for count in drawn)
        lines.append(f"{'a live row took:':<20}{_bin_name(first)} {bars} {_bin_name(last - 1)}")
    for row in snapshot.slowest[:3]:
        lines.append(f"{'slow:':<20}{format.duration(row.seconds)} row {row.ordinal:,} {format.clean(row.label, 60)}")
    lines += [f"  ✕ {count:,} × {format.clean(kind, _LABEL)}" for kind, count in kinds]
    if others:
        lines.append(f"  ✕ {others:,} in other ways")
    lines += [f"{glyph} {words}" for _, glyph, words in _next_steps(snapshot)]
    return "\n".join(format.cut(line, width) for line in lines if line)


def _with_remark(figure: _Figure) -> str:
    return f"{figure.value} ({figure.remark})" if figure.remark else figure.value


def render_line(snapshot: Snapshot, *, title: str = "map", width: int = 100) -> str:
    """The map on one line of a terminal, as tqdm does it; the bar takes what room is left."""
    share = _share(snapshot)
    facts = [format.duration(snapshot.seconds) + (f"<{_time_left(snapshot.eta)}" if snapshot.eta is not None else "")]
    facts += [_rate(snapshot.rate)] if snapshot.rate else []
    facts += [f"{part.rows:,} {part.word}" for part in _parts(snapshot) if part.word in ("failed", "waiting for you")]
    facts += [_spent(snapshot)] if snapshot.spent or snapshot.unpriced else []
    if snapshot.batches:
        answered = sum(batch.answered or 0 for batch in snapshot.batches)
        many = format.format_count(len(snapshot.batches), "batch", "batches")
        facts.append(f"{answered:,} of {sum(batch.rows for batch in snapshot.batches):,} answered in {many}")
    if snapshot.finished:
        facts.append(_describe_state(snapshot))
    head = f"{format.clean(title, 24)}: {_percent(share):>4} " if share is not None else f"{format.clean(title, 24)}: "
    count = f"{snapshot.done:,}/{snapshot.total:,}" if snapshot.total is not None else _describe_rows(snapshot)
    tail = f" {count} [{', '.join(facts)}]"
    room = min(30, width - format.width_of(head) - format.width_of(tail) - 2)
    bar = f"|{_text_bar(share, room)}|" if share is not None and room >= 4 else ""
    return format.cut(f"{head}{bar}{tail}", width)


def _text_bar(share: float, cells: int) -> str:
    eighths = int(min(1.0, max(0.0, share)) * cells * 8)
    full, part = divmod(eighths, 8)
    return ("█" * full + (_EIGHTHS[part] if part else "")).ljust(cells)

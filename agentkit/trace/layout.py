"""Which lines of a trace are shown, in what order and depth, and where each lies on the axis of time."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from agentkit.events import short_model
from agentkit.journal.totals import Totals
from agentkit.trace.trace import RunNode, StepNode, StepState, Trace, end_of, totals

MOST = 60
FIRST = 24
LAST = 14
TROUBLED = 16
FEWEST = 6
MANY = 24
"""More sibling runs of one agent than this stand on one line, with those that a person wants to see below it."""
SLOWEST = 3
FAILED = 3
ASKING = 8
BINS = 16
KINDS = 3

_TROUBLE: frozenset[StepState] = frozenset({"running", "waiting", "in doubt", "failed"})


class Bar(NamedTuple):
    """A stretch of time as fractions of its axis."""

    offset: float
    width: float


class Axis(NamedTuple):
    start: float
    end: float

    def bar(self, start: float, end: float) -> Bar:
        """Where `start` to `end` lies; always inside the axis."""
        length = self.end - self.start
        if length <= 0:
            return Bar(0.0, 1.0)
        left = min(1.0, max(0.0, (start - self.start) / length))
        right = min(1.0, max(left, (end - self.start) / length))
        return Bar(left, right - left)

    def holds(self, other: Axis) -> bool:
        return other.start >= self.start - 0.001 and other.end <= self.end + 0.001


class RunLine(NamedTuple):
    """`remark` is why it stands here, where most of its siblings do not; `model` is named where theirs are others."""

    node: RunNode
    depth: int
    bar: Bar
    seconds: float
    remark: str = ""
    model: str = ""


class StepLine(NamedTuple):
    node: StepNode
    depth: int
    bar: Bar
    seconds: float


class FoldedLine(NamedTuple):
    """Lines that are left out: what they add up to, and when they ran."""

    steps: Totals
    runs: int
    depth: int
    bar: Bar
    seconds: float


class GroupLine(NamedTuple):
    """Many runs of one agent: `histogram` counts them by the time they took, from the shortest to the longest.

    `model` is named where the agent ran on several, each with a line of its own; `errors` are the most frequent, each
    with how many runs ended so; `others` are runs with yet other errors.
    """

    nodes: tuple[RunNode, ...]
    totals: Totals
    depth: int
    bar: Bar
    seconds: float
    shortest: float
    median: float
    longest: float
    histogram: tuple[int, ...]
    errors: tuple[tuple[str, int], ...]
    others: int
    model: str = ""


Line: TypeAlias = RunLine | StepLine | FoldedLine | GroupLine
_Shown: TypeAlias = RunLine | StepLine | GroupLine


def fit_lines(draw: Callable[[int], str], bytes: int) -> str:
    """What `draw` makes of as many lines as fit into so many bytes."""
    most, drawn = MOST, draw(MOST)
    while (size := len(drawn.encode())) > bytes and most > FEWEST:
        most = max(FEWEST, min(most - 1, most * bytes // size))
        drawn = draw(most)
    return drawn


def lines(trace: Trace, *, now: float, most: int = MOST) -> list[Line]:
    """At most about `most` lines: all of them, else the first, the last and those in trouble, and what is folded."""
    axes = _root_axes(trace, now)
    if len(trace.roots) == 1:
        shown = list(_step_lines(trace.roots[0], axes[trace.roots[0].run.id], 0, now))
    else:
        shown = list(_sibling_lines(trace.roots, axes, 0, now))
        if len(shown) > most:
            shown = [line for line in shown if _stays_beside_others(line)]
    return list(shown) if len(shown) <= most else list(_fold_lines(shown, most))


def _stays_beside_others(line: _Shown) -> bool:
    if isinstance(line, StepLine):
        return line.depth == 0 or line.node.state in _TROUBLE
    return line.depth == 0 or isinstance(line, GroupLine) or bool(line.remark)


def _root_axes(trace: Trace, now: float) -> dict[str, Axis]:
    """One axis for all, so that what ran together is seen together; its own for each where they lie far apart."""
    own = {root.run.id: Axis(root.run.started, end_of(root, now)) for root in trace.roots}
    if not own:
        return {}
    common = Axis(min(axis.start for axis in own.values()), max(axis.end for axis in own.values()))
    busy = trace.seconds(now)
    return own if busy < 0.15 * (common.end - common.start) else dict.fromkeys(own, common)


def _sibling_lines(runs: Sequence[RunNode], axes: Mapping[str, Axis], depth: int, now: float) -> Iterator[_Shown]:
    """Runs beside each other; many of one agent and model on one line, where the first of them would stand."""
    groups: dict[tuple[str, str], list[RunNode]] = {}
    models: dict[str, set[str]] = {}
    for node in runs:
        groups.setdefault((node.run.agent, node.run.model), []).append(node)
        models.setdefault(node.run.agent, set()).add(node.run.model)
    for node in runs:
        agent, model = node.run.agent, node.run.model
        group, several = groups[agent, model], models[agent]
        named = short_model(model, several) if len(several) > 1 else ""
        if len(group) <= MANY:
            first, *below = _run_lines(node, axes[node.run.id], depth, now)
            yield first._replace(model=named) if isinstance(first, RunLine) else first
            yield from below
        elif node is group[0]:
            first, *below = _group_lines(group, axes, depth, now)
            yield first._replace(model=named) if isinstance(first, GroupLine) else first
            yield from below


def _group_lines(group: Sequence[RunNode], axes: Mapping[str, Axis], depth: int, now: float) -> Iterator[_Shown]:
    """One line for all, then those that wait for a person, some that failed and the slowest, each with why."""
    took = {node.run.id: end_of(node, now) - node.run.started for node in group}
    yield _group_line(group, took, axes, depth, now)
    asking = [node for node in group if node.state in ("waiting", "in doubt")][:ASKING]
    failed = [node for node in group if node.state == "failed"][:FAILED]
    slowest = sorted(group, key=lambda node: took[node.run.id], reverse=True)[:SLOWEST]
    listed: dict[str, tuple[RunNode, str]] = {node.run.id: (node, node.state) for node in (*asking, *failed)}
    for node in slowest:
        listed.setdefault(node.run.id, (node, "slowest"))
    for node, remark in listed.values():
        axis = axes[node.run.id]
        lines_of_it = _run_lines(node, axis, depth + 1, now)
        first = next(lines_of_it)
        assert isinstance(first, RunLine)
        yield first._replace(remark=remark)
        if node.state in ("waiting", "in doubt"):
            yield from (line for line in lines_of_it if isinstance(line, StepLine) and line.node.state in _TROUBLE)


def _group_line(
    group: Sequence[RunNode], took: Mapping[str, float], axes: Mapping[str, Axis], depth: int, now: float
) -> GroupLine:
    start, end = min(node.run.started for node in group), max(end_of(node, now) for node in group)
    shortest, longest = min(took.values()), max(took.values())
    bins = [0] * BINS
    for seconds in took.values():
        bins[min(BINS - 1, int((seconds - shortest) / (longest - shortest) * BINS)) if longest > shortest else 0] += 1
    errors = Counter(node.run.error for node in group if node.run.error)
    frequent = tuple((error, count) for error, count in errors.most_common(KINDS))
    return GroupLine(
        nodes=tuple(group),
        totals=totals(step for node in group for step in node.every_step()),
        depth=depth,
        bar=axes[group[0].run.id].bar(start, end),
        seconds=end - start,
        shortest=shortest,
        median=statistics.median(took.values()),
        longest=longest,
        histogram=tuple(bins),
        errors=frequent,
        others=errors.total() - sum(count for _, count in frequent),
    )


def _run_lines(node: RunNode, axis: Axis, depth: int, now: float) -> Iterator[_Shown]:
    end = end_of(node, now)
    yield RunLine(node, depth, axis.bar(node.run.started, end), end - node.run.started)
    yield from _step_lines(node, axis, depth + 1, now)


def _step_lines(node: RunNode, axis: Axis, depth: int, now: float) -> Iterator[_Shown]:
    inset = _insets(node)
    for step in node.steps:
        start, end, place = step.step.started, _step_end(step, node, now), depth + inset[step.step.ord]
        yield StepLine(step, place, axis.bar(start, end), end - start)
        own = {inner.run.id: Axis(inner.run.started, end_of(inner, now)) for inner in step.runs}
        axes = {run: axis if axis.holds(each) else each for run, each in own.items()}
        yield from _sibling_lines(step.runs, axes, place + 1, now)


def _insets(node: RunNode) -> dict[int, int]:
    """How far in each step stands: what code calls stands under the code."""
    found: dict[int, int] = {}
    program = bool(node.steps) and node.steps[0].step.kind == "sandbox"
    for place, step in enumerate(node.steps):
        within = step.step.within
        found[step.step.ord] = found.get(within, 0) + 1 if within is not None else int(program and place > 0)
    return found


def _step_end(node: StepNode, run: RunNode, now: float) -> float:
    if node.step.ended is not None:
        return node.step.ended
    if node.state in ("running", "waiting"):
        return max(now, node.step.started)
    return run.run.ended if run.run.ended is not None else node.step.started


def _fold_lines(all_lines: Sequence[_Shown], most: int) -> Iterator[Line]:
    first = FIRST * most // MOST
    last = len(all_lines) - LAST * most // MOST
    trouble = [
        place
        for place, line in enumerate(all_lines)
        if first <= place < last
        and (isinstance(line, GroupLine) or (isinstance(line, StepLine) and line.node.state in _TROUBLE))
    ]
    shown = {*range(first), *trouble[: TROUBLED * most // MOST], *range(last, len(all_lines))}
    gap: list[_Shown] = []
    for place, line in enumerate(all_lines):
        if place not in shown:
            gap.append(line)
            continue
        if gap:
            yield _fold(gap)
            gap = []
        yield line


def _fold(gap: Sequence[_Shown]) -> FoldedLine:
    start = min(line.bar.offset for line in gap)
    end = max(line.bar.offset + line.bar.width for line in gap)
    steps = [line.node for line in gap if isinstance(line, StepLine)]
    grouped = [node for line in gap if isinstance(line, GroupLine) for node in line.nodes]
    return FoldedLine(
        steps=totals([*steps, *(step for node in grouped for step in node.every_step())]),
        runs=sum(isinstance(line, RunLine) for line in gap) + len(grouped),
        depth=min(line.depth for line in gap),
        bar=Bar(start, end - start),
        seconds=sum(line.seconds for line in gap if isinstance(line, StepLine)),
    )

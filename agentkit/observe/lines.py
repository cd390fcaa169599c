"""Which lines of a trace are shown, in what order and depth, and where each lies on the axis of time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from agentkit.durable.totals import Totals
from agentkit.observe.trace import RunNode, StepNode, StepState, Trace, end_of, totals

MOST = 60
FIRST = 24
LAST = 14
TROUBLED = 16

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
    node: RunNode
    depth: int
    bar: Bar
    seconds: float


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


Line: TypeAlias = RunLine | StepLine | FoldedLine


@dataclass(frozen=True, kw_only=True)
class _Placed:
    line: RunLine | StepLine
    root: RunNode


def lines(trace: Trace, *, now: float, most: int = MOST) -> list[Line]:
    """At most about `most` lines: all of them, else the first, the last and those in trouble, and what is folded."""
    axes = _root_axes(trace, now)
    several = len(trace.roots) > 1
    placed = [
        _Placed(line=line, root=root)
        for root, axis in zip(trace.roots, axes, strict=True)
        for line in (_run_lines(root, axis, 0, now) if several else _step_lines(root, axis, 0, now))
    ]
    if len(placed) > most and several:
        placed = [item for item in placed if _stays_beside_others(item)]
    if len(placed) <= most:
        return [item.line for item in placed]
    return list(_folded([item.line for item in placed], most))


def _stays_beside_others(item: _Placed) -> bool:
    return item.line.depth == 0 or (isinstance(item.line, StepLine) and item.line.node.state in _TROUBLE)


def _root_axes(trace: Trace, now: float) -> list[Axis]:
    """One axis for all, so that what ran together is seen together; its own for each where they lie far apart."""
    own = [Axis(root.run.started, end_of(root, now)) for root in trace.roots]
    if not own:
        return []
    common = Axis(min(axis.start for axis in own), max(axis.end for axis in own))
    busy = trace.seconds(now)
    return own if busy < 0.15 * (common.end - common.start) else [common] * len(own)


def _run_lines(node: RunNode, axis: Axis, depth: int, now: float) -> Iterator[RunLine | StepLine]:
    end = end_of(node, now)
    yield RunLine(node, depth, axis.bar(node.run.started, end), end - node.run.started)
    yield from _step_lines(node, axis, depth + 1, now)


def _step_lines(node: RunNode, axis: Axis, depth: int, now: float) -> Iterator[StepLine | RunLine]:
    inset = _insets(node)
    for step in node.steps:
        start, end, place = step.step.started, _step_end(step, node, now), depth + inset[step.step.ord]
        yield StepLine(step, place, axis.bar(start, end), end - start)
        for inner in step.runs:
            own = Axis(inner.run.started, end_of(inner, now))
            yield from _run_lines(inner, axis if axis.holds(own) else own, place + 1, now)


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


def _folded(all_lines: Sequence[RunLine | StepLine], most: int) -> Iterator[Line]:
    first = FIRST * most // MOST
    last = len(all_lines) - LAST * most // MOST
    trouble = [
        place
        for place, line in enumerate(all_lines)
        if first <= place < last and isinstance(line, StepLine) and line.node.state in _TROUBLE
    ]
    shown = {*range(first), *trouble[: TROUBLED * most // MOST], *range(last, len(all_lines))}
    gap: list[RunLine | StepLine] = []
    for place, line in enumerate(all_lines):
        if place not in shown:
            gap.append(line)
            continue
        if gap:
            yield _fold(gap)
            gap = []
        yield line


def _fold(gap: Sequence[RunLine | StepLine]) -> FoldedLine:
    start = min(line.bar.offset for line in gap)
    end = max(line.bar.offset + line.bar.width for line in gap)
    steps = [line.node for line in gap if isinstance(line, StepLine)]
    return FoldedLine(
        steps=totals(steps),
        runs=len(gap) - len(steps),
        depth=min(line.depth for line in gap),
        bar=Bar(start, end - start),
        seconds=sum(line.seconds for line in gap if isinstance(line, StepLine)),
    )

"""The fold: any list of events, in any order they arrived, as one tree of runs and steps with totals."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias, assert_never

from agentkit.events import FINISHED, Event, Run, RunStatus, Step
from agentkit.journal.records import ASKED, CONTROL_ERROR, STALE
from agentkit.journal.settlements import WAITING
from agentkit.journal.totals import OFFLINE, Totals

StepState: TypeAlias = Literal["live", "replayed", "running", "waiting", "failed", "cancelled", "in doubt", "stale"]
RunState: TypeAlias = Literal[RunStatus, "waiting", "in doubt"]

UNFINISHED: frozenset[StepState] = frozenset({"running", "waiting", "in doubt"})


@dataclass(frozen=True, kw_only=True, slots=True)
class StepNode:
    """A step, what it is doing, and the runs that ran inside it."""

    step: Step
    state: StepState
    runs: tuple[RunNode, ...] = ()

    @property
    def paid_twice(self) -> bool:
        """Whether it may have been. While it runs that is only assumed: what was cut off may answer it yet."""
        return self.step.maybe_paid_twice and self.state != "running"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunNode:
    """A run with its steps in order; `totals` include the runs inside its steps.

    `announced` is false for the stand-in of a run whose own event is not among those folded.
    """

    run: Run
    state: RunState
    announced: bool = True
    steps: tuple[StepNode, ...] = ()
    totals: Totals = field(default_factory=Totals)

    def every_step(self) -> Iterator[StepNode]:
        """Its steps and those of the runs inside them, in order."""
        for node in self.steps:
            yield node
            for inner in node.runs:
                yield from inner.every_step()


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """Runs as they stand: `roots` are the runs that no other run here contains, oldest first."""

    roots: tuple[RunNode, ...] = ()
    totals: Totals = field(default_factory=Totals)

    @classmethod
    def of(cls, events: Iterable[Event], *, in_doubt: Collection[int] = ()) -> Trace:
        """Fold `events`: for one run or step the newest value wins, whatever came between.

        `in_doubt` are the ids of started steps whose owner is known to be dead; without it a started step is in doubt
        once its run has ended.
        """
        runs, steps = _newest(events)
        tree = _Tree(runs, steps, frozenset(in_doubt))
        roots = tuple(tree.run_node(run) for run in tree.roots())
        return cls(roots=roots, totals=totals(node for root in roots for node in root.every_step()))

    def events(self) -> list[Event]:
        """The newest value of everything, from which the same trace folds again."""
        return [event for root in self.roots for event in _events_of(root)]

    def seconds(self, now: float) -> float:
        """How long at least one of the runs was running; `now` ends those that still are."""
        spans = sorted((root.run.started, max(root.run.started, end_of(root, now))) for root in self.roots)
        total, reached = 0.0, -math.inf
        for start, end in spans:
            total += max(0.0, end - max(start, reached))
            reached = max(reached, end)
        return total

    @property
    def running(self) -> bool:
        return any(root.state in ("running", "waiting") for root in self.roots)


def end_of(node: RunNode, now: float) -> float:
    """When a run ended, as far as is known."""
    if node.run.ended is not None:
        return node.run.ended
    if node.state in ("running", "waiting"):
        return now
    return max((step.step.ended or step.step.started for step in node.steps), default=node.run.started)


def shows_error_below(node: RunNode) -> bool:
    """Whether the run's error already stands at the step where it happened."""
    error = node.run.error or ""
    return any(_says(step, error) for step in node.every_step())


def _says(node: StepNode, error: str) -> bool:
    if node.state == "in doubt" and f"step {node.step.id} " in error:
        return True
    return bool(node.step.error) and (str(node.step.error) in error or error in str(node.step.error))


def totals(nodes: Iterable[StepNode]) -> Totals:
    """What the steps add up to."""
    counts: defaultdict[str, float] = defaultdict(float)
    for node in nodes:
        if not node.step.id and (node.step.waiting or node.step.status == "cancelled"):
            # It was never let in: nothing was performed.
            continue
        _count(node, counts)
        (_count_replay if node.step.replayed else _count_live)(node, counts)
    whole = {name: int(value) for name, value in counts.items() if name not in _FRACTIONS}
    return Totals(**whole, **{name: counts[name] for name in _FRACTIONS})  # type: ignore[arg-type]


_FRACTIONS = ("spent", "saved", "saved_seconds")


def _count(node: StepNode, counts: defaultdict[str, float]) -> None:
    counts["steps"] += 1
    counts["unfinished"] += node.state in UNFINISHED
    counts["in_doubt"] += node.state == "in doubt"
    counts["failed"] += node.state == "failed"
    counts["paid_twice"] += node.paid_twice


def _count_live(node: StepNode, counts: defaultdict[str, float]) -> None:
    step, usage = node.step, node.step.usage
    counts["live"] += 1
    counts["requests"] += step.kind == "model"
    counts["offline"] += step.kind == "model" and step.name.startswith(OFFLINE)
    counts["tools"] += step.kind == "tool"
    counts["input_tokens"] += usage.input_tokens if usage else 0
    counts["output_tokens"] += usage.output_tokens if usage else 0
    counts["spent"] += price(step) or 0.0
    counts["unpriced"] += has_unknown_price(step)
    counts["estimated"] += usage is not None and usage.estimated


def _count_replay(node: StepNode, counts: defaultdict[str, float]) -> None:
    step, usage = node.step, node.step.usage
    counts["replayed"] += 1
    if node.runs:
        # It was gone into: what it saved stands at the steps inside it.
        return
    counts["saved_tokens"] += usage.input_tokens + usage.output_tokens if usage else 0
    counts["saved_seconds"] += step.recorded_seconds or 0.0
    counts["saved"] += price(step) or 0.0
    counts["saved_unpriced"] += has_unknown_price(step)


def price(step: Step) -> float | None:
    """The step's price in USD when live; None when it is not known."""
    cost = step.usage.cost if step.usage else None
    return cost if cost is not None and math.isfinite(cost) else None


def has_unknown_price(step: Step) -> bool:
    """Whether somebody was paid for this step and nobody knows how much."""
    return step.status == "done" and price(step) is None and (step.kind == "model" or step.usage is not None)


def _newest(events: Iterable[Event]) -> tuple[dict[str, Run], dict[tuple[str, int], Step]]:
    runs: dict[str, Run] = {}
    steps: dict[tuple[str, int], Step] = {}
    for event in events:
        if isinstance(event, Run):
            runs[event.id] = event
        else:
            steps[event.run, event.ord] = event
    return runs, steps


def waits_for_nobody(trace: Trace) -> bool:
    """Whether all that waits does so for a server or a budget: no person is asked anything."""
    waiting = [node.step for root in trace.roots for node in root.every_step() if node.state == "waiting"]
    return bool(waiting) and all(step.waiting for step in waiting)


def _events_of(node: RunNode) -> Iterator[Event]:
    if node.announced:
        yield node.run
    for step in node.steps:
        yield step.step
        for inner in step.runs:
            yield from _events_of(inner)


class _Tree:
    """Who contains whom. A run without a known parent, or in a circle of parents, is a root: nothing gets lost."""

    def __init__(
        self, runs: Mapping[str, Run], steps: Mapping[tuple[str, int], Step], in_doubt: frozenset[int]
    ) -> None:
        self._in_doubt = in_doubt
        self._announced = frozenset(runs)
        self._runs = {**{run: _placeholder_run(run, steps) for run, _ in steps if run not in runs}, **runs}
        self._steps = steps
        self._steps_of: defaultdict[str, list[Step]] = defaultdict(list)
        for step in steps.values():
            self._steps_of[step.run].append(step)
        self._inside: defaultdict[tuple[str, int], list[Run]] = defaultdict(list)
        self._roots: list[Run] = []
        for run in self._runs.values():
            parent = self._parent(run)
            if parent is None or self._in_circle(run):
                self._roots.append(run)
            else:
                self._inside[parent].append(run)

    def roots(self) -> list[Run]:
        return sorted(self._roots, key=_oldest_first)

    def run_node(self, run: Run) -> RunNode:
        steps = tuple(self._step_node(step, run) for step in sorted(self._steps_of[run.id], key=lambda step: step.ord))
        if run.status == "stopped" and (run.error or "").strip(": ") == "CancelledError":
            run = replace(run, error=None)
        node = RunNode(run=run, state=_run_state(run, steps), announced=run.id in self._announced, steps=steps)
        return replace(node, totals=totals(node.every_step()))

    def _step_node(self, step: Step, run: Run) -> StepNode:
        inside = sorted(self._inside[step.run, step.ord], key=_oldest_first)
        state = _step_state(step, running=run.status == "running" and step.id not in self._in_doubt)
        if state == "waiting":
            # That nobody has decided yet is its state, and not what went wrong.
            step = replace(step, error=None)
        if state == "stale":
            # Nothing went wrong here that is not said by its state; the words say what answered.
            step = replace(step, error=None, result=(step.error or "").removeprefix(CONTROL_ERROR + STALE))
        if state == "cancelled" and step.error == "stopped":
            # Its state says so.
            step = replace(step, error=None)
        return StepNode(step=step, state=state, runs=tuple(self.run_node(inner) for inner in inside))

    def _parent(self, run: Run) -> tuple[str, int] | None:
        if run.parent_run is None or run.parent_ord is None:
            return None
        place = (run.parent_run, run.parent_ord)
        return place if place in self._steps else None

    def _in_circle(self, run: Run) -> bool:
        seen: set[str] = set()
        above: Run | None = run
        while above is not None and above.id not in seen:
            seen.add(above.id)
            parent = self._parent(above)
            above = None if parent is None else self._runs[parent[0]]
        return above is not None and above.id == run.id


def _placeholder_run(run: str, steps: Mapping[tuple[str, int], Step]) -> Run:
    """A stand-in for a run whose own event is not among those given."""
    return Run(
        id=run, agent="agent", status="running", started=min(step.started for step in steps.values() if step.run == run)
    )


def _oldest_first(run: Run) -> tuple[float, str]:
    return (run.started, run.id)


def _step_state(step: Step, *, running: bool) -> StepState:
    match step.status:
        case "done":
            return "replayed" if step.replayed else "live"
        case "failed":
            return "stale" if (step.error or "").startswith(CONTROL_ERROR + STALE) else "failed"
        case "cancelled":
            # Nobody decided, and it can still be decided: whether its run goes on or has ended.
            return "waiting" if step.kind in ASKED and step.error == WAITING else "cancelled"
        case "started":
            if step.kind in ASKED or (step.waiting and running):
                return "waiting"
            return "running" if running else "in doubt"
        case _:
            assert_never(step.status)


def _run_state(run: Run, steps: tuple[StepNode, ...]) -> RunState:
    states = {node.state for node in steps}
    status: RunStatus = run.status
    if "in doubt" in states and status not in FINISHED:
        return "in doubt"
    if status in ("running", "stopped") and "waiting" in states and "running" not in states:
        return "waiting"
    return status

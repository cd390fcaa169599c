"""The fold: newest wins, order of arrival does not matter, nothing is lost, and the totals are sums of events."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkit.events import Event, Run, Step, Usage
from agentkit.trace.trace import RunNode, Trace
from tests.trace.samples import (
    SAMPLES,
    START,
    in_doubt,
    mixed,
    model,
    nested,
    parallel,
    running,
    tool,
    unpriced,
    waiting,
)
from tests.trace.samples import run as a_run

RUNS = st.sampled_from(["a", "b", "c", "d"])
MOMENTS = st.floats(0, 100, allow_nan=False)
COSTS = st.none() | st.integers(0, 1000).map(lambda thousandths: thousandths / 1024)

runs = st.builds(
    Run,
    id=RUNS,
    agent=st.sampled_from(["analyst", "writer"]),
    status=st.sampled_from(["running", "done", "failed", "stopped"]),
    started=MOMENTS,
    ended=st.none() | MOMENTS,
    parent_run=st.none() | RUNS,
    parent_ord=st.none() | st.integers(1, 3),
)
steps = st.builds(
    Step,
    run=RUNS,
    ord=st.integers(1, 4),
    id=st.integers(1, 50),
    kind=st.sampled_from(["model", "tool", "approval"]),
    name=st.just("x"),
    status=st.sampled_from(["started", "done", "failed", "cancelled"]),
    replayed=st.booleans(),
    started=MOMENTS,
    ended=st.none() | MOMENTS,
    usage=st.none() | st.builds(Usage, input_tokens=st.integers(0, 99), output_tokens=st.integers(0, 99), cost=COSTS),
    maybe_paid_twice=st.booleans(),
)
histories = st.lists(runs | steps, max_size=24)


def identity(event: Event) -> object:
    return event.id if isinstance(event, Run) else (event.run, event.ord)


def newest(events: list[Event]) -> dict[object, Event]:
    return {identity(event): event for event in events}


@given(histories, st.randoms(use_true_random=False))
def test_any_interleaving_of_the_updates_folds_to_the_same_trace(events: list[Event], chance: random.Random) -> None:
    queues: defaultdict[object, list[Event]] = defaultdict(list)
    for event in events:
        queues[identity(event)].append(event)
    shuffled = []
    while queues:
        chosen = chance.choice(sorted(queues, key=str))
        shuffled.append(queues[chosen].pop(0))
        if not queues[chosen]:
            del queues[chosen]
    assert Trace.of(shuffled) == Trace.of(events)


@given(histories, st.integers(0, 24))
def test_a_trace_of_a_prefix_folded_on_is_the_trace_of_everything(events: list[Event], cut: int) -> None:
    assert Trace.of([*Trace.of(events[:cut]).events(), *events[cut:]]) == Trace.of(events)


@given(histories)
def test_every_run_and_step_is_in_the_tree_once_whatever_the_parents_say(events: list[Event]) -> None:
    known = newest(events)
    told = Trace.of(events).events()
    assert len(told) == len({identity(event) for event in told})
    assert newest(told) == known


@given(histories)
def test_totals_are_sums_over_the_newest_steps(events: list[Event]) -> None:
    last = [event for event in newest(events).values() if isinstance(event, Step)]
    trace = Trace.of(events)
    totals = trace.totals
    live, replayed = [s for s in last if not s.replayed], [s for s in last if s.replayed]
    # What was gone into is counted at the steps inside it.
    gone_into = [identity(node.step) for root in trace.roots for node in root.every_step() if node.runs]
    saving = [step for step in replayed if identity(step) not in gone_into]

    def dollars(of: list[Step]) -> float:
        return sum(step.usage.cost or 0 for step in of if step.usage)

    assert (totals.steps, totals.live, totals.replayed) == (len(last), len(live), len(replayed))
    assert totals.tokens == sum(s.usage.input_tokens + s.usage.output_tokens for s in live if s.usage)
    assert totals.spent == pytest.approx(dollars(live)) and totals.saved == pytest.approx(dollars(saving))
    assert totals.requests == sum(step.kind == "model" for step in live)
    ended = [node.step for root in trace.roots for node in root.every_step() if node.state != "running"]
    assert totals.paid_twice == sum(step.maybe_paid_twice for step in ended)


@given(histories)
def test_a_run_counts_what_ran_inside_it_and_the_roots_add_up_to_the_trace(events: list[Event]) -> None:
    trace = Trace.of(events)
    assert sum(root.totals.steps for root in trace.roots) == trace.totals.steps
    assert sum(root.totals.spent for root in trace.roots) == pytest.approx(trace.totals.spent)
    for root in trace.roots:
        inner = itertools.chain.from_iterable(step.runs for step in root.steps)
        assert root.totals.steps == len(root.steps) + sum(node.totals.steps for node in inner)


@given(histories, MOMENTS)
def test_seconds_never_exceed_the_span_and_are_never_negative(events: list[Event], now: float) -> None:
    assert 0 <= Trace.of(events).seconds(now) <= 100


def test_an_unknown_price_is_counted_and_never_a_zero() -> None:
    totals = Trace.of(unpriced()).totals
    assert (totals.unpriced, totals.saved_unpriced, totals.spent, totals.saved) == (1, 1, 0.0012, 0.0)


def test_a_price_that_is_not_a_number_is_unknown() -> None:
    totals = Trace.of([a_run(), model(1, 0, 1, usage=Usage(input_tokens=1, cost=float("inf")))]).totals
    assert (totals.spent, totals.unpriced) == (0, 1)


def test_an_unfinished_or_failed_request_is_not_unpriced() -> None:
    events: list[Event] = [
        a_run(status="running"),
        model(1, 0, None, status="started", usage=None),
        model(2, 0, 1, status="failed", usage=None),
    ]
    assert Trace.of(events).totals.unpriced == 0


def test_runs_inside_steps_are_nested_in_order_of_their_start() -> None:
    (lead,) = Trace.of(reversed(nested())).roots
    assert [[inner.run.id for inner in step.runs] for step in lead.steps] == [[], ["run-sub1"], ["run-sub2"], []]
    assert lead.totals.steps == 10


def test_runs_that_name_each_other_as_parents_are_all_kept() -> None:
    circle: list[Event] = [
        a_run(id="run-analyst", parent_run="run-b", parent_ord=1),
        a_run(id="run-b", parent_run="run-analyst", parent_ord=1),
        tool(1, 0, 1),
        tool(1, 0, 1, run="run-b"),
        a_run(id="inside", parent_run="run-b", parent_ord=1),
    ]
    trace = Trace.of(circle)
    assert {root.run.id for root in trace.roots} == {"run-analyst", "run-b"}
    assert [node.run.id for root in trace.roots for step in root.steps for node in step.runs] == ["inside"]


def states(root: RunNode) -> list[str]:
    return [node.state for node in root.steps]


def test_states_of_a_running_trace() -> None:
    (root,) = Trace.of(running()).roots
    assert (root.state, states(root)) == ("running", ["replayed", "live", "running", "running", "running"])


def test_a_run_that_waits_for_a_person_says_so() -> None:
    (root,) = Trace.of(waiting()).roots
    assert (root.state, states(root)) == ("waiting", ["live", "waiting"])


def test_a_started_step_of_an_ended_run_is_in_doubt() -> None:
    (root,) = Trace.of(in_doubt()).roots
    assert (root.state, states(root)) == ("in doubt", ["live", "in doubt", "cancelled"])


def test_a_step_known_to_be_abandoned_is_in_doubt_although_its_run_never_ended() -> None:
    (root,) = Trace.of(running(), in_doubt=[103]).roots
    assert root.state == "in doubt"
    assert states(root) == ["replayed", "live", "in doubt", "running", "running"]


def test_a_stop_is_said_once_by_the_states() -> None:
    run = Run(id="r", agent="a", status="stopped", started=0.0, ended=1.0, error="CancelledError: ")
    step = Step(run="r", ord=1, id=7, kind="tool", name="slow", status="cancelled", replayed=False, error="stopped")
    (root,) = Trace.of([run, step]).roots
    assert (root.state, states(root), root.run.error, root.steps[0].step.error) == (
        "stopped",
        ["cancelled"],
        None,
        None,
    )
    (told,) = Trace.of([run, replace(step, error="stopped at its budget")]).roots
    assert told.steps[0].step.error == "stopped at its budget"


def test_seconds_count_time_that_overlaps_once_and_time_between_runs_not_at_all() -> None:
    spans = [(0.0, 2.0), (1.0, 3.0), (10.0, 11.0)]
    events = [a_run(id=str(i), started=START + a, ended=START + b) for i, (a, b) in enumerate(spans)]
    assert Trace.of(events).seconds(START + 99) == pytest.approx(4.0)


def test_a_later_update_of_one_step_replaces_it() -> None:
    events = mixed()
    changed = replace(next(e for e in events if isinstance(e, Step)), status="failed", error="no")
    assert Trace.of([*events, changed]).totals.failed == 1


def test_twenty_parallel_runs_are_twenty_roots() -> None:
    assert len(Trace.of(parallel(20)).roots) == 20


def test_nothing_is_an_empty_trace() -> None:
    trace = Trace.of([])
    assert (trace.roots, trace.totals.steps, trace.seconds(1.0), trace.running) == ((), 0, 0.0, False)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_folds_from_its_own_events(name: str) -> None:
    trace = Trace.of(SAMPLES[name]())
    # NaN is not equal to itself: compare what is told.
    assert repr(Trace.of(trace.events())) == repr(trace)

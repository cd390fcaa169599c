"""The bars of budgets: a fold of what is recorded with a run, and the tree of scopes."""

from __future__ import annotations

from dataclasses import replace

from agentkit.budget.budget import USER, parse, place
from agentkit.budget.ledger import Standing
from agentkit.events import Gauge, Run, Step, Usage
from agentkit.journal.row_codec import run_of, run_to_json
from agentkit.trace import budget_bars, render_html
from agentkit.trace.trace import Trace

GUIDE = place(project="/x/sales/.agentkit", label="report", agents=("guide",))
RUN = Run(
    id="r1",
    agent="guide",
    status="done",
    started=1.0,
    ended=3.0,
    gauges=(
        Gauge(scope="guide", measure="usd", window="run", limit=0.5),
        Gauge(scope="the notebook", measure="tokens", window="day", limit=1_000.0, used=400.0),
        Gauge(scope="guide", measure="seconds", window="run", limit=60.0),
    ),
)


def request(ord: int, cost: float, **more: object) -> Step:
    usage = Usage(input_tokens=80, output_tokens=20, cost=cost)
    known = {"status": "done", "replayed": False, "started": 1.0, "ended": 2.0, "usage": usage}
    return Step(run="r1", ord=ord, id=ord, kind="model", name="model", **{**known, **more})  # type: ignore[arg-type]


def test_a_bar_is_what_was_used_before_and_what_the_steps_took() -> None:
    trace = Trace.of([RUN, request(1, 0.1), request(2, 0.2, replayed=True)])
    run, day = budget_bars.of_trace(trace)
    # What is replayed counts in a limit per run, and in no other.
    assert (run.said, round(run.share, 3)) == ("0.30usd of 0.50usd per run", 0.6)
    assert (day.said, day.share) == ("500 tokens of 1k tokens per day", 0.5)


def test_the_panel_and_its_plain_twin_show_the_bars() -> None:
    shown = render_html.bundle(Trace.of([RUN, request(1, 0.1)]), now=3.0)
    assert "budget of guide ▰▰▱▱▱▱▱▱▱▱ 0.10usd of 0.50usd per run" in shown["text/plain"]
    assert "0.10usd of 0.50usd per run" in shown["text/html"] and "width:20%" in shown["text/html"]


def test_several_runs_show_only_the_limits_that_they_share() -> None:
    other = replace(RUN, id="r2")
    (day,) = budget_bars.of_trace(Trace.of([RUN, other, request(1, 0.1), replace(request(1, 0.1), run="r2")]))
    assert day.said == "600 tokens of 1k tokens per day"


def test_a_run_keeps_how_its_limits_stood() -> None:
    assert run_of("r1", run_to_json(RUN)) == RUN


def test_a_limit_that_a_person_raised_says_what_it_was() -> None:
    raised = replace(RUN, gauges=(Gauge(scope="guide", measure="requests", window="run", limit=4.0, before=2.0),))
    (bar,) = budget_bars.of_trace(Trace.of([raised, *(request(ord, 0.1) for ord in range(1, 5))]))
    assert bar.said == "4 of 4 requests per run, raised from 2"
    assert run_of("r1", run_to_json(raised)) == raised
    # A run whose limits nobody raised is as an older agentkit reads it.
    assert "before" not in run_to_json(RUN)


def test_a_step_that_was_not_let_in_is_no_step_that_was_taken() -> None:
    refused = replace(request(2, 0.0), id=0, status="cancelled", usage=None, error="stopped at its budget")
    totals = Trace.of([RUN, request(1, 0.1), refused]).totals
    assert (totals.steps, totals.live) == (1, 1)


def test_the_tree_says_what_is_used_and_set_aside() -> None:
    lines = budget_bars.tree(
        [
            Standing(node=USER, limit=None, used=0, held=0, at_limit=None),
            Standing(node=GUIDE, limit=parse("100 tokens/day")[0], used=60, held=30, at_limit="stop"),
        ]
    )
    user, guide = budget_bars.plain(lines).splitlines()
    assert user.startswith("user") and user.endswith("no limit")
    assert (
        "agent guide  ▰▰▰▰▰▰▰▰▰▱  60 tokens of 100 tokens per day (30 tokens set aside) · at the limit: stop" in guide
    )
    assert budget_bars.html(lines).count("<b>") == 2


def test_names_are_never_markup() -> None:
    node = place(project="/x", label="report", agents=("<script>",))
    shown = budget_bars.html(budget_bars.tree([Standing(node=node, limit=None, used=0, held=0, at_limit=None)]))
    assert "<script>" not in shown

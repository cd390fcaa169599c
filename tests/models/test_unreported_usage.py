"""Servers that do not say how many tokens they counted: unknown is not 0, wherever tokens are counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import agentkit
from agentkit.agent.ask import Answer
from agentkit.agent.spec import Spec
from agentkit.budget.budget import USER
from agentkit.budget.estimate import estimate
from agentkit.budget.ledger import ledger
from agentkit.errors import BudgetExceeded, CircuitOpen
from agentkit.events import Run, Step, Usage
from agentkit.journal import portable
from agentkit.trace import render_html
from agentkit.trace.trace import Trace
from tests.serving import Fault, Serving, serving
from tests.tables import cases, named

ROUNDS = "\n".join(f'do look {{"at": {number}}}' for number in range(12)) + "\nsay all is seen"


@pytest.fixture
def server() -> Iterator[Serving]:
    with serving() as running:
        running.script(*[Fault(without=("usage",))] * 100)
        yield running


@pytest.fixture(autouse=True)
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AGENTKIT_BUDGETS", str(tmp_path / "budgets.db"))
    return tmp_path / "budgets.db"


@agentkit.tool(effects="none")
def look(at: int) -> str:
    """Look."""
    return "seen"


def run(folder: Path, server: Serving, *, prompt: str = ROUNDS, streams: bool = False, **build: Any) -> Answer:
    agent = agentkit.build(Spec.parse("Go."), name="looker", tools=[look], model=server.model("gpt-5"), **build)
    with agentkit.session(folder=folder):
        return asyncio.run(agentkit.ask(agent, prompt, on_text=(lambda text: None) if streams else None))


def requests_of(folder: Path) -> list[Step]:
    with agentkit.session(folder=folder) as session:
        (newest,) = session.runs(limit=1)
        return [event for event in session.trace(newest.id) if isinstance(event, Step) and event.kind == "model"]


@pytest.mark.parametrize("case", cases("usage/unreported"), ids=named)
def test_what_was_set_aside_counts_where_a_server_reports_nothing(
    tmp_path: Path, server: Serving, case: dict[str, str], book: Path
) -> None:
    fits = int(case["requests"])
    for _ in range(2):  # a rerun reaches its limit where the run before did
        if fits == 13:
            assert (
                run(tmp_path, server, streams=case["how"] == "streamed", budget=case["budget"]).output == "all is seen"
            )
        else:
            with pytest.raises(BudgetExceeded):
                run(tmp_path, server, streams=case["how"] == "streamed", budget=case["budget"])
        assert len(server.ledger()) == fits
    steps = [step for step in requests_of(tmp_path) if step.status == "done"]
    assert len(steps) == fits
    assert all(step.usage is not None and step.usage.estimated and step.usage.output_tokens >= 500 for step in steps)
    recorded = sum(step.usage.input_tokens + step.usage.output_tokens for step in steps if step.usage is not None)
    assert ledger(book).spending(USER).tokens == recorded


def test_the_panel_says_that_they_are_estimated_now_and_from_disk(tmp_path: Path, server: Serving) -> None:
    answer = run(tmp_path, server, prompt="hello")
    again = run(tmp_path, server, prompt="hello")
    now = time.time()
    for one in (answer, again):
        assert "≈" in render_html.html(Trace.of(one.events()), now=now)
        assert "tokens estimated" in render_html.text(Trace.of(one.events()), now=now)
    assert "tokens, estimated" in render_html.text(Trace.of(answer.events()), now=now)
    assert len(server.ledger()) == 1


def test_the_breakers_window_counts_them(tmp_path: Path, server: Serving) -> None:
    with pytest.raises(CircuitOpen, match="spent in the last minute"):
        run(tmp_path, server, breaker="usd/min=0.03")
    assert len(server.ledger()) < 13


def test_estimates_count_them_and_say_so(tmp_path: Path, server: Serving) -> None:
    run(tmp_path, server, prompt="hello")
    agent = agentkit.build(Spec.parse("Go."), name="looker", tools=[look], model=server.model("gpt-5"))
    with agentkit.session(folder=tmp_path) as session:
        found = estimate(session, agent)
    assert found.tokens is not None and found.tokens.least > 500
    assert "1 request whose server counted nothing" in found.description


def test_a_portable_journal_keeps_that_they_are_estimated(tmp_path: Path, server: Serving) -> None:
    run(tmp_path / "a", server, prompt="hello")
    with agentkit.session(folder=tmp_path / "a") as session:
        portable.export(session.store, [session.runs()[0].id], tmp_path / "kept.agentkit", session.redactor.scrub)
    with agentkit.session(folder=tmp_path / "b") as session:
        portable.attach(tmp_path / "kept.agentkit", session.store)
    run(tmp_path / "b", server, prompt="hello")
    (step,) = requests_of(tmp_path / "b")
    assert step.replayed and step.usage is not None and step.usage.estimated


@pytest.mark.parametrize(
    ("asked", "answered", "times", "listed"),
    [("flex", {}, 0.5, False), ("priority", {"service_tier": "default"}, 1, False), ("scale", {}, 1, True)],
)
def test_a_service_tier_has_its_own_price_or_the_figure_is_marked(
    tmp_path: Path, asked: str, answered: dict[str, Any], times: float, listed: bool
) -> None:
    spec = Spec.parse(f"---\nmodel_settings:\n  openai_service_tier: {asked}\n---\nGo.")
    counted = {"prompt_tokens": 1_000_000, "completion_tokens": 1, "total_tokens": 1_000_001}
    with serving() as server:
        server.script(Fault(more={**answered, "usage": counted}))
        agent = agentkit.build(spec, name="looker", model=server.model("gpt-5"))
        for _ in range(2):
            with agentkit.session(folder=tmp_path):
                answer = asyncio.run(agentkit.ask(agent, "hello"))
            (step,) = [event for event in answer.events() if isinstance(event, Step)]
            assert step.usage is not None and step.usage.list_price == listed
            assert step.usage.cost == pytest.approx(1.25 * times, rel=1e-3)
            assert ("at list price" in render_html.text(Trace.of(answer.events()), now=time.time())) == listed


def test_what_a_server_reports_is_what_counts(tmp_path: Path) -> None:
    with serving() as server:
        answer = run(tmp_path, server, prompt="hello")
    (step,) = [event for event in answer.events() if isinstance(event, Step)]
    assert isinstance(step.usage, Usage) and not step.usage.estimated and step.usage.output_tokens < 20
    (shown,) = [event for event in answer.events() if isinstance(event, Run)]
    assert shown.status == "done" and "estimated" not in render_html.text(Trace.of(answer.events()), now=time.time())

"""Two decisions at once, and prices that are none: what is first on disk holds, and a budget gives nothing back."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import agentkit
from agentkit.agent.spec import Spec
from agentkit.approval import decisions
from agentkit.approval.policy import Decision
from agentkit.errors import ApprovalPending, BudgetExceeded
from agentkit.events import Step
from agentkit.testing import Call, ScriptedModel


def test_of_many_edits_at_once_one_is_recorded_shown_to_all_and_runs(tmp_path: Path) -> None:
    made: list[int] = []

    @agentkit.tool(effects="once", approve="ask")
    def delete(rows: int) -> int:
        """Delete rows."""
        made.append(rows)
        return rows

    def agent() -> Any:
        model = ScriptedModel.by(lambda messages: Call("delete", {"rows": 1}) if len(messages) < 3 else "done")
        return agentkit.build(Spec.parse("Go."), name="cleaner", tools=[delete], model=model)

    with agentkit.session(folder=tmp_path), pytest.raises(ApprovalPending):
        asyncio.run(agentkit.ask(agent(), "go"))
    with agentkit.session(folder=tmp_path) as session:
        (one,) = [one for one in decisions.everything(session.store) if one.decision is None]

        def decide(rows: int) -> Decision:
            return session.decide(one.question, Decision(verdict="edit", arguments={"rows": rows}, by=f"person {rows}"))

        with ThreadPoolExecutor(8) as threads:
            told = list(threads.map(decide, range(100, 116)))
        assert len({json.dumps(each.arguments) for each in told}) == 1
        asyncio.run(agentkit.ask(agent(), "go"))
        assert made == [told[0].arguments["rows"]]


@pytest.mark.parametrize("cost", [float("nan"), float("inf"), -5.0, 1e300])
def test_a_price_that_is_none_buys_nothing(tmp_path: Path, cost: float) -> None:
    model = ScriptedModel.by(lambda messages: "x", cost=cost)
    agent = agentkit.build(Spec.parse("Go."), name="a", model=model, budget="3usd")
    with agentkit.session(folder=tmp_path), pytest.raises(BudgetExceeded, match="has no known price"):
        asyncio.run(agentkit.ask(agent, "go"))
    assert model.requests == []


@pytest.mark.parametrize("cost", [float("nan"), float("inf"), -5.0, 1e300])
def test_a_price_that_is_none_is_not_recorded_as_one(tmp_path: Path, cost: float) -> None:
    model = ScriptedModel.by(lambda messages: "x", cost=cost)
    free = agentkit.build(Spec.parse("Go."), name="b", model=model)
    with agentkit.session(folder=tmp_path):
        answer = asyncio.run(agentkit.ask(free, "go"))
    (step,) = [event for event in answer.events() if isinstance(event, Step)]
    assert step.usage is not None and step.usage.cost is None

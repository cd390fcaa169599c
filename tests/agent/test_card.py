"""An agent and an answer as a notebook shows them: what they are, what they cost, and never too much of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import agentkit
from agentkit.agent.agent import DurableAgent, durable
from agentkit.agent.ask import ask
from agentkit.agent.build import build
from agentkit.agent.spec import Spec
from agentkit.events import Mode
from agentkit.runtime.session import session
from agentkit.testing import Call, ScriptedModel


@agentkit.tool(effects="once", approve="ask")
def delete(row: int) -> str:
    "Delete a row."
    return "deleted"


def look() -> str:
    "Look."
    return "<b>seen</b>"


def clerk(**more: object) -> DurableAgent:
    spec = Spec.parse("You keep `books`.\n<script>alert(1)</script>", first_line=1)
    model = ScriptedModel.by(lambda messages: Call("look") if len(messages) == 1 else "done", cost=0.25)
    return build(spec, name="clerk", model=model, tools=[delete, look], budget="2usd, 20k tokens", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["_repr_html_", "_repr_markdown_"])
def test_an_agent_says_what_it_is_and_what_it_cost(tmp_path: Path, form: str) -> None:
    agent = clerk()
    with session("here", folder=tmp_path) as opened:
        assert "none yet" in getattr(agent, form)() and not opened.path.exists()
        asyncio.run(agent.run("Go on."))
        shown = getattr(agent, form)()
    for fact in (
        "clerk",
        "scripted",
        "delete",
        "once, asks first",
        "look",
        "undeclared",
        "20k tokens",
        "0.50",
        "books",
    ):
        assert fact in shown, (fact, shown)
    assert "1 (3 steps live, 0 replayed)" in shown
    assert "<script>" not in shown.replace("`` You keep `books`. <script>alert(1)</script> ``", "")


def test_an_adopted_agent_shows_the_same_outside_a_session() -> None:
    from pydantic_ai import Agent

    adopted = durable(Agent(None, name="x" * 10, instructions="y" * 5_000, tools=[look]))
    for shown in (adopted._repr_html_(), adopted._repr_markdown_()):
        assert "none: give one to a run" in shown and "more characters" in shown and len(shown) < 2_500


def test_an_answer_knows_what_it_used_and_a_replay_used_nothing(tmp_path: Path) -> None:
    agent = clerk()
    used = []
    for _ in range(2):
        with session("here", folder=tmp_path):
            answer = asyncio.run(ask(agent, "Go on."))
            used.append((answer.cost, answer.usage.input_tokens > 0))
    assert used == [(0.5, True), (0.0, False)]


@pytest.mark.parametrize("mode", ["auto", "off"])
def test_an_unknown_price_is_not_zero(tmp_path: Path, mode: Mode) -> None:
    agent = DurableAgent(ScriptedModel(["x"]), name="a")
    with session("here", folder=tmp_path, mode=mode):
        answer = asyncio.run(ask(agent, "Go on."))
        assert answer.cost is None and answer.usage.output_tokens > 0


def test_the_repr_of_a_long_answer_is_short(tmp_path: Path) -> None:
    with session("here", folder=tmp_path):
        answer = asyncio.run(ask(DurableAgent(ScriptedModel(["y" * 1_000_000]), name="a"), "Go on."))
    assert len(repr(answer)) < 5_000 and "996,000 more characters" in repr(answer)
    assert len(answer._repr_markdown_()) < 210_000 and answer.text == "y" * 1_000_000

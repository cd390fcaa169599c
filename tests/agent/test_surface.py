"""Every keyword of the agent is in the table of the docs, and what bypasses the journal is refused in one line."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai import Agent, FunctionToolset
from pydantic_ai.exceptions import UserError as LibraryUserError

from agentkit.agent.agent import DurableAgent
from agentkit.agent.build import build
from agentkit.agent.spec import Spec
from agentkit.runtime.session import session
from agentkit.testing import Call, ScriptedModel

TABLE = (Path(__file__).parents[2] / "docs" / "agents.md").read_text(encoding="utf-8")
DOCUMENTED = {name for row in re.findall(r"^\| (`.+?) \|", TABLE, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}


@pytest.mark.parametrize("method", [Agent.run, Agent.iter, Agent.run_stream, Agent.override])
def test_every_keyword_is_in_the_table(method: Callable[..., Any]) -> None:
    named = {
        name for name in inspect.signature(method).parameters if name not in ("self", "kwargs", "_deprecated_kwargs")
    }
    assert named - DOCUMENTED == set()


def extra(x: int) -> int:
    """Not part of the agent."""
    raise AssertionError("ran unjournaled")


def agent() -> DurableAgent:
    return build(Spec(instructions="Go."), name="agent", model=ScriptedModel([Call("extra", {"x": 1}), "done"]))


def test_what_would_bypass_the_journal_is_refused(tmp_path: Path) -> None:
    with session(folder=tmp_path), pytest.raises(LibraryUserError):
        asyncio.run(agent().run("go", toolsets=[FunctionToolset([extra])]))


@pytest.mark.parametrize("overrides", [{"tools": [extra]}, {"toolsets": [FunctionToolset([extra])]}])
def test_overridden_tools_are_refused(tmp_path: Path, overrides: dict[str, Any]) -> None:
    overridden = agent()
    with session(folder=tmp_path), overridden.override(**overrides), pytest.raises(LibraryUserError):
        asyncio.run(overridden.run("go"))


def test_an_overridden_model_is_journaled(tmp_path: Path) -> None:
    for replies in (["theirs"], []):
        overridden = agent()
        with session(folder=tmp_path), overridden.override(model=ScriptedModel(replies, model_name="theirs")):
            assert asyncio.run(overridden.run("go")).output == "theirs"


def test_more_than_fifty_requests_are_no_error(tmp_path: Path) -> None:
    def loop(x: int) -> int:
        """Again."""
        return x

    calls = [Call("loop", {"x": n}) for n in range(60)]
    looping = build(Spec(instructions="Go."), name="agent", tools=[loop], model=ScriptedModel([*calls, "done"]))
    with session(folder=tmp_path):
        assert asyncio.run(looping.run("go")).output == "done"


def test_run_sync_and_iter_are_journaled(tmp_path: Path) -> None:
    async def walked(model: ScriptedModel) -> str:
        stepped = build(Spec(instructions="Go."), name="agent", model=model)
        async with stepped.iter("go") as run:
            async for _ in run:
                pass
        assert run.result is not None
        return str(run.result.output)

    with session(folder=tmp_path):
        assert (
            build(Spec(instructions="Go."), name="agent", model=ScriptedModel(["once"])).run_sync("go").output == "once"
        )
    with session(folder=tmp_path):
        assert asyncio.run(walked(ScriptedModel([]))) == "once"

"""Where features meet: forks, secrets that come late, replies and results that cannot be written as they are."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart

import agentkit
from agentkit.define.spec import Spec
from agentkit.engine.agent import DurableAgent
from agentkit.engine.run import ask
from agentkit.errors import AgentKitError, UserError
from agentkit.events import Step
from agentkit.testing import Call, ScriptedModel

CUT = "half of \ud83d"


class World:
    """A session's folder, what was paid and done in it, and an agent whose model asks for `first`, then says `last`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked = 0
        self.done: list[Any] = []

    def agent(self, first: Any, *tools: Callable[..., Any], last: Any = "fin") -> DurableAgent:
        def answer(messages: list[ModelMessage]) -> Any:
            self.asked += 1
            done = any(isinstance(part, ToolReturnPart) for message in messages for part in message.parts)
            return last if done else first

        return agentkit.build(
            Spec(instructions="Work."), name="worker", model=ScriptedModel.by(answer, cost=0.1), tools=tools
        )

    def run(self, agent: DurableAgent, prompt: str = "go") -> Any:
        with agentkit.session("test", folder=self.folder):
            return asyncio.run(ask(agent, prompt))

    def on_disk(self, text: str) -> list[str]:
        return [file.name for file in self.folder.rglob("*") if file.is_file() and text.encode() in file.read_bytes()]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@agentkit.tool(effects="none")
def look(at: int) -> int:
    """Look."""
    return at


def test_a_forked_process_runs_sync_tools_in_threads_of_its_own(world: World) -> None:
    with agentkit.session("test", folder=world.folder):
        agent = world.agent(Call("look", {"at": 1}), look)
        assert agent.run_sync("before").output == "fin"
        child = os.fork()
        if not child:
            try:
                os._exit(0 if agent.run_sync("in the child").output == "fin" else 1)
            finally:
                os._exit(2)
        ended = _ended(child, seconds=20)
        assert ended == 0
        assert agent.run_sync("after").output == "fin"
    # The next process replays what the child has recorded.
    asked = world.asked
    assert world.run(agent, "in the child").output == "fin"
    assert world.asked == asked


def _ended(child: int, *, seconds: float) -> int:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.kill(child, 9)
    os.waitpid(child, 0)
    raise AssertionError("the child hangs")


@pytest.mark.parametrize(
    "reply",
    [
        CUT,
        ModelResponse(parts=[TextPart(CUT), ToolCallPart("look", {"at": 1})]),
    ],
    ids=["answer", "beside a call"],
)
def test_half_a_character_in_a_reply_is_recorded_and_paid_once(world: World, reply: Any) -> None:
    first = world.run(world.agent(reply, look, last="fin"))
    asked = world.asked
    assert first.output in ("fin", "half of \\ud83d")
    assert world.run(world.agent(reply, look, last="fin")).output == first.output
    assert world.asked == asked


def test_arguments_nested_beyond_reading_are_recorded_and_paid_once(world: World) -> None:
    nested = '{"at": ' + "[" * 3000 + "]" * 3000 + "}"
    agent = world.agent(ModelResponse(parts=[ToolCallPart("look", nested)]), look)
    assert [world.run(agent).output for _ in range(2)] == ["fin", "fin"]
    assert world.asked == 2
    with agentkit.session("test", folder=world.folder) as opened:
        assert opened.in_doubt() == []


def of_kind(kind: str) -> object:
    nested: list[Any] = []
    for _ in range(5000):
        nested = [nested]
    itself: dict[str, Any] = {}
    itself["me"] = itself
    return {"digits": 10**5000, "deep": nested, "itself": itself}[kind]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("digits", "the result of made is a number of more than 4,300 digits"),
        ("deep", "the result of made is nested more than 100 deep"),
        ("itself", "the result of made is nested more than 100 deep, or contains itself"),
    ],
)
@pytest.mark.parametrize("threaded", [True, False])
def test_a_result_that_cannot_be_written_is_the_error_of_its_tool(
    world: World, kind: str, said: str, threaded: bool
) -> None:
    @agentkit.tool(effects="once")
    def made(kind: str) -> object:
        """Make something."""
        return of_kind(kind)

    async def made_async(kind: str) -> object:
        """Make something."""
        return of_kind(kind)

    made_async.__name__ = "made"
    chosen = made if threaded else agentkit.tool(effects="once")(made_async)
    with pytest.raises(UserError, match=said):
        world.run(world.agent(Call("made", {"kind": kind}), chosen))
    with agentkit.session("test", folder=world.folder) as opened:
        assert opened.in_doubt() == []
        (failed,) = [step for step in opened.trace(opened.runs()[0].id) if isinstance(step, Step) and step.error]
        assert failed.status == "failed" and said in str(failed.error)


def test_half_a_character_in_a_result_is_written_out(world: World) -> None:
    @agentkit.tool(effects="none")
    def names(folder: str) -> dict[str, list[str]]:
        """File names that are no UTF-8."""
        return {"names": ["caf\udce9.txt"]}

    agent = world.agent(Call("names", {"folder": "."}), names)
    assert world.run(agent).output == "fin"
    asked = world.asked
    assert world.run(agent).output == "fin"
    assert world.asked == asked


def test_a_reply_that_cannot_be_recorded_ends_its_step(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(*args: object) -> str:
        raise ValueError("no such thing")

    monkeypatch.setattr("agentkit.engine.chained.described", unreadable)
    with pytest.raises((ValueError, AgentKitError), match="no such thing"):
        world.run(world.agent("hello"))
    with agentkit.session("test", folder=world.folder) as opened:
        assert opened.in_doubt() == []

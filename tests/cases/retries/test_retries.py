"""What an equal run pays after one that failed or was stopped, however the retry is written: one case, one line."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import tenacity
from pydantic_ai import Agent
from pydantic_ai.exceptions import ModelHTTPError, UnexpectedModelBehavior
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel
from pydantic_ai.usage import UsageLimits

from agentkit.agent.agent import DurableAgent
from agentkit.agent.build import build
from agentkit.agent.spec import Spec
from agentkit.runtime.run_terms import RunOptions, run_with
from agentkit.runtime.session import current, mode, session
from agentkit.tools.declaration import tool


@dataclass
class World:
    """What is outside: a model, a tool that must not be repeated, and a tool that fails the first times."""

    failures: int = 0
    refusals: int = 0
    hangs: int = 0
    misfits: int = 0
    requests: int = 0
    sent: list[str] = field(default_factory=list)
    flaky: int = 0

    def reply(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        self.requests += 1
        if self.requests <= self.refusals:
            raise ModelHTTPError(503, "m")
        if any(part.part_kind == "tool-return" for part in messages[-1].parts):
            misfit = self.misfits > 0
            self.misfits -= misfit
            return ModelResponse(parts=[TextPart("unfit" if misfit else f"done {self.requests}")])
        return ModelResponse(parts=[ToolCallPart("send", {"to": "ann"}, "1"), ToolCallPart("flaky", {}, "2")])

    def agent(self) -> DurableAgent:
        agent = build(Spec(instructions="x"), name="a", tools=[send, flaky], model=self.model())

        @agent.output_validator
        def fits(text: str) -> str:
            if text == "unfit":
                raise UnexpectedModelBehavior("unfit")
            return text

        return agent

    def model(self) -> FunctionModel:
        async def stream(messages: list[ModelMessage], info: AgentInfo) -> Any:
            for at, part in enumerate(self.reply(messages, info).parts):
                if isinstance(part, ToolCallPart):
                    call = DeltaToolCall(part.tool_name, part.args_as_json_str(), tool_call_id=part.tool_call_id)
                    yield {at: call}
                elif isinstance(part, TextPart):
                    yield part.content

        return FunctionModel(self.reply, stream_function=stream)


outside: ContextVar[World] = ContextVar("outside")
"""Not a part of what the tools are: how often one was called does not make it another one."""


@tool(effects="once")
async def send(to: str) -> str:
    """Send a letter."""
    world = outside.get()
    world.sent.append(to)
    return f"letter {len(world.sent)}"


@tool(effects="none")
async def flaky() -> str:
    """Fail at first."""
    world = outside.get()
    world.flaky += 1
    nth = world.flaky
    # The letter is on its way before anything fails.
    await asyncio.sleep(0.02)
    if nth <= world.hangs:
        await asyncio.sleep(60)
    if nth <= world.failures:
        raise ConnectionError("not yet")
    return "ok"


Run = Callable[[DurableAgent], Awaitable[Any]]
Loop = Callable[[DurableAgent, Run], Awaitable[Any]]
_EXPECTED = (ConnectionError, ModelHTTPError, UnexpectedModelBehavior, TimeoutError, asyncio.CancelledError)


# -- how it is run


async def run(agent: DurableAgent) -> Any:
    return (await agent.run("x")).output


async def run_stream(agent: DurableAgent) -> Any:
    async with agent.run_stream("x") as result:
        return await result.get_output()


async def iterate(agent: DurableAgent) -> Any:
    async with agent.iter("x") as nodes:
        async for _ in nodes:
            pass
    assert nodes.result is not None
    return nodes.result.output


async def left_early(agent: DurableAgent) -> Any:
    """The nodes are looked at up to the tools, and once more in full."""
    async with agent.iter("x") as nodes:
        async for node in nodes:
            if Agent.is_call_tools_node(node):
                break
    return await iterate(agent)


async def fresh(agent: DurableAgent) -> Any:
    with run_with(RunOptions(fresh=True)):
        return await run(agent)


async def live(agent: DurableAgent) -> Any:
    with mode("live"):
        return await run(agent)


async def in_time(agent: DurableAgent) -> Any:
    async with asyncio.timeout(1.0):
        return await run(agent)


async def stopped(agent: DurableAgent) -> Any:
    task = asyncio.create_task(run(agent))
    done, _ = await asyncio.wait({task}, timeout=1.0)
    if not done:
        task.cancel()
    return await task


# -- how it is tried again


async def loop(agent: DurableAgent, run: Run) -> Any:
    for _ in range(5):
        with contextlib.suppress(*_EXPECTED):
            return await run(agent)
    return None


async def with_tenacity(agent: DurableAgent, run: Run) -> Any:
    again = tenacity.AsyncRetrying(
        stop=tenacity.stop_after_attempt(5), retry=tenacity.retry_if_exception_type(_EXPECTED)
    )
    return await again(run, agent)


async def cell_by_cell(agent: DurableAgent, run: Run) -> Any:
    opened = current()
    assert opened is not None
    for _ in range(5):
        opened.start_cell("c1")
        with contextlib.suppress(*_EXPECTED):
            return await run(agent)
    return None


async def inside_a_tool(agent: DurableAgent, run: Run) -> Any:
    """The retry is the tool's, whose own agent is asked."""
    asked_by.set((agent, run))

    def reply(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        asked = any(part.part_kind == "tool-return" for part in messages[-1].parts)
        return ModelResponse(parts=[TextPart("asked") if asked else ToolCallPart("ask", {})])

    outer = build(Spec(instructions="x"), name="outer", tools=[ask], model=FunctionModel(reply))
    return (await outer.run("ask")).output


async def around_a_sub_agent(agent: DurableAgent, run: Run) -> Any:
    """What fails is a sub-agent, and the run around it is tried again."""

    def reply(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        asked = any(part.part_kind == "tool-return" for part in messages[-1].parts)
        return ModelResponse(parts=[TextPart("asked") if asked else ToolCallPart("a", {"prompt": "x"})])

    return await loop(build(Spec(instructions="x"), name="outer", tools=[agent], model=FunctionModel(reply)), run)


async def together(agent: DurableAgent, run: Run) -> Any:
    """Three at once, of which some fail, and then as many as failed."""
    found = await asyncio.gather(*(run(agent) for _ in range(3)), return_exceptions=True)
    return [await loop(agent, run) if isinstance(one, BaseException) else one for one in found]


async def twice(agent: DurableAgent, run: Run) -> Any:
    """Another sample is wanted, which fails at first."""
    first = await loop(agent, run)
    return first, await loop(agent, run)


asked_by: ContextVar[tuple[DurableAgent, Run]] = ContextVar("asked_by")


@tool(effects="none")
async def ask() -> str:
    """Ask."""
    return str(await loop(*asked_by.get()))


@dataclass(frozen=True)
class Paid:
    requests: int
    sent: int
    flaky: int


Case = tuple[str, Loop, Run, dict[str, int], Paid]
CASES: list[Case] = [
    ("a tool fails twice", loop, run, {"failures": 2}, Paid(2, 1, 3)),
    ("a stream's tool fails twice", loop, run_stream, {"failures": 2}, Paid(2, 1, 3)),
    ("nodes, and a tool fails twice", loop, iterate, {"failures": 2}, Paid(2, 1, 3)),
    ("tenacity", with_tenacity, run, {"failures": 2}, Paid(2, 1, 3)),
    ("each in a cell of its own", cell_by_cell, run, {"failures": 2}, Paid(2, 1, 3)),
    ("asked anew, and it fails", loop, fresh, {"failures": 2}, Paid(2, 1, 3)),
    ("always live, and it fails", loop, live, {"failures": 2}, Paid(2, 1, 3)),
    ("tenacity, asked anew", with_tenacity, fresh, {"failures": 1}, Paid(2, 1, 2)),
    ("the model refuses", loop, run, {"refusals": 2}, Paid(4, 1, 1)),
    ("a stream that the model refuses", loop, run_stream, {"refusals": 1}, Paid(3, 1, 1)),
    ("the last reply does not fit", loop, run, {"misfits": 2}, Paid(4, 1, 1)),
    ("the last of a stream does not fit", loop, run_stream, {"misfits": 1}, Paid(3, 1, 1)),
    ("out of time in a tool", loop, in_time, {"hangs": 1}, Paid(2, 1, 2)),
    ("stopped in a tool", loop, stopped, {"hangs": 2}, Paid(2, 1, 3)),
    ("left early", loop, left_early, {}, Paid(2, 1, 1)),
    ("a tool tries its agent again", inside_a_tool, run, {"failures": 2}, Paid(2, 1, 3)),
    ("a sub-agent fails", around_a_sub_agent, run, {"failures": 2}, Paid(2, 1, 3)),
    ("a sub-agent's reply does not fit", around_a_sub_agent, run, {"misfits": 1}, Paid(3, 1, 1)),
    ("one of three fails", together, run, {"failures": 1}, Paid(6, 3, 4)),
    ("two of three fail", together, run, {"failures": 2}, Paid(6, 3, 5)),
    ("three finish", together, run, {}, Paid(6, 3, 3)),
    ("three streams, one fails", together, run_stream, {"failures": 1}, Paid(6, 3, 4)),
    ("another sample", twice, run, {"failures": 1}, Paid(4, 2, 3)),
    ("another sample, asked anew", twice, fresh, {"failures": 1}, Paid(4, 2, 3)),
]  # fmt: skip


@pytest.mark.parametrize(("loop", "run", "trouble", "paid"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_what_did_not_finish_is_resumed(
    tmp_path: Path, loop: Loop, run: Run, trouble: dict[str, Any], paid: Paid
) -> None:
    world = World(**trouble)
    with session(folder=tmp_path):
        asyncio.run(_once(loop, world, run))
    assert Paid(world.requests, len(world.sent), world.flaky) == paid


@pytest.mark.parametrize(
    ("loop", "run", "trouble"),
    [c[1:4] for c in CASES if c[2] not in (fresh, live)],
    ids=[c[0] for c in CASES if c[2] not in (fresh, live)],
)
def test_a_new_kernel_replays_it_all(tmp_path: Path, loop: Loop, run: Run, trouble: dict[str, Any]) -> None:
    with session(folder=tmp_path):
        answer = asyncio.run(_once(loop, World(**trouble), run))
    later = World()
    with session(folder=tmp_path):
        assert _sorted(asyncio.run(_once(loop, later, run))) == _sorted(answer)
    assert (later.requests, later.sent, later.flaky) == (0, [], 0)


def _sorted(answer: Any) -> Any:
    """Which of equal runs that go on at once comes first is chance."""
    return sorted(answer) if isinstance(answer, list) else answer


async def _once(loop: Loop, world: World, run: Run) -> Any:
    outside.set(world)
    return await loop(world.agent(), run)


def test_a_limit_that_is_reached_again_costs_nothing(tmp_path: Path) -> None:
    world = World()

    async def limited() -> Any:
        outside.set(world)
        return await world.agent().run("x", usage_limits=UsageLimits(request_limit=1))

    with session(folder=tmp_path):
        for _ in range(3):
            with pytest.raises(Exception, match="request_limit"):
                asyncio.run(limited())
    assert (world.requests, len(world.sent), world.flaky) == (1, 1, 1)
